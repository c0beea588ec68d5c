"""What all scripts share: logs without secrets, signals, and one line and exit code a failure."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

from recommender.errors import RecommenderError
from recommender.mongo import one_line, secrets_in, secrets_of
from recommender.settings import Settings

# What each exit code means, in the order of --help.
EXIT_CODES = {
    0: "success",
    1: "an unexpected failure; the log has its traceback",
    2: "usage: an invalid argument",
    65: "data: nothing that can be trained on, or an unreadable file",
    69: "MongoDB is unavailable or refused",
    70: "Spark failed, or what was staged failed its checks; nothing was published",
    75: "another training is in progress, or took over",
    76: "the gate rejected the model: what was published before stays",
    78: "configuration: an invalid setting, or Java is missing",
    124: "the training took longer than TRAIN_TIMEOUT_MINUTES",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
    141: "the reader of the output is gone, as after `| head`",
}
TRAINING_CODES = (65, 69, 70, 75, 76, 124)
READER_CODES = (65, 69)
_EVERY_SCRIPT = (0, 1, 2, 78, 130, 143, 141)

_SECOND_TRY_SECONDS = 0.5
_BEFORE_EXIT_SECONDS = 5.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The secrets of this process; a script's last line is written without logging.
_secrets: list[str] = []
# Called by a stop before it raises.
_stop_callbacks: list[Callable[[], object]] = []

# How long a stop may take, and what ends it then.
_graces: list[float] = []
_limits: list[threading.Timer] = []

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Stopped(BaseException):
    """Raised in the main thread to stop the script.

    Not an :class:`Exception`, so that no handler of ordinary failures swallows it.
    """

    exit_code: int


class Cancelled(Stopped):
    """The script was stopped by a signal."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


class TimedOut(Stopped):
    """The training exceeded its time limit."""

    exit_code = 124  # that of timeout(1)

    def __init__(self, minutes: float) -> None:
        super().__init__(
            f"the training took longer than TRAIN_TIMEOUT_MINUTES={minutes:g}; nothing more was "
            "published; its log and the ledger name the phase that it was in; raise the setting if "
            "it needs more time"
        )


class RedactingFormatter(logging.Formatter):
    """Formats log records with secrets masked and control characters removed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(_LOG_FORMAT)
        self._secrets = secrets

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record's line; control characters in its message become spaces."""
        record.message = one_line(redact(record.message, self._secrets), limit=10_000)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text; the lines of a traceback are indented."""
        text = redact(super().format(record), self._secrets)
        return "\n  ".join(text.splitlines())


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return ``text`` with every secret replaced by ``***``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def script_parser(
    description: str, *codes: int, prog: str | None = None
) -> argparse.ArgumentParser:
    """Return a script's parser, whose help ends with the script's exit codes.

    Parameters
    ----------
    codes
        The keys of `EXIT_CODES` that this script can end with, besides those of every script.
    """
    known = [code for code in EXIT_CODES if code in (*_EVERY_SCRIPT, *codes)]
    lines = [f"  {code:<4} {EXIT_CODES[code]}" for code in known]
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="\n".join(["exit codes:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def configure_logging(settings: Settings) -> None:
    """Log to stderr from ``LOG_LEVEL`` up, with the settings' secrets masked."""
    log_to_stderr(settings.log_level, secrets_of(settings))
    for library in ("py4j", "pymongo", "apscheduler", "urllib3"):
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.root.level))


def log_to_stderr(level: str, secrets: Sequence[str]) -> None:
    """Log to stderr from a level up, with these secrets masked."""
    _secrets[:] = secrets
    handler = logging.StreamHandler(sys.stderr)
    set_log_format(handler, secrets)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def set_log_format(handler: logging.Handler, secrets: Sequence[str]) -> None:
    """Mask secrets in a handler's lines, and drop py4j's own records."""
    handler.setFormatter(RedactingFormatter(secrets))
    # py4j logs a traceback for every call that a signal interrupts. A call that fails raises an
    # error too, which is logged where it is handled.
    handler.addFilter(lambda record: "/py4j/" not in record.pathname)


def raise_on_signals() -> None:
    """Make SIGTERM and SIGINT raise :class:`Cancelled`, so that clean-up code runs."""

    def stop(signum: int, _frame: object) -> NoReturn:
        _limit_stop(signum)
        _stop(partial(Cancelled, signum))

    for signum in _STOP_SIGNALS:
        signal.signal(signum, stop)


@contextmanager
def call_on_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Call ``callback`` as soon as a signal or the time limit stops the block, before clean-up.

    For a process that the block waits for. Libraries wait for its answer again during their
    clean-up, for as long as it works, unless it is ended first.
    """
    _stop_callbacks.append(callback)
    try:
        yield
    finally:
        _stop_callbacks.remove(callback)


@contextmanager
def stop_limit(grace_seconds: float) -> Iterator[None]:
    """End the process if a stop by a signal takes longer than the grace, as where MongoDB hangs."""
    _graces.append(grace_seconds)
    try:
        yield
    finally:
        _graces.remove(grace_seconds)
        while _limits:
            _limits.pop().cancel()


def _limit_stop(signum: int) -> None:
    for grace in _graces[-1:]:
        limit = threading.Timer(grace, os._exit, (Cancelled(signum).exit_code,))
        limit.daemon = True
        limit.start()
        _limits.append(limit)


@contextmanager
def time_limit(
    minutes: float, grace_seconds: float, before_exit: Callable[[TimedOut], object]
) -> Iterator[None]:
    """Raise :class:`TimedOut` in a block that takes too long, even inside a blocking call.

    If its clean-up exceeds the grace, the process exits at once, with the same code. Only the main
    thread can be interrupted; in other threads there is no limit.

    Parameters
    ----------
    minutes
        How long the block may take.
    grace_seconds
        How long its clean-up may take.
    before_exit
        Called with the reason before the process exits at once, in another thread; abandoned after
        five seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> NoReturn:
        _stop(partial(TimedOut, minutes))

    over = threading.Event()
    arguments = (minutes, grace_seconds, before_exit, over)
    watch = threading.Thread(target=_watch_time, args=arguments, name="time limit", daemon=True)
    before = signal.signal(signal.SIGALRM, stop)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
        if signal.getsignal(signal.SIGALRM) is stop:  # else the clean-up uses it
            signal.signal(signal.SIGALRM, before)


def _watch_time(
    minutes: float,
    grace_seconds: float,
    before_exit: Callable[[TimedOut], object],
    over: threading.Event,
) -> None:
    if over.wait(minutes * 60):
        return
    # A signal to the thread itself interrupts the system call that it is in.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
    if over.wait(grace_seconds):
        return
    reason = TimedOut(minutes)
    print_error(f"{reason}; it did not clean up within {grace_seconds:g} s")
    closing = threading.Thread(target=before_exit, args=(reason,), name="before exit", daemon=True)
    closing.start()
    closing.join(_BEFORE_EXIT_SECONDS)
    os._exit(TimedOut.exit_code)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold back stop signals and the time limit until the block has finished.

    A signal that arrives meanwhile raises :class:`Stopped` after the block, also in place of an
    exception of the block. Only the main thread receives signals; in others nothing is deferred.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def defer(signum: int, _frame: object) -> None:
        received.append(signum)
        if signum in _STOP_SIGNALS:
            _limit_stop(signum)

    signals = (*_STOP_SIGNALS, signal.SIGALRM)
    handlers = [signal.getsignal(signum) for signum in signals]
    for signum in signals:
        signal.signal(signum, defer)
    try:
        yield
    finally:
        for signum, handler in zip(signals, handlers, strict=True):
            signal.signal(signum, handler)
        if received:
            signal.raise_signal(received[0])


def _stop(reason: Callable[[], Stopped]) -> NoReturn:
    ignore_signals()  # a second one must not interrupt the clean-up
    signal.signal(signal.SIGALRM, lambda *_: _raise_if_lost(reason))
    signal.setitimer(signal.ITIMER_REAL, _SECOND_TRY_SECONDS, _SECOND_TRY_SECONDS)
    for callback in _stop_callbacks:
        with suppress(OSError):
            callback()
    raise reason()


def _raise_if_lost(reason: Callable[[], Stopped]) -> None:
    """Raise the stop again if Python dropped it, as it does in a finaliser."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, Stopped):
            return  # it is propagating, and this is the clean-up
        error = error.__context__
    raise reason()


def ignore_signals() -> None:
    """Ignore stop signals from now on, and cancel the second try of a stop."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum in _STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def run_script(main: Callable[[Sequence[str] | None], int]) -> int:
    """Run a script's ``main`` and return its exit code, or that of its failure.

    Parameters
    ----------
    main
        Takes the arguments (None: the command line's) and returns an exit code.
    """
    raise_on_signals()
    log_to_stderr("INFO", secrets_of_environment())
    try:
        code = main(None)
        sys.stdout.flush()
        return code
    except RecommenderError as error:
        print_error(str(error))
        return error.exit_code
    except Stopped as stop:
        print_error(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        print_error("stopped by SIGINT")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output, such as `head`, is gone; Python's own flush must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # a bug: its traceback is logged
        logging.getLogger(__name__).exception("unexpected failure")
        print_error(f"{type(error).__name__}: {error}")
        return 1
    finally:
        ignore_signals()  # only the interpreter's own end is left


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process with one line and its exit code if the block raises an expected error.

    For the startup of the application inside another program's server. That server would log a
    traceback of any exception, `SystemExit` included, and exit with a code of its own. Nothing has
    been started yet that needs to be cleaned up.
    """
    try:
        yield
    except RecommenderError as error:
        print_error(str(error))
        os._exit(error.exit_code)


def secrets_of_environment() -> list[str]:
    """Return the secrets that the environment holds, for use before the settings are read."""
    return secrets_in(os.environ.get("MONGO_URI", ""), os.environ.get("API_KEY", ""))


def print_error(reason: str) -> None:
    """Write a script's last line, its error, to stderr."""
    sys.stderr.write(f"error: {one_line(redact(reason, [*_secrets, *secrets_of_environment()]))}\n")
