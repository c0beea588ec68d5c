"""Stable cluster ids: each cluster keeps the id under which most of its users were before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from recommender.clustering.fit import Clustering

Labels = NDArray[np.int32]


def with_previous_ids(
    clustering: Clustering, previous: Labels | None
) -> tuple[Clustering, int | None]:
    """Renumber clusters so that most users keep the id that they had before.

    Parameters
    ----------
    clustering
        The new clusters.
    previous
        (users,), the id of each user's previous cluster, -1 for none; None without previous
        clusters.

    Returns
    -------
    clustering
        The same clusters in another order.
    moved
        Number of users whose id changed; None without previous clusters.
    """
    if previous is None:
        return clustering, None
    ids = matched_ids(clustering.labels, previous, len(clustering.centroids))
    order = np.argsort(ids)
    clustered = clustering.labels >= 0
    labels = np.where(clustered, ids[clustering.labels], -1).astype(np.int32)
    renumbered = replace(
        clustering,
        centroids=clustering.centroids[order],
        sizes=clustering.sizes[order],
        labels=labels,
    )
    return renumbered, users_moved(labels, previous)


def matched_ids(labels: Labels, previous: Labels, k: int) -> NDArray[np.int64]:
    """Return the ids under which most users stay in the cluster of the same id.

    This is a linear assignment on the contingency table of both clusterings. Clusters without
    common users get the remaining ids.

    Parameters
    ----------
    labels, previous
        (users,), new cluster, 0 to k - 1, and previous id of each user; -1 for none.
    k
        Number of new clusters.

    Returns
    -------
    int64 (k,)
        The id of each new cluster, a permutation of 0 to k - 1.
    """
    # Imported here because of its import time, which scripts that only read would pay.
    from scipy.optimize import linear_sum_assignment

    both = (labels >= 0) & (previous >= 0) & (previous < k)
    cells = labels[both] * np.int64(k) + previous[both]
    users = np.bincount(cells, minlength=k * k).reshape(k, k)
    return np.asarray(linear_sum_assignment(users, maximize=True)[1], dtype=np.int64)


def users_moved(labels: Labels, previous: Labels) -> int:
    """Count the users with a previous cluster who now have another one, or none."""
    return int(((previous >= 0) & (labels != previous)).sum())
