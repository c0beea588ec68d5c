"""Test vectors for readers of the published model in any language."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dists import distance, distances

# Equal, disjoint, of other length, and zero.
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
    """Return pairs of vectors with their distance."""
    return [{"x": x, "c": c, "distance": distance(x, c)} for x, c in _PAIRS]


def user_checks(
    centroids: NDArray[np.float64], columns: Sequence[Any], ratings: Sequence[float], shift: float
) -> Iterator[dict[str, Any]]:
    """Yield synthetic users with the cluster in which a reader must find them.

    Each has rated the items of largest weight in one centroid; none whose two nearest clusters
    differ by rounding only. One has rated nothing and, on scales from 0, one an item with 0.
    """
    yield {"ratings": [], "cluster_id": None, "distance": 1.0}
    if not shift and 0 in ratings:
        rated_0 = [{"gmap_id": columns[0], "rating": 0.0}]
        yield {"ratings": rated_0, "cluster_id": None, "distance": 1.0}
    for centroid in centroids[:_CLUSTERS]:
        items = np.argsort(-centroid, kind="stable")[:_ITEMS]
        values = np.resize(np.asarray(ratings, dtype=np.float64), len(items))
        user = np.zeros((1, len(columns)))
        user[0, items] = values + shift
        to_centroids = distances(user, centroids)[0]
        nearest, second = np.sort(np.append(to_centroids, np.inf))[:2].tolist()
        if nearest < 1 - _CLEAR and second - nearest > _CLEAR:
            pairs = zip(items, values.tolist(), strict=True)
            rated = [{"gmap_id": columns[item], "rating": rating} for item, rating in pairs]
            cluster_id = int(to_centroids.argmin())
            yield {"ratings": rated, "cluster_id": cluster_id, "distance": nearest}
