"""``/metrics``: the ledger's figures, bounded and without MongoDB, and the rules that use them."""

import json
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import model
from recommender.core.mongo import Document, MongoDatabase, connect, database
from recommender.core.script import EXIT_CODES
from recommender.core.settings import Settings
from recommender.service.routes_metrics import LedgerMetrics
from recommender.service.schedule import Schedule
from tests.mongods import MongodForTests
from tests.support import PROJECT, set_environment
from tests.waiting import until

DEPLOY = PROJECT / "deploy"
ENDED = datetime(2026, 11, 28, tzinfo=UTC)
METRIC = re.compile(r"\b(?:recommender|http)_\w+")
Figures = dict[tuple[str, ...], float]


def a_run(number: int, state: str = "succeeded", code: int = 0, **fields: Any) -> Document:
    run_id = f"{number:05}"
    common = {"_id": run_id, "run_id": run_id, "trigger": "schedule", "ended_at": ENDED}
    return {**common, "state": state, "exit_code": code, **fields}


TRAINED: Document = {
    "phases": [{"name": "publish recommendations", "seconds": 2.5}],
    "rows_rejected": {"missing_user": 3},
    "warnings": ["w"],
    "metrics": {
        "als": {"rmse": 0.7},
        "lists": {"ndcg": 0.3, "popular": {"ndcg": 0.2}, "lift": 0.1},
        "hindsight": {"run_id": "00000", "reviews": 4, "hits": 1, "popular_hits": None},
    },
}
RUNS = [
    a_run(1, **TRAINED),
    a_run(2, metrics={}),  # a clustering alone
    a_run(3, "failed", 70),
    a_run(4, "failed", 1, trigger="tune"),
    a_run(5, kind="dry_run"),
    a_run(6, "failed", 66, trigger="api", kind="rollback"),
    a_run(7, "cancelled", 137),  # killed, as it did not stop with its service in time
    a_run(8, "running", trigger="api"),
]
LIVE = {"user_id": "u", "run_id": "00001"}


def scraped(client: TestClient) -> Figures:
    """Return the values by the sample's name and its sorted label values."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_figures_of_the_ledger_are_shown(client: TestClient, db: MongoDatabase) -> None:
    db["TrainingRuns"].insert_many(RUNS)
    db["Recommendations"].insert_many([{}, {**LIVE}])
    db["Metadata"].insert_one({"_id": "kmeans_clusters", "sizes": [5, 7]})
    client.put("/schedule", json={"paused": True})
    figures = scraped(client)
    expected = {
        ("mongodb_up",): 1,
        ("schedule_paused",): 1,
        ("schedule_interval_seconds",): 10_800,
        ("runs", "training", "failed", "schedule"): 1,
        ("runs", "training", "failed", "tune"): 1,
        ("training_in_progress",): 1,
        ("last_run_exit_code",): 70,
        ("last_success_timestamp_seconds",): ENDED.timestamp(),
        ("reviews_rejected", "missing_user"): 3,
        ("warnings",): 1,
        ("rmse",): 0.7,
        ("ndcg",): 0.3,
        ("lift",): 0.1,
        ("hindsight", "hits"): 1,
        ("users_served",): 2,
        ("cluster_users", "1"): 7,
    }
    for (name, *labels), value in expected.items():
        assert figures[f"recommender_{name}", *labels] == value, name
    assert not any(run["run_id"] in key for run in RUNS for key in figures)


def test_figures_are_those_of_the_run_whose_lists_are_live(
    client: TestClient, db: MongoDatabase
) -> None:
    later: Document = {"metrics": {"lists": {"lift": -0.1}}, "warnings": ["a", "b"]}
    taken_back, in_part = a_run(2, **later), a_run(3, "rejected", 76, **later)
    db["TrainingRuns"].insert_many([a_run(1, **TRAINED), taken_back, in_part])
    db["Recommendations"].insert_one({**LIVE})
    figures = scraped(client)
    assert (figures["recommender_lift",], figures["recommender_warnings",]) == (0.1, 1)
    db["Recommendations"].update_one({}, {"$set": {"run_id": in_part["run_id"]}})
    figures = scraped(client)
    assert (figures["recommender_lift",], figures["recommender_warnings",]) == (-0.1, 2)


def test_warnings_are_those_of_the_runs_whose_lists_and_clusters_are_live(
    client: TestClient, db: MongoDatabase
) -> None:
    both = ["recommendations: w", "clusters: w"]
    trained = a_run(1, **{**TRAINED, "warnings": both[:1]})
    db["TrainingRuns"].insert_many([trained, a_run(2, warnings=both[1:])])
    db["Recommendations"].insert_one({**LIVE})
    db["Clusters"].insert_one({"run_id": "00002"})  # of a clustering alone
    assert scraped(client)["recommender_warnings",] == 2
    db["TrainingRuns"].update_many({}, {"$set": {"warnings": both}})
    assert scraped(client)["recommender_warnings",] == 2
    db["TrainingRuns"].update_one({"_id": "00002"}, {"$set": {"warnings": []}})
    assert scraped(client)["recommender_warnings",] == 1


def test_requests_are_counted_by_route_and_not_by_path(client: TestClient) -> None:
    for path in ("/runs/a", "/runs/b", "/nowhere", "/elsewhere"):
        client.get(path)
    client.request("MADE-UP", "/train")
    figures = scraped(client)
    count = "http_request_duration_seconds_count"
    assert figures[count, "/runs/{run_id}", "GET", "404"] == 2
    assert figures[count, "none", "GET", "404"] == 2
    assert not any("MADE-UP" in key for key in figures)


def test_without_mongodb_the_last_values_are_shown_as_stale_and_no_call_waits(
    db_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MongodForTests(tmp_path / "mongod") as mongo:
        settings = db_settings.with_values({"mongo_uri": mongo.uri})
        set_environment(monkeypatch, settings)
        mongod = psutil.Process(mongo.pid)
        with connect(settings.mongo) as own, TestClient(model.create_app()) as client:
            database(own, settings.mongo)["TrainingRuns"].insert_many(RUNS)
            scraped(client)
            mongod.suspend()
            with ThreadPoolExecutor(60) as pool:
                try:
                    for _ in range(60):
                        pool.submit(client.get, "/runs")
                    check_stale(client)
                finally:
                    mongod.resume()
            until(lambda: scraped(client)[("recommender_mongodb_up",)] == 1)


def check_stale(client: TestClient) -> None:
    started = time.monotonic()
    figures = scraped(client)
    assert figures[("recommender_mongodb_up",)] == 0
    assert figures[("recommender_last_run_exit_code",)] == 70
    assert client.get("/next-training").status_code == 200
    assert time.monotonic() - started < 5


def test_a_scrape_of_a_long_ledger_is_quick(db: MongoDatabase) -> None:
    long = {"settings": {"text": "x" * 5_000}, **TRAINED}
    runs = [a_run(1, **long), *(a_run(number, "failed", 70, **long) for number in range(2, 10_000))]
    db["TrainingRuns"].insert_many(runs)
    db["Recommendations"].insert_one({**LIVE})
    metrics = LedgerMetrics(db, Schedule(db, 60))
    families = {family.name: family for family in metrics.collect()}
    assert families["recommender_mongodb_up"].samples[0].value == 1
    assert families["recommender_last_success_timestamp_seconds"].samples


def expressions() -> list[str]:
    """Return the expressions of the alerts and of the dashboard."""
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return alerts + [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]


def test_rules_and_dashboard_use_metrics_that_exist(client: TestClient, db: MongoDatabase) -> None:
    client.get("/health/live")
    text = client.get("/metrics").text
    families = list(text_string_to_metric_families(text))
    names = {sample.name for family in families for sample in family.samples}
    names |= {family.name for family in families}
    used = {name for expr in expressions() for name in METRIC.findall(expr)}
    assert len(used) > 10
    assert used - names == set()
    shown = {name for name in names if name.startswith("recommender_")}
    assert shown - used == set()


def test_every_alert_has_its_row_in_the_runbook() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())
    runbook = (PROJECT / "docs/operations.md").read_text().partition("## Runbook")[2]
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert [name for name in alerts if f"`{name}`" not in runbook] == []


CODE, SUCCESS, INTERVAL = (
    f"recommender_{name}"
    for name in (
        "last_run_exit_code",
        "last_success_timestamp_seconds",
        "schedule_interval_seconds",
    )
)
COUNT = 'http_request_duration_seconds_count{status="%s"}'
BUCKET = 'http_request_duration_seconds_bucket{handler="/next-training",le="%s"}'
# In promtool's notation: a first value, its growth in five minutes, and how often.
HEALTHY = {
    "up": "1x320",
    "recommender_mongodb_up": "1x320",
    CODE: "0x320",
    SUCCESS: "0+300x320",
    INTERVAL: "10800x320",
    "recommender_schedule_paused": "0x320",
    "recommender_schedule_skipped": "5x320",
    "recommender_lift": "0.1x320",
    "recommender_warnings": "0x320",
    COUNT % 200: "0+300x320",
    COUNT % 500: "5x320",
    BUCKET % 0.1: "0+300x320",
    BUCKET % 0.5: "0+300x320",
    BUCKET % "+Inf": "0+300x320",
}
CHANGES: list[tuple[str | None, dict[str, str]]] = [
    (None, {}),
    *((None, {CODE: f"{code}x320"}) for code in (130, 141, 143)),
    *(("RecommenderTrainingFailed", {CODE: f"{code}x320"}) for code in (1, 2, 127, 134, 139)),
    ("RecommenderNoData", {CODE: "65x320"}),
    ("RecommenderMongoDBFailed", {CODE: "69x320"}),
    ("RecommenderSparkFailed", {CODE: "70x320"}),
    ("RecommenderLeaseLost", {CODE: "75x320"}),
    ("RecommenderModelRejected", {CODE: "76x320"}),
    ("RecommenderMisconfigured", {CODE: "78x320"}),
    ("RecommenderTrainingTimedOut", {CODE: "124x320"}),
    ("RecommenderTrainingDied", {CODE: "137x320"}),
    ("RecommenderDown", {"up": "0x320"}),
    ("RecommenderMongoDBDown", {"recommender_mongodb_up": "0x320"}),
    ("RecommenderTrainingOverdue", {SUCCESS: "0x320"}),
    ("RecommenderNoRecentTraining", {SUCCESS: "0x320", INTERVAL: "0x320"}),
    (None, {SUCCESS: "14400x320", INTERVAL: "0x320"}),  # 22 hours ago
    ("RecommenderNeverTrained", {SUCCESS: "_x320"}),
    ("RecommenderSchedulePaused", {"recommender_schedule_paused": "1x320"}),
    ("RecommenderTrainingsSkipped", {"recommender_schedule_skipped": "0+0.05x320"}),
    ("RecommenderListsNoBetter", {"recommender_lift": "0x320"}),
    ("RecommenderPublishedWithWarning", {"recommender_warnings": "1x320"}),
    ("RecommenderErrors", {COUNT % 500: "0+1x320"}),
    ("RecommenderSlow", {BUCKET % 0.1: "0x320"}),
]


def test_the_runbook_names_the_alert_of_every_failure_code_or_that_there_is_none() -> None:
    runbook = (PROJECT / "docs/operations.md").read_text().partition("## Runbook")[2]
    rows = re.findall(r"^\| (\d[^|]*)\|(.*)$", runbook, re.MULTILINE)
    alerts = {changes[CODE]: alert for alert, changes in CHANGES if CODE in changes}
    for code in EXIT_CODES.keys() - {0} | {137}:
        causes = [symptom + text for symptom, text in rows if re.search(rf"\b{code}\b", symptom)]
        assert causes, code
        alert = alerts.get(f"{code}x320")
        assert f"`{alert}`" in causes[0] if alert else "no alert" in causes[0], code


def series(name: str, replica: str) -> str:
    metric, _, labels = name.partition("{")
    return f'{metric}{{job="recommender",instance="{replica}",{labels or "}"}'


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_every_rule_fires_for_its_fault_alone_and_once_for_several_replicas(tmp_path: Path) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert {alert for alert, _ in CHANGES if alert} == alerts
    cases: list[Document] = []
    for alert, changes in CHANGES:
        values = HEALTHY | changes
        firing = {
            "labels": f'{{alertname="{alert}"}}',
            "value": 2 if alert == "RecommenderDown" else 1,
        }
        expected = {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": "26h",
            "exp_samples": [firing] if alert else [],
        }
        cases.append(
            {
                "interval": "5m",
                "input_series": [
                    {"series": series(name, replica), "values": values[name]}
                    for name in values
                    for replica in "ab"
                ],
                "promql_expr_test": [expected],
            }
        )
    file = tmp_path / "test.yml"
    files = [str(DEPLOY / "prometheus-rules.yml")]
    test = {"rule_files": files, "evaluation_interval": "15m", "tests": cases}
    file.write_text(json.dumps(test))
    command = ["promtool", "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
