"""The entry of all scripts: exit codes, signals, and log lines without secrets."""

import importlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from urllib.parse import quote_plus

import pytest

from recommender.core import errors
from recommender.core.errors import LeaseHeldError, RecommenderError
from recommender.core.logs import (
    RedactingFormatter,
    configure_logging,
    redact,
    secrets_of,
)
from recommender.core.script import EXIT_CODES, run_script
from recommender.core.settings import load_settings
from recommender.core.signals import Cancelled
from recommender.demo.commands import PROJECT

CODES = {
    "RecommenderError": 1,
    "DataError": 65,
    "DatabaseUnavailableError": 69,
    "NoPreviousError": 66,
    "PublishError": 70,
    "SparkError": 70,
    "ModelRejectedError": 76,
    "LeaseHeldError": 75,
    "LeaseLostError": 75,
    "ConfigurationError": 78,
}
PASSWORD = "s3/cr@et: %41+x"


pytestmark = pytest.mark.usefixtures("signals_and_logging_stay_as_they_are")


def start(body: str, redirect: str = "", **environment: str) -> subprocess.Popen[str]:
    """Start a script whose main has this body, with a shell's redirection of its output."""
    program = (
        "import os, signal, socket, sys, threading\n"
        f"sys.path.insert(0, {str(PROJECT)!r})\n"
        "from recommender.core.script import run_script\n"
        f"def main(argv):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "raise SystemExit(run_script(main))\n"
    )
    return subprocess.Popen(
        ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def failed(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Return its code, what it printed, and the signals and settings that its one error names."""
    code, out, err = ended(process)
    assert re.fullmatch("error: .+\n", err), err
    return code, out, re.findall(r"[A-Z_]{4,}(?:=[0-9.]+)?", err)


def formatted(message: str, *arguments: object, secrets: Sequence[str] = ()) -> str:
    record = logging.LogRecord("name", logging.INFO, "file.py", 1, message, arguments, None)
    return RedactingFormatter(secrets).format(record)


def logged_failure(error: Exception, secrets: Sequence[str]) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter(secrets))
    logger = logging.Logger("failing")
    logger.addHandler(handler)
    try:
        raise error
    except type(error):
        logger.exception("it failed")
    return stream.getvalue()


def test_every_error_class_has_a_documented_exit_code() -> None:
    codes = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, RecommenderError)
    }
    assert codes == CODES
    assert set(EXIT_CODES) == {*CODES.values(), 0, 2, 124, 130, 141, 143}


def test_an_expected_failure_is_one_line_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    for name, code in CODES.items():
        kind = getattr(errors, name)
        error = kind({"run_id": "two\nlines"}) if kind is LeaseHeldError else kind("two\nlines")

        def main(_: Sequence[str] | None, error: RecommenderError = error) -> int:
            raise error

        assert run_script(main) == code
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert "two lines" in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""


def test_main_reads_the_command_line_and_returns_the_exit_code() -> None:
    assert run_script(lambda argv: 7 if argv is None else 1) == 7


def test_a_usage_error_keeps_argparses_code() -> None:
    assert ended(start("import argparse; argparse.ArgumentParser().parse_args(['--x'])"))[0] == 2


def test_an_unexpected_failure_is_logged_with_its_traceback_and_ends_in_one_line() -> None:
    code, out, err = ended(start("raise KeyError('two\\nlines')"))
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert err.splitlines()[-1] == r"error: KeyError: 'two\nlines'"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)
def test_a_signal_lets_the_script_clean_up_and_sets_its_code(number: int, code: int) -> None:
    process = start(
        """
        try:
            print("ready", flush=True)
            threading.Event().wait()
        finally:
            print("cleaned up", flush=True)
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert failed(process) == (code, "cleaned up\n", [signal.Signals(number).name])


def test_a_script_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the script inherits
    try:
        process = start("os.kill(os.getpid(), signal.SIGHUP); print('goes on')")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended(process) == (0, "goes on\n", "")


def test_an_ordinary_handler_does_not_swallow_the_signal() -> None:
    process = start(
        """
        try:
            print("ready", flush=True)
            threading.Event().wait()
        except Exception:
            return 0
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert ended(process)[0] == 143


@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT"])
def test_a_second_signal_does_not_cut_the_clean_up_short(first: str) -> None:
    process = start(
        f"""
        try:
            os.kill(os.getpid(), signal.{first})
            threading.Event().wait(30)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            print("cleaned up", flush=True)
        """
    )
    code, out, _ = ended(process)
    assert (code, out) == (128 + signal.Signals[first], "cleaned up\n")


def test_a_callback_is_called_before_the_clean_up() -> None:
    process = start(
        """
        from recommender.core.signals import call_on_stop
        here, other = socket.socketpair()
        calls = []
        with call_on_stop(lambda: calls.append("another block's")):
            pass
        with call_on_stop(other.close):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(25)
            finally:
                print(here.recv(1), calls, flush=True)
        """
    )
    assert failed(process) == (143, "b'' []\n", ["SIGTERM"])


def test_a_signal_dropped_by_a_finaliser_is_raised_again() -> None:
    process = start(
        """
        class Dropped:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(0.01)
        Dropped()
        threading.Event().wait(25)
        """
    )
    assert failed(process) == (143, "", ["SIGTERM"])


def test_a_long_clean_up_is_not_cut_short_by_the_second_try() -> None:
    process = start(
        """
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(25)
        finally:
            threading.Event().wait(1.2)
            print("cleaned up", flush=True)
        """
    )
    code, out, _ = ended(process)
    assert (code, out) == (143, "cleaned up\n")


HANGS = {
    "in Python": "threading.Event().wait(25)",
    "in a system call": "here, other = socket.socketpair(); here.recv(1)",
    "in a handler of ordinary failures": """
    try:
        threading.Event().wait(25)
    except Exception:
        return 0
    """,
}


@pytest.mark.parametrize("hang", HANGS)
def test_a_training_that_hangs_is_stopped_and_cleans_up(hang: str) -> None:
    process = start(
        f"""
        from recommender.core.signals import time_limit
        try:
            with time_limit(0.005, 20, print):
                {textwrap.indent(textwrap.dedent(HANGS[hang]), " " * 16).strip()}
        finally:
            print("cleaned up", flush=True)
        """
    )
    assert failed(process) == (124, "cleaned up\n", ["TRAIN_TIMEOUT_MINUTES=0.005"])


LAST_WORDS = {
    "said": "print('last words:', reason.exit_code, flush=True)",
    "hanging": "print('last words:', reason.exit_code, flush=True), threading.Event().wait(25)",
    "failing": "print('last words:', reason.exit_code, flush=True), 1 / 0",
}


@pytest.mark.parametrize("how", LAST_WORDS)
def test_a_clean_up_that_hangs_ends_after_the_grace(how: str) -> None:
    process = start(
        f"""
        from recommender.core import signals
        signals._BEFORE_EXIT_SECONDS = 0.3
        with signals.time_limit(0.005, 0.3, lambda reason: ({LAST_WORDS[how]})):
            try:
                threading.Event().wait(25)
            finally:
                print("cleaning up", flush=True)
                threading.Event().wait(25)
        """
    )
    code, out, err = ended(process)
    assert (code, out) == (124, "cleaning up\nlast words: 124\n")
    assert "0.3 s" in err


def test_a_time_limit_waits_for_a_deferring_block() -> None:
    process = start(
        """
        from recommender.core.signals import signals_deferred, time_limit
        with time_limit(0.005, 20, print):
            with signals_deferred():
                threading.Event().wait(1)
                print("whole", flush=True)
            print("not reached", flush=True)
        """
    )
    assert ended(process)[:2] == (124, "whole\n")


def test_a_stop_outlives_the_failure_of_a_deferring_block() -> None:
    process = start(
        """
        from recommender.core.signals import signals_deferred
        with signals_deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            raise KeyError("of the stop, perhaps")
        """
    )
    assert failed(process) == (143, "", ["SIGTERM"])


def test_a_block_that_ends_in_time_leaves_no_limit_behind() -> None:
    process = start(
        """
        from recommender.core.signals import time_limit
        before = signal.getsignal(signal.SIGALRM)
        with time_limit(0.005, 0.1, print):
            pass
        assert signal.getsignal(signal.SIGALRM) is before
        threading.Event().wait(0.6)
        """
    )
    assert ended(process) == (0, "", "")


def test_a_signal_before_the_limit_decides_the_exit_code() -> None:
    process = start(
        """
        from recommender.core.signals import time_limit
        with time_limit(0.01, 20, print):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                threading.Event().wait(0.9)
                print("cleaned up", flush=True)
        """
    )
    assert ended(process)[:2] == (143, "cleaned up\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start(
        """
        while True:
            print("line", flush=True)
        """
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_reader_that_goes_away_before_the_last_flush_is_no_error() -> None:
    process = start("print('line')", PYTHONUNBUFFERED="")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_an_output_that_cannot_be_written_is_one_line_and_no_traceback(size: int) -> None:
    for unbuffered in ("", "1"):
        body = f"sys.stdout.write('x' * {size}); return 0"
        code, _, named = failed(start(body, ">/dev/full", PYTHONUNBUFFERED=unbuffered))
        assert (code, named) == (141, [])
    assert ended(start("raise OSError(28, 'No space left', 'another file')"))[0] == 1
    body = "from recommender.core.errors import DataError; raise DataError('no')"
    assert ended(start(body, "2>/dev/full"))[0] == 65


def test_a_terminal_without_a_character_shows_its_code() -> None:
    process = start("print('caf\u00e9 \u00b1 0.1'); return 0", PYTHONIOENCODING="ascii")
    assert process.communicate(timeout=30) == ("caf\\xe9 \\xb1 0.1\n", "")


def test_cancelled_is_no_ordinary_exception() -> None:
    assert not issubclass(Cancelled, Exception)
    assert "SIGTERM" in str(Cancelled(signal.SIGTERM))


def test_the_password_is_masked_in_messages_arguments_and_tracebacks() -> None:
    assert redact("one two, two one", ["one", "two"]) == "*** ***, *** ***"
    encoded = quote_plus(PASSWORD)
    uri = f"mongodb://user:{encoded}@host:1/?tls=true"
    secrets = secrets_of(load_settings(mongo_uri=uri))
    for shown in (uri, encoded, PASSWORD):
        for text in (
            formatted(f"connecting with {shown}", secrets=secrets),
            formatted("connecting with %s and %r", shown, {"password": shown}, secrets=secrets),
            logged_failure(ValueError(f"refused {shown}"), secrets),
        ):
            assert "***" in text
            assert not any(secret in text for secret in (uri, encoded, PASSWORD))


def test_the_api_key_is_masked() -> None:
    secrets = secrets_of(load_settings(api_key="k3y-of-the-api"))
    assert formatted("sent k3y-of-the-api", secrets=secrets).endswith(": sent ***")


def test_a_password_of_one_letter_does_not_mask_the_log() -> None:
    secrets = secrets_of(load_settings(mongo_uri="mongodb://u:a@h/", api_key="b"))
    assert formatted("a bad database", secrets=secrets).endswith(": a bad database")


def test_a_line_break_in_a_message_does_not_forge_a_line() -> None:
    forged = "bad\r\n2026-01-01 00:00:00,000 INFO recommender: all is well\x1b[2J\x85\u2028end"
    for text in (formatted(forged), formatted("%s", forged)):
        assert len(text.splitlines()) == 1
        assert text.isprintable()
        assert text.endswith("INFO recommender: all is well [2J end")


def test_a_line_has_its_level_and_logger() -> None:
    assert formatted("hello").endswith(" INFO name: hello")


def test_logs_go_to_stderr_from_the_level_set_up(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(load_settings(log_level="WARNING", mongo_uri="mongodb://u:s3cret@h/"))
    logging.getLogger("x").info("not shown")
    logging.getLogger("x").warning("shown %s", "s3cret")
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("WARNING x: shown ***\n")
    assert "not shown" not in printed.err


def test_libraries_log_warnings_only() -> None:
    configure_logging(load_settings(log_level="DEBUG"))
    for library in ("pymongo", "py4j", "apscheduler", "urllib3"):
        assert not logging.getLogger(f"{library}.part").isEnabledFor(logging.INFO)
        assert logging.getLogger(f"{library}.part").isEnabledFor(logging.WARNING)


def test_py4j_logs_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logging(load_settings())
    for module in ("/lib/py4j/java_gateway.py", "/lib/py4jersey/other.py"):
        record = {"name": "root", "levelno": logging.ERROR, "pathname": module, "msg": module}
        logging.root.handle(logging.makeLogRecord(record))
    assert capfd.readouterr().err.splitlines()[0].endswith("/lib/py4jersey/other.py")


ANY_SCRIPT = {0, 1, 2, 78, 130, 141, 143}
OWN_CODES = {
    "als_training": {65, 66, 69, 70, 75, 76, 124},
    "clustering_training": {65, 69, 70, 75, 76, 124},
    "clus_test": {65, 69},
    "clus_counter": {65, 69},
    "model": {69},
}


@pytest.mark.parametrize("script", OWN_CODES)
def test_help_lists_the_exit_codes_of_the_script(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.partition("exit codes:\n")[2].splitlines()
    assert {int(line.split()[0]) for line in lines} == ANY_SCRIPT | OWN_CODES[script]


def test_a_success_that_nobody_reads_is_no_failure() -> None:
    body = "sys.stdout.write('x' * 100_000); return 0"
    assert ended(start(body, ">&-")) == (0, "", "")
    process = start(body)
    assert process.stdout
    process.stdout.close()
    assert ended(process) == (141, "", "")


def test_an_error_that_nobody_reads_keeps_its_code() -> None:
    body = "from recommender.core.errors import DataError; raise DataError('no')"
    assert ended(start(body, "2>&-"))[0] == 65
    process = start(body)
    assert process.stderr
    process.stderr.close()
    assert ended(process)[0] == 65


@pytest.mark.parametrize("kind", ["RuntimeError", "recommender.core.errors.DataError"])
def test_the_last_line_of_a_script_shows_no_password(kind: str) -> None:
    uri = "mongodb://u:s3cret@h/"
    process = start(
        f"import recommender.core.errors; raise {kind}('no way to {uri}')", MONGO_URI=uri
    )
    assert "s3cret" not in ended(process)[2]


def test_a_line_break_in_an_exception_forges_no_line() -> None:
    forged = "2026-01-01 00:00:00,000 INFO recommender: all is well"
    lines = logged_failure(ValueError(f"a\n{forged}"), []).splitlines()
    assert forged not in lines
