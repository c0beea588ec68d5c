"""``/recommendations``: restaurants for known users, and for any user from the ratings sent."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field, StrictInt

from recommender.service.catalog import LONGEST_LIST, Recommendations
from recommender.service.dependencies import CurrentService, rated_from_query, require_key
from recommender.service.problems import responses

router = APIRouter(prefix="/recommendations", dependencies=[Depends(require_key)])

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
    return service.catalog.recommend(rated_from_query(rated), n)


@router.post("", responses=responses(400, 401, 404, 413, 422, 503))
def recommendations_for(
    service: CurrentService, sent: RatingsSent, n: ListLength = None
) -> Recommendations:
    """Recommend restaurants from the ratings sent, without a limit by the length of a URL."""
    return service.catalog.recommend({str(r.gmap_id): r.rating for r in sent.ratings}, n)


@router.get("/{user_id:id}", responses=responses(401, 404, 422, 503))
def recommendations_of(
    service: CurrentService, user_id: str, n: ListLength = None
) -> Recommendations:
    """Return the list of a user, with the fallback list for an unknown one."""
    document, ratings = service.catalog.user(user_id, cheap=True)
    return service.catalog.answer(document, ratings, n or service.settings.als.top_n)
