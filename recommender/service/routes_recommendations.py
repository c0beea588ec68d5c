"""``/recommendations``: restaurants for known users, and for any user from the ratings sent."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StrictInt
from starlette.convertors import PathConvertor, register_url_convertor

from recommender.data.cleaning import parse_ratings
from recommender.data.ids import MAX_ID_BYTES, encode_id
from recommender.data.one_user import parse_rating, ratings_from_request
from recommender.data.rejection import Rejection
from recommender.service.catalog import LONGEST_LIST, Recommendations, Served
from recommender.service.dependencies import CurrentService, Service, require_key
from recommender.service.problems import responses

router = APIRouter(prefix="/recommendations", dependencies=[Depends(require_key)])


class IdConvertor(PathConvertor):
    """The rest of a path as an id, which may hold slashes and line breaks."""

    regex = "(?s:.+)"


register_url_convertor("id", IdConvertor())

ListLength = Annotated[int | None, Query(ge=1, le=LONGEST_LIST, description="unset: ALS_TOP_N")]


class Rating(BaseModel):
    """A rating of a restaurant."""

    gmap_id: str | StrictInt
    rating: float


class RatingsSent(BaseModel):
    """The ratings of a user."""

    ratings: list[Rating] = Field(min_length=1, max_length=1000)


@router.get("", responses=responses(401, 404, 422, 503))
def recommendations(
    service: CurrentService,
    rated: Annotated[
        list[str],
        Query(min_length=1, max_length=1000, description="gmap_id=rating, for each restaurant"),
    ],
    n: ListLength = None,
) -> Recommendations:
    """Recommend restaurants from the ratings sent."""
    return from_ratings(service, parsed(rated), n)


@router.post("", responses=responses(400, 401, 404, 413, 422, 503))
def recommendations_for(
    service: CurrentService, sent: RatingsSent, n: ListLength = None
) -> Recommendations:
    """Recommend restaurants from the ratings sent, without a limit by the length of a URL."""
    return from_ratings(service, {str(r.gmap_id): r.rating for r in sent.ratings}, n)


@router.get("/{user_id:id}", responses=responses(401, 404, 422, 503))
def recommendations_of(
    service: CurrentService, user_id: str, n: ListLength = None
) -> Recommendations:
    """Return the list of a user, with the fallback list for an unknown one."""
    known = service.catalog.user(user_id, cheap=True)
    if known[0] is None:
        published(service)
    return service.catalog.answer(*known, n or service.settings.als.top_n)


def published(service: Service) -> Served:
    """Return what is published; 404 before the first training."""
    served = service.catalog.served()
    if not (served.factors or served.model):
        raise HTTPException(404, "no training has published a model; POST /train first")
    return served


def parsed(rated: list[str]) -> dict[str, str]:
    """Return ratings by id from texts ``gmap_id=rating``; 422 if one is invalid."""
    try:
        return dict(map(parse_rating, rated))
    except ValueError as error:
        invalid = {"type": "value", "loc": ("query", "rated"), "msg": str(error), "input": rated}
        raise RequestValidationError([invalid]) from None


def from_ratings(
    service: Service, rated: Mapping[str, object], n: int | None = None
) -> Recommendations:
    """Recommend restaurants from ratings by id; 422 if an id or a rating is invalid."""
    served, scale = published(service), service.settings.reviews
    low, high = scale.rating_min, scale.rating_max
    form = f"expected an id of UTF-8 and at most {MAX_ID_BYTES:,} bytes"
    number = f"expected a number from {low:g} to {high:g}"
    _, rejected = parse_ratings([*rated.values()], low, high)
    invalid: list[dict[str, Any]] = []
    for position, (gmap_id, rating) in enumerate(rated.items()):
        sent_in = ("query", "rated") if isinstance(rating, str) else ("body", "ratings")
        error = {"type": "value", "loc": (*sent_in, position)}  # a query has texts
        if isinstance(encode_id(gmap_id), Rejection):
            invalid.append({**error, "msg": form, "input": gmap_id})
        if rejected[position]:
            invalid.append({**error, "msg": number, "input": rating})
    if invalid:
        raise RequestValidationError(invalid)
    ratings = ratings_from_request(scale, rated, served.keys)
    return served.recommend(ratings, n or service.settings.als.top_n)
