"""The exact best items of each user from factor matrices, a block of users at a time."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_BLOCK_ROWS = 64  # so that the scores of a block stay in the processor's cache
_FIRST_ITEMS = 2_048  # scored for every user
_ROUNDING = 1 + 1e-4  # more than float32 adds to a score above its bound
_TINY = 1e-30

Floats32 = NDArray[np.float32]
Norms = NDArray[np.float64]
Positions = NDArray[np.intp]
Items = NDArray[Any]
Mask = NDArray[np.bool_]


def top_n(
    user_factors: Floats32,
    item_factors: Floats32,
    n: int,
    rated: csr_array,
    shown: Mask | None = None,
) -> tuple[NDArray[np.int32], Floats32]:
    """Return each user's ``n`` unrated items of the highest score, best first, and the scores.

    A score is the inner product of the user's and the item's factors, so it is at most the product
    of their norms. Items are scored from the largest norm down, until the bound of the next one is
    below the user's ``n`` best scores.

    The factors are finite, the items stored in a user's row of ``rated``, (users, items), are left
    out, and so are those not in ``shown``, (items,). Both results are (users, m), with m = n or the
    number of items if less; where a user has no more items, they are -1 and -inf.
    """
    users, count = len(user_factors), len(item_factors)
    items = np.full((users, min(n, count)), -1, dtype=np.int32)
    scores = np.full(items.shape, -np.inf, dtype=np.float32)
    # Only items that are shown, in descending order of their norms.
    user_norms, item_norms = _norms(user_factors, item_factors)
    order = np.argsort(-item_norms, kind="stable")
    order = order if shown is None else order[shown[order]]
    if not (kept := min(n, len(order))):
        return items, scores
    position = np.full(count, len(order))
    position[order] = np.arange(len(order))
    search = _Search(item_factors[order], item_norms[order], kept)
    for start in range(0, users, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, users))
        starts = rated.indptr[rows.start : rows.stop + 1]
        row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        left_out = row, position[rated.indices[starts[0] : starts[-1]]]
        columns, values = search.candidates(user_factors[rows], user_norms[rows], left_out)
        ranked = best_of_each(order.take(columns, mode="clip"), values, kept)
        items[rows, :kept], scores[rows, :kept] = ranked
    return items, scores


def _norms(users: Floats32, items: Floats32) -> tuple[Norms, Norms]:
    """Return norms of users and items whose products bound the scores."""
    # A factor may be multiplied for users if it is divided for items: equal sizes bound tightest.
    of_users, of_items = (np.sqrt((f.astype(np.float64) ** 2).mean(axis=0)) for f in (users, items))
    used = (of_users > 0) & (of_items > 0)
    scale = np.sqrt(of_items[used] / of_users[used])
    norms = np.linalg.norm(users[:, used] * scale, axis=1)
    return np.maximum(norms * _ROUNDING, _TINY), np.linalg.norm(items[:, used] / scale, axis=1)


class _Search:
    """Scores blocks of users with items in descending order of their norms."""

    def __init__(self, items: Floats32, norms: Norms, kept: int) -> None:
        self._transposed, self._bounds, self._kept = np.ascontiguousarray(items.T), -norms, kept
        self._count = len(items)
        # Scores after the last item stay -inf.
        width = self._count + self._groups(self._count)
        self._table = np.full((_BLOCK_ROWS, width), -np.inf, dtype=np.float32)

    def candidates(
        self, users: Floats32, norms: Norms, left_out: tuple[Positions, Positions]
    ) -> tuple[Positions, Floats32]:
        """Return columns and scores that contain the best of each user, (users, candidates)."""
        table = self._table[: len(users)]
        row, column = left_out
        scored, width = 0, min(_FIRST_ITEMS, self._count)
        while scored < width:
            # Item j is in group j % groups; the groups are filled up with further items.
            groups = self._groups(width)
            stop = groups * -(-width // groups)
            end = min(stop, self._count)
            np.matmul(users, self._transposed[:, scored:end], out=table[:, scored:end])
            new = (scored <= column) & (column < end)
            table[row[new], column[new]] = -np.inf
            # The best items lie in the groups of the highest maxima, and have at least these.
            maxima = table[:, :stop].reshape(len(users), -1, groups).max(axis=1)
            best = _largest(maxima, self._kept)
            least = np.take_along_axis(maxima, best, axis=1).min(axis=1)
            # Go on while an item may score as much for one of the users.
            scored, width = end, int(np.searchsorted(self._bounds, -least / norms, "right").max())
        columns = best[:, :, None] + np.arange(0, stop, groups)
        columns = columns.reshape(len(users), -1)
        return columns, np.take_along_axis(table, columns, axis=1)

    def _groups(self, width: int) -> int:
        """Return the number of groups for which the fewest values are compared."""
        return self._kept * max(1, round(math.sqrt(width / self._kept)))


def best_of_each(items: Items, values: Floats32, kept: int) -> tuple[Items, Floats32]:
    """Return the ``kept`` items of each row with the highest values, and these, best first.

    Both are (rows, n). An item of -inf becomes -1.
    """
    best = _largest(values, kept)
    scores = np.take_along_axis(values, best, axis=1)
    items = np.take_along_axis(items, best, axis=1)
    # Ties are in the order of the items.
    order = np.lexsort((items, -scores))
    scores = np.take_along_axis(scores, order, axis=1)
    return np.where(np.isneginf(scores), -1, np.take_along_axis(items, order, axis=1)), scores


def _largest(values: Floats32, count: int) -> Positions:
    """Return, for each row, the positions of its ``count`` largest values, in any order."""
    if count == values.shape[1]:
        return np.broadcast_to(np.arange(count), values.shape)
    return np.argpartition(values, -count, axis=1)[:, -count:]
