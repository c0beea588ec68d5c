"""What the service answers about users and restaurants, by what is published; kept in memory."""

import datetime
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Annotated, Any, Literal

import pyarrow as pa
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recommender.als.published_factors import PublishedFactors, load_factors
from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core import mongo_collections as collections
from recommender.core.errors import DatabaseUnavailableError, DataError
from recommender.core.mongo import Document, MongoDatabase, quick_read
from recommender.core.settings import Settings
from recommender.data.cleaning import parse_ratings
from recommender.data.ids import MAX_ID_BYTES, READABLE, KeyIndex, decode_ids, encode_id
from recommender.data.one_user import ratings_by_id, ratings_from_request, spelled_ids
from recommender.data.ratings import Ratings
from recommender.data.rejection import Rejection
from recommender.data.restaurants import RestaurantNames, restaurant_names
from recommender.data.users import listed_entries
from recommender.runs.ledger import Ledger
from recommender.service.cached import CachedUntilPublished

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
    unknown: list[JsonId] = Field(description="rated restaurants that the model does not know")
    cluster_id: int | None = Field(description="the user's cluster, where known")
    recommendations: list[Recommendation]


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


@dataclass(frozen=True, eq=False)
class Served:
    """The factors, the clusters and the restaurants' names of one moment."""

    factors: PublishedFactors | None
    model: PublishedModel | None
    names: RestaurantNames
    known: KeyIndex  # the restaurants of the factors or the clusters

    def about(self, ratings: Ratings | None) -> dict[str, Any]:
        """Return the cluster of a user with these ratings, and which of them are unknown."""
        label = int(self.model.labels(ratings)[0]) if self.model and ratings else -1
        rated = ratings.restaurant_ids() if ratings else []
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

    def clusters(self, restaurants: int | None = None) -> list[Cluster]:
        """Return the clusters with at most a number of restaurants in each list."""
        documents = self.model.clusters if self.model else []
        for name in ("stands_out", "recommendations"):
            lists = [self.named(one.get(name, [])[:restaurants]) for one in documents]
            documents = [one | {name: part} for one, part in zip(documents, lists, strict=True)]
        return [Cluster.model_validate(one) for one in documents]

    def cluster(self, cluster_id: int) -> Cluster:
        """Return one cluster; 404 for an unknown one."""
        listed = self.clusters()
        if not 0 <= cluster_id < len(listed):
            raise HTTPException(404, f"no cluster {cluster_id}; there are {len(listed)}, from 0 on")
        return listed[cluster_id]

    def similar(self, gmap_id: str, limit: int) -> list[Restaurant]:
        """Return the restaurants most similar to one by the factors; 404 for an unknown one."""
        factors, ids = self.factors, spelled_ids(gmap_id)
        if all(self.known.find(i) < 0 for i in ids):
            raise HTTPException(404, f"the model knows no restaurant {gmap_id!r}; check the id")
        lists = (factors.similar(i, limit) for i in ids) if factors else iter(())
        return self.named(next(filter(None, lists), []))


class Catalog:
    """Answers for users and restaurants; reads MongoDB only for a user and for what is new."""

    def __init__(self, db: MongoDatabase, settings: Settings) -> None:
        self._factors = CachedUntilPublished(db, collections.FACTORS_ID, load_factors)
        self._db = db
        self._settings = settings
        self._clusters = CachedUntilPublished(db, collections.CLUSTERS_ID, load_model)
        self._recommendations: Any = db.get_collection(collections.RECOMMENDATIONS, READABLE)
        self._loading = Lock()
        self._served: Served | None = None
        self._named_at = 0.0

    @quick_read("reading what is published")
    def run_ids(self) -> dict[str, str]:
        """Return the training that published each part that there is."""
        published = Ledger(self._db).has_published_lists()
        lists = collections.run_of(self._recommendations) if published else None
        ids = {"lists": lists} if lists else {}
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
            self._served = Served(factors, model, names, known)
            return self._served

    def published(self) -> Served:
        """Return what is published; 404 before the first training."""
        served = self.served()
        if not (served.factors or served.model):
            raise HTTPException(404, "no training has published a model; POST /train first")
        return served

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
            ratings = ratings_by_id(self._db, self._settings.reviews, same, milliseconds)
        except left_out:
            return document, None
        # An id and the number that it spells may be two users.
        return document, replace(ratings.rows(ratings.user == 0), users=ratings.users[:1])

    def answer(self, document: Document | None, ratings: Ratings | None, n: int) -> Recommendations:
        """Return the list of a user as :meth:`user` returns one: the stored one, else a new one."""
        if document is None:
            return self.published().recommend(ratings, n)
        served = self.served()
        entries = listed_entries(document)[:n]
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

    def shown_user(self, user_id: str) -> User:
        """Return what a user has rated, and is served; 404 without a rating and without a list."""
        served = self.published()
        document, ratings = self.user(user_id)
        if document is None and ratings is None:
            raise HTTPException(404, f"user {user_id!r} has no rating and no list; check the id")
        rows = ratings.best_first() if ratings else []
        rated = ({"gmap_id": i, "rating": r, "at": _date(ms)} for i, r, ms in rows)
        return User(
            user_id=document["user_id"] if document else user_id,
            rated=served.named(rated),
            served=self.answer(document, ratings, self._settings.als.top_n),
        )

    def recommend(self, rated: Mapping[str, object], n: int | None = None) -> Recommendations:
        """Recommend restaurants from ratings by id; 422 if an id or a rating is invalid."""
        served, scale = self.published(), self._settings.reviews
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
        ratings = ratings_from_request(scale, rated, served.known)
        return served.recommend(ratings, n or self._settings.als.top_n)


def _date(milliseconds: float) -> datetime.datetime | None:
    """Return the time of a rating, None if it is unknown or outside the calendar."""
    try:
        return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
