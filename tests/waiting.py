"""Waiting in tests: on what comes true, never for a time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

DEADLINE_SECONDS = 30
TRAINING_SECONDS = 120

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = DEADLINE_SECONDS) -> T:
    """Poll until the condition is true and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.03)
    return result


def at_once(count: int, action: Callable[[int], T]) -> list[T]:
    """Call the action in ``count`` threads at the same moment; return the results."""
    gate = threading.Barrier(count)

    def run(number: int) -> T:
        gate.wait(DEADLINE_SECONDS)
        return action(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
