"""The summary of a run, from its ledger document."""

import datetime
import re
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


def lines_of(document: dict[str, Any]) -> dict[str, str]:
    """Return the texts of a summary's lines by their names; that of the title has none."""
    title, rows, header = summary_of(document)
    assert header == ()
    return {"": title, **{row[0]: row[1] for row in rows}}


def figures(text: str) -> str:
    """Return the figures and the names of fields in a text."""
    return " ".join(re.findall(r"\d(?:[\d.,]*\d)?|\w+_\w+", text))


def test_all_lines() -> None:
    chosen = {
        "weights": {"user": 6.0, "restaurant": 2.5},
        "confidence": {"alpha": 20.0, "reg_param": 4.0, "rank": 64}
        | {"embedding_weight": 0.5, "item_item_weight": 0.2},
    }
    lines = lines_of(run(chosen=chosen, warnings=["beaten"]))
    assert {"Training", "r1", "succeeded", "83.2"} <= set(lines.pop("").split())
    assert lines.pop("warning") == "beaten"
    assert lines.pop("seconds") == "read 1.0, train 70.1"
    assert "tastes" in lines["clusters"]
    assert {name: figures(text) for name, text in lines.items()} == {
        "reviews": "1,234,567 1,000 user_missing 2 rating_not_finite 4,321",
        "ratings": "1,229,244 4,567 98,765",
        "chosen": "20 4 64 0.5 0.2 6 2.5",
        "RMSE": "0.988 0.001 200,000 1.234 1.057 1,111",
        "lists": "13 0.123 0.004 20,000 0.032 0.006 0.091 0.003",
        "clusters": "50 12 9,876 0.654 17",
        "their lists": "13 0.104 1,234 0.035",
    }


def test_missing_figures_have_their_reason() -> None:
    clusters = {**run()["metrics"]["clusters"], "held_out": {"ndcg": None, "reason": "unseen"}}
    als = {"rmse": None, "reason": "cold"}
    lists = {"ndcg": None, "reason": "irrelevant"}
    lines = lines_of(run(metrics={"als": als, "lists": lists, "clusters": clusters}))
    expected = {"RMSE": "none: cold", "lists": "none: irrelevant", "their lists": "none: unseen"}
    assert lines.items() >= expected.items()


def test_steps_that_were_not_done_have_no_line() -> None:
    lines = lines_of(run(metrics={}, rows_rejected={}, chosen=None))
    assert list(lines) == ["", "reviews", "ratings", "seconds"]
    assert "none" in lines["reviews"]


def test_an_rmse_of_zero_without_a_bias() -> None:
    zeros = dict.fromkeys(("rmse", "rmse_error", "mean_rmse", "cold"), 0)
    error = {**zeros, "baseline_rmse": None, "rows": 1}
    assert figures(lines_of(run(metrics={"als": error}))["RMSE"]) == "0.000 0.000 1 0.000 0"


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
    lines = lines_of(rollback)
    assert {"Rollback", "r1", "succeeded", "83.2"} <= set(lines[""].split())
    assert {"Clusters", "r0"} <= set(lines["published"].split())
    assert {line.strip() for line in lines} == {"", "published", "seconds"}
    tuning = {**times, "kind": "tuning", "metrics": {}}
    assert summary_of(rollback, [tuning])[2] == ()
