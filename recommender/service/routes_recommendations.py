"""``GET /recommendations``: restaurants for any user, known or new, from the ratings sent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, BeforeValidator

from recommender.core.errors import DataError
from recommender.data.one_user import parse_rating, ratings_from_request
from recommender.service.dependencies import CurrentService, require_key
from recommender.service.problems import responses

router = APIRouter(dependencies=[Depends(require_key)])


def _as_json(gmap_id: object) -> str | int:
    return gmap_id if isinstance(gmap_id, (str, int)) else str(gmap_id)


RestaurantId = Annotated[str | int, BeforeValidator(_as_json)]


class Recommendation(BaseModel):
    """A recommended restaurant, and the rated restaurants that add most to its score."""

    gmap_id: RestaurantId
    score: float
    because: list[RestaurantId]


class Recommendations(BaseModel):
    """Recommendations from the factors of one training, best first."""

    run_id: str
    recommendations: list[Recommendation]


@router.get("/recommendations", responses=responses(401, 404, 422, 503))
def recommendations(
    service: CurrentService,
    rated: Annotated[
        list[str],
        Query(min_length=1, max_length=1000, description="gmap_id=rating, for each restaurant"),
    ],
) -> Recommendations:
    """Recommend restaurants from the ratings sent."""
    factors = service.factors.get()
    if factors is None:
        raise HTTPException(404, "no training has published factors; POST /train first")
    try:
        pairs = dict(map(parse_rating, rated))
        ratings = ratings_from_request(service.settings, pairs, factors.keys)
    except (DataError, ValueError) as error:
        raise HTTPException(422, f"query.rated: {error}") from None
    best = factors.recommend(ratings, service.settings.als.top_n)
    return Recommendations(
        run_id=factors.run_id, recommendations=[Recommendation(**entry) for entry in best]
    )
