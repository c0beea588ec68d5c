"""Item-item regression: an item is predicted from the rated ones among those most like it."""

import numpy as np
from scipy.sparse import csr_array

from recommender.als.top_n import Floats32, Items

_NEIGHBOURS = 50
_REG_PARAM = 10.0
_MOST_ITEMS = 8_000  # by their users; the others have too few co-ratings
_BLOCK_ITEMS = 512
_BLOCK_USERS = 256


def item_item_weights(rows: csr_array) -> csr_array:
    """Return the weights W, (items, items), by which rated items i predict items j.

    Column j is a ridge regression on the 50 items N of the largest cosine to j, where G_ij is the
    number of users of both items, and the cosine is G_ij / (G_ii G_jj)^1/2:

        W_Nj = (G_NN + 10 I)^-1 G_Nj,     and 0 for other items.

    That is SLIM (Ning and Karypis, 2011) without its bounds. ``rows``, (users, items), are non-zero
    where rated.
    """
    counts = np.bincount(rows.indices, minlength=rows.shape[1])
    shape = len(counts), len(counts)
    items = np.argsort(-counts, kind="stable")[: min(_MOST_ITEMS, np.count_nonzero(counts))]
    size = min(_NEIGHBOURS, len(items) - 1)
    if size < 1:
        return csr_array(([], ([], [])), shape=shape)
    # The matrix G is dense, and its products are sparse: a block of items at a time.
    rated = _ones(rows)[:, items]
    columns, norms = csr_array(rated.T), np.sqrt(counts[items])
    blocks = np.split(np.arange(len(items)), range(_BLOCK_ITEMS, len(items), _BLOCK_ITEMS))
    both = np.concatenate([(columns[block] @ rated).toarray() for block in blocks])
    nearest, weights = [], []
    for block in blocks:
        # An item does not predict itself.
        cosines = both[block] / (norms[block, None] * norms)
        cosines[np.arange(len(block)), block] = -1
        near = np.argpartition(-cosines, size - 1, axis=1)[:, :size]
        # One small system of equations for each item.
        normal = both[near[:, :, None], near[:, None, :]] + _REG_PARAM * np.eye(size)
        side = np.take_along_axis(both[block], near, axis=1)
        nearest.append(items[near].ravel())
        weights.append(np.linalg.solve(normal, side[:, :, None]).ravel())
    values = np.concatenate(weights).astype(np.float32)
    positions = np.concatenate(nearest), np.repeat(items, size)
    return csr_array((values, positions), shape=shape)


def predicted(rated: csr_array, weights: csr_array) -> csr_array:
    """Return what the regression with these weights predicts, (users, items)."""
    return csr_array(_ones(rated) @ weights)


def candidates(n: int) -> int:
    """Return how many items, the best by the factors, are refined for a list of n."""
    return n + min(2 * n, 200)


def refined(items: Items, scores: Floats32, regression: csr_array, weight: float) -> Floats32:
    """Return the scores of each user's ``items``, best first, plus those `predicted`.

    The latter are scaled so that the largest of a user is ``weight`` times the best score.
    ``items``, -1 for none, and ``scores`` are (users, n), ``regression`` is (users, items).
    """
    added = np.zeros_like(scores)
    for start in range(0, len(items), _BLOCK_USERS):  # dense, as single values are slow to find
        block = slice(start, start + _BLOCK_USERS)
        added[block] = np.take_along_axis(regression[block].toarray(), items[block], axis=1)
    added[items < 0] = 0
    largest = np.abs(added).max(axis=1, initial=0, keepdims=True)
    scale = weight * np.maximum(scores[:, :1], 0) / np.where(largest > 0, largest, np.inf)
    return np.asarray(scores + scale * added)


def _ones(rows: csr_array) -> csr_array:
    return csr_array((np.ones(rows.nnz, np.float32), rows.indices, rows.indptr), rows.shape)
