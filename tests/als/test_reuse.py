"""Reuse of the parameters of an earlier training."""

import datetime
from typing import Any

from recommender.als.bias import BiasDamping
from recommender.als.choose_preference import PreferenceParameters
from recommender.als.reuse import ChosenParameters, parameters_of
from recommender.core.settings import Settings

AT = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def entry_of(settings: Settings, **chosen: Any) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "settings": settings.public(),
        "chosen": {
            "weights": {"user": 3.0, "restaurant": 20.0},
            "confidence": {"alpha": 5.0, "reg_param": 1.0, "rank": 32}
            | {"embedding_weight": 0.0, "item_item_weight": 0.2},
            "at": AT - 23 * HOUR,
            "from_run": None,
            "ratings": 1_000,
            **chosen,
        },
    }


def test_the_parameters_of_the_live_run_are_reused(db_settings: Settings) -> None:
    entry = entry_of(db_settings)
    chosen = ChosenParameters(
        BiasDamping(3, 20), PreferenceParameters(5, 1, 32, 0, 0.2), AT - 23 * HOUR, 1_000, "r1"
    )
    for ratings in (901, 1_000, 1_099):
        assert parameters_of(entry, db_settings, ratings, AT) == chosen
    again = parameters_of(entry_of(db_settings, from_run="r0"), db_settings, 1_000, AT)
    assert again
    assert again.from_run == "r0"


def test_old_parameters_or_those_of_other_settings_or_sizes_are_not_reused(
    db_settings: Settings,
) -> None:
    entry = entry_of(db_settings)
    assert parameters_of(entry, db_settings, 1_100, AT) is None
    assert parameters_of(entry, db_settings, 900, AT) is None
    for at in (AT + HOUR, AT - 48 * HOUR):
        assert parameters_of(entry, db_settings, 1_000, at) is None
    for name, value in (("als_alpha", 5.0), ("rating_min", 0.0), ("reviews_time_field", "at")):
        other = db_settings.with_values({name: value})
        assert parameters_of(entry, other, 1_000, AT) is None


def test_a_pruned_or_malformed_entry_has_no_parameters(db_settings: Settings) -> None:
    assert parameters_of({}, db_settings, 1_000, AT) is None
    inside = (
        *("at", "ratings", "confidence", "weights.user"),
        *("confidence.alpha", "confidence.rank", "confidence.embedding_weight"),
        "confidence.item_item_weight",
    )
    for path in ("chosen", "settings", *(f"chosen.{name}" for name in inside)):
        *parents, last = path.split(".")
        for broken in (None, "x", -1.5, float("nan"), [1]):
            entry = entry_of(db_settings)
            inner = entry
            for name in parents:
                inner = inner[name]
            inner[last] = broken
            assert parameters_of(entry, db_settings, 1_000, AT) is None, (path, broken)
            del inner[last]
            assert parameters_of(entry, db_settings, 1_000, AT) is None, path
