"""The service's log lines."""

import json
import logging
import sys
from datetime import datetime

from recommender.service.logs import service_formatter


def test_a_record_is_one_json_line_with_its_fields_and_no_secret() -> None:
    secret = 'pass"word'
    try:
        raise ValueError(secret)
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "", 1, "%s\n", (secret,), sys.exc_info())
    record.run_id = "r1"
    line = service_formatter([secret], is_terminal=False).format(record)
    fields = json.loads(line)
    assert line.splitlines() == [line]
    assert (fields["level"], fields["event"], fields["run_id"]) == ("error", "***", "r1")
    assert "ValueError: ***" in fields["exception"]
    assert datetime.fromisoformat(fields["timestamp"]).utcoffset() is not None
    assert "phase" not in fields


def test_a_terminal_gets_colours() -> None:
    record = logging.LogRecord("name", logging.WARNING, "file.py", 1, "hello", (), None)
    assert "\x1b[" in service_formatter([], is_terminal=True).format(record)
