"""``POST /model/rollback``, with the trainings' own script as its child process."""

import pytest
from fastapi.testclient import TestClient

import model
from recommender.core.mongo import MongoDatabase
from recommender.core.mongo_collections import CLUSTERS, PUBLISHED, RECOMMENDATIONS
from recommender.core.settings import Settings
from recommender.runs.switch import PREVIOUS
from tests.publishing.publications import HookedLease, nothing, publish_pair, train
from tests.support import set_environment
from tests.waiting import TRAINING_SECONDS, until


def test_a_rollback_on_demand(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, db_settings, API_KEY="key")
    path, key = "/model/rollback", {"X-API-Key": "key"}
    with TestClient(model.create_app(), headers=key) as client:
        assert client.post(path, headers={"X-API-Key": "another"}).status_code == 401
        assert client.post(path, headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.post(path).status_code == 404
        for run_id in ("r1", "r2"):
            train(db, run_id)
            publish_pair(db, run_id)
        in_progress = HookedLease(db, "by-hand", nothing)
        answer = client.post(path)
        assert (answer.status_code, answer.json()["run_id"]) == (409, "by-hand")
        in_progress.release()

        answer = client.post(path)
        run_id = answer.json()["run_id"]
        assert (answer.status_code, answer.headers["location"]) == (202, f"/runs/{run_id}")
        ended = {"_id": run_id, "ended_at": {"$exists": True}}
        run = until(lambda: db["TrainingRuns"].find_one(ended), TRAINING_SECONDS)
        assert run
        assert (run["state"], run["kind"], run["trigger"]) == ("succeeded", "rollback", "api")
        assert run["rollback"] == dict.fromkeys(PUBLISHED, "r1")
        assert db[RECOMMENDATIONS].distinct("run_id") == ["r1"]

        db[CLUSTERS + PREVIOUS].drop()
        assert client.post(path).status_code == 409
