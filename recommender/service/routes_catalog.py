"""What is published, to read: ``/model``, ``/users``, ``/clusters`` and ``/restaurants``."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import BaseModel, Field

from recommender.service.catalog import Cluster, Restaurant, User
from recommender.service.dependencies import CurrentService, require_key
from recommender.service.problems import responses

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
    served = service.catalog.served() if ids else service.catalog.published()
    parts = {"factors": served.factors, "clusters": served.model}
    ids |= {name: part.run_id for name, part in parts.items() if part}  # not newer than the rest
    etag = f'"{"+".join(dict.fromkeys(ids.values()))}"'
    if if_none_match == "*" or etag in (if_none_match or ""):
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return Model(
        run_id=max(ids.values()),
        **{f"{part}_run_id": ids.get(part) for part in ("lists", "factors", "clusters")},
        restaurants=len(served.known.keys),
        clusters=len(served.model.clusters) if served.model else 0,
        users=service.catalog.count_users(),
    )


@router.get("/users/{user_id:id}", responses=responses(401, 404, 422, 503))
def user(service: CurrentService, user_id: Annotated[str, Path(max_length=1024)]) -> User:
    """Show what a user has rated, and is served; 404 without a rating and without a list."""
    return service.catalog.shown_user(user_id)


@router.get("/clusters", responses=responses(401, 404, 503))
def clusters(service: CurrentService) -> Clusters:
    """List the clusters, each with a few restaurants."""
    return Clusters(clusters=service.catalog.published().clusters(_FEW))


@router.get("/clusters/{cluster_id}", responses=responses(401, 404, 422, 503))
def cluster(service: CurrentService, cluster_id: Annotated[int, Path(ge=0)]) -> Cluster:
    """Show one cluster; 404 for an unknown one."""
    return service.catalog.published().cluster(cluster_id)


@router.get("/restaurants", responses=responses(401, 404, 422, 503))
def restaurants(
    service: CurrentService,
    q: Annotated[str, Query(max_length=300, description="words of the name or the id")] = "",
    limit: Limit = 20,
) -> Restaurants:
    """Search the restaurants that the model knows; the most rated ones first."""
    served = service.catalog.published()
    matches = served.names.search(q, limit)
    return Restaurants(restaurants=served.named({"gmap_id": gmap_id} for gmap_id in matches))


@router.get("/restaurants/{gmap_id:id}/similar", responses=responses(401, 404, 422, 503))
def similar(service: CurrentService, gmap_id: str, limit: Limit = 10) -> Restaurants:
    """List the restaurants most similar to one by their factors; 404 for an unknown one."""
    return Restaurants(restaurants=service.catalog.published().similar(gmap_id, limit))
