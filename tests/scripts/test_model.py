"""``python model.py``, before it serves."""

import json
import logging
import sys
from collections.abc import Callable

import pytest

import model
from recommender.core.errors import ConfigurationError


def test_json_logs_as_json_on_a_terminal(
    run_here: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def connect(_: object) -> None:
        logging.getLogger("some").warning("hello")
        raise ConfigurationError("as far as this test goes")

    monkeypatch.setattr(model, "connect", connect)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logged = {}
    for arguments in ((), ("--json",)):
        assert run_here(model.main, *arguments) == ConfigurationError.exit_code
        logged[arguments] = capsys.readouterr().err.splitlines()[0]
    assert "\x1b[" in logged[()]
    assert json.loads(logged[("--json",)])["event"] == "hello"
