"""What the service recommends to any user, from what is published; kept in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, Literal

from recommender.als.published_factors import LiveFactors, PublishedFactors
from recommender.clustering.published_model import LiveModel, PublishedModel
from recommender.core.errors import DatabaseUnavailableError, DataError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import RECOMMENDATIONS, SIMPLE
from recommender.core.settings import Settings
from recommender.data.ids import CODEC, KeyIndex, decode_id, encode_id
from recommender.data.one_user import rated_by, spelled_ids
from recommender.data.ratings import Ratings
from recommender.data.restaurants import RestaurantNames, restaurant_names

Source = Literal["personal", "folded-in", "cluster", "fallback"]

LONGEST_LIST = 100

_NAMES_SECONDS = 600.0  # until names are read again
# A list whose scores only break ties is that of popularity.
_POPULARITY_SCORES = 1e-6
# To read a user's ratings: for the reasons of a list, and to show them.
_CHEAP_MILLISECONDS, _SHOWN_MILLISECONDS = 20, 3000


@dataclass(frozen=True, eq=False)
class Answer:
    """Recommendations for one user: entries of ``gmap_id``, ``score``, maybe ``rating``."""

    source: Source
    run_id: str | None  # of the training that made the list; None: the backend has written it
    recommendations: list[Document]
    because: list[list[Any]]  # of each entry, the rated restaurants that add most to its score
    cluster_id: int | None = None


@dataclass(frozen=True, eq=False)
class Served:
    """The factors, the clusters and the restaurants' names of one moment."""

    factors: PublishedFactors | None
    model: PublishedModel | None
    names: RestaurantNames
    loaded_at: float = field(default_factory=time.monotonic)

    @property
    def run_id(self) -> str | None:
        """The last training that published; None before any."""
        return max((part.run_id for part in (self.factors, self.model) if part), default=None)

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of the known restaurants."""
        return frozenset(_keys(self.factors, self.model))

    def unknown(self, ids: Iterable[str]) -> list[str]:
        """Return the texts that spell no known restaurant's id."""
        return [i for i in ids if not any(encode_id(s) in self.keys for s in spelled_ids(i))]

    def cluster_of(self, ratings: Ratings) -> int | None:
        """Return the cluster of a user with these ratings, None for none."""
        label = int(self.model.labels(ratings)[0]) if self.model else -1
        return label if label >= 0 else None

    def recommend(self, ratings: Ratings | None, n: int) -> Answer:
        """Recommend by the factors, else by the nearest cluster, else the fallback list."""
        cluster_id = self.cluster_of(ratings) if ratings else None
        if ratings and self.factors and self.factors.covers(ratings):
            best = self.factors.recommend(ratings, n)
            reasons = [entry.pop("because") for entry in best]
            return Answer("folded-in", self.factors.run_id, best, reasons, cluster_id)
        source: Source = "fallback" if cluster_id is None else "cluster"
        entries = self.fallback
        if self.model and cluster_id is not None:
            entries = self.model.clusters[cluster_id]["recommendations"]
        if ratings:
            rated = KeyIndex(ratings.restaurants)
            entries = [entry for entry in entries if rated.find(entry["gmap_id"]) < 0]
        run_id = self.model.run_id if self.model else self.run_id
        return Answer(source, run_id, entries[:n], [[] for _ in entries[:n]], cluster_id)

    @property
    def fallback(self) -> list[Document]:
        """The list for users of whom nothing is known."""
        if self.model and self.model.fallback:
            return self.model.fallback
        return self.factors.popular(LONGEST_LIST) if self.factors else []


class Catalog:
    """Answers for users and restaurants; reads MongoDB only for a user and for what is new."""

    def __init__(self, db: MongoDatabase, settings: Settings, factors: LiveFactors) -> None:
        self._db = db
        self._settings = settings
        self._factors = factors
        self._clusters = LiveModel(db)
        self._loading = Lock()
        self._served: Served | None = None

    def served(self) -> Served:
        """Return what is published; its parts are None before the first training."""
        factors, model = self._factors.get(), self._clusters.get()
        with self._loading:
            served, now = self._served, time.monotonic()
            if (
                served is None
                or served.factors is not factors
                or served.model is not model
                or now - served.loaded_at > _NAMES_SECONDS
            ):
                ids = [decode_id(key) for key in _keys(factors, model)]
                names = RestaurantNames(ids, restaurant_names(self._db, ids))
                self._served = served = Served(factors, model, names)
        return served

    def users(self, prefix: str, limit: int) -> list[Any]:
        """Return at most ``limit`` ids of users with recommendations, texts with this prefix."""
        between = {"user_id": {"$gte": prefix, "$lt": prefix + "\U0010ffff"}}
        with mongo_errors("reading Recommendations"):
            cursor = self._recommendations().find(between, {"_id": 0, "user_id": 1})
            cursor = cursor.collation(SIMPLE).sort("user_id", 1).limit(limit)
            return [document["user_id"] for document in cursor]

    def count_users(self) -> int:
        """Return about how many users have recommendations."""
        with mongo_errors("reading Recommendations"):
            return int(self._recommendations().estimated_document_count())

    def user(self, user: str, *, cheap: bool = False) -> tuple[Document | None, Ratings | None]:
        """Return a user's document of Recommendations and ratings, each if there is one.

        With ``cheap``, ratings beside a document are left out where MongoDB does not return them
        at once.
        """
        document = self._document(user)
        same = document["user_id"] if document else {"$in": spelled_ids(user)}
        cheap = cheap and document is not None
        milliseconds = _CHEAP_MILLISECONDS if cheap else _SHOWN_MILLISECONDS
        try:
            return document, rated_by(self._db, self._settings, same, milliseconds)
        except DataError:
            return document, None
        except DatabaseUnavailableError:
            if cheap:
                return document, None
            raise

    def answer(self, document: Document | None, ratings: Ratings | None, n: int) -> Answer:
        """Return the list of a user as :meth:`user` returns one: the stored one, else a new one."""
        served = self.served()
        if document is None:
            return served.recommend(ratings, n)
        entries = [entry for entry in document["recommendations"] if _is_valid(entry)][:n]
        popular = all(entry["score"] <= _POPULARITY_SCORES for entry in entries)
        because: list[list[Any]] = [[] for _ in entries]
        if served.factors and ratings and not popular:
            because = served.factors.because(ratings, [entry["gmap_id"] for entry in entries])
        cluster_id = served.cluster_of(ratings) if ratings else None
        source: Source = "fallback" if popular else "personal"
        return Answer(source, document.get("run_id"), entries, because, cluster_id)

    def _document(self, user: str) -> Document | None:
        """Return a user's document of Recommendations by the id's text."""
        with mongo_errors("reading Recommendations"):
            same = {"user_id": {"$in": spelled_ids(user)}}
            document = self._recommendations().find_one(same)
        valid = document and isinstance(document.get("recommendations"), list)
        return document if valid else None

    def _recommendations(self) -> Any:
        return self._db[RECOMMENDATIONS].with_options(codec_options=CODEC)


def _keys(factors: PublishedFactors | None, model: PublishedModel | None) -> list[str]:
    """Return the keys of the known restaurants, the most rated ones first."""
    parts = [factors.restaurants] if factors else []
    parts += [model.columns] if model else []
    return list(dict.fromkeys(key for part in parts for key in part.to_pylist()))


def _is_valid(entry: Any) -> bool:
    """Return true for an entry of the contract's form, also if the backend has written it."""
    valid = isinstance(entry, dict) and "gmap_id" in entry
    return valid and isinstance(entry.get("score"), int | float)
