"""python -m recommender.doctor: what it finds, its remedies and its exit codes."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recommender import doctor
from recommender.core.mongo import MongoDatabase, connect, database
from recommender.core.settings import Settings, load_settings
from recommender.runs.ledger import Ledger
from tests.support import PROJECT, environment, free_port, write_tiny_city

Examine = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def examine(run_here: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Examine:
    """Run the doctor; return its exit code, and its JSON with the checks by name."""

    def run(**environment: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run_here(doctor.main, "--json", **{"PORT": str(free_port()), **environment})
        outcome: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert outcome["exit_code"] == code
        return code, outcome | {check["name"]: check for check in outcome["checks"]}

    return run


def test_a_healthy_deployment_and_a_failed_run(
    examine: Examine, replica_set_uri: str, replica_set: MongoDatabase, db_settings: Settings
) -> None:
    where = {"MONGO_URI": replica_set_uri, "MONGO_DB": replica_set.name}
    settings = db_settings.with_values(where)
    write_tiny_city(replica_set, settings)
    Ledger(replica_set).add("r1", "script", settings, None)
    Ledger(replica_set).close("r1", "succeeded", 0, None)
    code, outcome = examine(**where, API_KEY="s3cret")
    states = {check["name"]: check["state"] for check in outcome["checks"]}
    assert states.pop("LAPACK") in {"ok", "warning"}  # the machine's
    assert states.pop("rights") == "warning"  # this mongod has no access control
    assert (code, set(states.values())) == (0, {"ok"})
    assert set(states) == {"MongoDB", "reviews", "last run", "Java", "memory", "disk", "port"}
    assert "rs0" in outcome["MongoDB"]["finding"]
    assert ["API_KEY", "***", "environment"] in outcome["settings"]
    assert ["SEED", "42", "default"] in outcome["settings"]
    assert "s3cret" not in json.dumps(outcome)
    Ledger(replica_set).add("r2", "script", settings, None)
    Ledger(replica_set).close("r2", "failed", 70, "no memory")
    code, outcome = examine(**where)
    assert (code, outcome["last run"]["state"]) == (0, "warning")
    assert "no memory" in outcome["last run"]["finding"]


def test_each_problem_has_its_exit_code_and_the_other_checks_are_done(
    examine: Examine,
    db_settings: Settings,
    clean_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recommender.doctor", "--json"],
        env=environment(db_settings, PYTHONPATH=str(PROJECT), PORT=str(free_port())),
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    code, outcome = examine()
    findings, of_process = outcome["checks"], json.loads(done.stdout)["checks"]
    assert (done.returncode, len(of_process)) == (code, len(findings))
    assert of_process[:4] == findings[:4]  # all of MongoDB's: the free space changes, and the port
    assert (code, outcome["reviews"]["state"]) == (65, "problem")
    assert outcome["MongoDB"]["state"] == "warning"  # standalone
    down = f"mongodb://u:s3cret@127.0.0.1:{free_port()}/"
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "_TIMEOUT_SECONDS", 0.2)
        code, outcome = examine(MONGO_URI=down)
    assert (code, outcome["MongoDB"]["state"], outcome["Java"]["state"]) == (69, "problem", "ok")
    assert "s3cret" not in json.dumps(outcome)
    (clean_environment / "file").touch()
    folder = str(clean_environment / "file")
    code, outcome = examine(JAVA_HOME="/nowhere", WORK_DIR=folder, SPARK_DRIVER_MEMORY="9t")
    assert code == 65
    assert [outcome[name]["exit_code"] for name in ("Spark", "WORK_DIR")] == [78, 78]
    code, outcome = examine(SPARK_DRIVER_MEMORY="9t")
    assert outcome["memory"]["state"] == "warning"


@pytest.fixture
def limited(
    mongo_uri: str, clean_environment: Path
) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Return what a user with these roles may do, as connectionStatus reports it."""
    settings = load_settings(mongo_uri=mongo_uri, mongo_db="rights")
    with connect(settings.mongo) as client:
        db = database(client, settings.mongo)

        def privileges(*roles: str) -> list[dict[str, Any]]:
            name = f"role-{uuid.uuid4().hex}"
            granted = [{"role": role, "db": "rights"} for role in roles]
            db.command("createRole", name, privileges=[], roles=granted)
            shown = db.command("rolesInfo", name, showPrivileges=True)["roles"][0]
            inherited: list[dict[str, Any]] = shown["inheritedPrivileges"]
            return inherited

        yield privileges
        db.command("dropAllRolesFromDatabase")


def test_the_role_read_write_is_enough_and_read_is_not(
    limited: Callable[..., list[dict[str, Any]]],
) -> None:
    assert doctor.granted(limited("readWrite"), "rights") >= doctor.ACTIONS
    assert not doctor.granted(limited("read"), "rights") >= doctor.ACTIONS
    assert not doctor.granted(limited("readWrite"), "another") & doctor.ACTIONS


def test_people_get_one_line_a_check(
    run_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".env").write_text("SEED=7\n")
    assert run_here(doctor.main, PORT=str(free_port())) == 65
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["SEED", "7", ".env"] in lines
    checks = lines[lines.index(["Checks"]) + 1 :]
    assert {words[0] for words in checks} >= {"MongoDB", "reviews", "Java", "memory", "port"}
