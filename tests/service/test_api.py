"""The API and the schedule, in this process and as a service in a process of its own."""

import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest
import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

import model
from recommender.core import mongo
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.runs.lease import Lease
from recommender.runs.ledger import Kind, Ledger
from recommender.service import catalog, launcher, limits, progress, routes_runs
from recommender.service.launcher import Trainer
from recommender.service.routes_training import in_words
from tests.mongods import MongodForTests
from tests.service.test_training_clock import make_due
from tests.support import (
    PROJECT,
    ContractReader,
    environment,
    free_port,
    jvms,
    some_factors,
    write_tiny_city,
)
from tests.waiting import DEADLINE_SECONDS, TRAINING_SECONDS, until

PROBLEM = "application/problem+json"


def test_recommendations_follow_from_the_ratings_sent(
    client: TestClient, db: MongoDatabase
) -> None:
    two = {"rated": ["a=5", "5=1"]}
    assert client.get("/recommendations", params=two).status_code == 404
    for run_id in ("r1", "r2"):  # published factors are read again when they change
        db["Metadata"].replace_one({"_id": "item_factors"}, some_factors(run_id), upsert=True)
        answer = client.get("/recommendations", params={"rated": "a=5"})
        body = answer.json()
        assert (answer.status_code, body["run_id"]) == (200, run_id)
        assert [entry["gmap_id"] for entry in body["recommendations"]] == ["c", 5]
        assert body["recommendations"][0]["because"] == ["a"]
    rest = client.get("/recommendations", params=two).json()["recommendations"]
    assert [entry["gmap_id"] for entry in rest] == ["c"]
    unknown = client.get("/recommendations", params={"rated": "x=4"}).json()["recommendations"]
    assert [entry["gmap_id"] for entry in unknown] == ["a", 5, "c"]


def test_invalid_ratings_are_422(client: TestClient, db: MongoDatabase) -> None:
    db["Metadata"].insert_one(some_factors("r1"))
    invalid: list[list[str]] = [[], ["a"], ["=5"], ["a="], ["a=9"], ["a=five"], ["a=5"] * 1001]
    for rated in invalid:
        answer = client.get("/recommendations", params={"rated": rated})
        (error,) = answer.json()["errors"]
        pointer = "#/query/rated/0" if rated in (["a=9"], ["a=five"]) else "#/query/rated"
        assert (answer.status_code, error["pointer"]) == (422, pointer)


A_NUMBER = "expected a number from 1 to 5"
BAD_REQUESTS: list[tuple[str, str, Any, str]] = [
    (
        "GET",
        "/recommendations?rated=a=9&rated=5=3",
        None,
        f"#/query/rated/0: {A_NUMBER}, found '9'",
    ),
    ("GET", "/recommendations?rated=a=five", None, f"{A_NUMBER}, found 'five'"),
    ("GET", "/recommendations?rated=a", None, "'a' is not of the form gmap_id=rating"),
    ("GET", "/recommendations/u?n=0", None, "#/query/n: Input should be greater than or equal to"),
    ("GET", "/recommendations/u?n=0", None, "1, found '0'"),
    ("POST", "/recommendations", [("a", 5), ("c", 0)], f"#/body/ratings/1: {A_NUMBER}, found 0.0"),
    (
        "POST",
        "/recommendations",
        [("x" * 1025, 5)],
        "an id of UTF-8 and at most 1,024 bytes, found 'xxx",
    ),
    (
        "POST",
        "/recommendations",
        [("a", 5), ("\ud800", 5)],
        r"#/body/ratings/1: expected an id of UTF-8 and at most 1,024 bytes, found '\ud800'",
    ),
    ("POST", "/recommendations", [("a", math.nan)], f"{A_NUMBER}, found nan"),
    ("POST", "/recommendations", [("a", "x")], "#/body/ratings/0/rating: Input should be a valid"),
    ("POST", "/recommendations", [("a", "x")], "found 'x'"),
    ("POST", "/recommendations", [(True, 5)], "Input should be a valid integer, found True"),
    ("POST", "/recommendations", [], "at least 1 item after validation, not 0"),
    ("PUT", "/schedule", {"paused": "yes"}, "Input should be a valid boolean, found 'yes'"),
    ("PUT", "/schedule", {"paused": True, "x": 1}, "#/body/x: Extra inputs are not permitted"),
    ("PUT", "/schedule", {"paused": "y" * 9999}, "yyy'"),
    ("PUT", "/schedule", [], "#/body: Input should be a valid JSON object, found []"),
    ("PUT", "/schedule", None, "#/body: JSON decode error: Expecting"),
    ("POST", "/train?force=maybe", None, "Input should be a valid boolean"),
    ("POST", "/train?force=maybe", None, "found 'maybe'"),
]


def test_the_problem_of_a_bad_request_says_what_was_found_and_what_is_expected(
    client: TestClient, db: MongoDatabase
) -> None:
    db["Metadata"].insert_one(some_factors("r1"))
    for method, path, body, expected in BAD_REQUESTS:
        if path == "/recommendations":
            body = {"ratings": [{"gmap_id": gmap_id, "rating": r} for gmap_id, r in body]}
        sent = json.dumps(body) if body is not None else "{"
        headers = {"Content-Type": "application/json"}
        answer = client.request(method, path, content=sent, headers=headers)
        detail = answer.json()["detail"]
        assert (answer.status_code, expected in detail) == (422, True), detail
        assert answer.json()["errors"]
        assert len(detail) < 200
        assert "RATING_M" not in detail  # a caller has no settings


def test_the_first_training_is_an_interval_away_in_words_and_numbers(client: TestClient) -> None:
    answer = client.get("/next-training")
    assert answer.status_code == 200
    body = answer.json()
    assert body["time_left"].startswith("Time left for next training: 2 Hours, 59 Minutes, and ")
    assert body["time_left"].endswith(" Seconds.")
    assert 10_700 < body["seconds_left"] <= 10_800
    at = datetime.fromisoformat(body["next_training_at"])
    assert at.utcoffset() is not None
    assert at.timestamp() - time.time() == pytest.approx(body["seconds_left"], abs=5)


def test_a_skipped_slot_is_shown_with_the_training_in_progress(
    configure: Callable[..., None], db: MongoDatabase
) -> None:
    configure()
    with TestClient(model.create_app()) as client:
        body = client.get("/next-training").json()
        assert (body["skipped"], body["last_skipped"]) == (0, None)
    Lease(db, 60).acquire("by-hand")
    db["TrainingState"].update_one(
        {"_id": "schedule"}, [{"$set": {"next_at": {"$subtract": ["$$NOW", 1]}}}]
    )
    with TestClient(model.create_app()) as client:
        body = until(lambda: next_training_after_a_skip(client))
    assert body["skipped"] == 1
    assert body["last_skipped"]["run_id"] == "by-hand"
    at = datetime.fromisoformat(body["last_skipped"]["at"])
    assert at.timestamp() == pytest.approx(time.time(), abs=60)


def next_training_after_a_skip(client: TestClient) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/next-training").json()
    return body if body["skipped"] else {}


def test_a_training_can_be_forced(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, bool]] = []

    def start(_trainer: Trainer, trigger: str, *, force: bool) -> str:
        started.append((trigger, force))
        return "run-1"

    monkeypatch.setattr(Trainer, "start", start)
    for query, status in (("true", 202), ("false", 202), ("", 422), ("maybe", 422)):
        assert client.post("/train", params={"force": query}).status_code == status
    assert client.post("/train").status_code == 202
    assert started == [("api", True), ("api", False), ("api", False)]


def test_a_page_of_another_site_starts_no_training(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "start", lambda *_, **__: "run-1")
    same = client.post("/train", headers={"Origin": "http://TestServer"})
    assert (same.status_code, same.headers["location"]) == (202, "/runs/run-1")
    for origin in ("http://evil.example", "http://testserver:81", "null", "http://["):
        assert client.post("/train", headers={"Origin": origin}).status_code == 403


def test_without_a_key_a_page_under_a_domain_name_starts_no_training(
    configure: Callable[..., None], db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "start", lambda *_, **__: "run-1")
    for key, host, status in (
        ("", "evil.example:8080", 403),
        ("", "1.evil.example", 403),
        ("", "127.0.0.1:8080", 202),
        ("", "[::1]:8080", 202),
        ("", "recommender:8080", 202),
        ("key", "recommender.example", 202),
    ):
        configure(API_KEY=key)
        headers = {"Origin": f"http://{host}", "Host": host, "X-API-Key": key}
        with TestClient(model.create_app()) as client:
            assert client.post("/train", headers=headers).status_code == status, host


def test_durations_in_words() -> None:
    assert in_words(10_798.9) == "2 Hours, 59 Minutes, and 58 Seconds"
    assert in_words(90_061) == "25 Hours, 1 Minutes, and 1 Seconds"


def test_a_restart_does_not_reset_the_clock(
    configure: Callable[..., None], db: MongoDatabase
) -> None:
    configure()
    with TestClient(model.create_app()) as first:
        before = first.get("/next-training").json()["seconds_left"]
    db["TrainingState"].update_one(
        {"_id": "schedule"}, [{"$set": {"next_at": {"$subtract": ["$next_at", 3_600_000]}}}]
    )
    with TestClient(model.create_app()) as second:
        after = second.get("/next-training").json()["seconds_left"]
    assert before - after == pytest.approx(3600, abs=60)


def test_alive_without_mongodb_but_not_ready(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closed_port() as port:
        monkeypatch.setattr(mongo, "QUICK_READ_SECONDS", 0.2)
        monkeypatch.setattr(launcher, "_RECORD_SECONDS", 0.2)
        configure(MONGO_URI=f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=200")
        with TestClient(model.create_app()) as client, ThreadPoolExecutor() as pool:
            assert client.get("/health/live").json() == {"status": "alive"}
            train = pool.submit(client.post, "/train")
            refused = [*pool.map(client.get, ("/health/ready", "/runs", "/runs/x")), train.result()]
            assert client.get("/next-training").status_code == 200
    for answer in refused:
        assert answer.status_code == 503
        assert answer.headers["content-type"] == PROBLEM
        assert answer.headers["retry-after"]


def test_readiness_does_not_wait_for_other_calls(client: TestClient) -> None:
    assert client.portal
    threads = client.portal.call(threads_for_calls, 0)  # as if all were waiting for MongoDB
    with ThreadPoolExecutor() as pool:
        try:
            answer = pool.submit(client.get, "/health/ready")
            assert answer.result(DEADLINE_SECONDS).status_code == 200
        finally:
            client.portal.call(threads_for_calls, threads)


async def threads_for_calls(number: float) -> float:
    """Set how many threads answer calls; return how many did."""
    limiter = current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, number
    return before


def test_a_hung_mongodb_holds_no_read_for_long(
    configure: Callable[..., None], db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo, "QUICK_READ_SECONDS", 0.5)
    pid = db.client.admin.command("serverStatus")["pid"]
    configure()
    with TestClient(model.create_app()) as client:
        assert client.get("/runs").status_code == 200
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
            began = time.monotonic()
            answers = [client.get(path) for path in ("/runs", "/recommendations/u", "/")]
            answers.append(client.post("/runs/r/cancel"))
            seconds = time.monotonic() - began
        finally:
            os.kill(pid, signal.SIGCONT)
        assert [answer.status_code for answer in answers] == [503] * 4
        assert seconds < 15  # of what would be twenty for each
        until(lambda: client.get("/runs").status_code == 200)


@pytest.mark.parametrize("path", ["/recommendations/u", "/recommendations?rated=a=5"])
@pytest.mark.parametrize("load", ["load_factors", "restaurant_names"])
def test_a_mongodb_that_hangs_while_a_model_is_loaded_holds_no_read_for_long(
    load: str,
    path: str,
    configure: Callable[..., None],
    db: MongoDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "_LOAD_SECONDS", 0.5)
    pid = db.client.admin.command("serverStatus")["pid"]
    db["Metadata"].insert_one({"_id": "item_factors", "run_id": "r"})
    real = getattr(catalog, load)

    def of_a_hung_mongod(db: MongoDatabase, *arguments: Any) -> Any:
        os.kill(pid, signal.SIGSTOP)
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
        return real(db, *arguments)

    monkeypatch.setattr(catalog, load, of_a_hung_mongod)
    configure()
    with TestClient(model.create_app()) as client:
        began = time.monotonic()
        try:
            answer = client.get(path)
        finally:
            seconds = time.monotonic() - began
            os.kill(pid, signal.SIGCONT)
        assert answer.status_code == 503
        assert seconds < 15  # of what would be half a minute


@contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port that is taken and on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_health_answers_head_as_it_answers_get(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/health/live", "/health/ready"):
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code == 200
        assert head.headers == got.headers
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    got = client.get("/health/ready")
    assert got.status_code == client.head("/health/ready").status_code == 503
    assert "/nowhere/bin/java" in got.json()["detail"]


def test_a_bad_setting_ends_the_service_with_one_line(
    db_settings: Settings, run_here: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = {"MONGO_URI": "mongodb://u:s3cr/et@h/"}
    uvicorn = [sys.executable, "-m", "uvicorn", "model:app"]
    of_uvicorn = partial(
        subprocess.call, uvicorn, env=environment(db_settings, **bad), cwd=PROJECT, timeout=60
    )
    for start in (partial(run_here, model.main, **bad), of_uvicorn):
        assert start() == 78
        out, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("INFO: ")]
        assert (out, len(lines)) == ("", 1)
        assert lines[0].startswith("error: MONGO_URI ")
        assert "s3cr" not in err


def test_a_training_in_progress_is_named(client: TestClient, db: MongoDatabase) -> None:
    Lease(db, 60).acquire("by-hand")
    answer = client.post("/train")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["run_id"] == "by-hand"
    assert answer.headers["retry-after"]
    assert answer.json()["title"] == "Conflict"
    assert db["TrainingRuns"].count_documents({}) == 0


def test_a_run_in_progress_can_be_cancelled(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    Ledger(db).add("a", "script", db_settings, None)
    assert client.post("/runs/b/cancel").status_code == 404
    evil = {"Origin": "http://evil.example"}
    assert client.post("/runs/a/cancel", headers=evil).status_code == 403
    assert not Ledger(db).is_cancel_requested("a")
    answer = client.post("/runs/a/cancel")
    assert (answer.status_code, answer.headers["location"]) == (202, "/runs/a")
    assert Ledger(db).is_cancel_requested("a")
    Ledger(db).close("a", "succeeded", 0, None)
    answer = client.post("/runs/a/cancel")
    assert (answer.status_code, answer.headers.get("retry-after")) == (409, "60")


def test_too_many_followers_are_asked_to_come_again_later(
    client: TestClient, db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(db).add("a", "script", db_settings, None)
    monkeypatch.setattr(routes_runs, "_MOST_CLIENTS", 0)
    answer = client.get("/runs/a/events")
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "15")
    assert answer.json()["code"] == "unavailable"


def test_the_reading_of_a_run_is_kept_while_another_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[str] = []
    monkeypatch.setattr(routes_runs, "_read_ledger", lambda _, run_id: reads.append(run_id))
    monkeypatch.setattr(routes_runs, "_POLL_SECONDS", 60)
    service: Any = SimpleNamespace(readings={})

    async def read() -> None:
        for run_id in "abab":
            await routes_runs._read(service, run_id)

    asyncio.run(read())
    assert reads == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "phase", "stays"),
    [
        ("training", "recommend", True),
        ("training", "publish recommendations", False),
        ("dry_run", "publish recommendations", True),
    ],
)
def test_the_page_says_what_is_served_after_a_rejection(
    client: TestClient,
    db: MongoDatabase,
    db_settings: Settings,
    kind: Kind,
    phase: str,
    stays: bool,
) -> None:
    db["Metadata"].insert_one(some_factors("before"))
    Ledger(db).add("a", "api", db_settings, None, kind)
    Ledger(db).update("a", {"phases": [{"name": phase, "seconds": 1.0}]})
    Ledger(db).close("a", "rejected", 76, "why")
    (served,) = re.findall("<br>([^<]+)", client.get("/").text)
    assert ("before" in served) == stays


def test_the_log_of_a_run_is_shown_from_its_file(client: TestClient, db_settings: Settings) -> None:
    db_settings.log_dir.mkdir()
    end = "\n1\n2é\u2028\n\xff3\n"
    (db_settings.log_dir / "a.log").write_text("x" * 3_000_000 + end)
    db_settings.log_dir.parent.joinpath("secret.log").write_text("secret")
    answer = client.get("/runs/a/log", params={"tail": 2})
    assert answer.text == "2é\u2028\n\xff3\n"
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(client.get("/runs/a/log").text) <= 1_000_000
    assert client.get("/runs/b/log").status_code == 404
    assert client.get("/runs/..%2Fsecret/log").status_code in (404, 422)
    assert client.get("/runs/a/log", params={"tail": 0}).status_code == 422


def test_the_schedule_can_be_paused_across_a_restart(
    configure: Callable[..., None], db: MongoDatabase
) -> None:
    configure()
    with TestClient(model.create_app()) as client:
        assert client.get("/next-training").json()["paused"] is False
        assert client.put("/schedule", json={"paused": True}).json()["paused"] is True
        invalid: list[Any] = [{}, {"paused": "yes"}, {"paused": True, "other": 1}, [], None]
        for wrong in invalid:
            assert client.put("/schedule", json=wrong).status_code == 422
        assert client.put("/schedule", content=bytes(200_000)).status_code == 413
    with TestClient(model.create_app()) as client:
        assert client.get("/next-training").json()["paused"] is True


def test_without_a_schedule_no_training_is_due(
    configure: Callable[..., None], db: MongoDatabase
) -> None:
    configure(TRAIN_INTERVAL_HOURS="0")
    with TestClient(model.create_app()) as client:
        body = client.get("/next-training").json()
        assert (body["seconds_left"], body["next_training_at"]) == (None, None)
        assert (body["interval_hours"], body["paused"]) == (0, False)
        assert "TRAIN_INTERVAL_HOURS" in body["time_left"]
        assert client.put("/schedule", json={"paused": True}).json()["paused"]


@pytest.fixture
def progress_is_read_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.05)


@pytest.mark.usefixtures("progress_is_read_often")
def test_the_training_in_progress_is_shown_beside_the_schedule(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    assert client.get("/next-training").json()["training"] is None
    Ledger(db).add("by-hand", "script", db_settings, None)
    Ledger(db).update("by-hand", {"phase": "read"})
    lease = Lease(db, 60)
    lease.acquire("by-hand")
    training = until(lambda: client.get("/next-training").json()["training"])
    assert (training["run_id"], training["phase"]) == ("by-hand", "read")
    lease.release()
    until(lambda: client.get("/next-training").json()["training"] is None)


def test_runs_are_listed_the_latest_first_and_shown_by_id(
    client: TestClient, db: MongoDatabase, db_settings: Settings
) -> None:
    for run_id in ("a", "b", "c"):
        Ledger(db).add(run_id, "api", db_settings, None)
    listed = client.get("/runs", params={"limit": 2}).json()["runs"]
    assert [run["run_id"] for run in listed] == ["c", "b"]
    shown = client.get("/runs/a").json()
    assert shown["state"] == "crashed"
    assert shown["error"]
    assert "_id" not in shown
    assert "mongo_uri" not in shown["settings"]


ERRORS = {
    "/runs/unknown": (404, "not_found", None),
    "/nowhere": (404, "not_found", None),
    "/train": (405, "method_not_allowed", None),
    "/runs?limit=0": (422, "invalid_request", "#/query/limit"),
    "/runs?limit=many": (422, "invalid_request", "#/query/limit"),
    "/runs/%24where": (422, "invalid_request", "#/path/run_id"),
    f"/runs/{'x' * 65}": (422, "invalid_request", "#/path/run_id"),
}


def test_every_error_is_a_problem(client: TestClient) -> None:
    for path, (status, code, pointer) in ERRORS.items():
        answer = client.get(path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == PROBLEM
        body = answer.json()
        assert (body["status"], body["code"]) == (status, code)
        assert [error["pointer"] for error in body.get("errors", [])] == [pointer] * bool(pointer)
        assert set(body) >= {"type", "title", "detail"}
    odd = client.put("/schedule", json={"paused": True, "a/b~": 1}).json()
    assert [error["pointer"] for error in odd["errors"]] == ["#/body/a~1b~0"]


def test_the_description_names_calls_and_errors(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    calls = [call for calls in description["paths"].values() for call in calls.values()]
    ids = [call["operationId"] for call in calls]
    assert {"train", "next_training", "put_schedule", "runs", "run", "cancel"} <= set(ids)
    assert len(set(ids)) == len(ids)
    assert all(call["tags"] for call in calls)
    assert {"Problem", "InvalidValue"} <= set(description["components"]["schemas"])
    assert "HTTPValidationError" not in description["components"]["schemas"]
    problems = [
        answer["content"][PROBLEM]["schema"]
        for call in calls
        for status, answer in call["responses"].items()
        if status >= "400"
    ]
    assert problems
    assert all(schema == {"$ref": "#/components/schemas/Problem"} for schema in problems)


def test_the_page_to_try_the_api_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert loaded
    for path in loaded:
        assert client.get(path).status_code == 200
    assert "://" not in "".join(loaded)


def test_requests_beyond_loopback_without_a_key_are_warned_about_once(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.base_url = "http://127.0.0.1:1"
    client.get("/runs")
    assert "API_KEY" not in caplog.text
    client.base_url = "http://192.0.2.1:8080"
    for _ in range(2):
        client.get("/runs")
    assert caplog.text.count("192.0.2.1:8080 and API_KEY") == 1


def test_an_unexpected_failure_is_a_problem_too(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(Trainer, "start", fail)
    configure()
    with TestClient(model.create_app(), raise_server_exceptions=False) as client:
        answer = client.post("/train")
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)


def test_the_description_has_the_version_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert model.create_app().version == project["version"]


def test_the_api_key_is_needed_to_train_and_to_see_runs(
    configure: Callable[..., None], db: MongoDatabase
) -> None:
    configure(API_KEY="kéy")
    Lease(db, 60).acquire("by-hand")
    good = [{b"X-API-Key": "kéy".encode()}, {b"Authorization": "Bearer kéy".encode()}]
    bad: list[dict[bytes, bytes]] = [
        {},
        {b"X-API-Key": b"key"},
        {b"Authorization": b"Basic a2V5"},
    ]
    with TestClient(model.create_app()) as client:
        for method, path, status in (("POST", "/train", 409), ("GET", "/runs", 200)):
            for headers in good:
                assert client.request(method, path, headers=headers).status_code == status
            for headers in bad:
                refused = client.request(method, path, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/next-training", "/health/live", "/health/ready"):
            assert client.get(path).status_code == 200


def test_many_requests_at_once_start_one_training(client: TestClient, db: MongoDatabase) -> None:
    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda _: client.post("/train").status_code, range(22)))
    assert sorted(codes) == [202] + [409] * 21
    assert db["TrainingRuns"].count_documents({}) == 1


@contextmanager
def service(
    settings: Settings,
    log: IO[bytes] | int = subprocess.DEVNULL,
    command: Sequence[str] = (str(PROJECT / "model.py"),),
    **more: str,
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run ``python model.py`` until the block ends; give the process and its address."""
    more.setdefault("PORT", str(free_port()))
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment(settings, **more),
        cwd=settings.work_dir,
        stderr=log,
    )
    url = f"http://127.0.0.1:{more['PORT']}"
    try:
        until(lambda: answers(url), TRAINING_SECONDS)
        yield process, url
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").is_success
    except httpx.TransportError:
        return False


def test_a_body_that_no_route_reads_is_not_kept_in_memory(db_settings: Settings) -> None:
    size, sent, block = 10 * 2**30, 64, bytes(2**20)
    head = f"POST /train HTTP/1.1\r\nHost: service\r\nContent-Length: {size}\r\n\r\n".encode()
    with (
        service(db_settings, API_KEY="s3cret") as (process, url),
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10) as connection,
    ):
        connection.sendall(head)
        assert connection.recv(1024).startswith(b"HTTP/1.1 401 ")
        memory = psutil.Process(process.pid).memory_info
        before = memory().rss
        with suppress(ConnectionError):  # the server may close the connection
            for _ in range(sent):
                connection.sendall(block)
        assert answers(url)
        assert memory().rss - before < sent * len(block) / 2


def test_connections_of_half_sent_requests_are_limited_and_closed(
    db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = b"GET /health/live HTTP/1.1\r\nHost: service\r\n"
    monkeypatch.setattr(limits, "_CONNECTIONS", 8)
    monkeypatch.setattr(limits, "_REQUEST_SECONDS", 0.2)
    body = b"POST / HTTP/1.1\r\nHost: service\r\nContent-Length: 9\r\n\r\nx"
    with limited_server() as server, ExitStack() as stack:
        address = (server.config.host, server.config.port)
        # In a new connection, and in one kept alive; and of a body.
        for sent in (half, half + b"\r\n" + half, body):
            connect = partial(socket.create_connection, address, timeout=10)
            connections = [stack.enter_context(connect()) for _ in range(12)]
            for connection in connections:
                with suppress(ConnectionError):
                    connection.sendall(sent)
            assert len(server.server_state.connections) <= 8
            # For a new connection, the oldest that waits for a request is closed.
            assert httpx.get("http://{}:{}/".format(*address)).status_code == 405
            for connection in connections:
                with suppress(ConnectionError):
                    while connection.recv(1024):  # until the server closes it
                        pass


@contextmanager
def limited_server() -> Iterator[uvicorn.Server]:
    """Serve an application that reads what is posted to ``/``, behind the service's limits."""
    app = FastAPI()

    @app.post("/")
    async def read(request: Request) -> int:
        return len(await request.body())

    config = uvicorn.Config(app, port=free_port(), http=limits.LimitedProtocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join()


def test_headers_without_an_end_are_refused_and_long_bodies_are_not() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\nExpect: 100-continue\r\n\r\n"
    with limited_server() as server:
        address = (server.config.host, server.config.port)
        with (
            socket.create_connection(address, timeout=10) as connection,
            connection.makefile("rb") as answers,
        ):
            for _ in range(2):
                connection.sendall(head)
                assert answers.readline().startswith(b"HTTP/1.1 100 ")
                connection.sendall(bytes(90_000))
                assert list(iter(answers.readline, b"\r\n")) == []
                assert b"HTTP/1.1 200 OK\r\n" in list(iter(answers.readline, b"\r\n"))
                assert answers.read(5) == b"90000"
            start = b"GET / HTTP/1.1\r\nX-Long: "
            connection.sendall(start.ljust(2**16 + 1, b"x"))
            assert answers.readline().startswith(b"HTTP/1.1 400 ")


def publish_a_list_that_a_later_review_hits(db: MongoDatabase, settings: Settings) -> None:
    """Publish one user's list as run 0, whose only restaurant the user then reviews."""
    since = datetime(2100, 1, 1, tzinfo=UTC)
    user = db["Reviews"].find_one({}, {"_id": 0, "user_id": 1}) or {}
    unrated = set(db["Reviews"].distinct("gmap_id")) - set(db["Reviews"].distinct("gmap_id", user))
    restaurant = {"gmap_id": min(unrated)}
    entries = [{**restaurant, "score": 1.0}]
    db["Recommendations"].insert_one({**user, "run_id": "0", "recommendations": entries})
    db["Reviews"].insert_one({**user, **restaurant, "rating": 4, "time": since + timedelta(1)})
    Ledger(db).add("0", "api", settings, None)
    lists = {"users": 500, "lift": 0.0, "lift_error": 0.01}
    Ledger(db).update("0", {"started_at": since, "metrics.lists": lists})
    Ledger(db).close("0", "succeeded", 0, None)


RETRIES_SOON = """
import model
from recommender.core.script import run_script
from recommender.service import launcher, training_clock
launcher._RETRY_SECONDS, training_clock._MOST_SECONDS = 0.0, 0.5
raise SystemExit(run_script(model.main))
"""


def test_the_schedule_trains_to_the_end_and_publishes_at_the_second_try(
    db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    publish_a_list_that_a_later_review_hits(db, db_settings)
    db.create_collection("Clusters", viewOn="Source", pipeline=[])  # which no rename replaces
    make_due(db)
    log, command = db_settings.work_dir / "service.log", ("-c", RETRIES_SOON)
    more = {"PYTHONPATH": str(PROJECT), "ALS_ALPHA": "20"}
    with log.open("wb") as file, service(db_settings, file, command, **more) as (_, url):
        failed = until(lambda: db["TrainingRuns"].find_one({"state": "failed"}), TRAINING_SECONDS)
        db["Clusters"].drop()
        until(lambda: db["TrainingRuns"].find_one({"trigger": "retry", "state": "running"}))
        make_due(db)  # a slot during a training is skipped and counted
        until(lambda: "training succeeded" in log.read_text(), TRAINING_SECONDS)
        runs = httpx.get(f"{url}/runs").json()["runs"]
        schedule = db["TrainingState"].find_one({"_id": "schedule"}) or {}
        assert schedule["skipped"] == 1
    assert failed
    assert (failed["trigger"], failed["exit_code"]) == ("schedule", 70)
    run, *_ = (each for each in runs if each["trigger"] == "retry")
    assert len(runs) == 3
    assert (run["state"], run["exit_code"]) == ("succeeded", 0)
    hindsight = run["metrics"]["hindsight"]
    assert (hindsight["run_id"], hindsight["reviews"], hindsight["hits"]) == ("0", 1, 1)
    assert run["phases"][0]["name"] == "read"
    assert ContractReader(db).run_ids == {run["run_id"]}
    assert "phase read" in (db_settings.log_dir / f"{run['run_id']}.log").read_text()
    assert {path.name for path in db_settings.work_dir.iterdir()} == {"logs", log.name}
    the_log_is_json_with_the_lines_of_trainings_and_no_probe(log.read_text(), failed, run)


def the_log_is_json_with_the_lines_of_trainings_and_no_probe(
    log: str, failed: Document, succeeded: Document
) -> None:
    events = [json.loads(line) for line in log.splitlines()]
    (error,) = (event for event in events if event["level"] == "error")
    assert error["run_id"] == failed["run_id"]
    assert failed["error"] in error["event"]
    assert len([event for event in events if event.get("run_id") == failed["run_id"]]) >= 2
    levels = [event["level"] for event in events if event.get("run_id") == succeeded["run_id"]]
    assert len(levels) > 10
    assert set(levels) == {"info"}
    assert any("GET /runs" in event["event"] for event in events)
    assert not any("/health/live" in event["event"] for event in events)


def test_stopping_the_service_stops_the_training_that_searches_for_a_cluster(
    db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    with ExitStack() as stack:
        master = f"spark://127.0.0.1:{stack.enter_context(closed_port())}"
        started = service(db_settings, SPARK_MASTER=master, SPARK_LOCAL_IP="127.0.0.1")
        process, url = stack.enter_context(started)
        first = httpx.post(f"{url}/train")
        run_id = first.json()["run_id"]
        assert (first.status_code, first.json()["message"]) == (202, "Training started")
        second = httpx.post(f"{url}/train")
        assert (second.status_code, second.json()["run_id"]) == (409, run_id)
        until(lambda: [*db_settings.work_dir.glob("spark-*/blockmgr-*")], TRAINING_SECONDS)
        assert jvms(process.pid)
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(timeout=10) == 0  # Spark would search for a minute
    run = db["TrainingRuns"].find_one({"_id": run_id}) or {}
    assert (run["state"], run["exit_code"]) == ("cancelled", 143)
    psutil.wait_procs(family, timeout=5)
    assert [member for member in family if member.is_running()] == []
    assert "Traceback" not in (db_settings.log_dir / f"{run_id}.log").read_text()


def test_a_service_that_is_killed_takes_its_training_with_it_and_is_paused_afterwards(
    db: MongoDatabase, db_settings: Settings, configure: Callable[..., None]
) -> None:
    with service(db_settings, STOP_GRACE_SECONDS="60") as (process, url):
        httpx.put(f"{url}/schedule", json={"paused": True})
        run_id = httpx.post(f"{url}/train").json()["run_id"]
        until(lambda: jvms(process.pid), TRAINING_SECONDS)
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=60)
    assert [member for member in family if member.is_running()] == []
    run = db["TrainingRuns"].find_one({"_id": run_id}) or {}
    assert (run["state"], run["exit_code"]) == ("cancelled", 143)
    Lease(db, 60).acquire("next")  # the training has released it
    configure(TRAIN_INTERVAL_HOURS="0")
    with TestClient(model.create_app()) as client:
        after = client.get("/next-training").json()
    assert (after["paused"], after["next_training_at"]) == (True, None)


def test_a_call_that_waits_for_mongodb_is_answered_when_the_service_stops(
    db_settings: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with (
        MongodForTests(tmp_path / "mongod") as mongo,
        log.open("wb") as output,
        ThreadPoolExecutor() as pool,
    ):
        settings = db_settings.with_values({"mongo_uri": mongo.uri})
        with service(settings, output, STOP_GRACE_SECONDS="1") as (process, url):
            os.kill(mongo.pid, signal.SIGSTOP)
            pending = pool.submit(httpx.post, f"{url}/train", timeout=30)
            wait([pending], 1)
            process.terminate()
            answer = pending.result()
            process.wait(timeout=30)
            os.kill(mongo.pid, signal.SIGCONT)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "Traceback" not in log.read_text()


def test_a_process_that_is_not_a_servers_is_left_alone(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[Any, ...]] = []
    monkeypatch.setattr(model, "call_after", lambda *arguments: ended.append(arguments))
    configure()
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with TestClient(model.create_app()):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ended
