"""Stops: signals and the time limit as exceptions in the main thread."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from recommender.core.logs import print_error

_SECOND_TRY_SECONDS = 0.5
_BEFORE_EXIT_SECONDS = 5.0  # after the grace of the time limit
_CLOSING_SECONDS = 1.0  # before the end of the grace of a signal
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_stop_callbacks: list[Callable[[], object]] = []  # called by a stop before it raises
# Seconds that a stop by a signal may take, what is called before they are over, and the timers.
_graces: list[tuple[float, Callable[[Any], object]]] = []
_timers: list[threading.Timer] = []
_reasons: list[str] = []  # why this process sends a stop signal to itself


class Stopped(BaseException):
    """Raised in the main thread to stop the script; handlers of `Exception` let it pass."""

    exit_code: int


class Cancelled(Stopped):
    """The script was stopped by a signal."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum
        super().__init__(_reasons[-1] if _reasons else f"stopped by {signal.Signals(signum).name}")


class TimedOut(Stopped):
    """The training exceeded its time limit."""

    exit_code = 124  # that of timeout(1)

    def __init__(self, minutes: float) -> None:
        super().__init__(
            f"the training took longer than TRAIN_TIMEOUT_MINUTES={minutes:g}; nothing more was "
            "published; its log and the ledger name its phase; raise the setting if it needs more"
        )


def raise_on_signals() -> None:
    """Make SIGTERM, SIGINT and SIGHUP raise :class:`Cancelled`; nohup's SIGHUP stays ignored."""
    terminals = [fd for fd in (1, 2) if os.isatty(fd)]

    def stop(signum: int, _frame: object) -> NoReturn:
        _limit_stop(signum)
        _stop(Cancelled(signum))

    def hang_up(*_: object) -> None:
        for fd in terminals:
            if not os.isatty(fd):  # it is gone: what is printed is dropped, and no error
                os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
        stop_main_thread("stopped by SIGHUP")

    for signum in _STOP_SIGNALS:
        signal.signal(signum, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    # A stop that Python drops in a finaliser is raised again, see `_stop`.
    sys.unraisablehook = lambda d: isinstance(d.exc_value, Stopped) or sys.__unraisablehook__(d)


def stop_main_thread(reason: str) -> None:
    """Stop the script from any thread, as SIGTERM does; ``reason`` is then its error."""
    _reasons.append(reason)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def ignore_signals() -> None:
    """Ignore stop signals from now on, and cancel the second try of a stop."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum in (*_STOP_SIGNALS, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


@contextmanager
def call_on_stop(callback: Callable[[], object]) -> Iterator[None]:
    """Call ``callback`` when the block is stopped, before clean-up that waits for a process."""
    _stop_callbacks.append(callback)
    try:
        yield
    finally:
        _stop_callbacks.remove(callback)


def _limit_stop(signum: int) -> None:
    for grace, before_exit in _graces[-1:]:
        call_after(max(grace - _CLOSING_SECONDS, grace / 2), before_exit, Cancelled(signum))
        call_after(grace, os._exit, 128 + signum)


def call_after(seconds: float, function: Callable[[Any], object], argument: object) -> None:
    """Call a function, such as ``os._exit``, in a thread, unless a time limit ends before."""
    timer = threading.Timer(seconds, function, (argument,))
    timer.daemon = True
    timer.start()
    _timers.append(timer)


@contextmanager
def time_limit(
    minutes: float, grace_seconds: float, before_exit: Callable[[Stopped], object]
) -> Iterator[None]:
    """Raise :class:`TimedOut` in a block that takes too long, even inside a blocking call.

    If the clean-up after that, or after a signal, takes longer than the grace, the process exits at
    once, with the same code. Before it does, ``before_exit`` is called with the reason: for five
    seconds more, or in the grace of a signal. Other threads than the main one are not interrupted.
    """
    main_thread = threading.main_thread()
    over = threading.Event()

    def stop(*_: object) -> NoReturn:
        _stop(TimedOut(minutes))

    def watch() -> None:
        if over.wait(minutes * 60):
            return
        # A signal to the thread itself interrupts the system call that it is in.
        signal.pthread_kill(main_thread.ident or 0, signal.SIGALRM)
        if over.wait(grace_seconds):
            return
        reason = TimedOut(minutes)
        print_error(f"{reason}; it did not clean up within {grace_seconds:g} s")
        closing = threading.Thread(target=before_exit, args=(reason,), daemon=True)
        closing.start()
        closing.join(_BEFORE_EXIT_SECONDS)
        os._exit(reason.exit_code)

    watcher = threading.Thread(target=watch, name="time limit", daemon=True)
    before = signal.signal(signal.SIGALRM, stop)
    watcher.start()
    _graces.append((grace_seconds, before_exit))
    try:
        yield
    finally:
        _graces.pop()
        while _timers:
            _timers.pop().cancel()
        over.set()
        watcher.join()
        if signal.getsignal(signal.SIGALRM) is stop:  # else the clean-up uses it
            signal.signal(signal.SIGALRM, before)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer stop signals and the time limit until the block has finished, in the main thread.

    Then they raise :class:`Stopped`, also in place of an exception of the block.
    """
    received: list[int] = []

    def defer(signum: int, _frame: object) -> None:
        received.append(signum)
        if signum in _STOP_SIGNALS:
            _limit_stop(signum)

    handlers = {n: signal.signal(n, defer) for n in (*_STOP_SIGNALS, signal.SIGALRM)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        if received:
            signal.raise_signal(received[0])


def stop_behind(error: BaseException | None) -> Stopped | None:
    """Return the stop that an error was raised by or after, if there is one."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error


def _stop(reason: Stopped) -> NoReturn:
    def raise_if_lost(*_: object) -> None:
        """Raise the stop again if Python dropped it, as it does in a finaliser."""
        if not stop_behind(sys.exception()):  # else it is propagating, and this is the clean-up
            raise reason

    ignore_signals()  # a second one must not interrupt the clean-up
    signal.signal(signal.SIGALRM, raise_if_lost)
    signal.setitimer(signal.ITIMER_REAL, _SECOND_TRY_SECONDS, _SECOND_TRY_SECONDS)
    for callback in _stop_callbacks:
        with suppress(OSError):
            callback()
    raise reason
