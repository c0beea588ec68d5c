"""Stops: signals and the time limit as exceptions in the main thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

from recommender.core.logs import print_error

_SECOND_TRY_SECONDS = 0.5
_BEFORE_EXIT_SECONDS = 5.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Called by a stop before it raises.
_stop_callbacks: list[Callable[[], object]] = []

# How long a stop may take, and what ends it then.
_graces: list[float] = []
_limits: list[threading.Timer] = []


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
