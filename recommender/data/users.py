"""The backend's collection ``Users``: users without a review, and more that users have rated."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pymongo.collection import Collection
from scipy.sparse import csr_array

from recommender.core.mongo import Document, MongoDatabase, mongo_errors, source_of
from recommender.core.mongo_collections import RECOMMENDATIONS, WRITTEN_BY_OTHERS
from recommender.core.settings import ReviewsSettings
from recommender.data.cleaning import parse_ratings
from recommender.data.ids import CODEC, KeyIndex, decode_ids, keys_of
from recommender.data.ratings import Ratings, merge_pairs, rating_shift
from recommender.data.reviews import gc_paused
from recommender.data.times import parse_times

_FIELDS = ("user_id", "ratings.gmap_id", "ratings.rating", "ratings.timestamp")
_PROJECTION = {"_id": 0} | dict.fromkeys(_FIELDS, 1)
_BLOCK_USERS = 5_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class UsersRead:
    """Users and ratings that ``Users`` adds to Reviews, for restaurants that Reviews knows."""

    # Keys of users without a valid rating in Reviews or recommendations written by the backend.
    newcomers: pa.StringArray
    newcomer_ratings: csr_array  # (newcomers, restaurants), shifted; a row can be empty
    # bool (users, restaurants) of Reviews, true where ``Users`` lists a rating of any value.
    also_rated: csr_array


def read_users(db: MongoDatabase, ratings: Ratings, scale: ReviewsSettings) -> UsersRead:
    """Read ``Users`` in one pass, block by block."""
    known, restaurants = KeyIndex(ratings.users), KeyIndex(ratings.restaurants)
    newcomers = KeyIndex(pa.array([], pa.string()))

    def add_newcomer(user_id: Any) -> int:
        is_new = known.find(user_id) < 0 and served_by_others.find(user_id) < 0
        return newcomers.add(user_id) if is_new else -1

    also_rated = [_pairs([], known, restaurants)]
    of_newcomers = [_ratings([], add_newcomer, restaurants, scale)]
    with mongo_errors("reading Users"), gc_paused():
        recommendations = db[RECOMMENDATIONS].with_options(codec_options=CODEC)
        served = recommendations.find(WRITTEN_BY_OTHERS, {"_id": 0, "user_id": 1})
        served_by_others = KeyIndex(keys_of(document.get("user_id") for document in served))
        cursor = users_collection(db).find({}, _PROJECTION, batch_size=_BLOCK_USERS)
        while documents := cursor.to_list(_BLOCK_USERS):
            also_rated.append(_pairs(documents, known, restaurants))
            of_newcomers.append(_ratings(documents, add_newcomer, restaurants, scale))
    pairs = np.concatenate(also_rated)
    user, restaurant, rating, _ = merge_pairs(*map(np.concatenate, zip(*of_newcomers, strict=True)))
    shifted = rating + rating_shift(scale.rating_min)
    log.info("Users: %d newcomers, %d ratings of known users", len(newcomers.keys), len(pairs))
    n_users, n_restaurants = len(ratings.users), len(ratings.restaurants)
    return UsersRead(
        pa.array(newcomers.keys, pa.string()),
        csr_array((shifted, (user, restaurant)), shape=(len(newcomers.keys), n_restaurants)),
        csr_array((np.ones(len(pairs), dtype=np.bool_), pairs.T), shape=(n_users, n_restaurants)),
    )


def _pairs(
    documents: Sequence[Document], users: KeyIndex, restaurants: KeyIndex
) -> NDArray[np.int32]:
    """Return known users and their known restaurants, (n, 2), each pair of a document once."""
    pairs = [
        (user, restaurant)
        for document in documents
        if (user := users.find(document.get("user_id"))) >= 0
        for restaurant in {restaurants.find(e.get("gmap_id")) for e in entries_in(document)}
        if restaurant >= 0
    ]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def _ratings(
    documents: Sequence[Document],
    find_user: Callable[[Any], int],
    restaurants: KeyIndex,
    scale: ReviewsSettings,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return user, restaurant, rating and time of each valid rating of a known restaurant."""
    rows = [
        (user, restaurant, entry.get("rating"), entry.get("timestamp"))
        for document in documents
        if (user := find_user(document.get("user_id"))) >= 0
        for entry in entries_in(document)
        if (restaurant := restaurants.find(entry.get("gmap_id"))) >= 0
    ]
    rating, rejected = parse_ratings([row[2] for row in rows], scale.rating_min, scale.rating_max)
    time, valid = parse_times([row[3] for row in rows]), rejected == 0
    pairs = np.array([row[:2] for row in rows], dtype=np.int32).reshape(-1, 2)[valid]
    return *pairs.T, rating[valid], time[valid]


def users_collection(db: MongoDatabase) -> Collection[Document]:
    """Return ``Users``, decoded so that no value of a document stops the reading."""
    return source_of(db)["Users"].with_options(codec_options=CODEC)


def entries_in(document: Document, name: str = "ratings") -> list[Document]:
    """Return the entries of a list that a backend has written, without malformed ones."""
    entries = document.get(name)
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def rated_in_users(db: MongoDatabase, user: pa.StringArray) -> pa.StringArray:
    """Return the keys of the restaurants that ``Users`` lists as rated by the user of one key."""
    (user_id,) = decode_ids(user)
    same = KeyIndex(user)  # a collation of Users may match other ids, too
    with mongo_errors("reading Users"):
        return keys_of(
            entry.get("gmap_id")
            for document in users_collection(db).find({"user_id": user_id}, _PROJECTION)
            if same.find(document.get("user_id")) >= 0
            for entry in entries_in(document)
        )
