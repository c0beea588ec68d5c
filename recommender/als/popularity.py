"""Popularity of items: the list for a user without usable ratings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DAMPING = 10


def popularity_scores(
    item: NDArray[np.integer[Any]], rating: NDArray[np.float64], items: int
) -> NDArray[np.float64]:
    """Score each item by its share of the ratings, above 0, times its damped mean: (items,).

    With n_i ratings of item i of sum s_i, N ratings in all of mean m, and damping d, the score is
    n_i / N (s_i + d m) / (n_i + d).
    """
    sums, counts = np.bincount(item, rating, items), np.bincount(item, minlength=items)
    means = (sums + _DAMPING * rating.mean()) / (counts + _DAMPING)
    return np.asarray(counts / len(rating) * means)
