"""Times the top 13 of users beside Spark's own, on the Reviews of MONGO_URI.

``python -m benchmarks.top_n`` fits MLlib's ALS of rank 32 in one iteration, and lets
``recommendForUserSubset``, which is ``recommendForAllUsers`` for some, and `recommender.als.top_n`
rank all restaurants for the same sample of users; only the latter leaves out what they have rated.
Each has all cores and runs twice, after a run that warms it up.
"""

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from threadpoolctl import threadpool_limits

from recommender.als.confidence import confidence_matrix
from recommender.als.fit import factor_matrix
from recommender.als.top_n import top_n
from recommender.core.script import run_script
from recommender.core.settings import load_settings
from recommender.spark.reviews_source import read_in_spark
from recommender.spark.session import spark_session

TOP = 13
_RANK = 32
_RUNS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Print the seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.top_n", description=__doc__)
    parser.add_argument("--users", type=int, default=20_000, help="size of the sample")
    arguments = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)
    settings = load_settings()
    with spark_session(settings, "top_n") as spark_thread:
        spark = spark_thread.session()
        ratings = read_in_spark(spark, settings)
        confidence = confidence_matrix(ratings, settings.reviews)
        columns = [ratings.user, ratings.restaurant, confidence.data.astype(np.float32)]
        table = pa.table(columns, names=["user", "item", "rating"])
        als = ALS(rank=_RANK, maxIter=1, implicitPrefs=True, seed=settings.seed)
        model = als.fit(spark.createDataFrame(table))
        users, items = (
            np.nan_to_num(factor_matrix(factors, count, _RANK))
            for factors, count in zip(
                (model.userFactors, model.itemFactors), confidence.shape, strict=True
            )
        )
        rng = np.random.default_rng(settings.seed)
        size = min(arguments.users, len(users))
        sample = np.sort(rng.choice(len(users), size, replace=False)).astype(np.int32)
        frame = spark.createDataFrame(pa.table([sample], names=["user"]))
        cores = spark.sparkContext.defaultParallelism

        def own(part: NDArray[np.int32]) -> None:
            top_n(users[part], items, TOP, confidence[part])

        def all_own() -> None:
            with threadpool_limits(1), ThreadPoolExecutor(cores) as pool:
                list(pool.map(own, np.array_split(sample, 4 * cores)))

        theirs = seconds(lambda: model.recommendForUserSubset(frame, TOP).toArrow())
        ours = seconds(all_own)
    print(f"{size:,} of {len(users):,} users, {len(items):,} restaurants, {cores} cores")
    print(f"recommendForUserSubset {theirs:.2f} s, top_n {ours:.2f} s: {theirs / ours:.1f} times")
    return 0


def seconds(run: Callable[[], object]) -> float:
    """Return the mean seconds of a run, after one that does not count."""
    run()
    started = time.monotonic()
    for _ in range(_RUNS):
        run()
    return (time.monotonic() - started) / _RUNS


if __name__ == "__main__":
    raise SystemExit(run_script(main))
