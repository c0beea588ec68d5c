"""Keeps the numbers of clusters: today's are matched to those of the training before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]


def matched_ids(labels: Labels, previous: Labels, k: int) -> NDArray[np.int64]:
    """Give clusters the ids under which most users stay where they were.

    Of all ways to hand out the ids, the one of most users whose id is that of before: a linear
    assignment on the table of users by both clusterings. Clusters without users in common take the
    ids that are left.

    Parameters
    ----------
    labels, previous
        (users,), today's cluster, 0 to k - 1, and the previous id of each; -1 is none.
    k
        Today's clusters.

    Returns
    -------
    int64 (k,)
        The id of each of today's clusters, 0 to k - 1 in some order.
    """
    # Here, since it takes a script longer to import than most else.
    from scipy.optimize import linear_sum_assignment

    both = (labels >= 0) & (previous >= 0) & (previous < k)
    cells = labels[both] * np.int64(k) + previous[both]
    users = np.bincount(cells, minlength=k * k).reshape(k, k)
    return np.asarray(linear_sum_assignment(users, maximize=True)[1], dtype=np.int64)


def users_moved(labels: Labels, previous: Labels) -> int:
    """Return how many users who had a cluster have another one, or none."""
    return int(((previous >= 0) & (labels != previous)).sum())
