"""The output of scripts: plain and unwrapped in a pipe, wrapped and coloured in a terminal."""

import datetime
import json
import os
import pty
import re
import subprocess
import sys

import pytest
from bson import Int64, ObjectId

from recommender.core.terminal import print_json
from tests.support import PROJECT

PROGRAM = """
import logging, sys
from recommender.core.script import run_script
from recommender.core.terminal import print_table, progress

def main(argv):
    with progress() as display:
        display.add_task("phase train", total=9.0)
        display.refresh()
        logging.warning("meanwhile")
    print_table("Title", [("name", "caf\\u00e9 " * 40), ("[red]", "2")], ("", "text"))
    return 0

raise SystemExit(run_script(main))
"""


def environment(**more: str) -> dict[str, str]:
    unset = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "LANG", "LC_ALL"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"PYTHONPATH": str(PROJECT), "TERM": "xterm-256color"} | more


def in_a_terminal(**more: str) -> str:
    """Run the program with a terminal of 80 columns and return what it wrote to it."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment(COLUMNS="80", **more),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    written = b""
    while chunk := read(master):
        written += chunk
    os.close(master)
    assert process.wait(30) == 0, written
    return written.decode()


def read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # Linux's answer once the other end is closed
        return b""


def test_a_terminal_has_progress_below_the_log_and_a_table_that_fits() -> None:
    for colour, more in ((True, {}), (False, {"NO_COLOR": "1"}), (True, {"LC_ALL": "C"})):
        written = in_a_terminal(**more)
        assert "phase train" in written
        # The line of the log replaces the display, which is drawn again below.
        assert re.search(r"\x1b\[2K[0-9]{4}-[^\r\n]+WARNING root: meanwhile\r\n", written)
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", written)) == colour
        table = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.partition("Title")[2])
        assert table.count("caf\u00e9") == 40
        assert "[red]" in table
        assert 80 - 10 < max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_pipe_has_plain_lines(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        check=True,
    )
    word = "caf\u00e9" if encoding == "utf-8" else "caf\\xe9"
    lines = ["Title", "         text", "  name   " + " ".join([word] * 40), "  [red]  2"]
    assert done.stdout.decode(encoding).splitlines() == lines
    assert done.stderr.decode().endswith(" WARNING root: meanwhile\n")
    assert done.stderr.count(b"\n") == 1


def test_json_has_plain_dates_and_numbers_and_ids_of_any_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC)
    user_id = ObjectId("0123456789ab0123456789ab")
    print_json({"at": moment, "user_id": user_id, "count": Int64(2**40), "name": "caf\u00e9\n"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {
        "at": "2026-01-02T03:00:00+00:00",
        "user_id": {"$oid": str(user_id)},
        "count": 2**40,
        "name": "caf\u00e9\n",
    }
