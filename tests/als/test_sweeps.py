"""Half-steps of ALS next to the regressions written out, and sweeps of them."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import block_diag, csr_array

from recommender.als.sweeps import explicit_step, implicit_step, sweep

ALPHA, REG = 3.0, 0.7


def some_rows(seed: int, rows: int = 30, items: int = 40) -> csr_array:
    """Return rows of 0 to all items."""
    rng = np.random.default_rng(seed)
    stored = rng.random((rows, items)) < np.linspace(0, 1, rows)[:, None]
    return csr_array(rng.uniform(1, 5, (rows, items)) * stored)


def some_items(seed: int, items: int = 40, rank: int = 6) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((items, rank), np.float32) / np.float32(3)


def one_row(
    values: NDArray[np.float64], items: NDArray[np.float32], alpha: float | None, reg: float = REG
) -> NDArray[np.float64]:
    """Solve one row over all items; explicit ALS without alpha."""
    v, stored = items.astype(np.float64), (values != 0).astype(np.float64)
    if not stored.any():
        return np.zeros(v.shape[1])
    c = stored if alpha is None else 1 + alpha * values
    p = values if alpha is None else stored
    return np.linalg.solve(
        v.T @ (c[:, None] * v) + reg * stored.sum() * np.eye(v.shape[1]), v.T @ (c * p)
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rank=st.integers(1, 12),
    items=st.integers(1, 30),
    alpha=st.sampled_from([None, 0.5, 20.0]),
)
def test_a_half_step_solves_the_regression_of_each_row(
    seed: int, rank: int, items: int, alpha: float | None
) -> None:
    rows, factors = some_rows(seed, 12, items), some_items(seed, items, rank)
    if alpha is None:
        solved = explicit_step(rows, factors, reg_param=REG)
    else:
        solved = implicit_step(rows, factors, alpha=alpha, reg_param=REG)
    expected = np.array([one_row(row, factors, alpha) for row in rows.toarray()])
    assert solved == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("seed", range(2))
def test_rows_of_more_values_than_a_chunk_and_of_little_regularisation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, factors = csr_array(rng.uniform(1, 5, (2, 9_000))), some_items(seed, 9_000, 4)
    for reg in (1.0, 1e-6):
        solved = implicit_step(rows, factors, alpha=ALPHA, reg_param=reg)
        expected = [one_row(row, factors, ALPHA, reg) for row in rows.toarray()]
        assert solved == pytest.approx(np.array(expected), rel=1e-3, abs=1e-5)


def cost(rows: csr_array, users: NDArray[np.float64], items: NDArray[np.float64]) -> float:
    """Return what implicit-feedback ALS minimises."""
    dense, stored = rows.toarray(), rows.toarray() > 0
    error = ((1 + ALPHA * dense) * (stored - users @ items.T) ** 2).sum()
    norms = [
        stored.sum(axis=axis) @ (side**2).sum(axis=1) for axis, side in ((1, users), (0, items))
    ]
    return float(error + REG * sum(norms))


step = partial(implicit_step, alpha=ALPHA, reg_param=REG)


@pytest.mark.parametrize("seed", range(2))
def test_each_sweep_lowers_the_cost_and_they_stop_once_factors_settle(seed: int) -> None:
    rows, start = some_rows(seed), some_items(seed)
    fits = [sweep(step, rows, start, most, 0) for most in (1, 2, 5, 20, 200)]
    costs = [cost(rows, step(rows, items).astype(float), items.astype(float)) for items in fits]
    assert (np.diff(costs) < 1e-4 * costs[0]).all()
    stopped = sweep(step, rows, start, 200, 0.05)
    assert not np.array_equal(stopped, fits[-1])
    after = sweep(step, rows, stopped, 1)
    assert np.linalg.norm(after - stopped) < 0.05 * np.linalg.norm(after)
    # Factors that settle at once are swept as often as asked for.
    at_least = sweep(step, rows, start, 9, change=np.inf, least=5)
    assert np.array_equal(at_least, fits[2])


def test_an_item_without_factors_gets_its_least_squares_solution() -> None:
    rows, start = some_rows(1), some_items(1)
    start[5] = np.nan
    items = sweep(step, rows, start, 1)
    users = step(rows, np.nan_to_num(start))
    assert items[5] == pytest.approx(one_row(rows.toarray()[:, 5], users, ALPHA), abs=2e-4)


def test_items_without_a_value_and_data_without_rows_have_factors_of_zero() -> None:
    rows = some_rows(1)
    wider = csr_array((rows.data, rows.indices, rows.indptr), shape=(30, 41))
    items = sweep(step, wider, some_items(1, 41), 2)
    assert not items[40].any()
    assert items[:40].any(axis=1).all()
    assert not sweep(step, csr_array((0, 41)), some_items(1, 41), 2).any()


@pytest.mark.parametrize("known", [0, 40])
def test_items_of_users_who_rated_none_with_factors_start_at_random(known: int) -> None:
    """Two towns without a common user: of the second, or of both, no item has factors."""
    towns = csr_array(block_diag([some_rows(1), some_rows(2)]))
    start = some_items(1, 80)
    start[known:] = np.nan
    items = sweep(step, towns, start, 50)
    assert items.any(axis=1).all()
    costs = [
        cost(towns, step(towns, each).astype(float), each.astype(float))
        for each in (items, sweep(step, towns, some_items(1, 80), 50))
    ]
    assert costs[0] == pytest.approx(costs[1], rel=0.05)
    # One sweep ends with what solves the regressions, not with random factors.
    assert not sweep(step, towns, start, 1)[known:].any()
    # Ratings that the bias explains leave nothing to factors.
    towns.data[:] = 0
    assert not sweep(partial(explicit_step, reg_param=REG), towns, start, 5).any()
