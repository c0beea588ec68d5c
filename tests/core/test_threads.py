"""Blocks on all cores, and the threads of BLAS."""

import threading

import pytest
from threadpoolctl import threadpool_info

from recommender.core.threads import map_blocks, one_blas_thread


@pytest.mark.parametrize("threads", [1, 2, None])
def test_results_are_in_the_order_of_the_blocks(threads: int | None) -> None:
    assert list(map_blocks(lambda block: block * 2, range(50), threads)) == [*range(0, 100, 2)]
    assert list(map_blocks(str, [], threads)) == []


def test_blocks_run_at_the_same_time() -> None:
    both = threading.Barrier(2)
    assert sorted(map_blocks(lambda _: both.wait(timeout=30), range(2), threads=2)) == [0, 1]


def test_every_loaded_blas_is_limited() -> None:
    with one_blas_thread():
        blas = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
    assert blas
    assert set(blas) == {1}
