"""What the backend's ``Users`` knows and Reviews does not: newcomers, and more that is rated."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from recommender.bulk import WRITTEN_BY_OTHERS
from recommender.mongo import Document, MongoDatabase, mongo_errors
from recommender.ratings import (
    BLOCK_SCHEMA,
    CODEC,
    Ratings,
    Rejection,
    clean_block,
    decode_ids,
    gather,
    keys_of,
    positions_in,
    rating_shift,
    same_number_same_key,
)
from recommender.reviews import USERS, clean_users, no_search_for_cycles
from recommender.settings import Settings
from recommender.store import RECOMMENDATIONS

_USERS_AT_A_TIME = 1_000
_USERS_A_BLOCK = 5_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Newcomers:
    """Users without a review.

    Attributes
    ----------
    users
        Keys of their ids.
    visits
        (users, restaurants), the shifted ratings that ``Users`` keeps of them, of the restaurants
        that Reviews knows; a row can be empty.
    """

    users: pa.StringArray
    visits: csr_array


def find_newcomers(db: MongoDatabase, ratings: Ratings, settings: Settings) -> Newcomers:
    """Return those in ``Users`` who have no valid rating in Reviews.

    Left out is for whom the backend has written recommendations of its own, which stay.
    """
    with mongo_errors("reading Users"):
        known = [_keys(db, RECOMMENDATIONS, WRITTEN_BY_OTHERS), ratings.users]
        keys = _new_ones(_keys(db, USERS, {}), known)
        tables = [
            pa.Table.from_batches([clean_users(entries, settings)])
            for entries in _entries(db, keys)
        ]
    rated = pa.concat_tables([BLOCK_SCHEMA.empty_table(), *tables])
    return Newcomers(keys, _visits(rated, keys, ratings.restaurants, settings))


def also_rated(db: MongoDatabase, ratings: Ratings, settings: Settings) -> csr_array:
    """Return what ``Users`` says that the users of Reviews have rated, whatever they gave.

    Returns
    -------
    csr_array
        (users, restaurants) of Reviews, something above 0 where rated; a row can be empty.
    """
    with mongo_errors("reading Users"), no_search_for_cycles():
        blocks = [_rated_block(entries, settings) for entries in _rated_entries(db, {})]
    rated = pa.Table.from_batches(blocks, BLOCK_SCHEMA)
    if rated.num_rows:
        log.info("Users names %d ratings, cleaned as Reviews are", rated.num_rows)
    return _visits(rated, ratings.users, ratings.restaurants, settings)


def more_rated(db: MongoDatabase, user: pa.StringArray, settings: Settings) -> pa.StringArray:
    """Return the keys of what ``Users`` says that one user has rated, whatever was given.

    Parameters
    ----------
    user
        The key of the user's id.
    """
    (user_id,) = decode_ids(user)
    with mongo_errors("reading Users"):
        found = _rated_entries(db, {"user_id": user_id})
        blocks = [_rated_block(entries, settings) for entries in found]
    rated = pa.Table.from_batches(blocks, BLOCK_SCHEMA)
    rated = rated.filter(pc.equal(rated["rejected"], int(Rejection.NONE)))
    # By a collation of its own, Users finds other ids, too.
    mine = positions_in(user, rated["user"].combine_chunks()) >= 0
    return rated["restaurant"].combine_chunks().filter(pa.array(mine))


def _rated_entries(db: MongoDatabase, matching: Document) -> Iterator[list[Document]]:
    """Yield users and the ids of what each has rated: ratings would take far longer."""
    users = db[USERS].with_options(codec_options=CODEC)
    rated = {"_id": 0, "user_id": 1, "rated": "$ratings.gmap_id"}
    pipeline = [{"$match": matching}, {"$project": rated}]
    cursor = users.aggregate(pipeline, batchSize=_USERS_A_BLOCK)
    while entries := cursor.to_list(_USERS_A_BLOCK):
        yield entries


def _rated_block(entries: Sequence[Document], settings: Settings) -> pa.RecordBatch:
    """Return a row of ``BLOCK_SCHEMA`` for each id that is rated, as if with the least rating."""
    rated = [e["rated"] if isinstance(e.get("rated"), list) else [] for e in entries]
    users = [repeat(e.get("user_id"), len(ids)) for e, ids in zip(entries, rated, strict=True)]
    restaurants = list(chain.from_iterable(rated))
    return clean_block(
        list(chain.from_iterable(users)),
        restaurants,
        [settings.rating_min] * len(restaurants),
        [None] * len(restaurants),
        rating_min=settings.rating_min,
        rating_max=settings.rating_max,
    )


def _visits(
    rated: pa.Table, users: pa.StringArray, restaurants: pa.StringArray, settings: Settings
) -> csr_array:
    """Return the shifted ratings of these users and restaurants, (users, restaurants)."""
    shape = len(users), len(restaurants)
    if not pc.any(pc.equal(rated["rejected"], int(Rejection.NONE))).as_py():
        return csr_array(shape)
    found = gather(rated)
    row = positions_in(users, found.users)[found.user]
    place = positions_in(restaurants, found.restaurants)[found.restaurant]
    both = (row >= 0) & (place >= 0)
    values = found.rating[both] + rating_shift(settings.rating_min)
    return csr_array((values, (row[both], place[both])), shape=shape)


def _keys(db: MongoDatabase, collection: str, matching: Document) -> pa.StringArray:
    """Return the keys of the user ids in a collection, each once, less those that cannot be."""
    documents = db[collection].with_options(codec_options=CODEC)
    found = documents.find(matching, {"_id": 0, "user_id": 1})
    return keys_of(entry.get("user_id") for entry in found).unique()


def _new_ones(keys: pa.StringArray, known: Sequence[pa.StringArray]) -> pa.StringArray:
    same = same_number_same_key(pa.concat_arrays([*known, keys]))
    before = len(same) - len(keys)
    seen = pc.is_in(same.slice(before), value_set=same.slice(0, before))
    return pc.unique(same.slice(before).filter(pc.invert(seen)))


def _entries(db: MongoDatabase, keys: pa.StringArray) -> Iterator[list[Document]]:
    users = db[USERS].with_options(codec_options=CODEC)
    ids: Iterator[Any] = iter(decode_ids(keys))
    while block := list(islice(ids, _USERS_AT_A_TIME)):
        yield list(users.find({"user_id": {"$in": block}}, {"_id": 0, "user_id": 1, "ratings": 1}))


def stacked(visits: csr_array, more: csr_array) -> csr_array:
    """Return the rows of both, the first ones first."""
    return csr_array(
        (
            np.concatenate([visits.data, more.data]),
            np.concatenate([visits.indices, more.indices]),
            np.concatenate([visits.indptr, visits.indptr[-1] + more.indptr[1:]]),
        ),
        shape=(visits.shape[0] + more.shape[0], visits.shape[1]),
    )


def structure(matrix: csr_array) -> csr_array:
    """Return where a matrix stores something: its like of bool, true wherever it does."""
    there = np.ones(matrix.nnz, dtype=np.bool_)
    return csr_array((there, matrix.indices, matrix.indptr), shape=matrix.shape)
