"""The backend's collection ``Users``: users without a review, and more that users have rated."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import RECOMMENDATIONS, WRITTEN_BY_OTHERS
from recommender.core.settings import Settings
from recommender.data.cleaning import clean_rows
from recommender.data.ids import CODEC, KeyIndex, decode_ids, encode_id, keys_of
from recommender.data.ratings import Ratings, merge_pairs, rating_shift
from recommender.data.reviews import gc_paused

USERS = "Users"

_FIELDS = ("user_id", "gmap_id", "rating", "timestamp")
_PROJECTION = {"_id": 0, "user_id": 1} | {f"ratings.{name}": 1 for name in _FIELDS[1:]}
_BLOCK_USERS = 5_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class UsersRead:
    """What ``Users`` adds to the ratings of Reviews, for restaurants that Reviews knows.

    Attributes
    ----------
    newcomers
        Keys of the users who have no valid rating in Reviews. Those for whom the backend has
        written recommendations of its own are left out.
    newcomer_ratings
        (newcomers, restaurants), their shifted ratings; a row can be empty.
    also_rated
        bool (users, restaurants) of Reviews, true where ``Users`` lists a rating of any value.
    """

    newcomers: pa.StringArray
    newcomer_ratings: csr_array
    also_rated: csr_array


def read_users(db: MongoDatabase, ratings: Ratings, settings: Settings) -> UsersRead:
    """Read ``Users`` in one pass; memory grows with what concerns known users and newcomers only.

    Raises
    ------
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    known, restaurants = KeyIndex(ratings.users), KeyIndex(ratings.restaurants)
    with mongo_errors("reading Users"), gc_paused():
        skipped = KeyIndex(_keys(db, RECOMMENDATIONS, WRITTEN_BY_OTHERS))
        newcomers = _Newcomers(restaurants, settings)
        user, restaurant = array("i"), array("i")
        documents = db[USERS].with_options(codec_options=CODEC)
        cursor = documents.find({}, _PROJECTION, batch_size=_BLOCK_USERS)
        while block := cursor.to_list(_BLOCK_USERS):
            new = []
            for document in block:
                position = known.find(document.get("user_id"))
                if position >= 0:
                    rated = [restaurants.find(row.get("gmap_id")) for row in _ratings_in(document)]
                    restaurant.extend(place for place in rated if place >= 0)
                    user.extend([position] * (len(restaurant) - len(user)))
                elif skipped.find(document.get("user_id")) < 0:
                    new.append(document)
            newcomers.add(new)
    shape = len(ratings.users), len(ratings.restaurants)
    also_rated = csr_array((np.ones(len(user), dtype=np.bool_), (user, restaurant)), shape=shape)
    log.info("Users: %d newcomers, %d ratings of known users", len(newcomers), also_rated.nnz)
    return UsersRead(newcomers.keys(), newcomers.matrix(), also_rated)


class _Newcomers:
    """Users without a review, numbered as they come, and their ratings of known restaurants."""

    def __init__(self, restaurants: KeyIndex, settings: Settings) -> None:
        self._restaurants = restaurants
        self._settings = settings
        self._numbers = KeyIndex(pa.array([], pa.string()))
        self._keys: list[str] = []
        self._blocks: list[tuple[NDArray[np.int32], NDArray[np.int32], pa.RecordBatch]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, documents: Sequence[Document]) -> None:
        """Add a block of documents of ``Users``, whose users may repeat."""
        rows, number, restaurant = [], array("i"), array("i")
        for document in documents:
            user = self._numbers.add(document.get("user_id"))
            if user is None:
                continue
            if user == len(self._keys):
                self._keys.append(str(encode_id(document["user_id"])))
            for row in _ratings_in(document):
                if (position := self._restaurants.find(row.get("gmap_id"))) >= 0:
                    rows.append(row | {"user_id": document["user_id"]})
                    number.append(user)
                    restaurant.append(position)
        if rows:
            # The keys would take most of the memory, and the positions stand for them.
            cleaned = clean_rows(rows, _FIELDS, self._settings).drop_columns(["user", "restaurant"])
            self._blocks.append((np.array(number), np.array(restaurant), cleaned))

    def keys(self) -> pa.StringArray:
        """Return the keys of the newcomers."""
        return pa.array(self._keys, pa.string())

    def matrix(self) -> csr_array:
        """Return the shifted ratings, (newcomers, restaurants)."""
        shape = len(self._keys), len(self._restaurants)
        if not self._blocks:
            return csr_array(shape)
        users, restaurants, cleaned = zip(*self._blocks, strict=True)
        table = pa.Table.from_batches(cleaned)
        valid = table["rejected"].to_numpy() == 0
        user, restaurant, rating, _ = merge_pairs(
            np.concatenate(users)[valid],
            np.concatenate(restaurants)[valid],
            table["rating"].to_numpy()[valid],
            table["time"].to_numpy()[valid],
        )
        values = rating + rating_shift(self._settings.reviews.rating_min)
        return csr_array((values, (user, restaurant)), shape=shape)


def rated_in_users(db: MongoDatabase, user: pa.StringArray) -> pa.StringArray:
    """Return the keys of the restaurants that ``Users`` lists as rated by one user.

    Parameters
    ----------
    user
        The key of the user's id.
    """
    (user_id,) = decode_ids(user)
    with mongo_errors("reading Users"):
        documents = db[USERS].with_options(codec_options=CODEC)
        # A collation of Users may match other ids, too.
        same = KeyIndex(user)
        rated = [
            row.get("gmap_id")
            for document in documents.find({"user_id": user_id}, _PROJECTION)
            if same.find(document.get("user_id")) >= 0
            for row in _ratings_in(document)
        ]
    return keys_of(rated)


def clean_users(documents: Sequence[Document], settings: Settings) -> pa.RecordBatch:
    """Return the cleaned ratings of documents of ``Users``, as rows of ``BLOCK_SCHEMA``."""
    rows = [
        row | {"user_id": document.get("user_id")}
        for document in documents
        for row in _ratings_in(document)
    ]
    return clean_rows(rows, _FIELDS, settings)


def _ratings_in(document: Document) -> list[Document]:
    rows = document.get("ratings")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _keys(db: MongoDatabase, collection: str, matching: Document) -> pa.StringArray:
    """Return the keys of the valid user ids in a collection."""
    documents = db[collection].with_options(codec_options=CODEC)
    return keys_of(d.get("user_id") for d in documents.find(matching, {"_id": 0, "user_id": 1}))


def stacked(above: csr_array, below: csr_array) -> csr_array:
    """Return the rows of ``above``, then those of ``below``."""
    return csr_array(vstack([above, below], format="csr"))


def structure(matrix: csr_array) -> csr_array:
    """Return a bool matrix, true at each stored entry, of 0 or not."""
    stored = np.ones(matrix.nnz, dtype=np.bool_)
    return csr_array((stored, matrix.indices, matrix.indptr), shape=matrix.shape)
