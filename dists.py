"""Cosine similarity with magnitude, and a K-Means that descends on it.

The distance between a row x and a centroid c is

    d(x, c) = 1 - cos(x, c) min(|x|, |c|) / max(|x|, |c|) = 1 - x.c / max(|x|^2, |c|^2)     (1)

and 1 where either is zero. For non-negative vectors it lies in [0, 1], is 0 only for equal
vectors and 1 where nothing is shared. It stays as it is when both are multiplied by one number.

**The centroid of a cluster.** Rows x with multiplicities v_x are served best by the c of largest
gain G(c) = sum_x v_x x.c / max(|x|^2, |c|^2), their number less their summed distance. That is not
their mean, which is shorter than its members and so drifts away from them. With c = s u, |u| = 1,

    A(s) = sum over |x| > s of v_x x / |x|^2,      B(s) = sum over |x| <= s of v_x x,
    G(s u) = u.g(s),      g(s) = s A(s) + B(s) / s.                                         (2)

For a given s the best u is g / |g| (Cauchy-Schwarz), and then G = |g(s)|. With t = s^2,

    |g(s)|^2 = t |A|^2 + 2 A.B + |B|^2 / t.                                                 (3)

Between two consecutive norms of members, A and B are constant and (3) is convex in t; below the
smallest norm it rises, above the largest it falls. It is continuous, because a row of norm s adds
x / s to g whether it is counted in A or in B. Its maximum is therefore at the norm of a member.
`update` evaluates (3) at all of them: its centroids are the global optimum of each cluster, not
a step towards it, and Lloyd's iterations cannot raise the summed distance.

Arrays in, arrays out. Rows are sparse CSR or dense, of any real type, and are computed with as
float64. Memory is of the order of the non-zeros, the k centroids and one block of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse
from sklearn.metrics import silhouette_score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Labels: TypeAlias = NDArray[np.integer[Any]]
    Csr: TypeAlias = sparse.csr_array[np.float64, tuple[int, int]]
    Rows: TypeAlias = sparse.csr_array[Any, tuple[int, int]] | sparse.csr_matrix[Any] | NDArray[Any]

BLOCK_ROWS = 16_384
RESOLUTION = 1e-12
"""Distances up to this are rounding: a row that close to a centroid starts no other cluster."""


def distance(x: ArrayLike, c: ArrayLike) -> float:
    """Distance (1) of two dense non-negative vectors, for readers in other languages to copy.

    Returns
    -------
    float
        In [0, 1]: 0 for equal vectors; 1 where nothing is shared or either vector is zero.
    """
    x, c = np.asarray(x, dtype=np.float64), np.asarray(c, dtype=np.float64)
    larger = max(x @ x, c @ c)
    if larger == 0:
        return 1.0
    if np.array_equal(x, c):
        return 0.0
    return float(np.clip(1 - (x @ c) / larger, 0, 1))


def distances(rows: Rows, centroids: Floats) -> Floats:
    """Distances (1) of a block of rows to every centroid.

    Parameters
    ----------
    rows
        (n, m), sparse or dense, non-negative.
    centroids
        (k, m), dense, non-negative.

    Returns
    -------
    ndarray
        (n, k), in [0, 1].
    """
    csr = _as_csr(rows)
    products = np.asarray(csr @ _turned(centroids))
    return _from_products(products, _squared_norms(csr), _squared_norms(_as_csr(centroids)))


def assign(
    rows: Rows, centroids: Floats, *, block_rows: int = BLOCK_ROWS
) -> tuple[NDArray[np.int32], Floats]:
    """Find the nearest centroid of every row; of equally near ones, that of the lowest id.

    Parameters
    ----------
    rows
        (n, m), sparse or dense, non-negative. The label of a row that shares nothing with any
        centroid is 0 and says nothing: its distance is 1 to all.
    centroids
        (k, m), dense, non-negative.
    block_rows
        Rows computed at a time, which bounds the memory to block_rows x k.

    Returns
    -------
    labels, distances
        (n,) each: the centroid's id, and the distance to it.
    """
    csr, turned = _as_csr(rows), _turned(centroids)
    squared, centroids_squared = _squared_norms(csr), _squared_norms(_as_csr(centroids))
    labels = np.empty(len(squared), dtype=np.int32)
    nearest = np.empty(len(squared))
    for start in range(0, len(squared), block_rows):
        block = slice(start, start + block_rows)
        products = np.asarray(csr[block] @ turned)
        found = _from_products(products, squared[block], centroids_squared)
        labels[block] = found.argmin(axis=1)
        nearest[block] = found.min(axis=1)
    return labels, nearest


def update(
    rows: Rows, labels: Labels, centroids: Floats, *, weights: Floats | None = None
) -> Floats:
    """Move every centroid to where its members' summed distance is least (see the module's text).

    Parameters
    ----------
    rows
        (n, m), sparse or dense.
    labels
        (n,), each row's centroid.
    centroids
        (k, m). A centroid that no row pulls stays.
    weights
        (n,), how often each row counts, 0 or more; once by default. Zero rows never pull.

    Returns
    -------
    ndarray
        (k, m), up to rounding the best centroid that each cluster can have.
    """
    csr = _as_csr(rows)
    squared = _squared_norms(csr)
    weights = np.ones(len(squared)) if weights is None else weights
    order = np.lexsort((squared, labels))
    order = order[(squared[order] > 0) & (weights[order] > 0)]
    csr, squared, weights = csr[order], squared[order], weights[order]
    bounds = np.searchsorted(labels[order], np.arange(len(centroids) + 1))
    moved = np.array(centroids, dtype=np.float64)
    for cluster, (start, stop) in enumerate(pairwise(bounds)):
        if start < stop:
            members = slice(start, stop)
            moved[cluster] = _best_centroid(csr[members], squared[members], weights[members])
    return moved


def _best_centroid(members: Csr, squared: Floats, weights: Floats) -> Floats:
    """Take the norm where (3) is largest and the direction (2) that belongs to it.

    Parameters
    ----------
    members
        (p, m), one cluster's rows in the order of their norms, none zero.
    squared, weights
        (p,), |x|^2 and v_x.
    """
    t = squared[_squared_gains(members, squared, weights).argmax()]
    pull = np.asarray(members.T @ (weights / np.maximum(squared, t)))
    return np.asarray(pull * (np.sqrt(t) / np.linalg.norm(pull)))


def _squared_gains(members: Csr, squared: Floats, weights: Floats) -> Floats:
    """Evaluate (3) with s at the norm of each member, (p,), in time linear in the non-zeros.

    Going up the norms, a member leaves A and enters B. What that changes in |A|^2, A.B and |B|^2
    is a sum over its non-zeros, of terms that need A and B in their column alone; running sums
    down the columns give those.
    """
    columns = members.tocsc()
    member, begins, ends = columns.indices, columns.indptr[:-1], columns.indptr[1:]
    b = weights[member] * columns.data
    a = b / squared[member]
    sums_a, sums_b = np.insert(a.cumsum(), 0, 0), np.insert(b.cumsum(), 0, 0)
    A = np.repeat(sums_a[ends], ends - begins) - sums_a[1:]  # once the member has left
    B = sums_b[1:] - np.repeat(sums_b[begins], ends - begins)  # once it has entered

    def by_member(terms: Floats) -> Floats:
        return np.bincount(member, weights=terms, minlength=len(squared)).astype(np.float64)

    lost_AA = by_member(a * (2 * A + a))
    AA = lost_AA[::-1].cumsum()[::-1] - lost_AA  # from the top, where it is small, for precision
    AB = by_member(A * b - a * B + a * b).cumsum()
    BB = by_member(b * (2 * B - b)).cumsum()
    return np.asarray(squared * AA + 2 * AB + BB / squared)


@dataclass(frozen=True, eq=False, slots=True)
class DistinctRows:
    """Rows without repetition, in an order that depends on nothing but what they hold.

    Attributes
    ----------
    rows
        (d, m), float64, no two equal; shorter ones first, then by columns and values.
    counts
        (d,), how often each occurs.
    inverse
        (n,), where each of the given rows is among the distinct ones.
    """

    rows: Csr
    counts: Floats
    inverse: NDArray[np.intp]


def distinct_rows(rows: Rows) -> DistinctRows:
    """Collapse equal rows into one each, in a canonical order.

    Clustering these, weighted by their counts, is what gives equal rows equal labels, lets
    duplicates count as weights and makes the order of the rows immaterial; it also saves time,
    since most users have rated one or two places. Rows with equally many non-zeros are compared
    as strings of bytes: exact, where hashes would have to be verified, and a loop over the
    numbers that occur, not over rows.
    """
    csr = _as_csr(rows)
    if not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    lengths = np.diff(csr.indptr)
    by_length = np.argsort(lengths, kind="stable")
    inverse = np.empty(len(lengths), dtype=np.intp)
    firsts: list[NDArray[np.intp]] = []
    found = 0
    for group in np.split(by_length, np.flatnonzero(np.diff(lengths[by_length])) + 1):
        keys = _keys(csr, group, int(lengths[group[0]]))
        _, first, position = np.unique(keys, return_index=True, return_inverse=True)
        inverse[group] = found + position
        firsts.append(group[first])
        found += len(first)
    counts = np.bincount(inverse).astype(np.float64)
    return DistinctRows(csr[np.concatenate(firsts)], counts, inverse)


def _keys(rows: Csr, group: NDArray[np.intp], length: int) -> NDArray[Any]:
    """Write each row as bytes: column, value, column, ..., big-endian, which sorts as numbers."""
    if length == 0:
        return np.zeros(len(group))
    entries = rows.indptr[group][:, None] + np.arange(length)
    keys = np.empty(entries.shape, dtype=[("column", ">i8"), ("value", ">f8")])
    keys["column"], keys["value"] = rows.indices[entries], rows.data[entries]
    return keys.view(f"V{keys.itemsize * length}").ravel()


def kmeans_plusplus(
    rows: Rows, k: int, *, rng: np.random.Generator, weights: Floats | None = None
) -> Floats:
    """Choose k rows far apart, by greedy k-means++ (Arthur and Vassilvitskii, 2007).

    Each next row is drawn with a chance in proportion to its weight times its squared distance
    to the rows chosen before; of 2 + log(k) so drawn, the one that lowers the summed distance
    most is kept.

    Parameters
    ----------
    rows
        (n, m), sparse or dense, finite and non-negative, none zero.
    k
        Rows to choose, at most as many as are distinct.
    rng
        The only source of chance.
    weights
        (n,), how often each row counts, above 0; once by default.

    Returns
    -------
    ndarray
        (k, m), distinct rows.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """
    if weights is not None and not (weights > 0).all():
        raise ValueError(f"weights hold {weights.min():g}: expected values above 0; leave rows out")
    distinct, exponent = _prepared(rows, k)
    totals = np.bincount(distinct.inverse, weights=weights).astype(np.float64)
    return np.ldexp(_kmeans_plusplus(distinct.rows, k, totals, rng), exponent)


def _kmeans_plusplus(rows: Csr, k: int, weights: Floats, rng: np.random.Generator) -> Floats:
    trials = 2 + int(np.log(k))
    chosen = _draw(weights, 1, rng)
    nearest = distances(rows, rows[chosen].toarray())[:, 0]
    while len(chosen) < k:
        nearest[nearest <= RESOLUTION] = 0
        chances = weights * nearest**2
        if not chances.any():
            chances = weights.copy()
        chances[chosen] = 0
        drawn = _draw(chances, trials, rng)
        after = np.minimum(nearest[:, None], distances(rows, rows[drawn].toarray()))
        best = (weights @ after).argmin()
        nearest = after[:, best].copy()
        chosen = np.append(chosen, drawn[best])
    return rows[chosen].toarray()


def _draw(chances: Floats, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw positions in proportion to their chances, never one whose chance is 0."""
    sums = chances.cumsum()
    return np.asarray(np.searchsorted(sums, rng.random(size) * sums[-1], side="right"))


@dataclass(frozen=True, eq=False, slots=True)
class KMeansResult:
    """A clustering.

    Attributes
    ----------
    centroids
        (k, m).
    labels, distances
        (n,) each: every row's nearest of these very centroids and its distance, as by `assign`.
    sizes
        (k,), rows in each cluster, none 0.
    inertia
        The sum of the distances.
    history
        The inertia after each assignment, from the seeding's on. It never rises, but by rounding.
    iterations
        Updates of the centroids.
    converged
        Whether the tolerance ended the iterations, not the cap.
    """

    centroids: Floats
    labels: NDArray[np.int32]
    distances: Floats
    sizes: NDArray[np.intp]
    inertia: float
    history: tuple[float, ...]
    iterations: int
    converged: bool


def kmeans(
    rows: Rows,
    k: int,
    *,
    seed: int = 0,
    max_iter: int = 100,
    tolerance: float = 1e-4,
    starts: int = 1,
    block_rows: int = BLOCK_ROWS,
) -> KMeansResult:
    """Find k clusters of least summed distance (1), by Lloyd's iterations from k-means++.

    The outcome depends on the rows and the seed alone: a permutation of the rows permutes the
    labels, equal rows have equal labels, a row given twice weighs twice (see `distinct_rows`).

    Parameters
    ----------
    rows
        (n, m), sparse or dense, finite and non-negative, none zero.
    k
        Number of clusters, at most that of distinct rows.
    seed
        Of all that is drawn.
    max_iter
        Most updates of the centroids in one start.
    tolerance
        An update that lowers the inertia by no more than this share of it is the last.
    starts
        Seedings to iterate from; the clustering of least inertia is kept.
    block_rows
        As in `assign`.

    Raises
    ------
    ValueError
        If an argument is not as described; or if rows are so alike that their distances are
        rounding, and k clusters cannot be told apart.
    """
    if min(max_iter, starts, block_rows) < 1 or not tolerance >= 0:
        raise ValueError(
            f"{max_iter=}, {starts=}, {block_rows=}, {tolerance=}: expected at least 1, 1, 1, 0"
        )
    distinct, exponent = _prepared(rows, k)
    runs = (
        _lloyd(distinct, k, np.random.default_rng([seed, start]), max_iter, tolerance, block_rows)
        for start in range(starts)
    )
    best = min(runs, key=lambda run: run.inertia)
    return replace(best, centroids=np.ldexp(best.centroids, exponent))


class _State(NamedTuple):
    centroids: Floats
    labels: NDArray[np.int32]
    distances: Floats
    inertia: float


def _lloyd(
    distinct: DistinctRows,
    k: int,
    rng: np.random.Generator,
    max_iter: int,
    tolerance: float,
    block_rows: int,
) -> KMeansResult:
    """Seed, then update and assign in turn until that gains little.

    Strays, which share nothing with any centroid, all have label 0. On sparse rows they are so
    many after the seeding that they would drag centroid 0 off and leave one giant cluster in a
    poor optimum; so they pull only once the others have settled. The inertia falls all the same,
    because a stray's distance cannot rise above 1.
    """
    rows, weights = distinct.rows, distinct.counts
    best = _settled(rows, weights, _kmeans_plusplus(rows, k, weights, rng), block_rows)
    history = [best.inertia]
    strays_wait, converged = True, False
    while not converged and len(history) <= max_iter:
        strays = best.distances == 1
        strays_wait = strays_wait and bool(strays.any())
        pulls = np.where(strays, 0, weights) if strays_wait else weights
        moved = update(rows, best.labels, best.centroids, weights=pulls)
        state = _settled(rows, weights, moved, block_rows)
        history.append(state.inertia)
        settled = best.inertia - state.inertia <= tolerance * best.inertia
        converged = settled and not strays_wait
        strays_wait = strays_wait and not settled
        best = min(best, state, key=lambda state: state.inertia)
    labels = best.labels[distinct.inverse]
    return KMeansResult(
        centroids=best.centroids,
        labels=labels,
        distances=best.distances[distinct.inverse],
        sizes=np.bincount(labels, minlength=k),
        inertia=best.inertia,
        history=tuple(history),
        iterations=len(history) - 1,
        converged=converged,
    )


def _settled(rows: Csr, weights: Floats, centroids: Floats, block_rows: int) -> _State:
    """Assign the rows, moving centroids that got none to the rows that cost most, until all have.

    That does not raise the inertia: a centroid without rows costs nothing where it leaves, and
    the row that it moves to costs nothing any more.
    """
    while True:
        labels, nearest = assign(rows, centroids, block_rows=block_rows)
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
        if not len(empty):
            return _State(centroids, labels, nearest, float(weights @ nearest))
        costs = np.where(nearest > RESOLUTION, weights * nearest, 0)
        costliest = np.argsort(-costs, kind="stable")[: len(empty)]
        if costs[costliest[-1]] == 0:
            raise ValueError(
                f"k={len(centroids)}: {len(empty)} clusters stay empty, because rows are within "
                f"{RESOLUTION:g} of each other; lower k or round the values"
            )
        centroids = centroids.copy()
        centroids[empty] = rows[costliest].toarray()


def spherical_kmeans(
    rows: Floats,
    k: int,
    *,
    weights: Floats | None = None,
    seed: int = 0,
    max_iter: int = 100,
    tolerance: float = 1e-4,
    starts: int = 1,
) -> KMeansResult:
    """Find at most k clusters of unit vectors of any sign, of least summed distance (1).

    Between unit vectors the larger norm is 1 and (1) is 1 - x.c, in [0, 2] where signs differ.
    Among unit centroids the gain sum v_x x.c is largest for c along sum v_x x (Cauchy-Schwarz), so
    each update is optimal and the inertia cannot rise: the spherical K-Means of Dhillon and Modha
    (2001).

    Parameters
    ----------
    rows
        (n, d), dense, each of length 1.
    k
        Most clusters; there are fewer where fewer directions are further apart than rounding.
    weights
        (n,), how often each row counts, above 0; once by default. The inertia counts them.
    seed, max_iter, tolerance, starts
        As in `kmeans`.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """
    if min(k, max_iter, starts) < 1 or not tolerance >= 0:
        raise ValueError(
            f"{k=}, {max_iter=}, {starts=}, {tolerance=}: expected at least 1, 1, 1, 0"
        )
    if not len(rows) or not np.allclose(np.linalg.norm(rows, axis=1), 1):
        raise ValueError("expected at least one row, and all of length 1; normalise them")
    weights = np.ones(len(rows)) if weights is None else weights
    runs = (
        _spherical_lloyd(
            rows, k, weights, np.random.default_rng([seed, start]), max_iter, tolerance
        )
        for start in range(starts)
    )
    return min(runs, key=lambda run: run.inertia)


def _spherical_lloyd(
    rows: Floats,
    k: int,
    weights: Floats,
    rng: np.random.Generator,
    max_iter: int,
    tolerance: float,
) -> KMeansResult:
    best = _settled_directions(rows, weights, _spread_directions(rows, k, weights, rng))
    history, converged = [best.inertia], False
    while not converged and len(history) <= max_iter:
        shape = (len(best.centroids), len(rows))
        members = sparse.csr_array((weights, (best.labels, np.arange(len(rows)))), shape=shape)
        pulls = np.asarray(members @ rows)
        lengths = np.linalg.norm(pulls, axis=1, keepdims=True)
        moved = np.divide(pulls, lengths, out=best.centroids.copy(), where=lengths > 0)
        state = _settled_directions(rows, weights, moved)
        history.append(state.inertia)
        converged = best.inertia - state.inertia <= tolerance * best.inertia
        best = min(best, state, key=lambda state: state.inertia)
    return KMeansResult(
        centroids=best.centroids,
        labels=best.labels,
        distances=best.distances,
        sizes=np.bincount(best.labels, minlength=len(best.centroids)),
        inertia=best.inertia,
        history=tuple(history),
        iterations=len(history) - 1,
        converged=converged,
    )


def _spread_directions(rows: Floats, k: int, weights: Floats, rng: np.random.Generator) -> Floats:
    """Choose at most k rows as `kmeans_plusplus` does; fewer where all others equal one of them."""
    trials = 2 + int(np.log(k))
    chosen = _draw(weights, 1, rng)
    nearest = _gaps(rows, rows[chosen])[:, 0]
    while len(chosen) < k:
        chances = weights * np.where(nearest > RESOLUTION, nearest, 0) ** 2
        if not chances.any():
            break
        drawn = _draw(chances, trials, rng)
        after = np.minimum(nearest[:, None], _gaps(rows, rows[drawn]))
        best = (weights @ after).argmin()
        nearest = after[:, best].copy()
        chosen = np.append(chosen, drawn[best])
    return rows[chosen]


def _settled_directions(rows: Floats, weights: Floats, centroids: Floats) -> _State:
    """Assign the rows; centroids that got none move to the costliest rows, or go if none costs."""
    labels, nearest = np.empty(len(rows), dtype=np.int32), np.empty(len(rows))
    while True:
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            gaps = _gaps(rows[block], centroids)
            labels[block], nearest[block] = gaps.argmin(axis=1), gaps.min(axis=1)
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
        costs = np.where(nearest > RESOLUTION, weights * nearest, 0)
        costliest = np.argsort(-costs, kind="stable")[: len(empty)]
        costliest = costliest[costs[costliest] > 0]
        if not len(costliest):
            filled, renumbered = np.unique(labels, return_inverse=True)
            inertia = float(weights @ nearest)
            return _State(centroids[filled], renumbered.astype(np.int32), nearest, inertia)
        centroids = centroids.copy()
        centroids[empty[: len(costliest)]] = rows[costliest]


def _gaps(rows: Floats, centroids: Floats) -> Floats:
    """Distances (1) of unit vectors, (n, k)."""
    return np.clip(1 - rows @ centroids.T, 0, 2)


def silhouette(
    rows: Rows, labels: Labels, *, sample_size: int = 2000, seed: int = 0
) -> float | None:
    """Mean silhouette (Rousseeuw, 1987) on the distance (1), of a seeded sample beyond a size.

    Parameters
    ----------
    rows
        (n, m), sparse or dense, non-negative.
    labels
        (n,), each row's cluster.
    sample_size
        Most rows to compare; the memory is of the order of its square.
    seed
        Of the sample.

    Returns
    -------
    float or None
        In [-1, 1]; None where the sample has fewer than two clusters, or none with two rows.
    """
    csr, labels = _as_csr(rows), np.asarray(labels)
    if len(labels) > sample_size:
        drawn = np.random.default_rng(seed).choice(len(labels), sample_size, replace=False)
        csr, labels = csr[drawn], labels[drawn]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    squared = _squared_norms(csr)
    between = _from_products((csr @ csr.T).toarray(), squared, squared)
    np.fill_diagonal(between, 0)  # of zero rows too
    return float(silhouette_score(between, labels, metric="precomputed"))


def _from_products(products: Floats, rows_squared: Floats, centroids_squared: Floats) -> Floats:
    """Turn (n, k) products x.c into distances (1), in place."""
    larger = np.maximum(rows_squared[:, None], centroids_squared)
    # where both norms are 0 so is the product, and 0 / tiny is 0
    np.maximum(larger, np.finfo(np.float64).smallest_subnormal, out=larger)
    np.divide(products, larger, out=products)
    np.subtract(1, products, out=products)
    return np.clip(products, 0, 1, out=products)


def _turned(centroids: Floats) -> Floats:
    """(m, k) in C order, by which scipy multiplies fastest: well worth the copy."""
    return np.ascontiguousarray(centroids.T, dtype=np.float64)


def _squared_norms(rows: Csr) -> Floats:
    """|x|^2 of each row, summed in the order in which x.c is, so that d(x, x) is exactly 0."""
    squares = sparse.csr_array((rows.data**2, rows.indices, rows.indptr), shape=rows.shape)
    return np.asarray(squares @ np.ones(rows.shape[1]))


def _as_csr(rows: Rows) -> Csr:
    """Float64 CSR, columns sorted and unique; copied only where it is not so already."""
    csr: Csr = sparse.csr_array(rows).astype(np.float64, copy=False)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr


def _prepared(rows: Rows, k: int) -> tuple[DistinctRows, int]:
    """Refuse rows or a k that cannot be clustered; collapse and scale what can.

    Returns
    -------
    distinct, exponent
        The rows given are these times 2^exponent: exactly, and no square overflows.
    """
    shape = np.shape(rows)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"rows of shape {shape}: expected (n, m) with at least one row and column")
    csr = _as_csr(rows)
    least, most = csr.data.min(initial=0), csr.data.max(initial=0)
    if not np.isfinite((least, most)).all():
        raise ValueError("rows hold NaN or infinity: expected finite values; drop these ratings")
    if least < 0:
        raise ValueError(f"rows hold {least:g}: expected values of at least 0; shift or clip them")
    exponent = int(np.frexp(most)[1])
    parts = (np.ldexp(csr.data, -exponent), csr.indices, csr.indptr)
    scaled = sparse.csr_array(parts, shape=csr.shape)
    zeros = np.count_nonzero(_squared_norms(scaled) == 0)
    if zeros:
        raise ValueError(
            f"{zeros} of {shape[0]} rows are zero, or vanish beside the largest: expected rows "
            "with a positive value; leave these out"
        )
    distinct = distinct_rows(scaled)
    found = len(distinct.counts)
    if not 1 <= k <= found:
        raise ValueError(
            f"k={k}: expected 1 to {found}, the number of distinct rows among {shape[0]}; "
            f"{'lower' if k > found else 'raise'} k"
        )
    return distinct, exponent
