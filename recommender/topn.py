"""The exact best restaurants of each user from factor matrices, a block of users at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_BLOCK_ROWS = 64  # so that a block's scores stay in the processor's cache
_GROUP_SIZE = 64


def top_n(
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    n: int,
    rated: csr_array,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each user's ``n`` unrated items of the highest score, best first.

    A score is the inner product of the user's and the item's factors. Items are looked at in
    groups: the best ``n`` items lie in the ``n`` groups whose maxima are highest, so that only
    those groups need a full look.

    Parameters
    ----------
    user_factors
        (users, rank).
    item_factors
        (items, rank).
    n
        How many items each user gets at most, from 1.
    rated
        (users, items); the items stored in a user's row are left out, whatever their value.

    Returns
    -------
    items : int32 (users, m)
        ``m`` is the lesser of ``n`` and the number of items; -1 where a user has no more items.
    scores : float32 (users, m)
        Highest first; -inf where ``items`` is -1.
    """
    kept = min(n, len(item_factors))
    items = np.empty((len(user_factors), kept), dtype=np.int32)
    scores = np.empty((len(user_factors), kept), dtype=np.float32)
    if not kept:
        return items, scores
    # Padded with items of no worth to whole groups; item j is in group j % groups.
    groups = max(-(-len(item_factors) // _GROUP_SIZE), kept)
    width = groups * -(-len(item_factors) // groups)
    table = np.empty((min(_BLOCK_ROWS, len(user_factors)), width), dtype=np.float32)
    transposed = np.ascontiguousarray(item_factors.T)
    for start in range(0, len(user_factors), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(user_factors))
        block = table[: stop - start]
        block[:, len(item_factors) :] = -np.inf
        np.matmul(user_factors[start:stop], transposed, out=block[:, : len(item_factors)])
        _leave_out(block, rated, start, stop)
        items[start:stop], scores[start:stop] = _best(block, groups, kept)
    return items, scores


def top_n_shown(
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    n: int,
    rated: csr_array,
    shown: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return what :func:`top_n` does, of the items where ``shown``, bool (items,), is true."""
    if shown.all():
        return top_n(user_factors, item_factors, n, rated)
    position = np.flatnonzero(shown)
    items, scores = top_n(user_factors, item_factors[position], n, rated[:, position])
    return np.where(items >= 0, position[items], -1).astype(np.int32), scores


def _leave_out(block: NDArray[np.float32], rated: csr_array, start: int, stop: int) -> None:
    span = slice(rated.indptr[start], rated.indptr[stop])
    row = np.repeat(np.arange(stop - start), np.diff(rated.indptr[start : stop + 1]))
    block[row, rated.indices[span]] = -np.inf


def _best(
    block: NDArray[np.float32], groups: int, kept: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return positions and scores of the best ``kept`` columns of each row, best first."""
    rows, width = block.shape
    maxima = block.reshape(rows, width // groups, groups).max(axis=1)
    best_groups = _largest(maxima, kept)
    columns = best_groups[:, :, None] + groups * np.arange(width // groups)
    columns = columns.reshape(rows, -1)
    candidates = np.take_along_axis(block, columns, axis=1)
    chosen = _largest(candidates, kept)
    scores = np.take_along_axis(candidates, chosen, axis=1)
    items = np.take_along_axis(columns, chosen, axis=1)
    order = np.lexsort((items, -scores))
    scores = np.take_along_axis(scores, order, axis=1)
    items = np.take_along_axis(items, order, axis=1)
    return np.where(np.isneginf(scores), -1, items).astype(np.int32), scores


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return, for each row, the positions of its ``count`` largest values, in any order."""
    if count == values.shape[1]:
        return np.broadcast_to(np.arange(count), values.shape)
    return np.argpartition(values, -count, axis=1)[:, -count:]
