"""Which choice of an earlier training is taken again."""

from __future__ import annotations

import datetime
from typing import Any

from recommender.als.bias import BiasDamping
from recommender.als.choose_alpha import Confidence
from recommender.als.fit import Chosen
from recommender.als.reuse import choice_of
from recommender.core.settings import Settings

AT = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def entry_of(settings: Settings, **chosen: Any) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "ratings": 1_000,
        "settings": settings.public(),
        "chosen": {
            "weights": {"user": 3.0, "restaurant": 20.0},
            "confidence": {"alpha": 5.0, "reg_param": 1.0, "rank": 32},
            "at": AT - 23 * HOUR,
            "from_run": None,
            **chosen,
        },
    }


def test_the_choice_of_the_live_run_is_taken_again(db_settings: Settings) -> None:
    entry = entry_of(db_settings)
    chosen = Chosen(BiasDamping(3, 20), Confidence(5, 1, 32), at=AT - 23 * HOUR, from_run="r1")
    for ratings in (901, 1_000, 1_099):
        assert choice_of(entry, db_settings, ratings, AT) == chosen
    again = choice_of(entry_of(db_settings, from_run="r0"), db_settings, 1_000, AT)
    assert again
    assert again.from_run == "r0"


def test_it_is_not_where_it_may_no_longer_hold(db_settings: Settings) -> None:
    entry = entry_of(db_settings)
    assert choice_of(entry, db_settings, 1_100, AT) is None
    assert choice_of(entry, db_settings, 900, AT) is None
    assert choice_of(entry, db_settings, 1_000, AT + HOUR) is None
    for name, value in (("als_alpha", 5.0), ("rating_min", 0.0), ("als_test_split", "time")):
        other = db_settings.with_values({name: value})
        assert choice_of(entry, other, 1_000, AT) is None


def test_a_pruned_or_malformed_entry_has_no_choice(db_settings: Settings) -> None:
    assert choice_of({}, db_settings, 1_000, AT) is None
    inside = ("at", "confidence", "confidence.alpha", "confidence.rank", "weights.user")
    for path in ("chosen", "settings", "ratings", *(f"chosen.{name}" for name in inside)):
        *parents, last = path.split(".")
        for broken in (None, "x", -1.5, float("nan"), [1]):
            entry = entry_of(db_settings)
            inner = entry
            for name in parents:
                inner = inner[name]
            inner[last] = broken
            assert choice_of(entry, db_settings, 1_000, AT) is None, (path, broken)
            del inner[last]
            assert choice_of(entry, db_settings, 1_000, AT) is None, path
