"""Work on blocks of rows on all cores, with BLAS on one thread."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

Block = TypeVar("Block")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def map_blocks(
    function: Callable[[Block], Result], blocks: Iterable[Block], threads: int | None = None
) -> Iterator[Result]:
    """Yield the function's result for each block, computed on all cores, or on ``threads``."""
    blocks = list(blocks)
    if threads == 1 or len(blocks) == 1:
        yield from map(function, blocks)
        return
    with ThreadPoolExecutor(threads or cores()) as pool:
        yield from pool.map(function, blocks)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread; also a decorator.

    The threads of BLAS wait for each other busily: on cores that others use, too, small products
    take many times as long. A fork beside them, as of Spark's start, would hang in OpenBLAS.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
