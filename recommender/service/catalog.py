"""What the service recommends to any user, from what is published; kept in memory."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recommender.als.published_factors import PublishedFactors, load_factors
from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core.errors import DatabaseUnavailableError, DataError
from recommender.core.mongo import Document, MongoDatabase, quick_read
from recommender.core.mongo_collections import CLUSTERS_ID, FACTORS_ID, RECOMMENDATIONS, SIMPLE
from recommender.core.settings import Settings
from recommender.data.ids import CODEC, KeyIndex, decode_id, encode_id
from recommender.data.one_user import rated_by, spelled_ids
from recommender.data.ratings import Ratings
from recommender.data.restaurants import RestaurantNames, restaurant_names
from recommender.publishing.live import Live

LONGEST_LIST = 100

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
    unknown: list[str] = Field(description="rated restaurants that the model does not know")
    cluster_id: int | None = Field(description="the user's cluster, where known")
    recommendations: list[Recommendation]


@dataclass(frozen=True, eq=False)
class Served:
    """The factors, the clusters and the restaurants' names of one moment."""

    factors: PublishedFactors | None
    model: PublishedModel | None
    names: RestaurantNames
    keys: frozenset[str]  # of the known restaurants

    @property
    def run_id(self) -> str | None:
        """The last training that published; None before any."""
        return max((part.run_id for part in (self.factors, self.model) if part), default=None)

    def unknown(self, ids: Iterable[str]) -> list[str]:
        """Return the texts that spell no known restaurant's id."""
        return [i for i in ids if not any(encode_id(s) in self.keys for s in spelled_ids(i))]

    def cluster_of(self, ratings: Ratings) -> int | None:
        """Return the cluster of a user with these ratings, None for none."""
        label = int(self.model.labels(ratings)[0]) if self.model else -1
        return label if label >= 0 else None

    def named(self, entries: Iterable[Document]) -> list[Any]:
        """Return entries of a list with the restaurants' names."""
        return [{**entry, "name": self.names.of(entry["gmap_id"])} for entry in entries]

    def recommend(self, ratings: Ratings | None, n: int) -> Recommendations:
        """Recommend by the factors, else by the nearest cluster, else the fallback list."""
        cluster_id = self.cluster_of(ratings) if ratings else None
        run_id = self.model.run_id if self.model else self.run_id
        if ratings and self.factors and self.factors.covers(ratings):
            source, run_id = "folded-in", self.factors.run_id
            entries = self.factors.recommend(ratings, n)
        elif self.model and cluster_id is not None:
            source, entries = "cluster", self.model.clusters[cluster_id]["recommendations"]
        else:
            source, entries = "fallback", self.fallback
        if ratings:
            rated = KeyIndex(ratings.restaurants)
            entries = [entry for entry in entries if rated.find(entry["gmap_id"]) < 0]
        return self.answer(source, run_id, cluster_id, entries[:n])

    def answer(
        self, source: Any, run_id: str | None, cluster_id: int | None, entries: list[Document]
    ) -> Recommendations:
        """Return the entries of a list with the restaurants' names."""
        named = self.named(entries)
        return Recommendations(
            run_id=run_id, source=source, unknown=[], cluster_id=cluster_id, recommendations=named
        )

    @property
    def fallback(self) -> list[Document]:
        """The list for users without a known rating."""
        stored = self.model.fallback if self.model else []
        return stored or (self.factors.popular(LONGEST_LIST) if self.factors else [])


class Catalog:
    """Answers for users and restaurants; reads MongoDB only for a user and for what is new."""

    def __init__(self, db: MongoDatabase, settings: Settings) -> None:
        self._factors = Live(db, FACTORS_ID, load_factors)
        self._db = db
        self._settings = settings
        self._clusters = Live(db, CLUSTERS_ID, load_model)
        self._recommendations: Any = db[RECOMMENDATIONS].with_options(codec_options=CODEC)
        self._loading = Lock()
        self._served: Served | None = None
        self._named_at = 0.0

    def served(self) -> Served:
        """Return what is published; its parts are None before the first training."""
        with quick_read("reading what is published", _LOAD_SECONDS):
            factors, model = self._factors.get(), self._clusters.get()
        with quick_read("reading Restaurants", _LOAD_SECONDS), self._loading:
            served, now = self._served, time.monotonic()
            if (
                served is None
                or served.factors is not factors
                or served.model is not model
                or now - self._named_at > _NAMES_SECONDS
            ):
                self._named_at = now  # before they are read: a failure is not repeated at once
                known = [factors.restaurants] if factors else []
                known += [model.columns] if model else []
                # The most rated ones first.
                keys = list(dict.fromkeys(key for part in known for key in part.to_pylist()))
                ids = [decode_id(key) for key in keys]
                names = RestaurantNames(ids, restaurant_names(self._db, ids))
                self._served = served = Served(factors, model, names, frozenset(keys))
        return served

    @quick_read("reading Recommendations")
    def users(self, prefix: str, limit: int) -> list[Any]:
        """Return at most ``limit`` ids of users with recommendations, texts with this prefix."""
        between = {"user_id": {"$gte": prefix, "$lt": prefix + "\U0010ffff"}}
        cursor = self._recommendations.find(between, {"_id": 0, "user_id": 1})
        cursor = cursor.collation(SIMPLE).sort("user_id", 1).limit(limit)
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
        document = self._document(ids)
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
        highest = max((entry["score"] for entry in entries), default=math.inf)
        popular = highest <= _POPULARITY_SCORES
        if served.factors and ratings and not popular:
            reasons = served.factors.because(ratings, [entry["gmap_id"] for entry in entries])
            entries = [e | {"because": why} for e, why in zip(entries, reasons, strict=True)]
        cluster_id = served.cluster_of(ratings) if ratings else None
        source = "fallback" if popular else "personal"
        run_id = document.get("run_id")  # the backend may have written another type
        return served.answer(source, run_id if type(run_id) is str else None, cluster_id, entries)

    @quick_read("reading Recommendations")
    def _document(self, ids: list[object]) -> Document | None:
        """Return the valid document of Recommendations of a user with one of the ids."""
        document: Document | None = self._recommendations.find_one({"user_id": {"$in": ids}})
        valid = document and isinstance(document.get("recommendations"), list)
        return document if valid else None


def _is_valid(entry: Any) -> bool:
    """Return true for an entry of the contract's form, also if the backend has written it."""
    if not isinstance(entry, dict) or "gmap_id" not in entry:
        return False
    score, rating = entry.get("score"), entry.get("rating")
    return isinstance(score, int | float) and isinstance(rating, int | float | None)
