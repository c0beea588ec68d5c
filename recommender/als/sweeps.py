"""Exact half-steps of ALS over many rows, in blocks of rows and on several threads.

A half-step keeps one side's factors v_i and solves a ridge regression for each row of the other
side, with n stored values:

    (G + sum_i w_i v_i v_i' + reg n I) u = sum_i s_i v_i

Ratings r (explicit ALS) have w = 1, s = r and G = 0. Preferences (implicit-feedback ALS; Hu, Koren
and Volinsky, 2008) have the confidence c = 1 + alpha r, w = c - 1, s = c and the Gram matrix
G = V'V of *all* items. MLlib minimises the same two objectives.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.threads import cores, map_blocks, one_blas_thread

_BLOCK_VALUES = 2**19
_CHUNK = 4_096  # values of a row that are gathered at a time
_PADDING = 8  # a block's rows are padded to the longest one, by at most an eighth
_FEW_VALUES = 500_000  # threads cost more than they gain
_ILL_CONDITIONED = 1e4  # ratio of weights to regularisation from which float32 is too imprecise

Array = NDArray[Any]
Factors = NDArray[np.float32]
HalfStep = Callable[[csr_array, Factors], Factors]

log = logging.getLogger(__name__)


@one_blas_thread()
def sweep(
    step: HalfStep, rows: csr_array, items: Factors, most: int, change: float = 0.05, least: int = 0
) -> Factors:
    """Alternate user and item half-steps, and return the item factors, (items, rank).

    ``step`` is `implicit_step` or `explicit_step` with its parameters bound, ``rows`` are
    (users, items). In the ``items`` to start from, NaN counts as 0. Items that the first sweep does
    not reach go on from random factors; those without a stored value get factors of 0. There are at
    most ``most`` sweeps. They stop after one, the ``least``-th or later, that changes the factors
    by less than ``change``, relative to their norm.
    """
    columns = csr_array(rows.T)
    items, unrated = np.nan_to_num(items), np.diff(columns.indptr) == 0
    items[unrated] = 0
    for number in range(1, most + 1):
        before, items = items, step(columns, step(rows, items))
        # Items all of whose users have rated only items without factors would stay 0.
        unreached = ~(items.any(axis=1) | unrated)
        if number == 1 < most and unreached.any():
            items[unreached] = random_factors(len(items), items.shape[1], 0)[unreached]
            continue
        changed = float(np.linalg.norm(items - before) / (np.linalg.norm(items) or 1))
        log.debug("sweep %d changed the item factors by %.3f", number, changed)
        if changed < change and number >= least:
            break
    return items


def random_factors(items: int, rank: int, seed: int) -> Factors:
    """Return random factors of length 1 for `sweep` to start from, (items, rank)."""
    factors = np.random.default_rng(seed).standard_normal((items, rank), np.float32)
    return np.asarray(factors / np.linalg.norm(factors, axis=1, keepdims=True))


def implicit_step(rows: csr_array, items: Factors, *, alpha: float, reg_param: float) -> Factors:
    """Return the factors of each row for the preferences that its values, above 0, express."""
    rotated, spectrum, rotation = diagonalise(items)
    return implicit_rows(rows, rotated, spectrum, alpha, reg_param) @ rotation.T


def implicit_rows(
    rows: csr_array, items: Factors, spectrum: Array, alpha: float, reg_param: float
) -> Factors:
    """Do an `implicit_step` with items whose Gram matrix is diagonal, its diagonal ``spectrum``."""
    weight = alpha * rows.data
    return _solve_rows(rows, weight, 1 + weight, items, spectrum, reg_param)


def explicit_step(rows: csr_array, items: Factors, *, reg_param: float) -> Factors:
    """Return the factors of each row that predict its values."""
    weight, spectrum = np.ones(rows.nnz), np.zeros(items.shape[1])
    return _solve_rows(rows, weight, rows.data, items, spectrum, reg_param)


def diagonalise(items: Factors) -> tuple[Factors, NDArray[np.float64], Factors]:
    """Return factors rotated so that their Gram matrix is diagonal, the diagonal, the rotation."""
    spectrum, rotation = np.linalg.eigh((items.T @ items).astype(np.float64))
    rotation = rotation.astype(np.float32)
    return items @ rotation, np.maximum(spectrum, 0), rotation


def _solve_rows(
    rows: csr_array, weight: Array, side: Array, items: Factors, spectrum: Array, reg_param: float
) -> Factors:
    """Solve the rows' regressions: w is the weight, s the side, the spectrum G's diagonal."""
    safe = weight.max(initial=0) <= _ILL_CONDITIONED * reg_param
    precision: Any = np.float32 if safe else np.float64
    weight, side, factors = (a.astype(precision, copy=False) for a in (weight, side, items))
    solved = np.zeros((rows.shape[0], items.shape[1]), np.float32)
    lengths = np.diff(rows.indptr)

    def solve(block: NDArray[np.intp]) -> None:
        n = lengths[block][:, None]
        columns = np.arange(n.max())
        padding = columns >= n
        position = np.where(padding, 0, rows.indptr[block][:, None] + columns)
        # Padding has w = s = 0, so that it adds nothing to either side of the equations.
        w, s = (np.where(padding, 0, values[position]) for values in (weight, side))
        diagonal = (spectrum + reg_param * n).astype(precision)
        method = _solve_few if len(columns) < len(spectrum) else _solve_many
        solved[block] = method(factors, rows.indices[position], w, s, diagonal)

    threads = 1 if rows.nnz < _FEW_VALUES else cores()
    list(map_blocks(solve, _blocks(lengths, items.shape[1]), threads))
    return solved


def _blocks(lengths: Array, rank: int) -> Iterator[NDArray[np.intp]]:
    """Yield blocks of rows of about the same length, the longest first, without empty rows."""
    order = np.argsort(-lengths, kind="stable")
    ascending = -lengths[order]
    stop, rows = 0, np.count_nonzero(lengths)
    while stop < rows:
        start, n = stop, -int(ascending[stop])
        fit = max(1, _BLOCK_VALUES // (min(n, rank) ** 2 + min(n, _CHUNK) * rank))
        alike = np.searchsorted(ascending, n // (_PADDING + 1) - n, side="right")
        stop = min(start + fit, int(alike))
        yield order[start:stop]


def _solve_few(factors: Array, index: Array, weight: Array, side: Array, diagonal: Array) -> Array:
    """Solve rows of few values by the Woodbury identity, u = D^-1 F' (I + W F D^-1 F')^-1 s."""
    rated = factors[index]
    scaled = rated / diagonal[:, None, :]
    inner = weight[:, :, None] * np.matmul(rated, scaled.swapaxes(1, 2))
    inner.reshape(len(inner), -1)[:, :: inner.shape[1] + 1] += 1
    solution = np.linalg.solve(inner, side[:, :, None])
    return np.asarray(np.matmul(solution.swapaxes(1, 2), scaled)[:, 0])


def _solve_many(factors: Array, index: Array, weight: Array, side: Array, diagonal: Array) -> Array:
    """Solve rows of many values by the normal equations, (D + F'WF) u = F's, in chunks of F."""
    rows, rank = diagonal.shape
    normal = np.zeros((rows, rank, rank), factors.dtype)
    normal.reshape(rows, -1)[:, :: rank + 1] = diagonal
    total = np.zeros((rows, 1, rank), factors.dtype)
    for start in range(0, index.shape[1], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        rated = factors[index[:, chunk]]
        total += np.matmul(side[:, None, chunk], rated)
        normal += np.matmul((weight[:, chunk, None] * rated).swapaxes(1, 2), rated)
    return np.linalg.solve(normal, total.swapaxes(1, 2))[..., 0]
