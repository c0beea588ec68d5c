"""The summary of a run: a person's few lines, from the ledger's document alone."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from recommender.runs.summary import summary_of

START = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def run(**changes: Any) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "state": "succeeded",
        "started_at": START,
        "ended_at": START + datetime.timedelta(seconds=83.25),
        "rows_read": 1_234_567,
        "rows_rejected": {"user_missing": 1_000, "rating_not_finite": 2},
        "rows_merged": 4_321,
        "ratings": 1_229_244,
        "users": 98_765,
        "restaurants": 4_567,
        "phases": [{"name": "read", "seconds": 1.04}, {"name": "train", "seconds": 70.06}],
        "metrics": {
            "als": {
                "rmse": 0.98765,
                "mean_rmse": 1.2345,
                "baseline_rmse": 1.0567,
                "rows": 200_000,
                "cold": 1_111,
                "reason": None,
            },
            "lists": {
                "ndcg": 0.12345,
                "users": 20_000,
                "popular": {"ndcg": 0.0321},
                "random": {"ndcg": 0.0056},
            },
            "clusters": {
                "k": 50,
                "smallest": 12,
                "largest": 9_876,
                "space": "tastes",
                "tightness": 0.6543,
                "iterations": 17,
                "held_out": {"ndcg": 0.10449, "users": 1_234, "popular": {"ndcg": 0.035}},
            },
        },
        **changes,
    }


def test_it_tells_what_was_chosen() -> None:
    weights = {"user": 3.0, "restaurant": 2.5}
    chosen = {"weights": weights, "confidence": {"alpha": 20.0, "reg_param": 4.0}}
    lines = summary_of(run(chosen=chosen)).splitlines()
    told = "alpha 20, regularisation 4; bias damping: user 3, restaurant 2.5"
    assert f"  chosen       {told}" in lines
    assert "chosen" not in summary_of(run(chosen=None))


def test_it_tells_what_the_gate_would_have_rejected() -> None:
    passed = {"compared_with": "r0", "passed": True, "reasons": []}
    forced = {**passed, "reasons": ["RMSE 2 where 1 was"]}
    found = summary_of(run(gate={"recommendations": forced, "clusters": passed}))
    assert "  gate         off, so this was published: RMSE 2 where 1 was\n" in found
    assert found.count("gate") == 1


def test_it_tells_what_was_read_trained_and_how_long_it_took() -> None:
    assert summary_of(run()).splitlines() == [
        "Training r1 succeeded in 83.2 s",
        "  reviews      1,234,567 read; rejected: 1,000 user_missing, 2 rating_not_finite; "
        "repeated and merged: 4,321",
        "  ratings      1,229,244 of 4,567 restaurants by 98,765 users",
        "  RMSE         0.988 on 200,000 held-out ratings, where always guessing the mean has "
        "1.234, the users' and restaurants' offsets 1.057; cold and left out: 1,111",
        "  NDCG         0.123 of the lists of 20,000 users, where the popular list has 0.032 and "
        "chance 0.006",
        "  clusters     50 of tastes, each of 12 to 9,876 users; mean closeness 0.654 after 17 "
        "iterations",
        "  NDCG         0.104 of the clusters' lists for 1,234 users kept out, where one popular "
        "list for all has 0.035",
        "  seconds      read 1.0, train 70.1",
    ]


def test_nothing_rejected_is_none() -> None:
    assert "rejected: none;" in summary_of(run(rows_rejected={}))


def test_no_rmse_gives_its_reason() -> None:
    error = {"rmse": None, "reason": "every held-out rating is cold"}
    told = summary_of(run(metrics={"als": error}))
    assert "  RMSE         none: every held-out rating is cold\n" in told


@pytest.mark.parametrize(
    ("held_out", "told"),
    [
        ({"held_out": {"ndcg": None, "reason": "nobody was asked"}}, "  NDCG         none: nobody"),
        ({}, "17 iterations\n  seconds"),
    ],
)
def test_clusters_that_were_not_judged_say_so_or_nothing(
    held_out: dict[str, Any], told: str
) -> None:
    clusters = {k: v for k, v in run()["metrics"]["clusters"].items() if k != "held_out"}
    assert told in summary_of(run(metrics={"clusters": {**clusters, **held_out}}))


def test_what_was_not_done_is_not_told() -> None:
    told = summary_of(run(metrics={}))
    assert "RMSE" not in told
    assert "clusters" not in told
    assert len(told.splitlines()) == 4


def test_an_error_of_zero_is_told_as_such() -> None:
    none: dict[str, Any] = {"baseline_rmse": None, "reason": None}
    error = {"rmse": 0.0, "mean_rmse": 0.0, "rows": 1, "cold": 0, **none}
    told = summary_of(run(metrics={"als": error}))
    assert "RMSE         0.000 on 1 held-out ratings, where always" in told
    assert "the mean has 0.000; cold" in told


def test_lists_that_were_not_judged_say_why() -> None:
    lists = {"ndcg": None, "reason": "nobody liked anything"}
    assert "  NDCG         none: nobody liked" in summary_of(run(metrics={"lists": lists}))


def test_a_ledger_that_did_not_answer_is_no_failure() -> None:
    assert summary_of(None) == "Training succeeded; the ledger did not answer for its figures"
