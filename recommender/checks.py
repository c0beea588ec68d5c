"""Test vectors by which a reader of the model, in any language, can check itself."""

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
_PLACES = 3
_CLEAR = 1e-6


def distance_checks() -> list[dict[str, Any]]:
    """Return pairs of vectors and their distance: equal, unlike, shorter, longer and zero ones."""
    return [{"x": x, "c": c, "distance": distance(x, c)} for x, c in _PAIRS]


def user_checks(
    centroids: NDArray[np.float64],
    column_ids: Sequence[Any],
    ratings: Sequence[float],
    shift: float,
) -> list[dict[str, Any]]:
    """Return invented users and where a reader must find them.

    Each has rated the places that weigh most in one centroid; one has rated nothing, and is in no
    cluster, nor is one whose only rating is 0, where ratings can be that. Left out are those whose
    nearest is not clear beyond any rounding.

    Parameters
    ----------
    centroids
        (k, columns).
    column_ids
        The ids of the columns.
    ratings
        What they have rated, in turn.
    shift
        Added to ratings in users' vectors.
    """
    checks: list[dict[str, Any]] = [{"ratings": [], "cluster_id": None, "distance": 1.0}]
    if not shift and 0 in ratings:
        rated_0 = [{"gmap_id": column_ids[0], "rating": 0.0}]
        checks.append({"ratings": rated_0, "cluster_id": None, "distance": 1.0})
    for centroid in centroids[:_CLUSTERS]:
        places = np.argsort(-centroid, kind="stable")[:_PLACES]
        given = np.resize(np.asarray(ratings, dtype=np.float64), len(places))
        user = np.zeros((1, len(column_ids)))
        user[0, places] = given + shift
        found = distances(user, centroids)[0]
        nearest, *next_ones = np.sort(found)[:2]
        if nearest < 1 - _CLEAR and (not next_ones or next_ones[0] - nearest > _CLEAR):
            rated = [
                {"gmap_id": column_ids[place], "rating": rating}
                for place, rating in zip(places.tolist(), given.tolist(), strict=True)
            ]
            cluster_id = int(found.argmin())
            checks.append({"ratings": rated, "cluster_id": cluster_id, "distance": float(nearest)})
    return checks
