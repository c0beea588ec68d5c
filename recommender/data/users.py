"""The backend's collection ``Users``: users without a review, and more that users have rated."""

import logging
import math
from collections.abc import Sequence
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
from recommender.data.ids import CODEC, KeyIndex, decode_ids, encode_id, keys_of
from recommender.data.ratings import Ratings, merge_pairs, rating_shift
from recommender.data.reviews import gc_paused
from recommender.data.times import parse_times

_FIELDS = ("user_id", "ratings.gmap_id", "ratings.rating", "ratings.timestamp")
_PROJECTION = {"_id": 0} | dict.fromkeys(_FIELDS, 1)
_BLOCK_USERS = 5_000

_Entry = tuple[int, int, Any, Any]  # user, restaurant, rating, time

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
    # Newcomers are numbered after the users of Reviews.
    users, restaurants = KeyIndex(ratings.users), KeyIndex(ratings.restaurants)
    n_known, n_restaurants = len(users.keys), len(restaurants.keys)
    also_rated, of_newcomers = [_pairs([])], [_valid_ratings([], scale)]
    with mongo_errors("reading Users"), gc_paused():
        recommendations = db[RECOMMENDATIONS].with_options(codec_options=CODEC)
        served = recommendations.find(WRITTEN_BY_OTHERS, {"_id": 0, "user_id": 1})
        served_by_others = KeyIndex(keys_of(document.get("user_id") for document in served))

        def position(user_id: Any) -> int:
            is_served = served_by_others.find(user_id) >= 0
            return users.find(user_id) if is_served else users.add(user_id)

        cursor = users_collection(db).find({}, _PROJECTION, batch_size=_BLOCK_USERS)
        while documents := cursor.to_list(_BLOCK_USERS):
            entries = [
                (user, restaurant, entry.get("rating"), entry.get("timestamp"))
                for document in documents
                if (user := position(document.get("user_id"))) >= 0
                for entry in entries_in(document)
                if (restaurant := restaurants.find(entry.get("gmap_id"))) >= 0
            ]
            also_rated.append(_pairs([entry for entry in entries if entry[0] < n_known]))
            new = [entry for entry in entries if entry[0] >= n_known]
            of_newcomers.append(_valid_ratings(new, scale))
    columns = map(np.concatenate, zip(*of_newcomers, strict=True))
    of_user, of_restaurant, rating, _ = merge_pairs(*columns)
    newcomers = pa.array(users.keys[n_known:], pa.string())
    shifted, shape = rating + rating_shift(scale.rating_min), (len(newcomers), n_restaurants)
    newcomer_ratings = csr_array((shifted, (of_user - n_known, of_restaurant)), shape=shape)
    pairs = np.concatenate(also_rated)
    listed = csr_array((np.ones(len(pairs), np.bool_), pairs.T), shape=(n_known, n_restaurants))
    log.info("Users: %d newcomers, %d ratings of known users", len(newcomers), listed.nnz)
    return UsersRead(newcomers, newcomer_ratings, listed)


def _pairs(entries: Sequence[_Entry]) -> NDArray[np.int32]:
    """Return user and restaurant of each entry, (n, 2)."""
    return np.array([entry[:2] for entry in entries], dtype=np.int32).reshape(-1, 2)


def _valid_ratings(entries: Sequence[_Entry], scale: ReviewsSettings) -> tuple[NDArray[Any], ...]:
    """Return user, restaurant, rating and time of each entry of a valid rating."""
    ratings, times = [entry[2] for entry in entries], [entry[3] for entry in entries]
    rating, rejected = parse_ratings(ratings, scale.rating_min, scale.rating_max)
    columns = (*_pairs(entries).T, rating, parse_times(times))
    return tuple(column[rejected == 0] for column in columns)


def users_collection(db: MongoDatabase) -> Collection[Document]:
    """Return ``Users``, decoded so that no value of a document stops the reading."""
    return source_of(db)["Users"].with_options(codec_options=CODEC)


def entries_in(document: Document, name: str = "ratings") -> list[Document]:
    """Return the entries of a list that a backend has written, without malformed ones."""
    entries = document.get(name)
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def listed_entries(document: Document) -> list[Document]:
    """Return the entries of a list in ``Recommendations``, without malformed ones."""
    entries = filter(_is_listed, entries_in(document, "recommendations"))
    return [{key: e[key] for key in ("gmap_id", "score", "rating") if key in e} for e in entries]


def _is_listed(entry: Document) -> bool:
    """Return true if an entry has a valid id, a finite score, and a finite rating or none."""
    score, rating = entry.get("score"), entry.get("rating")
    figures = [score] if rating is None else [score, rating]
    numbers = all(isinstance(figure, int | float) and math.isfinite(figure) for figure in figures)
    return numbers and isinstance(encode_id(entry.get("gmap_id")), str)


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
