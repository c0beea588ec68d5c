"""Stable cluster ids: each cluster keeps the id under which most of its users were before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Labels = NDArray[np.int32]


def matched_ids(labels: Labels, previous: Labels, k: int) -> NDArray[np.int64]:
    """Return the ids under which most users stay in the cluster of the same id.

    This is a linear assignment on the contingency table of both clusterings. Clusters without
    common users get the remaining ids.

    Parameters
    ----------
    labels, previous
        (users,), new cluster, 0 to k - 1, and previous id of each user; -1 for none.

    Returns
    -------
    int64 (k,)
        The id of each new cluster, a permutation of 0 to k - 1.
    """
    both = (labels >= 0) & (previous >= 0) & (previous < k)
    cells = labels[both] * np.int64(k) + previous[both]
    users = np.bincount(cells, minlength=k * k).reshape(k, k)
    return np.asarray(linear_sum_assignment(users, maximize=True)[1], dtype=np.int64)


def users_moved(labels: Labels, previous: Labels) -> int:
    """Count the users with a previous cluster who now have another one, or none."""
    return int(((previous >= 0) & (labels != previous)).sum())
