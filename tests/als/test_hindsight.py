"""Hindsight: the new reviews in their authors' published lists, counted beside the popular list."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recommender.als import hindsight
from recommender.als.hindsight import record_hindsight
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.data.ids import decode_ids
from recommender.runs.ledger import Ledger
from recommender.runs.run import training_run
from tests.support import ratings_of

# User, restaurant, and whether the review is new; ids are of several types.
REVIEWS: list[tuple[Any, Any, bool | None]] = [
    ("u1", "old", False),
    ("u1", "a", True),  # in both lists
    ("u1", 5, True),  # in u1's list
    ("u2", "b", False),
    ("u2", "a", False),
    ("u2", "c", True),  # in the popular list: less "a" and "b", it is among the first two
    ("u2", "z", True),  # in neither
    ("u3", "a", None),  # of unknown time
    (4, "a", True),  # of a user without a list
    ("u5", "a", True),  # of a list that the backend wrote
]


def entries(*ids: Any) -> list[Document]:
    return [{"gmap_id": each, "score": 1.0} for each in ids]


def publish_live(db: MongoDatabase, settings: Settings) -> Document:
    lists = {"u1": entries("a", 5.0), "u2": entries("gone", "u"), "u3": entries("a"), 9: []}
    lists["U2"] = entries("z")  # another user, though equal by the collation
    db.create_collection("Recommendations", collation={"locale": "en", "strength": 2})
    db["Recommendations"].insert_many(
        {"user_id": user, "recommendations": each, "run_id": "live"} for user, each in lists.items()
    )
    db["Recommendations"].insert_one({"user_id": "u5", "recommendations": entries("a")})
    popular = {"_id": "fallback", "recommendations": entries("a", "b", "c", "old")}
    db["Metadata"].insert_one(popular)
    with training_run(settings.with_values({"als_top_n": 2})) as run:
        pass
    assert run.document
    live = {**run.document, "_id": "live", "run_id": "live"}
    db["TrainingRuns"].insert_one(live)
    return live


def of_reviews(db: MongoDatabase, settings: Settings, since: float) -> Document | None:
    ratings = ratings_of([(user, item, 4.0) for user, item, _ in REVIEWS])
    age = {(str(u), str(i)): {True: 1.0, False: -1.0, None: np.nan}[new] for u, i, new in REVIEWS}
    users = decode_ids(ratings.users)
    items = decode_ids(ratings.restaurants)
    pairs = zip(ratings.user, ratings.restaurant, strict=True)
    times = [since + age[str(users[u]), str(items[i])] for u, i in pairs]
    with training_run(settings) as run:
        record_hindsight(run, replace(ratings, time=np.array(times)))
    recorded = Ledger(db).get(run.run_id) or {}
    figures: Document | None = recorded["metrics"].get("hindsight")
    return figures


@pytest.mark.parametrize("batch", [1, 10_000])
def test_new_reviews_are_counted(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(hindsight, "_BATCH_USERS", batch)
    live = publish_live(db, db_settings)
    since = live["started_at"].timestamp() * 1000
    expected = {"reviews": 4, "hits": 2, "popular_hits": 2, "unlisted": 2}
    figures = of_reviews(db, db_settings, since)
    assert figures
    assert {name: figures[name] for name in expected} == expected
    assert (figures["run_id"], figures["since"]) == ("live", live["started_at"])
    db["Metadata"].delete_many({})
    figures = of_reviews(db, db_settings, since)
    assert figures
    assert (figures["hits"], figures["popular_hits"]) == (2, None)


def test_without_a_new_review_the_counts_are_0(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings)
    figures = of_reviews(db, db_settings, since=0.0)
    assert figures
    assert (figures["reviews"], figures["hits"], figures["unlisted"]) == (0, 0, 0)


def test_without_a_live_run_in_the_ledger_there_is_none(
    db: MongoDatabase, db_settings: Settings
) -> None:
    assert of_reviews(db, db_settings, 0.0) is None
    publish_live(db, db_settings)
    db["TrainingRuns"].delete_many({})
    assert of_reviews(db, db_settings, 0.0) is None
