"""What the service recommends to any user, from what is published; kept in memory."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recommender.als.published_factors import PublishedFactors, load_factors
from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core import mongo_collections as collections
from recommender.core.errors import DatabaseUnavailableError, DataError
from recommender.core.mongo import Document, MongoDatabase, quick_read
from recommender.core.settings import Settings
from recommender.data.ids import CODEC, KeyIndex, decode_ids
from recommender.data.one_user import rated_by, spelled_ids
from recommender.data.ratings import Ratings
from recommender.data.restaurants import RestaurantNames, restaurant_names
from recommender.publishing.live import Live
from recommender.runs.ledger import COLLECTION as RUNS

LONGEST_LIST = 100
# What the ledger has of a run that has published lists; a dry run has the phase, too.
LISTS_PUBLISHED: Document = {"phases.name": "publish recommendations", "kind": {"$ne": "dry_run"}}

_NAMES_SECONDS = 600.0  # until names are read again
_LOAD_SECONDS = 30.0  # to read what is published, and then the names
# A list whose scores only break ties is that of popularity.
_POPULARITY_SCORES = 1e-6
# To read a user's ratings: for the reasons of a list, and to show them.
_CHEAP_MILLISECONDS, _SHOWN_MILLISECONDS = 20, 3000

JsonId = Annotated[str | int, BeforeValidator(lambda i: i if isinstance(i, str | int) else str(i))]


class Restaurant(BaseModel):
    """A restaurant, with its figures in the list that it is in."""

    model_config = ConfigDict(extra="allow")

    gmap_id: JsonId
    name: str | None = Field(None, description="null without one in Restaurants")


class Recommendation(Restaurant):
    """A recommended restaurant, and the rated restaurants that add most to its score."""

    score: float
    rating: float | None = Field(None, description="predicted, in stored lists only")
    because: list[JsonId] = []


class Recommendations(BaseModel):
    """Recommendations for one user, best first; ``docs/read-api.md`` describes the sources."""

    run_id: str | None = Field(description="the training; null: the backend wrote the list")
    source: Literal["personal", "folded-in", "cluster", "fallback"]
    unknown: list[JsonId] = Field(description="rated restaurants that the model does not know")
    cluster_id: int | None = Field(description="the user's cluster, where known")
    recommendations: list[Recommendation]


@dataclass(frozen=True, eq=False)
class Served:
    """The factors, the clusters and the restaurants' names of one moment."""

    factors: PublishedFactors | None
    model: PublishedModel | None
    names: RestaurantNames
    known: KeyIndex  # the restaurants of the factors or the clusters
    keys: frozenset[str]  # of these

    def about(self, ratings: Ratings | None) -> dict[str, Any]:
        """Return the cluster of a user with these ratings, and which of them are unknown."""
        label = int(self.model.labels(ratings)[0]) if self.model and ratings else -1
        rated = rated_ids(ratings) if ratings else []
        unknown = [gmap_id for gmap_id in rated if self.known.find(gmap_id) < 0]
        return {"cluster_id": label if label >= 0 else None, "unknown": unknown}

    def named(self, entries: Iterable[Document]) -> list[Any]:
        """Return entries of a list with the restaurants' names."""
        return [{**entry, "name": self.names.of(entry["gmap_id"])} for entry in entries]

    def recommend(self, ratings: Ratings | None, n: int) -> Recommendations:
        """Recommend by the factors, else by the nearest cluster, else the fallback list."""
        about, part = self.about(ratings), self.model or self.factors
        source: Any
        run_id = part.run_id if part else None
        if ratings and self.factors and self.factors.covers(ratings):
            source, run_id = "folded-in", self.factors.run_id
            entries = self.factors.recommend(ratings, n)
        elif self.model and about["cluster_id"] is not None:
            source = "cluster"
            entries = self.model.clusters[about["cluster_id"]]["recommendations"]
        else:
            stored = self.model.fallback if self.model else []
            popular = self.factors.popular(LONGEST_LIST) if self.factors else []
            source, entries = "fallback", stored or popular
        if ratings:
            rated = KeyIndex(ratings.restaurants)
            entries = [entry for entry in entries if rated.find(entry["gmap_id"]) < 0]
        named = self.named(entries[:n])
        return Recommendations(run_id=run_id, source=source, recommendations=named, **about)


class Catalog:
    """Answers for users and restaurants; reads MongoDB only for a user and for what is new."""

    def __init__(self, db: MongoDatabase, settings: Settings) -> None:
        self._factors = Live(db, collections.FACTORS_ID, load_factors)
        self._db = db
        self._settings = settings
        self._clusters = Live(db, collections.CLUSTERS_ID, load_model)
        readable = CODEC.with_options(unicode_decode_error_handler="replace")
        self._recommendations: Any = db.get_collection(collections.RECOMMENDATIONS, readable)
        self._loading = Lock()
        self._served: Served | None = None
        self._named_at = 0.0

    @quick_read("reading what is published")
    def run_ids(self) -> dict[str, str]:
        """Return the training that published each part that there is."""
        # Before a run has published lists, the search would read every document.
        published = self._db[RUNS].find_one(LISTS_PUBLISHED, {"_id": 1})
        lists = published and self._recommendations.find_one(
            collections.WRITTEN_BY_A_RUN, {"run_id": 1}
        )
        ids = {"lists": lists["run_id"]} if lists else {}
        parts = {collections.FACTORS_ID: "factors", collections.CLUSTERS_ID: "clusters"}
        written = collections.WRITTEN_BY_A_RUN | {"_id": {"$in": [*parts]}}
        metadata = self._db[collections.METADATA].find(written, {"run_id": 1})
        return ids | {parts[part["_id"]]: part["run_id"] for part in metadata}

    def served(self) -> Served:
        """Return what is published; its parts are None before the first training."""
        with quick_read("reading what is published", _LOAD_SECONDS):
            factors, model = self._factors.get(), self._clusters.get()
        with quick_read("reading Restaurants", _LOAD_SECONDS), self._loading:
            served, now = self._served, time.monotonic()
            named = now - self._named_at < _NAMES_SECONDS
            if served and named and served.factors is factors and served.model is model:
                return served
            self._named_at = now  # before they are read: a failure is not repeated at once
            parts = [factors.restaurants] if factors else []
            parts += [model.columns] if model else []
            # The most rated ones first.
            keys = pa.chunked_array(parts, pa.string()).unique()
            ids, known = decode_ids(keys), KeyIndex(keys)
            names = RestaurantNames(ids, restaurant_names(self._db, ids))
            self._served = Served(factors, model, names, known, frozenset(known.keys))
            return self._served

    @quick_read("reading Recommendations")
    def users(self, prefix: str, limit: int) -> list[Any]:
        """Return at most ``limit`` ids of users with recommendations, texts with this prefix."""
        between = {"user_id": {"$gte": prefix, "$lt": prefix + "\U0010ffff"}}
        cursor = self._recommendations.find(between, {"_id": 0, "user_id": 1})
        cursor = cursor.collation(collections.SIMPLE).sort("user_id", 1).limit(limit)
        return [document["user_id"] for document in cursor]

    @quick_read("reading Recommendations")
    def count_users(self) -> int:
        """Return about how many users have recommendations."""
        return int(self._recommendations.estimated_document_count())

    def user(self, user: str, *, cheap: bool = False) -> tuple[Document | None, Ratings | None]:
        """Return a user's document of Recommendations and ratings, each if there is one.

        With ``cheap``, ratings beside a document are left out where MongoDB does not return them
        at once.
        """
        ids = spelled_ids(user)
        with quick_read("reading Recommendations"):
            document = self._recommendations.find_one({"user_id": {"$in": ids}}) or {}
        if not isinstance(document.get("recommendations"), list):
            document = None
        same = document["user_id"] if document else {"$in": ids}
        cheap = cheap and document is not None
        milliseconds = _CHEAP_MILLISECONDS if cheap else _SHOWN_MILLISECONDS
        left_out = (DataError, DatabaseUnavailableError) if cheap else DataError
        try:
            return document, rated_by(self._db, self._settings.reviews, same, milliseconds)
        except left_out:
            return document, None

    def answer(self, document: Document | None, ratings: Ratings | None, n: int) -> Recommendations:
        """Return the list of a user as :meth:`user` returns one: the stored one, else a new one."""
        served = self.served()
        if document is None:
            return served.recommend(ratings, n)
        stored = [entry for entry in document["recommendations"] if _is_valid(entry)][:n]
        entries = [{key: e.get(key) for key in ("gmap_id", "score", "rating")} for e in stored]
        popular = bool(entries) and all(e["score"] <= _POPULARITY_SCORES for e in entries)
        if served.factors and ratings and not popular:
            reasons = served.factors.because(ratings, [entry["gmap_id"] for entry in entries])
            entries = [e | {"because": why} for e, why in zip(entries, reasons, strict=True)]
        run_id = document.get("run_id")
        return Recommendations(
            run_id=run_id if type(run_id) is str else None,  # the backend may write another type
            source="fallback" if popular else "personal",
            recommendations=served.named(entries),
            **served.about(ratings),
        )


def rated_ids(ratings: Ratings) -> list[Any]:
    """Return the restaurant's id of each rating."""
    return decode_ids(ratings.restaurants.take(pa.array(ratings.restaurant)))


def _is_valid(entry: Any) -> bool:
    """Return true for an entry of the contract's form, also if the backend has written it."""
    if not isinstance(entry, dict) or "gmap_id" not in entry:
        return False
    score, rating = entry.get("score"), entry.get("rating")
    figures = [score] if rating is None else [score, rating]
    return all(isinstance(figure, int | float) and math.isfinite(figure) for figure in figures)
