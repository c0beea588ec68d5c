"""What is published, to read: ``/model``, ``/users``, ``/clusters`` and ``/restaurants``."""

import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Response
from pydantic import BaseModel, Field

from recommender.data.one_user import spelled_ids
from recommender.data.ratings import Ratings
from recommender.service.catalog import JsonId, Recommendations, Restaurant, Served, rated_ids
from recommender.service.dependencies import CurrentService, Service, require_key
from recommender.service.problems import responses
from recommender.service.routes_recommendations import published

_FEW = 3  # restaurants of a cluster in the list of clusters
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Not Modified"}}

router = APIRouter(dependencies=[Depends(require_key)])

Limit = Annotated[int, Query(ge=1, le=100, description="how many at most")]


class Model(BaseModel):
    """What is published now."""

    run_id: str = Field(description="the last training that published")
    lists_run_id: str | None = Field(description="the training that published Recommendations")
    factors_run_id: str | None
    clusters_run_id: str | None
    restaurants: int
    clusters: int
    users: int = Field(description="users with recommendations, by MongoDB's estimate")


class User(BaseModel):
    """What a user has rated, and is served."""

    user_id: JsonId
    rated: list[Restaurant] = Field(description="with the rating and its time (at)")
    served: Recommendations


class Cluster(BaseModel):
    """A cluster of users as Clusters has it, with the restaurants' names."""

    cluster_id: int
    run_id: str
    size: int
    ratings: int | None = None
    mean_rating: float | None = None
    tightness: float | None = None
    stands_out: list[Restaurant]
    recommendations: list[Restaurant]


class Clusters(BaseModel):
    """All clusters, each with a few restaurants."""

    clusters: list[Cluster]


class Restaurants(BaseModel):
    """Restaurants, the most rated or the most similar ones first."""

    restaurants: list[Restaurant]


@router.get("/model", responses=responses(401, 404, 422, 503) | _NOT_MODIFIED)
def model(
    service: CurrentService,
    response: Response,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Any:
    """Describe what is published; 304 if ``If-None-Match`` has the ids of its runs, the ETag."""
    ids = service.catalog.run_ids()
    served = service.catalog.served() if ids else published(service)
    parts = {"factors": served.factors, "clusters": served.model}
    ids |= {name: part.run_id for name, part in parts.items() if part}  # not newer than the rest
    etag = f'"{"+".join(dict.fromkeys(ids.values()))}"'
    if if_none_match == "*" or etag in (if_none_match or ""):
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return Model(
        run_id=max(ids.values()),
        **{f"{part}_run_id": ids.get(part) for part in ("lists", "factors", "clusters")},
        restaurants=len(served.keys),
        clusters=len(served.model.clusters) if served.model else 0,
        users=service.catalog.count_users(),
    )


@router.get("/users/{user_id:id}", responses=responses(401, 404, 422, 503))
def user(service: CurrentService, user_id: Annotated[str, Path(max_length=1024)]) -> User:
    """Show what a user has rated, and is served; 404 without a rating and without a list."""
    served = published(service)
    document, ratings = service.catalog.user(user_id)
    if document is None and ratings is None:
        raise HTTPException(404, f"user {user_id!r} has no rating and no list; check the id")
    return User(
        user_id=document["user_id"] if document else user_id,
        rated=_rated(ratings, served) if ratings else [],
        served=service.catalog.answer(document, ratings, service.settings.als.top_n),
    )


def _rated(ratings: Ratings, served: Served) -> list[Restaurant]:
    """Return a user's ratings, the best first."""
    figures = ratings.rating.tolist(), map(_date, ratings.time.tolist())
    best_first = sorted(zip(rated_ids(ratings), *figures, strict=True), key=lambda row: -row[1])
    return served.named({"gmap_id": i, "rating": r, "at": at} for i, r, at in best_first)


def _date(milliseconds: float) -> datetime.datetime | None:
    """Return the time of a rating, None if it is unknown or outside the calendar."""
    try:
        return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None


@router.get("/clusters", responses=responses(401, 404, 503))
def clusters(service: CurrentService) -> Clusters:
    """List the clusters, each with a few restaurants."""
    return Clusters(clusters=clusters_of(service, _FEW))


@router.get("/clusters/{cluster_id}", responses=responses(401, 404, 422, 503))
def cluster(service: CurrentService, cluster_id: Annotated[int, Path(ge=0)]) -> Cluster:
    """Show one cluster; 404 for an unknown one."""
    listed = clusters_of(service)
    if not 0 <= cluster_id < len(listed):
        raise HTTPException(404, f"no cluster {cluster_id}; there are {len(listed)}, from 0 on")
    return listed[cluster_id]


def clusters_of(service: Service, restaurants: int | None = None) -> list[Cluster]:
    """Return the clusters with at most a number of restaurants in each list."""
    served = published(service)
    documents = served.model.clusters if served.model else []
    for name in ("stands_out", "recommendations"):
        lists = [served.named(one.get(name, [])[:restaurants]) for one in documents]
        documents = [one | {name: part} for one, part in zip(documents, lists, strict=True)]
    return [Cluster.model_validate(one) for one in documents]


@router.get("/restaurants", responses=responses(401, 404, 422, 503))
def restaurants(
    service: CurrentService,
    q: Annotated[str, Query(max_length=300, description="words of the name or the id")] = "",
    limit: Limit = 20,
) -> Restaurants:
    """Search the restaurants that the model knows; the most rated ones first."""
    served = published(service)
    matches = served.names.search(q, limit)
    return Restaurants(restaurants=served.named({"gmap_id": gmap_id} for gmap_id in matches))


@router.get("/restaurants/{gmap_id:id}/similar", responses=responses(401, 404, 422, 503))
def similar(service: CurrentService, gmap_id: str, limit: Limit = 10) -> Restaurants:
    """List the restaurants most similar to one by their factors; 404 for an unknown one."""
    served = published(service)
    factors, ids = served.factors, spelled_ids(gmap_id)
    if all(served.known.find(i) < 0 for i in ids):
        raise HTTPException(404, f"the model knows no restaurant {gmap_id!r}; check the id")
    lists = (factors.similar(i, limit) for i in ids) if factors else iter(())
    return Restaurants(restaurants=served.named(next(filter(None, lists), [])))
