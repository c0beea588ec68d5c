"""Spectral embedding of the items: the leading eigenvectors of their co-rating graph."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.threads import map_blocks

Floats: TypeAlias = NDArray[np.float64]

_USER_POWER = 0.5
_ITEM_POWER = 0.25
_EIGENVALUE_POWER = 0.5
_POWER_ITERATIONS = 8
_NOISE = 1e-9
_BLOCK_ROWS = 65_536


def spectral_embedding(rows: csr_array, *, weights: Floats, dimensions: int, seed: int) -> Floats:
    """Embed the items by their co-ratings: (items, at most dimensions), 0 without a co-rating.

    With n_u the number of items that user u has rated, the graph is A_ij = sum over the users of
    both i and j of (n_u - 1)^-1/2, and A_ii = 0. With D = diag(A 1), the embedding is

        W = D^-1/4 V (L / max L)^1/2,     D^-1/4 A D^-1/4 V = V L,     L the largest eigenvalues.

    Negative eigenvalues count as 0. V is computed by subspace iteration (Halko, Martinsson and
    Tropp, 2011), with products by the rows only: A is never built. ``rows``, (n, items), are
    non-zero where rated, and each stands for ``weights``, (n,), users.
    """
    scale, scaled_graph = _graph(rows, weights)
    values, vectors = _leading(scaled_graph, len(scale), dimensions, seed)
    if not values.max() > 0:
        return np.zeros(vectors.shape)
    relative = np.maximum(values, 0) / values.max()
    items: Floats = scale[:, None] * vectors * relative**_EIGENVALUE_POWER
    # An item outside the computed dimensions has rounding errors only.
    lengths = np.linalg.norm(items, axis=1)
    items[lengths <= _NOISE * lengths.max()] = 0
    return items


def _graph(rows: csr_array, weights: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Return D^-1/4 of `spectral_embedding` and the product with D^-1/4 A D^-1/4."""
    # Users of one item add nothing to A.
    lengths = np.diff(rows.indptr)
    several = np.flatnonzero(lengths >= 2)
    weighted = csr_array(rows[several])
    # A = B^T B less its diagonal, with B_ui = (v_u (n_u - 1)^-1/2)^1/2.
    each = np.sqrt(weights[several] * (lengths[several] - 1.0) ** -_USER_POWER)
    weighted.data = np.repeat(each, lengths[several])
    diagonal = np.asarray(weighted.power(2).sum(axis=0)).ravel()
    degree = weighted.T @ (weighted @ np.ones(weighted.shape[1])) - diagonal
    scale = np.zeros(len(degree))
    scale[degree > 0] = degree[degree > 0] ** -_ITEM_POWER
    # Of fixed sizes, so that the sum does not depend on the number of cores.
    blocks = [weighted[i : i + _BLOCK_ROWS] for i in range(0, len(several), _BLOCK_ROWS)]

    def times(vectors: Floats) -> Floats:
        scaled = scale[:, None] * vectors
        product = sum(map_blocks(lambda block: block.T @ (block @ scaled), blocks))
        return np.asarray(scale[:, None] * (product - diagonal[:, None] * scaled))

    return scale, times


def _leading(
    times: Callable[[Floats], Floats], size: int, dimensions: int, seed: int
) -> tuple[Floats, Floats]:
    """Return the largest eigenvalues of a symmetric operator and their vectors."""
    # Oversample: iterate on a wider subspace than requested.
    dimensions = min(dimensions, size)
    width = min(size, dimensions + max(8, dimensions // 4))
    start = np.random.default_rng(seed).standard_normal((size, width))
    basis = np.linalg.qr(start)[0]
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(times(basis))[0]
    # Rayleigh-Ritz: solve the small problem within the subspace.
    small = basis.T @ times(basis)
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    largest = np.argsort(-values)[:dimensions]
    return values[largest], basis @ vectors[:, largest]
