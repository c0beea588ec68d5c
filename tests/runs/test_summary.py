"""The summary of a run, from its ledger document."""

import datetime
from typing import Any

import pytest

from recommender.core.terminal import print_table
from recommender.runs.summary import summary_of

START = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def run(**changes: Any) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "kind": "training",
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
                "rmse_error": 0.00123,
                "mean_rmse": 1.2345,
                "baseline_rmse": 1.0567,
                "rows": 200_000,
                "cold": 1_111,
                "reason": None,
            },
            "lists": {
                "ndcg": 0.12345,
                "ndcg_error": 0.00412,
                "shown": 13,
                "users": 20_000,
                "popular": {"ndcg": 0.0321},
                "random": {"ndcg": 0.0056},
                "lift": 0.09135,
                "lift_error": 0.003,
            },
            "clusters": {
                "k": 50,
                "smallest": 12,
                "largest": 9_876,
                "space": "tastes",
                "tightness": 0.6543,
                "iterations": 17,
                "held_out": {
                    "ndcg": 0.10449,
                    "shown": 13,
                    "users": 1_234,
                    "popular": {"ndcg": 0.035},
                },
            },
        },
        **changes,
    }


def lines_of(document: dict[str, Any]) -> list[str]:
    """Return the lines of a summary, each with its name and text a space apart."""
    title, rows, header = summary_of(document)
    assert header == ()
    return [title, *map(" ".join, rows)]


def test_all_lines() -> None:
    chosen = {
        "weights": {"user": 6.0, "restaurant": 2.5},
        "confidence": {"alpha": 20.0, "reg_param": 4.0, "rank": 64}
        | {"embedding_weight": 0.5, "item_item_weight": 0.2},
    }
    warnings = ["the lists do not beat the popular list"]
    assert lines_of(run(chosen=chosen, warnings=warnings)) == [
        "Training r1 succeeded in 83.2 s",
        "reviews 1,234,567 read; rejected: 1,000 user_missing, 2 rating_not_finite; "
        "repeated and merged: 4,321",
        "ratings 1,229,244 of 4,567 restaurants by 98,765 users",
        "chosen alpha 20, regularisation 4, rank 64, embedding weight 0.5, item-item weight 0.2; "
        "bias damping: user 6, restaurant 2.5",
        "RMSE 0.988 ± 0.001 on 200,000 test ratings; their mean 1.234, bias alone 1.057; "
        "cold: 1,111",
        "lists NDCG@13 0.123 ± 0.004 of 20,000 test users; popular list 0.032, random 0.006; "
        "lift 0.091 ± 0.003",
        "clusters 50 of tastes, each of 12 to 9,876 users; mean closeness 0.654 after 17 "
        "iterations",
        "their lists NDCG@13 0.104 of 1,234 test users; popular list 0.035",
        "warning the lists do not beat the popular list",
        "seconds read 1.0, train 70.1",
    ]


def test_missing_figures_have_their_reason() -> None:
    metrics = {
        "als": {"rmse": None, "reason": "all test ratings are cold"},
        "lists": {"ndcg": None, "reason": "no relevant item"},
        "clusters": {
            **run()["metrics"]["clusters"],
            "held_out": {"ndcg": None, "reason": "no test user"},
        },
    }
    lines = lines_of(run(metrics=metrics))
    assert "RMSE none: all test ratings are cold" in lines
    assert "lists none: no relevant item" in lines
    assert "their lists none: no test user" in lines


def test_steps_that_were_not_done_have_no_line() -> None:
    lines = lines_of(run(metrics={}, rows_rejected={}, chosen=None))
    assert [line.split()[0] for line in lines[1:]] == ["reviews", "ratings", "seconds"]
    assert "rejected: none;" in lines[1]


def test_an_rmse_of_zero_without_a_bias() -> None:
    error = {
        "rmse": 0.0,
        "rmse_error": 0.0,
        "mean_rmse": 0.0,
        "baseline_rmse": None,
        "rows": 1,
        "cold": 0,
    }
    lines = lines_of(run(metrics={"als": error}))
    assert "RMSE 0.000 ± 0.000 on 1 test ratings; their mean 0.000; cold: 0" in lines


def test_the_change_is_that_since_the_latest_success_of_the_same_steps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = run()["metrics"]
    before = {
        "als": {**metrics["als"], "rmse": 1.0},
        "lists": {**metrics["lists"], "ndcg": None},
        "clusters": metrics["clusters"],
    }
    earlier = [
        {**run(), "run_id": "failed", "state": "failed"},
        {**run(), "run_id": "clusters", "metrics": {"clusters": {}}},
        {**run(), "run_id": "r0", "ended_at": START, "users": 98_000, "metrics": before},
        {**run(), "run_id": "older"},
    ]
    print_table(*summary_of(run(), earlier))
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[1] == ["change", "since", "r0"]
    changes = {words[0]: words[1:3] for words in printed[2:]}
    assert changes["ratings"] == ["+765", "users"]
    assert changes["RMSE"] == ["-0.0123", "0.988"]
    assert changes["lists"][0] == "NDCG@13"
    assert changes["seconds"] == ["+83.2", "read"]


def test_a_rollback_names_what_it_published() -> None:
    times = {name: run()[name] for name in ("run_id", "state", "started_at", "ended_at", "phases")}
    rollback = {**times, "kind": "rollback", "metrics": {}, "rollback": {"Clusters": "r0"}}
    assert lines_of(rollback)[:2] == [
        "Rollback r1 succeeded in 83.2 s",
        "published Clusters of run r0",
    ]
    tuning = {**times, "kind": "tuning", "metrics": {}}
    assert summary_of(rollback, [tuning])[2] == ()
