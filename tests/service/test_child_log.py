"""The service logs a training's lines as they are written, in any form."""

import logging
import tracemalloc
from pathlib import Path

import pytest

from recommender.service.child_log import ChildLog
from recommender.service.logs import service_formatter

TIME = "2026-11-28 20:44:14,123"


def fields_of(record: logging.LogRecord) -> tuple[str, str, object, object]:
    return (
        record.levelname,
        record.getMessage(),
        record.__dict__["run_id"],
        record.__dict__["phase"],
    )


def test_lines_keep_their_level_and_get_run_and_phase(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "r1.log"
    path.touch()
    lines = ChildLog(path, "r1")
    with path.open("a") as file:
        print("WARNING: Using incubator modules: jdk.incubator.vector", file=file)
        print(
            f"{TIME} INFO recommender.runs.run: phase read\n{TIME} WARN",
            end="",
            file=file,
            flush=True,
        )
        lines.pass_on()
        print(f"ING a.b: 100 % full\n{TIME} ERROR a: failed\n  Traceback\n\nerror: why", file=file)
    lines.pass_on(ended=True)
    assert [fields_of(record) for record in caplog.records] == [
        ("INFO", "phase read", "r1", "read"),
        ("WARNING", "100 % full", "r1", "read"),
        ("ERROR", "failed", "r1", "read"),
        ("INFO", "  Traceback", "r1", "read"),
    ]
    assert caplog.records[1].name == "a.b"
    assert lines.reason == "why"


@pytest.mark.parametrize(
    "line", ["recommender.core.script: unexpected failure", "a.b: Spark failed: no memory"]
)
def test_what_the_last_line_repeats_is_no_error_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "r1.log"
    path.write_text(f"{TIME} ERROR {line}\n  Traceback\nerror: why\n")
    ChildLog(path, "r1").pass_on(ended=True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_megabyte_without_a_newline_is_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "r1.log"
    path.write_bytes(b"\xff" + b"x" * 5_000_000 + b"y\nnext")
    lines = ChildLog(path, "r1")
    tracemalloc.start()
    lines.pass_on(ended=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert [record.getMessage()[-4:] for record in caplog.records] == ["xxxy", "next"]
    formatter = service_formatter([], is_terminal=False)
    assert max(len(formatter.format(record)) for record in caplog.records) < 11_000
