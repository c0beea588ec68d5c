"""Reviews as a source of Spark's, on a real Spark and a real mongod."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from recommender.core.errors import DatabaseUnavailableError
from recommender.core.settings import Settings, load_settings
from recommender.data.ratings import Ratings
from recommender.data.reviews import IdRange
from recommender.spark import reviews_source as mongo_source
from recommender.spark.reviews_source import ROWS_A_BATCH, read_reviews
from recommender.spark.session import spark_errors


def test_spark_reads_the_same_ratings_as_one_process(
    spark: SparkSession, city: Ratings, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = read_reviews(spark, db_settings, ranges=4, batch_rows=100)
    assert frame.rdd.getNumPartitions() == 4
    batch, packed, unpacked = spark.conf.get(ROWS_A_BATCH), [], mongo_source._unpacked

    def spied(rows: pa.Table) -> pa.Table:
        packed.append(rows["block"])
        return unpacked(rows)

    monkeypatch.setattr(mongo_source, "_unpacked", spied)
    read = mongo_source.read_ratings(spark, db_settings, batch_rows=100)
    assert spark.conf.get(ROWS_A_BATCH) == batch
    assert {len(chunk) for chunk in packed[0].chunks} == {1}  # else batches could pass 2 GiB
    assert read.users.equals(city.users)
    assert read.restaurants.equals(city.restaurants)
    assert np.array_equal(read.rating, city.rating)
    assert np.array_equal(read.restaurant, city.restaurant)
    assert read.report == city.report


def test_a_password_is_in_no_plan_of_spark(spark: SparkSession, db_settings: Settings) -> None:
    uri = db_settings.mongo.uri.get_secret_value()
    frame = read_reviews(spark, db_settings, ranges=2)
    plan = frame._jdf.queryExecution().toString()
    assert "mongoreviews" in plan.lower()
    assert uri not in plan
    assert uri.removeprefix("mongodb://").rstrip("/") not in plan


@pytest.mark.parametrize("planned", [False, True])
def test_a_database_that_goes_away_from_spark_is_unavailable(
    spark: SparkSession,
    clean_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    planned: bool,
) -> None:
    """Before the ranges are known, and when the executors come to read them."""
    if planned:
        monkeypatch.setattr(mongo_source, "plan", lambda *_: [IdRange()])
    batch = spark.conf.get(ROWS_A_BATCH)
    gone = load_settings(mongo_uri="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200")
    with (
        pytest.raises(DatabaseUnavailableError, match="MongoDB did not answer"),
        spark_errors(),
    ):
        mongo_source.read_ratings(spark, gone)
    assert spark.conf.get(ROWS_A_BATCH) == batch
