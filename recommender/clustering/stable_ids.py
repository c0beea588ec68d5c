"""Stable cluster ids: each cluster keeps the id under which most of its users were before."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Labels = NDArray[np.int32]


def matched_ids(labels: Labels, previous: Labels, k: int) -> NDArray[np.int64]:
    """Return ids, (k,), of the clusters 0 to k - 1 under which most users keep the cluster's id.

    This is a linear assignment on the contingency table of both clusterings: ``labels`` and the
    ``previous`` ids, (users,) each, -1 for none. Clusters without common users get the other ids.
    """
    both = (labels >= 0) & (previous >= 0) & (previous < k)
    cells = labels[both] * np.int64(k) + previous[both]
    users = np.bincount(cells, minlength=k * k).reshape(k, k)
    return np.asarray(linear_sum_assignment(users, maximize=True)[1], dtype=np.int64)


def users_moved(labels: Labels, previous: Labels) -> int:
    """Count the users with a previous cluster who now have another one, or none."""
    return int(((previous >= 0) & (labels != previous)).sum())
