"""Cosine similarity with magnitude, and K-Means under this distance.

The distance between a row x and a centroid c is

    d(x, c) = 1 - cos(x, c) min(|x|, |c|) / max(|x|, |c|) = 1 - x.c / max(|x|^2, |c|^2)     (1)

and 1 where either is zero. For non-negative vectors it lies in [0, 1], is 0 only for equal
vectors and 1 for vectors without a common non-zero. Multiplying both by one number keeps it.

**The centroid of a cluster.** For rows x with multiplicities v_x, the summed distance is least
where the gain G(c) = sum_x v_x x.c / max(|x|^2, |c|^2) is largest; the mean of the rows does not
maximise it. With c = s u, |u| = 1,

    A(s) = sum over |x| > s of v_x x / |x|^2,      B(s) = sum over |x| <= s of v_x x,
    G(s u) = u.g(s),      g(s) = s A(s) + B(s) / s.                                         (2)

For a given s the best u is g / |g| (Cauchy-Schwarz), and then G = |g(s)|. With t = s^2,

    |g(s)|^2 = t |A|^2 + 2 A.B + |B|^2 / t.                                                 (3)

This is continuous in t, convex between two consecutive norms of members, rising below the smallest
and falling above the largest. Its maximum is therefore at the norm of a member. `update` evaluates
(3) at all of them, so its centroids are the global optimum of each cluster, and Lloyd's iterations
cannot raise the summed distance.

Rows are sparse CSR or dense, of any real type, and are converted to float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, csr_matrix

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Labels: TypeAlias = NDArray[np.integer[Any]]
Rows: TypeAlias = csr_array | csr_matrix | NDArray[Any]

BLOCK_ROWS = 16_384
MAX_ITER, TOLERANCE = 100, 1e-4  # of `lloyd`
RESOLUTION = 1e-12
"""Smaller distances are rounding errors: a row so close to a centroid seeds no other cluster."""


def distance(x: ArrayLike, c: ArrayLike) -> float:
    """Compute the distance (1), in [0, 1], of two dense non-negative vectors."""
    return float(distances(np.array([x], dtype=np.float64), np.array([c], dtype=np.float64))[0, 0])


def distances(rows: Rows, centroids: Floats) -> Floats:
    """Compute the distances (1), (n, k), of non-negative rows (n, m) to centroids (k, m)."""
    csr = _as_csr(rows)
    products = np.asarray(csr @ np.ascontiguousarray(centroids.T))
    return _from_products(products, _squared_norms(csr), _squared_norms(_as_csr(centroids)))


def assign(
    rows: Rows, centroids: Floats, *, block_rows: int = BLOCK_ROWS
) -> tuple[NDArray[np.int32], Floats]:
    """Find the nearest centroid of every row and its distance, (n,) each; the lowest id wins a tie.

    A row at distance 1 from every centroid has the meaningless label 0. ``block_rows`` bounds the
    memory to block_rows x k.
    """
    # scipy's sparse product is fastest with a right operand in C order.
    csr, transposed = _as_csr(rows), np.ascontiguousarray(centroids.T)
    squared, centroids_squared = _squared_norms(csr), _squared_norms(_as_csr(centroids))
    labels, nearest = np.empty(len(squared), dtype=np.int32), np.empty(len(squared))
    for start in range(0, len(squared), block_rows):
        block = slice(start, start + block_rows)
        products = np.asarray(csr[block] @ transposed)
        to_centroids = _from_products(products, squared[block], centroids_squared)
        labels[block], nearest[block] = to_centroids.argmin(axis=1), to_centroids.min(axis=1)
    return labels, nearest


def nearest_cluster(rows: Rows, centroids: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Assign rows as `assign`, but with label -1 at distance 1 from every centroid."""
    labels, nearest = assign(rows, centroids)
    labels[nearest == 1] = -1
    return labels, nearest


def update(rows: Rows, labels: Labels, centroids: Floats, weights: Floats | None = None) -> Floats:
    """Move every centroid, (k, m), to where its members' summed distance is least.

    ``labels``, (n,), are the rows' centroids, and ``weights``, (n,), their multiplicities, 0 or
    more. Zero rows have no effect, and a centroid without members stays.
    """
    csr = _as_csr(rows)
    squared = _squared_norms(csr)
    weights = np.ones(len(squared)) if weights is None else weights
    # Group the rows by cluster, in the order of their norms.
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


def _best_centroid(members: csr_array, squared: Floats, weights: Floats) -> Floats:
    """Return the centroid of the norm that maximises (3), in the direction of (2).

    No member is zero, and they are in the order of their |x|^2, ``squared``.
    """
    t = squared[_squared_gains(members, squared, weights).argmax()]
    direction = np.asarray(members.T @ (weights / np.maximum(squared, t)))
    return np.asarray(direction * (np.sqrt(t) / np.linalg.norm(direction)))


def _squared_gains(members: csr_array, squared: Floats, weights: Floats) -> Floats:
    """Evaluate (3) with s at the norm of each member, (p,), in time linear in the non-zeros.

    With rising s, one member after the other leaves A and enters B. The change in |A|^2, A.B and
    |B|^2 is a sum over the member's non-zeros; each term needs A and B in its column only.
    """
    # Order each column's non-zeros by the members' norms.
    columns = members.tocsc()
    member, begins, ends = columns.indices, columns.indptr[:-1], columns.indptr[1:]
    b = weights[member] * columns.data
    a = b / squared[member]
    # Cumulative sums within each column give its entries of A and B at each member.
    sums_a, sums_b = np.insert(a.cumsum(), 0, 0), np.insert(b.cumsum(), 0, 0)
    A = np.repeat(sums_a[ends], ends - begins) - sums_a[1:]  # without this member
    B = sums_b[1:] - np.repeat(sums_b[begins], ends - begins)  # with this member

    def by_member(terms: Floats) -> Floats:
        return np.bincount(member, weights=terms, minlength=len(squared)).astype(np.float64)

    # Sum the changes of |A|^2 from the largest norm down, where |A|^2 is small, for precision.
    lost_AA = by_member(a * (2 * A + a))
    AA = lost_AA[::-1].cumsum()[::-1] - lost_AA
    AB = by_member(A * b - a * B + a * b).cumsum()
    BB = by_member(b * (2 * B - b)).cumsum()
    return np.asarray(squared * AA + 2 * AB + BB / squared)


@dataclass(frozen=True, eq=False, slots=True)
class DistinctRows:
    """Distinct rows, in the order of their length, columns and values."""

    rows: csr_array  # (d, m)
    counts: Floats  # (d,), how often each occurs
    inverse: Indices  # (n,), the position of each original row among these


def distinct_rows(rows: Rows) -> DistinctRows:
    """Collapse equal rows into one each, in a canonical order.

    Clustering these, weighted by their counts, gives equal rows equal labels, is independent of the
    order of the rows, and saves time: most users have one or two ratings.
    """
    csr = _as_csr(rows)
    if not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    lengths = np.diff(csr.indptr)
    by_length = np.argsort(lengths, kind="stable")
    inverse = np.empty(len(lengths), dtype=np.intp)
    firsts: list[Indices] = []
    n_distinct = 0
    # Rows of one length are compared as byte strings of one width.
    for group in np.split(by_length, np.flatnonzero(np.diff(lengths[by_length])) + 1):
        keys = _keys(csr, group, int(lengths[group[0]]))
        _, first, position = np.unique(keys, return_index=True, return_inverse=True)
        inverse[group] = n_distinct + position
        firsts.append(group[first])
        n_distinct += len(first)
    counts = np.bincount(inverse).astype(np.float64)
    return DistinctRows(csr[np.concatenate(firsts)], counts, inverse)


def _keys(rows: csr_array, group: Indices, length: int) -> NDArray[Any]:
    """Encode each row as bytes that sort as numbers: column, value, column, ..., big-endian."""
    if length == 0:
        return np.zeros(len(group))
    entries = rows.indptr[group][:, None] + np.arange(length)
    keys = np.empty(entries.shape, dtype=[("column", ">i8"), ("value", ">f8")])
    keys["column"], keys["value"] = rows.indices[entries], rows.data[entries]
    return keys.view(f"V{keys.itemsize * length}").ravel()


@dataclass(frozen=True, eq=False, slots=True)
class KMeansResult:
    """A clustering: nearest centroids as by `assign`, and how the iterations went."""

    centroids: Floats  # (k, m)
    labels: NDArray[np.int32]  # (n,)
    distances: Floats  # (n,)
    inertia: float  # sum of the distances
    history: tuple[float, ...] = ()  # inertia after each assignment; rises only by rounding
    iterations: int = 0  # updates of the centroids
    converged: bool = False  # ended by the tolerance, not by the maximum of iterations

    @property
    def sizes(self) -> Indices:
        """Rows in each cluster, (k,); a row of label -1 is in none."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.centroids))


def kmeans(rows: Rows, k: int, *, seed: int = 0) -> KMeansResult:
    """Find k clusters of small summed distance (1), by Lloyd's iterations from k-means++.

    The result depends on the rows and the seed only: a permutation of the rows permutes the
    labels, equal rows have equal labels, and a repeated row has twice the weight.

    The rows, (n, m), are finite and non-negative, none zero, and at least k of them are distinct:
    otherwise, or if k clusters would differ by rounding only, a ValueError is raised.
    """
    distinct, exponent = _prepared(rows, k)
    space = Space(distinct.rows, distinct.counts, distances, assign, update, strays_wait=True)
    rng = np.random.default_rng([seed, 0])
    chosen = space.seeds(k, rng)
    # If they are fewer, the rest differs from them by rounding only: take any of it.
    rest = np.setdiff1d(np.arange(len(distinct.counts)), chosen)
    chosen = np.append(chosen, rng.permutation(rest)[: k - len(chosen)])
    result = lloyd(space, chosen)
    if len(result.centroids) < k:
        raise ValueError(
            f"k={k}: {k - len(result.centroids)} clusters stay empty, because rows are within "
            f"{RESOLUTION:g} of each other; lower k or round the values"
        )
    # Undo the scaling and give each original row the label of its distinct row.
    return replace(
        result,
        centroids=np.ldexp(result.centroids, exponent),
        labels=result.labels[distinct.inverse],
        distances=result.distances[distinct.inverse],
    )


@dataclass(frozen=True, eq=False)
class Space:
    """Rows to cluster, and the operations of their space, as `distances`, `assign` and `update`.

    With ``strays_wait``, strays, rows at distance 1 from every centroid, are ignored until the
    others converge. After the seeding of sparse rows there are many, all with label 0, and they
    would make cluster 0 a giant. Ignoring them cannot raise the inertia if no distance is above 1.
    """

    rows: Any  # (n, m), sparse or dense, distinct
    weights: Floats  # (n,), multiplicities above 0
    distances: Callable[[Any, Floats], Floats]
    nearest: Callable[[Any, Floats], tuple[NDArray[np.int32], Floats]]
    update: Callable[[Any, Labels, Floats, Floats], Floats]
    strays_wait: bool = False

    def points(self, chosen: Indices) -> Floats:
        """Return the chosen rows, (t, m), dense."""
        points = self.rows[chosen]
        return np.asarray(points.toarray() if isinstance(points, csr_array) else points)

    def seeds(self, k: int, rng: np.random.Generator) -> Indices:
        """Choose at most k rows by greedy k-means++ (Arthur and Vassilvitskii, 2007).

        They are fewer than k if all others are within rounding of them.
        """
        trials = 2 + int(np.log(k))
        # Draw the first row by its weight.
        chosen = _draw(self.weights, 1, rng)
        nearest = self.distances(self.rows, self.points(chosen))[:, 0]
        while len(chosen) < k:
            # Draw candidates by weight times squared distance to the nearest chosen row.
            nearest[nearest <= RESOLUTION] = 0
            chances = self.weights * nearest**2
            if not chances.any():
                break
            drawn = _draw(chances, trials, rng)
            # Keep the candidate of least summed distance.
            after = np.minimum(nearest[:, None], self.distances(self.rows, self.points(drawn)))
            best = (self.weights @ after).argmin()
            nearest = after[:, best].copy()
            chosen = np.append(chosen, drawn[best])
        return chosen


def _draw(chances: Floats, size: int, rng: np.random.Generator) -> Indices:
    """Draw positions with probability proportional to ``chances``, never one of chance 0."""
    sums = chances.cumsum()
    return np.asarray(np.searchsorted(sums, rng.random(size) * sums[-1], side="right"))


def lloyd(space: Space, seeds: Indices) -> KMeansResult:
    """Find clusters by Lloyd's iterations from the rows ``seeds``.

    They end after ``MAX_ITER`` updates, or once the inertia falls by no more than ``TOLERANCE`` of
    itself. There are fewer clusters than seeds where the rows differ by rounding only.
    """
    best = _settled(space, space.points(seeds))
    history = [best.inertia]
    strays_wait, converged = space.strays_wait, False
    while not converged and len(history) <= MAX_ITER:
        # Update the centroids, without strays until the other rows converge.
        strays = best.distances == 1
        strays_wait = strays_wait and bool(strays.any())
        weights = np.where(strays, 0, space.weights) if strays_wait else space.weights
        centroids = space.update(space.rows, best.labels, best.centroids, weights)
        result = _settled(space, centroids)
        history.append(result.inertia)
        # Stop when the inertia hardly falls with all rows taking part.
        settled = best.inertia - result.inertia <= TOLERANCE * best.inertia
        converged = settled and not strays_wait
        strays_wait = strays_wait and not settled
        best = min(best, result, key=lambda result: result.inertia)
    return replace(best, history=tuple(history), iterations=len(history) - 1, converged=converged)


def _settled(space: Space, centroids: Floats) -> KMeansResult:
    """Assign the rows, and move empty centroids to the rows that cost most, or else drop them.

    Neither raises the inertia: the row that a centroid moves to is then at distance 0.
    """
    while True:
        labels, nearest = space.nearest(space.rows, centroids)
        filled = np.bincount(labels, minlength=len(centroids)) > 0
        costs = np.where(nearest > RESOLUTION, space.weights * nearest, 0)
        moves = min(np.count_nonzero(~filled), np.count_nonzero(costs))
        if not moves:
            labels = (np.cumsum(filled) - 1).astype(np.int32)[labels]
            inertia = float(space.weights @ nearest)
            return KMeansResult(centroids[filled], labels, nearest, inertia)
        costliest = np.argsort(-costs, kind="stable")[:moves]
        centroids = centroids.copy()
        centroids[np.flatnonzero(~filled)[:moves]] = space.points(costliest)


def silhouette(
    rows: Rows, labels: Labels, *, sample_size: int = 2000, seed: int = 0
) -> float | None:
    """Compute the mean silhouette in [-1, 1] (Rousseeuw, 1987) of a seeded sample under (1).

    None where it has fewer than two clusters, or none with two rows. Memory grows with the squared
    ``sample_size``.
    """
    from sklearn.metrics import silhouette_score  # slow to import; readers do not need it

    csr, labels = _as_csr(rows), np.asarray(labels)
    if len(labels) > sample_size:
        drawn = np.random.default_rng(seed).choice(len(labels), sample_size, replace=False)
        csr, labels = csr[drawn], labels[drawn]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    squared = _squared_norms(csr)
    between = _from_products((csr @ csr.T).toarray(), squared, squared)
    np.fill_diagonal(between, 0)  # also of zero rows
    return float(silhouette_score(between, labels, metric="precomputed"))


def _from_products(products: Floats, rows_squared: Floats, centroids_squared: Floats) -> Floats:
    """Turn (n, k) products x.c into distances (1), in place."""
    larger = np.maximum(rows_squared[:, None], centroids_squared)
    # Where both norms are 0, the product is 0, too: avoid 0 / 0.
    np.maximum(larger, np.finfo(np.float64).smallest_subnormal, out=larger)
    np.divide(products, larger, out=products)
    np.subtract(1, products, out=products)
    return np.clip(products, 0, 1, out=products)


def _squared_norms(rows: csr_array) -> Floats:
    """Return |x|^2 of each row, summed in the order of x.c, so that d(x, x) is exactly 0."""
    return np.asarray(rows.power(2) @ np.ones(rows.shape[1]))


def _as_csr(rows: Rows) -> csr_array:
    """Return float64 CSR with sorted, unique columns, copied only where necessary."""
    csr = csr_array(rows).astype(np.float64, copy=False)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    return csr


def _prepared(rows: Rows, k: int) -> tuple[DistinctRows, int]:
    """Validate rows and k, scale the rows so that no square overflows, and collapse equal ones.

    The original rows are exactly the distinct ones times 2 to the returned exponent.
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
    scaled = csr_array(parts, shape=csr.shape)
    if zeros := np.count_nonzero(_squared_norms(scaled) == 0):
        raise ValueError(
            f"{zeros} of {shape[0]} rows are zero, or negligible beside the largest: expected rows "
            "with a positive value; leave these out"
        )
    distinct = distinct_rows(scaled)
    n_distinct = len(distinct.counts)
    if not 1 <= k <= n_distinct:
        raise ValueError(
            f"k={k}: expected 1 to {n_distinct}, the number of distinct rows among {shape[0]}; "
            f"{'lower' if k > n_distinct else 'raise'} k"
        )
    return distinct, exponent
