"""What every script does alike: logging without secrets, signals, one line and one exit code."""

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

EXIT_CODES = """\
exit codes:
  0    success
  1    an unexpected failure; the log has its traceback
  2    usage: an argument that cannot be
  65   data: nothing that can be trained on, or an unreadable file
  69   MongoDB is unavailable or refused
  70   Spark failed, or what was staged failed its checks; nothing was published
  75   another training is in progress, or took over
  76   the gate rejected the model: what was published before stays
  78   configuration: a setting that cannot be, or Java is missing
  124  the training took longer than TRAIN_TIMEOUT_MINUTES
  130  stopped by Ctrl-C
  143  stopped by SIGTERM
  141  nobody reads the output any more, as after `| head`
"""

_SECOND_TRY_SECONDS = 0.5
_LAST_WORDS_SECONDS = 5.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What this process may not show; a script's last line is written without the logging's help.
_hidden: list[str] = []
# What a stop calls before it unwinds.
_to_tell: list[Callable[[], object]] = []

# How long a stop may take, and what ends it then.
_graces: list[float] = []
_limits: list[threading.Timer] = []

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Stopped(BaseException):
    """Raised in the main thread to stop whatever it does.

    Not an :class:`Exception`, so that no handler of ordinary failures swallows it.
    """

    exit_code: int


class Cancelled(Stopped):
    """A signal asks the script to stop."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


class TimedOut(Stopped):
    """The training took longer than it may."""

    exit_code = 124  # that of timeout(1)

    def __init__(self, minutes: float) -> None:
        super().__init__(
            f"the training took longer than TRAIN_TIMEOUT_MINUTES={minutes:g}; nothing more was "
            "published; its log and the ledger say what it was at; raise the setting if it only "
            "needs longer"
        )


class RedactingFormatter(logging.Formatter):
    """Formats a record with the secrets blotted out and no way to forge another line."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(_LOG_FORMAT)
        self._secrets = secrets

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record's line; control characters in its message become spaces."""
        record.message = one_line(redact(record.message, self._secrets), limit=10_000)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text; the lines of a traceback are set in."""
        text = redact(super().format(record), self._secrets)
        return "\n  ".join(text.splitlines())


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return ``text`` with every secret replaced by ``***``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def script_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """Return a script's parser, whose help ends with the exit codes."""
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def configure_logging(settings: Settings) -> None:
    """Send log lines to stderr, from ``LOG_LEVEL`` up, with the settings' secrets blotted out."""
    _log_to_stderr(settings.log_level, secrets_of(settings))
    for chatty in ("py4j", "pymongo", "apscheduler", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def _log_to_stderr(level: str, secrets: Sequence[str]) -> None:
    _hidden[:] = secrets
    handler = logging.StreamHandler(sys.stderr)
    make_fit(handler, secrets)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def make_fit(handler: logging.Handler, secrets: Sequence[str]) -> None:
    """Make a log fit to be read by anybody: without secrets and forged lines, and to the point."""
    handler.setFormatter(RedactingFormatter(secrets))
    # py4j tells the root logger, with a traceback, of every call that a signal cut short; of a
    # call that failed it raises an error too, which is logged where it is understood.
    handler.addFilter(lambda record: "/py4j/" not in record.pathname)


def raise_on_signals() -> None:
    """Make SIGTERM and SIGINT raise :class:`Cancelled`, so that what was begun is cleaned up."""

    def stop(signum: int, _frame: object) -> NoReturn:
        _limit_stop(signum)
        _stop(partial(Cancelled, signum))

    for signum in _STOP_SIGNALS:
        signal.signal(signum, stop)


@contextmanager
def told_to_stop(tell: Callable[[], object]) -> Iterator[None]:
    """Have ``tell`` called at once when a signal or the time limit stops the block.

    For a process that the block waits for: libraries wait for its answer once more while they
    clean up, and would do so until it is done.
    """
    _to_tell.append(tell)
    try:
        yield
    finally:
        _to_tell.remove(tell)


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
    minutes: float, grace_seconds: float, last_words: Callable[[TimedOut], object]
) -> Iterator[None]:
    """Raise :class:`TimedOut` in a block that takes too long, whatever call it hangs in.

    If it has not cleaned up after the grace, the process ends there and then, with the same code.
    Only the main thread can be interrupted; elsewhere there is no limit.

    Parameters
    ----------
    minutes
        How long the block may take.
    grace_seconds
        How long its cleaning up may take.
    last_words
        Called with the reason before the process ends there and then, from another thread; given
        up where it takes more than some seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> NoReturn:
        _stop(partial(TimedOut, minutes))

    over = threading.Event()
    arguments = (minutes, grace_seconds, last_words, over)
    watch = threading.Thread(target=_watch_time, args=arguments, name="time limit", daemon=True)
    before = signal.signal(signal.SIGALRM, stop)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
        if signal.getsignal(signal.SIGALRM) is stop:  # else the clean-up has it
            signal.signal(signal.SIGALRM, before)


def _watch_time(
    minutes: float,
    grace_seconds: float,
    last_words: Callable[[TimedOut], object],
    over: threading.Event,
) -> None:
    if over.wait(minutes * 60):
        return
    # A signal to that very thread cuts short the system call that it is in.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
    if over.wait(grace_seconds):
        return
    reason = TimedOut(minutes)
    _complain(f"{reason}; it did not clean up within {grace_seconds:g} s")
    saying = threading.Thread(target=last_words, args=(reason,), name="last words", daemon=True)
    saying.start()
    saying.join(_LAST_WORDS_SECONDS)
    os._exit(TimedOut.exit_code)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let the block finish before a signal that asks to stop, or a time limit, is heeded.

    For what must not be cut in two: what came meanwhile raises :class:`Stopped` after it, also in
    place of what the block raises. Only the main thread hears signals; elsewhere there is nothing
    to defer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def defer(signum: int, _frame: object) -> None:
        came.append(signum)
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
        if came:
            signal.raise_signal(came[0])


def _stop(reason: Callable[[], Stopped]) -> NoReturn:
    _ignore_signals()  # a second one must not cut the clean-up short
    signal.signal(signal.SIGALRM, lambda *_: _raise_if_lost(reason))
    signal.setitimer(signal.ITIMER_REAL, _SECOND_TRY_SECONDS, _SECOND_TRY_SECONDS)
    for tell in _to_tell:
        with suppress(OSError):
            tell()
    raise reason()


def _raise_if_lost(reason: Callable[[], Stopped]) -> None:
    """Raise again what was raised where Python drops exceptions, such as in a finaliser."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, Stopped):
            return  # it is on its way up, and this is the clean-up
        error = error.__context__
    raise reason()


def _ignore_signals() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum in _STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def run_script(main: Callable[[Sequence[str] | None], int]) -> int:
    """Run a script's ``main`` and return the exit code of what became of it.

    Parameters
    ----------
    main
        Takes the arguments (None: the command line's) and returns an exit code.
    """
    raise_on_signals()
    _log_to_stderr("INFO", _secrets_of_the_environment())
    try:
        code = main(None)
        sys.stdout.flush()
        return code
    except RecommenderError as error:
        _complain(str(error))
        return error.exit_code
    except Stopped as stop:
        _complain(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        _complain("stopped by SIGINT")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone; Python's own flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # the last resort of a process: said in one line
        logging.getLogger(__name__).exception("unexpected failure")
        _complain(f"{type(error).__name__}: {error}")
        return 1
    finally:
        _ignore_signals()  # all is done but the interpreter's own end


@contextmanager
def ended_in_one_line() -> Iterator[None]:
    """End the process on an expected failure as a script does, where another program has the rest.

    Raises
    ------
    SystemExit
        In place of a :class:`RecommenderError`, with its exit code.
    """
    _hidden[:] = _secrets_of_the_environment()
    try:
        yield
    except RecommenderError as error:
        _complain(str(error))
        raise SystemExit(error.exit_code) from None


def _secrets_of_the_environment() -> list[str]:
    """Return what could be shown until the settings are read."""
    return secrets_in(os.environ.get("MONGO_URI", ""), os.environ.get("API_KEY", ""))


def _complain(reason: str) -> None:
    sys.stderr.write(f"error: {one_line(redact(reason, _hidden))}\n")
