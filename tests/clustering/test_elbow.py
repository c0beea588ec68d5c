"""The elbow curve, its knee, and its table."""

import json
from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest

import clustering_training
from dists import silhouette
from recommender.clustering.elbow import (
    CurvePoint,
    elbow_curve,
    find_knee,
    line_chart,
    parse_range,
    table_rows,
)
from recommender.clustering.fit import cluster
from recommender.clustering.user_matrix import user_matrix
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings, load_settings
from recommender.runs.lease import Lease
from tests.small_cities import few_ratings

BENT = [CurvePoint(k, 1000 - 90 * k if k <= 10 else 100 - k, 0.1, 0.5) for k in range(2, 31, 2)]


def test_a_range_includes_its_last_number() -> None:
    assert list(parse_range("5:14:3")) == [5, 8, 11, 14]
    assert list(parse_range("3:3:1")) == [3]
    for text in ("5", "5:10", "5:10:0", "0:10:1", "9:5:1", "a:b:c", "1:2:3:4", ""):
        with pytest.raises(ArgumentTypeError, match="FIRST"):
            parse_range(text)


def test_the_knee_is_where_the_curve_bends() -> None:
    assert find_knee(BENT) == 10
    for points in ([], BENT[:2], [CurvePoint(k, 0.0, None, 1) for k in (1, 2, 3)]):
        assert find_knee(points) is None


def test_the_table_and_the_plot_mark_the_knee_alone() -> None:
    (_, line), *others = line_chart(BENT, 10).lines
    assert not others
    assert [(point.value, point.note[-2:]) for point in line if point.note] == [(100, "10")]
    rows = list(table_rows([*BENT, CurvePoint(40, 50, None, 2)], 10))
    assert len(rows) == len(BENT) + 1
    assert [row[0] for row in rows if row[-1]] == ["10"]
    assert rows[0] == ("2", "820.00", "0.1000", "0.5", "")
    assert rows[-1] == ("40", "50.00", "none", "2.0", "")


@pytest.mark.usefixtures("clean_environment")
def test_the_curve_is_that_of_the_clusterings_and_ends_where_k_does() -> None:
    settings = load_settings(clusters_space="ratings")
    matrix = user_matrix(few_ratings(), settings.clusters.k, settings.reviews.rating_min)
    points = list(elbow_curve(matrix, [1, 3, 9, 10], settings.clusters, settings.seed))
    assert [point.k for point in points] == [1, 3, 5]
    for point in points:
        of_k = load_settings(clusters_space="ratings", clusters_k=point.k)
        clustering = cluster(matrix, of_k.clusters, of_k.seed)
        assert point.inertia == clustering.inertia
        assert point.silhouette == silhouette(matrix.rows, clustering.labels, seed=settings.seed)
        assert point.seconds > 0


@pytest.mark.usefixtures("tiny_city")
def test_the_elbow_runs_beside_a_training_and_publishes_nothing(
    run_here: Callable[..., int],
    db: MongoDatabase,
    db_settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Lease(db, 60).acquire("another training")
    assert run_here(clustering_training.main, "--elbow", "2:8:2") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[2:]] == ["2", "4", "6", "8"]
    assert run_here(clustering_training.main, "--elbow", "2:8:2", "--json") == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert [f"{point['inertia']:,.2f}" for point in points] == [x.split()[1] for x in printed[2:]]
    assert (db_settings.work_dir / "elbow.svg").stat().st_size > 5_000
    assert not {"Clusters", "Metadata", "TrainingRuns"} & set(db.list_collection_names())
    with pytest.raises(SystemExit) as caught:
        clustering_training.main(["--elbow", "9:1:1"])
    assert caught.value.code == 2
