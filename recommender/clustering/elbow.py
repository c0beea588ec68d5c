"""The elbow curve: K-Means for several numbers of clusters, as a table and a plot with its knee."""

import re
import time
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from recommender.clustering.evaluate import silhouette_of
from recommender.clustering.fit import cluster
from recommender.clustering.user_matrix import UserMatrix, user_matrix
from recommender.core.plots import LineChart, Point, keep_cache_in, line_charts_svg
from recommender.core.settings import ClustersSettings, Settings
from recommender.core.terminal import print_json, print_table
from recommender.data.reviews import read_ratings


class CurvePoint(NamedTuple):
    """Inertia, silhouette and fit time of a clustering into k clusters."""

    k: int
    inertia: float
    silhouette: float | None
    seconds: float


def run_elbow(ks: range, settings: Settings, *, as_json: bool) -> None:
    """Cluster the reviews for each k, plot ``elbow.svg`` in ``WORK_DIR``, and print the curve."""
    settings.make_folder(settings.work_dir)
    keep_cache_in(settings.work_dir)
    matrix = user_matrix(read_ratings(settings), ks[-1], settings.reviews.rating_min)
    points = list(elbow_curve(matrix, ks, settings.clusters, settings.seed))
    knee = find_knee(points)
    path = settings.work_dir / "elbow.svg"
    path.write_bytes(line_charts_svg(line_chart(points, knee)))
    if as_json:
        curve = [point._asdict() for point in points]
        print_json({"points": curve, "knee": knee, "plot": str(path)})
        return
    advice = "no knee" if knee is None else f"the knee is at CLUSTERS_K={knee}"
    header = (*CurvePoint._fields, "")
    print_table(f"{advice}; plot: {path}", table_rows(points, knee), header, range(4))


def elbow_curve(
    matrix: UserMatrix, ks: Iterable[int], clusters: ClustersSettings, seed: int
) -> Iterator[CurvePoint]:
    """Cluster for each k in turn; stop at the first k with fewer than k clusters."""
    for k in ks:
        started = time.perf_counter()
        clustering = cluster(matrix, clusters.model_copy(update={"k": k}), seed)
        seconds = time.perf_counter() - started
        silhouette = silhouette_of(clustering, matrix, seed)
        k_formed = len(clustering.centroids)
        yield CurvePoint(k_formed, clustering.inertia, silhouette, seconds)
        if k_formed < k:
            return


def find_knee(points: Sequence[CurvePoint]) -> int | None:
    """Return the k after which inertia falls slowly (Satopaa et al., 2011), or None."""
    if len(points) < 3 or points[0].inertia == points[-1].inertia:
        return None
    from kneed import KneeLocator  # slow to import

    ks, inertias = [point.k for point in points], [point.inertia for point in points]
    knee = KneeLocator(ks, inertias, curve="convex", direction="decreasing").knee
    return None if knee is None else int(knee)


def line_chart(points: Sequence[CurvePoint], knee: int | None) -> LineChart:
    """Return the chart of inertia over k, the knee marked."""
    ticks = tuple(str(point.k) for point in points)
    notes = [f"knee: k = {point.k}" if point.k == knee else "" for point in points]
    line = tuple(Point(i, point.inertia, note=notes[i]) for i, point in enumerate(points))
    return LineChart("Elbow curve", "number of clusters k", "inertia", ticks, (("", line),))


def table_rows(points: Sequence[CurvePoint], knee: int | None) -> Iterator[tuple[str, ...]]:
    """Yield a row per point, the knee marked."""
    for k, inertia, silhouette, seconds in points:
        shown = "none" if silhouette is None else f"{silhouette:.4f}"
        mark = "<- knee" if k == knee else ""
        yield str(k), f"{inertia:,.2f}", shown, f"{seconds:.1f}", mark


def parse_range(text: str) -> range:
    """Parse the option ``FIRST:LAST:STEP``, last included."""
    numbers = re.fullmatch(r"(\d+):(\d+):(\d+)", text)
    first, last, step = map(int, numbers.groups()) if numbers else (0, 0, 0)
    if not (1 <= first <= last and step >= 1):
        raise ArgumentTypeError(f"{text!r}: expected 1 <= FIRST <= LAST and a STEP of at least 1")
    return range(first, last + 1, step)
