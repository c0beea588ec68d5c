"""The API under valid and invalid requests that are generated from its own description."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    CheckFunction,
    allow_header_conformance,
    ignored_auth,
    positive_data_acceptance,
)

import model
from recommender.core.mongo import connect, database
from recommender.core.settings import load_settings
from recommender.runs.lease import Lease
from recommender.runs.ledger import Ledger
from tests.support import PROJECT, environment, free_port, some_factors
from tests.waiting import TRAINING_SECONDS, until

pytestmark = pytest.mark.nightly

KEY = "a-key"
# Valid ratings depend on a setting, so the description does not exclude those that get 422.
EXCLUDED: list[CheckFunction] = [positive_data_acceptance]
Request = schemathesis.Case[Any]
REQUESTS = 40
REFUSED = [400, 401, 403, 404, 405, 409, 413, 422, 503]

description = schemathesis.openapi.from_dict(
    model.create_app().openapi(),
    config=schemathesis.Config.from_dict(
        {"seed": 1, "checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}
    ),
).exclude(path_regex="/events$")  # a stream ends with its run
seeded = settings(
    derandomize=True,
    max_examples=REQUESTS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def busy_service(mongo_uri: str, folder: Path, **more: str) -> Iterator[str]:
    """Run the service on a database whose lease is taken, so that no training starts."""
    own = load_settings(mongo_uri=mongo_uri, mongo_db=f"test-{uuid.uuid4().hex}", work_dir=folder)
    port = free_port()
    with connect(own.mongo) as client:
        db = database(client, own.mongo)
        for run_id in ("a", "b"):
            Ledger(db).add(run_id, "api", own, None)
        Lease(db, 3600).acquire("b")
        db["Metadata"].insert_one(some_factors("a"))
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "model.py")],
            env=environment(own, PORT=str(port), **more),
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: answers(url), TRAINING_SECONDS)
            yield url
            assert db["TrainingRuns"].count_documents({}) == 2
        finally:
            process.terminate()
            process.wait(timeout=30)
            client.drop_database(db.name)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def open_to_all(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with busy_service(mongo_uri, tmp_path_factory.mktemp("open")) as url:
        yield url


@pytest.fixture(scope="module")
def with_a_key(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with busy_service(mongo_uri, tmp_path_factory.mktemp("keyed"), API_KEY=KEY) as url:
        yield url


def excluded_of(case: Request) -> list[CheckFunction]:
    """Starlette's `Allow` names the methods of one of the two routes of /recommendations."""
    return [*EXCLUDED, allow_header_conformance] if case.path == "/recommendations" else EXCLUDED


@description.parametrize()
@seeded
def test_without_a_key_every_answer_is_as_described(case: Request, open_to_all: str) -> None:
    # The description has the key, which is not needed if none is set.
    excluded = [*excluded_of(case), ignored_auth]
    case.call_and_validate(base_url=open_to_all, excluded_checks=excluded)


@description.parametrize()
@seeded
def test_with_a_key_every_answer_is_as_described(case: Request, with_a_key: str) -> None:
    headers = {"X-API-Key": KEY}
    case.call_and_validate(base_url=with_a_key, headers=headers, excluded_checks=excluded_of(case))
