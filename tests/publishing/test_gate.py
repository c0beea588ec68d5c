"""The gate: a model that is worse than the live one is rejected with its figures."""

from typing import Any

import numpy as np
import pytest

from recommender.core.errors import ModelRejectedError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.publishing.gate import check_clusters, check_finite, check_recommendations
from recommender.runs.ledger import Kind, Ledger
from recommender.runs.run import TrainingRun, training_run

LIVE_RUN = "1999-live"
STAGE = "Recommendations.staged.x"
MANY_ROWS = 10**9  # chance explains no difference
BASE: Document = {"rmse": 1.0, "rows": MANY_ROWS}
GOOD: Document = {"users": 500, "lift": 0.16, "lift_error": 0.004}
AT_CHANCE: Document = {"users": 500, "lift": -0.037, "lift_error": 0.002}


def documents(run_id: str | None, users: int, *, length: int = 1) -> list[Document]:
    entries = [{"gmap_id": "g", "score": 1.0}] * length
    written = {} if run_id is None else {"run_id": run_id}
    return [{"user_id": f"u{i}", "recommendations": entries, **written} for i in range(users)]


def publish_live(
    db: MongoDatabase,
    settings: Settings,
    users: int = 100,
    als: Document | None = BASE,
    **metrics: Any,
) -> None:
    """Publish as a training does, with ``als`` and more as its metrics in the ledger."""
    db["Recommendations"].insert_many(documents(LIVE_RUN, users))
    db["Metadata"].insert_one({"_id": "kmeans_clusters", "run_id": LIVE_RUN, "sizes": [users]})
    Ledger(db).add(LIVE_RUN, "api", settings, None)
    Ledger(db).update(LIVE_RUN, {"metrics": {"als": als, **metrics}})
    Ledger(db).close(LIVE_RUN, "succeeded", 0, None)


def gate(
    settings: Settings,
    users: int = 100,
    als: Document | None = BASE,
    lists: Document | None = None,
    kind: Kind = "training",
    **more: Any,
) -> Document | None:
    """Run the gate on staged users and figures; return the run's document."""
    with training_run(settings.with_values(more), kind=kind) as run:
        if users:
            run.db[STAGE].insert_many(documents(run.run_id, users))
        run.record(**{"metrics.als": als, "metrics.lists": lists})
        check_recommendations(run, STAGE)
    return run.document


def rejection(db: MongoDatabase, settings: Settings, **changes: Any) -> Document:
    """Return the gate's verdict on a rejected run in the ledger."""
    with pytest.raises(ModelRejectedError) as caught:
        gate(settings, **changes)
    run = Ledger(db).recent(1)[0]
    assert (run["state"], run["exit_code"], run["error"]) == ("rejected", 76, str(caught.value))
    verdict: Document = run["gate"]["recommendations"]
    assert (verdict["passed"], verdict["compared_with"]) == (False, LIVE_RUN)
    check_error(run["error"], "recommendations", verdict)
    return verdict


def check_error(error: str, name: str, verdict: Document) -> None:
    """Check that an error names what is rejected once, all the reasons, and the remedy."""
    assert error.count(name) == 1
    assert "; ".join(verdict["reasons"]) in error
    assert "--force" in error


def test_the_first_training_passes(db: MongoDatabase, db_settings: Settings) -> None:
    db["Recommendations"].insert_many(documents(None, 50))  # the backend's own
    recorded = gate(db_settings, users=1, als={"rmse": 99.0, "rows": MANY_ROWS})
    assert recorded
    assert (recorded["state"], recorded["forced"]) == ("succeeded", False)
    assert recorded["gate"]["recommendations"]["compared_with"] is None


def test_a_passing_verdict_is_recorded(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings, lists=GOOD)
    recorded = gate(db_settings, lists=GOOD)
    assert recorded
    verdict = recorded["gate"]["recommendations"]
    lift = verdict.pop("lift")
    assert verdict == {"compared_with": LIVE_RUN, "passed": True, "reasons": []}
    assert lift.pop("limit") == pytest.approx(0.16 - 0.2 * 0.16 - 2 * 0.004 * 2**0.5)
    assert lift == {"value": 0.16, "error": 0.004, "live": 0.16, "live_error": 0.004}
    assert recorded["warnings"] == []


@pytest.mark.parametrize(
    "change", [{"als_objective": "rating"}, {"rating_min": 0.0, "rating_max": 10.0}]
)
def test_lists_at_chance_do_not_replace_good_ones_of_another_objective_or_scale(
    db: MongoDatabase, db_settings: Settings, change: Document
) -> None:
    publish_live(db, db_settings, lists=GOOD)
    verdict = rejection(db, db_settings, lists=AT_CHANCE, **change)
    lift = verdict["lift"]
    assert (lift["value"], lift["live"]) == (-0.037, 0.16)
    assert lift["value"] < lift["limit"]
    forced = gate(db_settings, lists=AT_CHANCE, gate=False, **change)
    assert forced
    assert "; ".join(verdict["reasons"]) in forced["warnings"][-1]


def test_lists_of_another_test_are_compared_with_the_popular_list_only(
    db: MongoDatabase, db_settings: Settings
) -> None:
    publish_live(db, db_settings, lists=GOOD)
    low = GOOD | {"lift": 0.01}
    recorded = gate(db_settings, lists=low, als_test_split="time")
    assert recorded
    lift = recorded["gate"]["recommendations"]["lift"]
    assert (lift["value"], lift["live"], lift["limit"]) == (0.01, 0.16, None)
    assert len(recorded["warnings"]) == 1
    rejection(db, db_settings, lists=AT_CHANCE, als_test_split="time")


def test_lists_that_nobody_tests_do_not_replace_good_ones(
    db: MongoDatabase, db_settings: Settings
) -> None:
    publish_live(db, db_settings, lists=GOOD)
    verdict = rejection(db, db_settings, lists={"users": 0, "lift": None, "lift_error": None})
    assert (verdict["lift"]["value"], len(verdict["reasons"])) == (None, 1)


def test_a_dry_run_is_not_rejected(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings, lists=GOOD)
    recorded = gate(db_settings, lists=AT_CHANCE, kind="dry_run")
    assert recorded
    assert (recorded["state"], recorded["kind"]) == ("succeeded", "dry_run")
    verdict = recorded["gate"]["recommendations"]
    assert verdict["passed"] is False
    assert "; ".join(verdict["reasons"]) in recorded["warnings"][0]


@pytest.mark.parametrize(("users", "passes"), [(50, True), (49, False), (0, False)])
def test_too_few_users_are_rejected(
    db: MongoDatabase, db_settings: Settings, users: int, passes: bool
) -> None:
    publish_live(db, db_settings)
    if passes:
        assert gate(db_settings, users=users)
        return
    (reason,) = rejection(db, db_settings, users=users)["reasons"]
    assert {str(users), "100", "GATE_MIN_USERS_SHARE=0.5"} <= set(reason.split())


def test_users_with_an_empty_list_do_not_count(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings)
    db[STAGE].insert_many(
        [d | {"user_id": f"{n}"} for n, d in enumerate(documents("x", 90, length=0))]
    )
    (reason,) = rejection(db, db_settings, users=10)["reasons"]
    assert reason.startswith("10 ")


def test_live_documents_of_others_do_not_count(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings, users=10)
    db["Recommendations"].insert_many(documents(None, 500))
    assert gate(db_settings, users=10)


@pytest.mark.parametrize(("rmse", "passes"), [(0.5, True), (1.09, True), (1.11, False)])
def test_a_worse_rmse_is_rejected(
    db: MongoDatabase, db_settings: Settings, rmse: float, passes: bool
) -> None:
    publish_live(db, db_settings)
    als = {"rmse": rmse, "rows": MANY_ROWS}
    if passes:
        assert gate(db_settings, als=als)
        return
    (reason,) = rejection(db, db_settings, als=als)["reasons"]
    assert {"1.11", LIVE_RUN} <= set(reason.split())


@pytest.mark.parametrize(("rows", "passes"), [(4, True), (100, True), (400, False)])
def test_a_difference_within_chance_passes(
    db: MongoDatabase, db_settings: Settings, rows: int, passes: bool
) -> None:
    publish_live(db, db_settings, als={"rmse": 1.0, "rows": rows})
    als = {"rmse": 1.25, "rows": rows}
    if passes:
        assert gate(db_settings, als=als)
    else:
        rejection(db, db_settings, als=als)


@pytest.mark.parametrize(
    ("live", "ours", "change"),
    [
        ({"rmse": None, "rows": 0}, BASE, {}),
        (None, BASE, {}),
        (BASE, {"rmse": None, "rows": 0}, {}),
        (BASE, {"rmse": 9.0, "rows": MANY_ROWS}, {"als_objective": "rating"}),
        (BASE, {"rmse": 9.0, "rows": MANY_ROWS}, {"rating_max": 10.0}),
        (BASE, {"rmse": 9.0, "rows": MANY_ROWS}, {"rating_min": 0.0}),
    ],
)
def test_an_rmse_is_compared_with_one_of_the_same_objective_and_scale_only(
    db: MongoDatabase,
    db_settings: Settings,
    live: Document | None,
    ours: Document,
    change: Document,
) -> None:
    publish_live(db, db_settings.with_values(change), als=live)
    assert gate(db_settings, als=ours)


def test_a_pruned_live_run_is_compared_by_its_users(
    db: MongoDatabase, db_settings: Settings
) -> None:
    publish_live(db, db_settings)
    db["TrainingRuns"].delete_many({})
    verdict = rejection(db, db_settings, users=10, als={"rmse": 9.0, "rows": 9})
    assert len(verdict["reasons"]) == 1


def test_the_error_has_all_reasons(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings)
    verdict = rejection(db, db_settings, users=1, als={"rmse": 2.0, "rows": MANY_ROWS})
    assert len(verdict["reasons"]) == 2


def test_a_gate_that_is_off_passes_and_warns(
    db: MongoDatabase, db_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    publish_live(db, db_settings)
    recorded = gate(db_settings, users=1, als={"rmse": 2.0, "rows": MANY_ROWS}, gate=False)
    assert recorded
    assert recorded["forced"] is True
    verdict = recorded["gate"]["recommendations"]
    assert (verdict["passed"], len(verdict["reasons"])) == (True, 2)
    assert recorded["warnings"][-1] in caplog.messages


def cluster_run(settings: Settings, users: int, lists: Document | None = None) -> TrainingRun:
    with training_run(settings) as run:
        run.record(**{"metrics.clusters": {"held_out": lists}})
        check_clusters(run, users)
    return run


def cluster_rejection(db: MongoDatabase, settings: Settings, *of_run: Any) -> Document:
    with pytest.raises(ModelRejectedError) as caught:
        cluster_run(settings, *of_run)
    verdict: Document = Ledger(db).recent(1)[0]["gate"]["clusters"]
    check_error(str(caught.value), "clusters", verdict)
    return verdict


def test_clusters_for_too_few_users_are_rejected(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings)
    (reason,) = cluster_rejection(db, db_settings, 49)["reasons"]
    assert {"49", "100"} <= set(reason.split())
    assert cluster_run(db_settings, 50).document
    assert cluster_run(db_settings.with_values({"gate": False}), 1).document


def test_clusters_of_a_lower_lift_are_rejected(db: MongoDatabase, db_settings: Settings) -> None:
    publish_live(db, db_settings, clusters={"held_out": GOOD})
    assert cluster_rejection(db, db_settings, 100, AT_CHANCE)["lift"]["value"] == AT_CHANCE["lift"]
    assert cluster_run(db_settings, 100, GOOD).document


def test_clusters_tested_on_another_split_are_not_compared(
    db: MongoDatabase, db_settings: Settings
) -> None:
    publish_live(db, db_settings, clusters={"held_out": GOOD})
    by_time, low = db_settings.with_values({"als_test_split": "time"}), GOOD | {"lift": 0.01}
    cluster_rejection(db, db_settings, 100, low)
    assert cluster_run(by_time, 100, low).document


def test_clusters_under_other_limits_are_not_compared(
    db: MongoDatabase, db_settings: Settings
) -> None:
    publish_live(db, db_settings)
    assert cluster_run(db_settings.with_values({"rating_min": 0.0}), 3).document


def test_clusters_of_another_rating_shift_are_not_compared(
    db: MongoDatabase, db_settings: Settings
) -> None:
    publish_live(db, db_settings)
    db["Metadata"].update_one({"_id": "kmeans_clusters"}, {"$set": {"rating_shift": 1.0}})
    assert cluster_run(db_settings, 3).document


def test_the_first_clusters_pass(db: MongoDatabase, db_settings: Settings) -> None:
    assert cluster_run(db_settings, 1).document


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_never_pass(bad: float) -> None:
    fine, broken = np.ones(3), np.array([1.0, bad, bad])
    check_finite("the clusters", fine, remedy="x")
    with pytest.raises(ModelRejectedError, match=r"^2 .*the clusters.*; mend it$"):
        check_finite("the clusters", fine, broken, remedy="mend it")
