"""``/recommendations``: restaurants for known users, and for any user from the ratings sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, BeforeValidator, Field
from starlette.convertors import Convertor, register_url_convertor

from recommender.core.errors import DataError
from recommender.data.one_user import parse_rating, ratings_from_request
from recommender.data.restaurants import RestaurantNames
from recommender.service.catalog import LONGEST_LIST, Answer, Served, Source
from recommender.service.dependencies import CurrentService, Service, require_key
from recommender.service.problems import responses

_MOST_RATINGS = 1000

router = APIRouter(prefix="/recommendations", dependencies=[Depends(require_key)])


class IdConvertor(Convertor[str]):
    """The rest of a path as an id, which may hold slashes and line breaks."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        """Return the id."""
        return value

    def to_string(self, value: str) -> str:
        """Return the id."""
        return value


register_url_convertor("id", IdConvertor())


def _as_json(value: object) -> str | int:
    return value if isinstance(value, (str, int)) else str(value)


JsonId = Annotated[str | int, BeforeValidator(_as_json)]
ListLength = Annotated[int | None, Query(ge=1, le=LONGEST_LIST, description="unset: ALS_TOP_N")]


class Recommendation(BaseModel):
    """A recommended restaurant, and the rated restaurants that add most to its score."""

    gmap_id: JsonId
    name: str | None = Field(description="null without one in Restaurants")
    score: float
    rating: float | None = Field(description="predicted, in stored lists only")
    because: list[JsonId]


class Recommendations(BaseModel):
    """Recommendations, best first."""

    run_id: str | None = Field(description="the training; null: the backend wrote the list")
    source: Source = Field(
        description="a stored list for the user, one made from the ratings, the list of the "
        "nearest cluster, or the one for everybody else"
    )
    unknown: list[str] = Field(description="rated restaurants that the model does not know")
    cluster_id: int | None = Field(description="the user's cluster, where known")
    recommendations: list[Recommendation]

    @classmethod
    def of(cls, answer: Answer, names: RestaurantNames, unknown: list[str]) -> Recommendations:
        """Return an answer with the restaurants' names."""
        rows = zip(answer.recommendations, answer.because, strict=True)
        return cls(
            run_id=answer.run_id,
            source=answer.source,
            unknown=unknown,
            cluster_id=answer.cluster_id,
            recommendations=[
                Recommendation(
                    gmap_id=entry["gmap_id"],
                    name=names.of(entry["gmap_id"]),
                    score=entry["score"],
                    rating=entry.get("rating"),
                    because=because,
                )
                for entry, because in rows
            ],
        )


class Rating(BaseModel):
    """A rating of a restaurant."""

    gmap_id: str | int
    rating: float


class RatingsSent(BaseModel):
    """The ratings of a user."""

    ratings: list[Rating] = Field(min_length=1, max_length=_MOST_RATINGS)


@router.get("", responses=responses(401, 404, 422, 503))
def recommendations(
    service: CurrentService,
    rated: Annotated[
        list[str],
        Query(
            min_length=1,
            max_length=_MOST_RATINGS,
            description="gmap_id=rating, for each restaurant",
        ),
    ],
    n: ListLength = None,
) -> Recommendations:
    """Recommend restaurants from the ratings sent."""
    if service.factors.get() is None:
        raise HTTPException(404, "no training has published factors; POST /train first")
    try:
        return from_ratings(service, dict(map(parse_rating, rated)), n)
    except ValueError as error:
        raise HTTPException(422, f"query.rated: {error}") from None


@router.post("", responses=responses(401, 404, 413, 422, 503))
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
    names = published(service).names
    known = service.catalog.user(user_id, cheap=True)
    answer = service.catalog.answer(*known, n or service.settings.als.top_n)
    return Recommendations.of(answer, names, [])


def published(service: Service) -> Served:
    """Return what is published; 404 before the first training."""
    served = service.catalog.served()
    if served.run_id is None:
        raise HTTPException(404, "no training has published a model; POST /train first")
    return served


def from_ratings(
    service: Service, rated: Mapping[str, object], n: int | None = None
) -> Recommendations:
    """Recommend restaurants from ratings by id; 422 if one is invalid."""
    served = published(service)
    try:
        ratings = ratings_from_request(service.settings, rated, served.keys)
    except DataError as error:
        raise HTTPException(422, f"of the rated restaurants, {error}") from None
    if rejected := ratings.report.rejected:
        raise HTTPException(422, f"of the rated restaurants, some are invalid: {rejected}")
    answer = served.recommend(ratings, n or service.settings.als.top_n)
    return Recommendations.of(answer, served.names, served.unknown(rated))
