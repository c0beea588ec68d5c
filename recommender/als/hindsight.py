"""Hindsight: how many reviews since the live run were in the list that it had published."""

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from recommender.als.reuse import live_entry
from recommender.core import mongo_collections as names
from recommender.core.mongo import Document, mongo_errors
from recommender.data.ids import CODEC, KeyIndex, decode_ids
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import hits
from recommender.runs.run import TrainingRun

_BATCH_USERS = 10_000


def record_hindsight(run: TrainingRun, ratings: Ratings) -> None:
    """Record ``metrics.hindsight`` of the reviews since the live run, if the ledger has that run.

    ``reviews`` are of users with a published list, ``unlisted`` of others; ``hits`` of a restaurant
    in the author's list, ``popular_hits`` of one in the popular list of equal length.
    """
    if "started_at" in (entry := live_entry(run)):
        with mongo_errors("reading the live lists"):
            run.record(**{"metrics.hindsight": _hindsight(run, ratings, entry)})


def _hindsight(run: TrainingRun, ratings: Ratings, live: Document) -> Document:
    since, n = live["started_at"], live["settings"]["als_top_n"]
    new = ratings.time > since.timestamp() * 1000
    seen, relevant = ratings.rows(~new).matrix(1.0), ratings.rows(new).matrix(1.0)
    reviews = own_hits = popular_hits = 0
    restaurants = KeyIndex(ratings.restaurants)
    popular = run.db.get_collection(names.METADATA, CODEC).find_one({"_id": names.FALLBACK_ID})
    popular_list = _positions([popular or {}], restaurants)
    for users, documents in _documents(run, ratings, np.unique(ratings.user[new])):
        truth = (seen[users], relevant[users], n)
        reviews += relevant[users].nnz
        own_hits += hits(_positions(documents, restaurants), *truth)
        popular_hits += hits(np.tile(popular_list, (len(users), 1)), *truth)
    return {
        "run_id": live["run_id"],
        "since": since,
        "reviews": reviews,
        "hits": own_hits,
        "popular_hits": popular_hits if popular else None,
        "unlisted": int(new.sum()) - reviews,
    }


def _documents(
    run: TrainingRun, ratings: Ratings, authors: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int32], list[Document]]]:
    """Yield batches of authors with a published list, and their documents."""
    live = run.db.get_collection(names.RECOMMENDATIONS, CODEC)
    fields = {"user_id": 1, "recommendations.gmap_id": 1}
    for start in range(0, len(authors), _BATCH_USERS):
        batch = authors[start : start + _BATCH_USERS]
        keys = ratings.users.take(batch)
        index = KeyIndex(keys)
        of_authors = {**names.WRITTEN_BY_A_RUN, "user_id": {"$in": decode_ids(keys)}}
        documents = list(live.find(of_authors, fields, collation=names.SIMPLE))
        yield batch[[index.find(each["user_id"]) for each in documents]], documents


def _positions(documents: list[Document], restaurants: KeyIndex) -> NDArray[np.int64]:
    """Return the lists of documents as positions, (documents, length), -1 at their end."""
    lists = [
        [restaurants.find(entry["gmap_id"]) for entry in each.get("recommendations", [])]
        for each in documents
    ]
    padded = list(zip_longest(*lists, fillvalue=-1))
    return np.array(padded, dtype=np.int64).reshape(len(padded), len(lists)).T
