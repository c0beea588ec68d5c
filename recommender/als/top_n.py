"""The exact best items of each user from factor matrices, a block of users at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_BLOCK_ROWS = 64  # so that the scores of a block stay in the processor's cache
_GROUP_SIZE = 64


def top_n(
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    n: int,
    rated: csr_array,
    shown: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each user's ``n`` unrated items of the highest score, best first.

    A score is the inner product of the user's and the item's factors. The best ``n`` items lie in
    the ``n`` groups of items with the highest maxima, so only these groups are searched.

    Parameters
    ----------
    user_factors, item_factors
        (users, rank) and (items, rank); item factors in Fortran order are not copied.
    rated
        (users, items); the items stored in a user's row are left out, zeros included.
    shown
        (items,), the items to recommend; by default all.

    Returns
    -------
    items : int32 (users, m)
        ``m`` is the lesser of ``n`` and the number of items; -1 where a user has no more items.
    scores : float32 (users, m)
        Highest first; -inf where ``items`` is -1.
    """
    users, count = len(user_factors), len(item_factors)
    kept = min(n, count)
    items = np.empty((users, kept), dtype=np.int32)
    scores = np.empty((users, kept), dtype=np.float32)
    if not kept:
        return items, scores
    not_shown = np.flatnonzero([] if shown is None else ~shown)
    # Item j is in group j % groups. The last groups are filled up with scores of -inf.
    groups = max(-(-count // _GROUP_SIZE), kept)
    table = np.empty((min(_BLOCK_ROWS, users), groups * -(-count // groups)), dtype=np.float32)
    transposed = np.ascontiguousarray(item_factors.T)
    for start in range(0, users, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, users)
        block = table[: stop - start]
        # All scores of the block, with -inf for items that are not recommended.
        np.matmul(user_factors[start:stop], transposed, out=block[:, :count])
        block[:, count:] = -np.inf
        block[:, not_shown] = -np.inf
        row = np.repeat(np.arange(stop - start), np.diff(rated.indptr[start : stop + 1]))
        block[row, rated.indices[rated.indptr[start] : rated.indptr[stop]]] = -np.inf
        items[start:stop], scores[start:stop] = _best(block, groups, kept)
    return items, scores


def _best(
    block: NDArray[np.float32], groups: int, kept: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return positions and scores of the best ``kept`` columns of each row, best first."""
    rows, width = block.shape
    # All columns of the groups with the highest maxima.
    best_groups = _largest(block.reshape(rows, -1, groups).max(axis=1), kept)
    columns = best_groups[:, :, None] + np.arange(0, width, groups)
    columns = columns.reshape(rows, -1)
    candidates = np.take_along_axis(block, columns, axis=1)
    # The best of them, in order; ties in the order of the items.
    best = _largest(candidates, kept)
    scores = np.take_along_axis(candidates, best, axis=1)
    items = np.take_along_axis(columns, best, axis=1)
    order = np.lexsort((items, -scores))
    scores = np.take_along_axis(scores, order, axis=1)
    items = np.take_along_axis(items, order, axis=1)
    return np.where(np.isneginf(scores), -1, items).astype(np.int32), scores


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return, for each row, the positions of its ``count`` largest values, in any order."""
    if count == values.shape[1]:
        return np.broadcast_to(np.arange(count), values.shape)
    return np.argpartition(values, -count, axis=1)[:, -count:]
