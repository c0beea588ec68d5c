"""The log file of a run by hand: whole, without secrets, and no condition for training."""

import errno
import logging
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from recommender.core.errors import DataError, LeaseHeldError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.runs.ledger import Ledger
from recommender.runs.run import training_run


def only_entry(db: MongoDatabase) -> Document:
    (run,) = Ledger(db).recent(9)
    return run


def log_of(document: Document) -> str:
    return Path(document["log"]).read_text(encoding="utf-8")


def test_the_ledger_names_the_log_file(
    db: MongoDatabase, db_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = db_settings.with_values({"api_key": SecretStr("s3cret-key")})
    caplog.set_level(logging.INFO, logger="recommender")
    with training_run(settings) as run, run.phase("read"):
        logging.getLogger("recommender.x").warning("s3cret-key\nforged")
    log = log_of(only_entry(db))
    assert log.count("INFO recommender.runs.run: ") == 2  # the phase's start and end
    assert "WARNING recommender.x: *** forged\n" in log
    assert "s3cret" not in log


@pytest.mark.parametrize(("error", "traceback"), [(DataError("none"), False), (KeyError(1), True)])
def test_the_log_ends_with_the_error(
    db: MongoDatabase, db_settings: Settings, error: Exception, traceback: bool
) -> None:
    with pytest.raises(type(error)), training_run(db_settings):
        raise error
    log = log_of(only_entry(db))
    assert f"ERROR recommender.runs.log_file: {error}" in log
    assert ("Traceback" in log) is traceback


def test_a_run_without_a_log_folder_goes_on(
    db: MongoDatabase, db_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with training_run(db_settings.with_values({"work_dir": tmp_path / "file"})):
        pass
    assert (only_entry(db)["state"], only_entry(db)["log"]) == ("succeeded", None)
    warnings = [r for r in caplog.records if r.name == "recommender.runs.log_file"]
    assert [("WORK_DIR=" in r.getMessage(), r.levelname) for r in warnings] == [(True, "WARNING")]


def test_a_full_disk_ends_the_log(
    db: MongoDatabase, db_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("recommender.x")
    with training_run(db_settings):
        path = only_entry(db)["log"]
        files = (h for h in logging.root.handlers if isinstance(h, logging.FileHandler))
        (handler,) = (h for h in files if h.baseFilename == path)
        handler.setStream(Path("/dev/full").open("w"))  # noqa: SIM115 - the handler closes it
        logger.warning("first")
        logger.warning("second")
    assert only_entry(db)["state"] == "succeeded"
    assert caplog.text.count(os.strerror(errno.ENOSPC)) == 1
    assert "second" in caplog.text


def test_a_malformed_log_call_does_not_end_the_log(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)  # of pytest's own handler
    with training_run(db_settings):
        logging.getLogger("another.library").warning("%d", "no number")
        logging.getLogger("recommender.x").warning("still there")
    assert "still there" in log_of(only_entry(db))


def test_errors_of_py4j_are_left_out(db: MongoDatabase, db_settings: Settings) -> None:
    with training_run(db_settings):
        record = logging.LogRecord("root", logging.ERROR, "/x/py4j/y.py", 1, "cut", None, None)
        logging.root.handle(record)
    assert "cut" not in log_of(only_entry(db))


def test_a_refused_run_leaves_no_log(db: MongoDatabase, db_settings: Settings) -> None:
    with training_run(db_settings):
        with pytest.raises(LeaseHeldError), training_run(db_settings):
            pytest.fail("two at once")
        assert len(list(db_settings.log_dir.iterdir())) == 1
