"""Test vectors for readers of the published model in any language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dists import distance, distances

_PAIRS: list[tuple[list[float], list[float]]] = [
    ([5, 3, 0, 0], [5, 3, 0, 0]),
    ([5, 3, 0, 0], [0, 0, 2, 4]),
    ([5, 3, 0, 1], [1, 0, 0, 5]),
    ([5, 0, 0, 0], [1, 0, 0, 0]),
    ([1, 0, 0, 0], [5, 0, 0, 0]),
    ([4, 4, 4, 4], [0.5, 0.25, 0.125, 0]),
    ([0, 0, 0, 0], [1, 2, 3, 4]),
    ([0, 0, 0, 0], [0, 0, 0, 0]),
]
_CLUSTERS = 10
_ITEMS = 3
_CLEAR = 1e-6


def distance_checks() -> list[dict[str, Any]]:
    """Return pairs of vectors with their distance: equal, disjoint, of other length, and zero."""
    return [{"x": x, "c": c, "distance": distance(x, c)} for x, c in _PAIRS]


def user_checks(
    centroids: NDArray[np.float64],
    column_ids: Sequence[Any],
    ratings: Sequence[float],
    shift: float,
) -> list[dict[str, Any]]:
    """Return synthetic users with the cluster in which a reader must find them.

    Each has rated the items of largest weight in one centroid. One has rated nothing and is in no
    cluster; neither is one whose only rating is 0, on scales from 0. Users whose two nearest
    clusters differ by rounding only are left out.

    Parameters
    ----------
    centroids
        (k, columns).
    column_ids
        The ids of the columns.
    ratings
        The ratings of each user, repeated in turn.
    shift
        Added to each rating in a user's vector.
    """
    checks: list[dict[str, Any]] = [{"ratings": [], "cluster_id": None, "distance": 1.0}]
    if not shift and 0 in ratings:
        rated_0 = [{"gmap_id": column_ids[0], "rating": 0.0}]
        checks.append({"ratings": rated_0, "cluster_id": None, "distance": 1.0})
    for centroid in centroids[:_CLUSTERS]:
        items = np.argsort(-centroid, kind="stable")[:_ITEMS]
        values = np.resize(np.asarray(ratings, dtype=np.float64), len(items))
        user = np.zeros((1, len(column_ids)))
        user[0, items] = values + shift
        to_centroids = distances(user, centroids)[0]
        nearest, *next_ones = np.sort(to_centroids)[:2]
        if nearest < 1 - _CLEAR and (not next_ones or next_ones[0] - nearest > _CLEAR):
            rated = [
                {"gmap_id": column_ids[item], "rating": rating}
                for item, rating in zip(items.tolist(), values.tolist(), strict=True)
            ]
            cluster_id = int(to_centroids.argmin())
            checks.append({"ratings": rated, "cluster_id": cluster_id, "distance": float(nearest)})
    return checks
