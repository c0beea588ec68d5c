"""What is published, to read: ``/model``, ``/users``, ``/clusters`` and ``/restaurants``."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Response
from pydantic import BaseModel, Field

from recommender.core.mongo import Document
from recommender.data.ids import decode_id
from recommender.data.one_user import spelled_ids
from recommender.data.ratings import Ratings
from recommender.data.restaurants import RestaurantNames
from recommender.service.catalog import Served
from recommender.service.dependencies import CurrentService, Service, require_key
from recommender.service.problems import responses
from recommender.service.routes_recommendations import JsonId, Recommendations, published

_FEW = 3  # restaurants of a cluster in the list of clusters

router = APIRouter(dependencies=[Depends(require_key)])

Limit = Annotated[int, Query(ge=1, le=100, description="how many at most")]


class Model(BaseModel):
    """What is published now."""

    run_id: str = Field(description="the last training that published; also the ETag")
    factors_run_id: str | None = Field(description="the training that published the lists")
    clusters_run_id: str | None
    restaurants: int
    clusters: int
    users: int = Field(description="users with recommendations, by MongoDB's estimate")


class Restaurant(BaseModel):
    """A restaurant."""

    gmap_id: JsonId
    name: str | None


class Rated(Restaurant):
    """A restaurant that a user has rated."""

    rating: float
    at: datetime.datetime | None


class Scored(Restaurant):
    """A restaurant of a list."""

    score: float


class Distinctive(Restaurant):
    """A restaurant that more of a cluster's users have rated than of all users."""

    share: float
    city_share: float


class User(BaseModel):
    """What a user has rated, and is served."""

    user_id: JsonId
    rated: list[Rated]
    served: Recommendations


class Users(BaseModel):
    """Users by the beginning of their ids."""

    users: list[JsonId]


class Cluster(BaseModel):
    """A cluster of users; in the list of clusters, with a few of its restaurants."""

    cluster_id: int
    run_id: str
    size: int
    ratings: int | None
    mean_rating: float | None
    tightness: float | None
    stands_out: list[Distinctive]
    recommendations: list[Scored]


class Clusters(BaseModel):
    """All clusters."""

    clusters: list[Cluster]


class Restaurants(BaseModel):
    """Restaurants."""

    restaurants: list[Restaurant]


class Similar(BaseModel):
    """Restaurants that the same users rate, most similar first."""

    restaurants: list[Scored]


@router.get("/model", responses=responses(401, 404, 503) | {304: {"description": "Not Modified"}})
def model(
    service: CurrentService,
    response: Response,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Any:
    """Describe what is published; 304 if ``If-None-Match`` has the run's id."""
    served = published(service)
    etag = f'"{served.run_id}"'
    if etag in (if_none_match or ""):
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return Model(
        run_id=str(served.run_id),
        factors_run_id=served.factors.run_id if served.factors else None,
        clusters_run_id=served.model.run_id if served.model else None,
        restaurants=len(served.keys),
        clusters=len(served.model.clusters) if served.model else 0,
        users=service.catalog.count_users(),
    )


@router.get("/users", responses=responses(401, 422, 503))
def users(
    service: CurrentService,
    q: Annotated[str, Query(max_length=1024, description="the beginning of the id")] = "",
    limit: Limit = 20,
) -> Users:
    """List users with recommendations whose id begins with a text, in the order of the ids."""
    return Users(users=service.catalog.users(q, limit))


@router.get("/users/{user_id:id}", responses=responses(401, 404, 422, 503))
def user(service: CurrentService, user_id: Annotated[str, Path(max_length=1024)]) -> User:
    """Show what a user has rated, and is served."""
    return user_of(service, user_id)


def user_of(service: Service, user_id: str) -> User:
    """Return a user; 404 without a rating and without a list."""
    served = published(service)
    document, ratings = service.catalog.user(user_id)
    if document is None and ratings is None:
        raise HTTPException(404, f"user {user_id!r} has no rating and no list; check the id")
    answer = service.catalog.answer(document, ratings, service.settings.als.top_n)
    return User(
        user_id=document["user_id"] if document else user_id,
        rated=_rated(ratings, served.names) if ratings else [],
        served=Recommendations.of(answer, served.names, []),
    )


def _rated(ratings: Ratings, names: RestaurantNames) -> list[Rated]:
    """Return a user's ratings, the best first."""
    ids = [decode_id(ratings.restaurants[i].as_py()) for i in ratings.restaurant.tolist()]
    rows = zip(ids, ratings.rating.tolist(), ratings.time.tolist(), strict=True)
    rated = [Rated(gmap_id=i, name=names.of(i), rating=r, at=_date(t)) for i, r, t in rows]
    return sorted(rated, key=lambda one: -one.rating)


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
    """Show one cluster."""
    every = clusters_of(service)
    if cluster_id >= len(every):
        raise HTTPException(404, f"no cluster {cluster_id}; they are 0 to {len(every) - 1}")
    return every[cluster_id]


def clusters_of(service: Service, restaurants: int | None = None) -> list[Cluster]:
    """Return the clusters with at most a number of restaurants in each list."""
    served = published(service)
    documents = served.model.clusters if served.model else []
    return [_cluster(document, served, restaurants) for document in documents]


def _cluster(document: Document, served: Served, restaurants: int | None) -> Cluster:
    def named(field: str) -> list[Document]:
        entries = document.get(field, [])[:restaurants]
        return [{**entry, "name": served.names.of(entry["gmap_id"])} for entry in entries]

    lists = {field: named(field) for field in ("stands_out", "recommendations")}
    optional = dict.fromkeys(("size", "ratings", "mean_rating", "tightness"))
    return Cluster(**{**optional, **document, **lists})


@router.get("/restaurants", responses=responses(401, 404, 422, 503))
def restaurants(
    service: CurrentService,
    q: Annotated[str, Query(max_length=300, description="words of the name or the id")] = "",
    limit: Limit = 20,
) -> Restaurants:
    """Search the restaurants that the model knows; the most rated ones first."""
    names = published(service).names
    matches = names.search(q, limit)
    return Restaurants(restaurants=[Restaurant(gmap_id=i, name=names.of(i)) for i in matches])


@router.get("/restaurants/{gmap_id:id}/similar", responses=responses(401, 404, 422, 503))
def similar(service: CurrentService, gmap_id: str, limit: Limit = 10) -> Similar:
    """List the restaurants most similar to one by their factors."""
    return similar_to(service, gmap_id, limit)


def similar_to(service: Service, gmap_id: str, limit: int) -> Similar:
    """Return similar restaurants; 404 for an unknown one."""
    served = published(service)
    if served.unknown([gmap_id]):
        raise HTTPException(404, f"the model knows no restaurant {gmap_id!r}; check the id")
    factors, ids = served.factors, spelled_ids(gmap_id)
    lists = (factors.similar(i, limit) for i in ids) if factors else iter(())
    best = next(filter(None, lists), [])
    scored = [Scored(name=served.names.of(entry["gmap_id"]), **entry) for entry in best]
    return Similar(restaurants=scored)
