"""The reading of Reviews by executors, on a real Spark and a real mongod."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recommender.core.errors import DatabaseUnavailableError
from recommender.core.settings import Settings, load_settings
from recommender.data.ratings import Ratings
from recommender.data.reviews import ALL_IDS, plan
from recommender.spark import reviews_source
from recommender.spark.session import SparkThread, spark_errors


def test_spark_reads_the_same_ratings_as_one_process(
    spark: SparkSession, city: Ratings, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided = plan(db_settings.mongo, 4, 100)
    assert len(divided) == 4
    monkeypatch.setattr(reviews_source, "plan", lambda *_: divided)
    read = reviews_source.read_in_spark(spark, db_settings)
    assert read.users.equals(city.users)
    assert read.restaurants.equals(city.restaurants)
    assert np.array_equal(read.rating, city.rating)
    assert np.array_equal(read.restaurant, city.restaurant)
    assert read.report == city.report


def test_executors_read_where_the_driver_would_take_longer(
    spark_thread: SparkThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[str] = []
    monkeypatch.setattr(reviews_source, "read_ratings", lambda _: readers.append("driver"))
    monkeypatch.setattr(reviews_source, "read_in_spark", lambda *_: readers.append("executors"))
    for count, cores, master, reader in (
        (10**6, 64, "local[*]", "driver"),
        (10**6, 64, "spark://host:7077", "driver"),
        (10**8, 64, "local[*]", "executors"),
        (10**8, 2, "local[*]", "driver"),
        (10**8, 2, "spark://host:7077", "executors"),
    ):
        monkeypatch.setattr(reviews_source, "cores", lambda cores=cores: cores)
        settings = load_settings(spark_master=master)
        reviews_source.read_reviews(spark_thread, settings, count)
        assert readers.pop() == reader


@pytest.mark.parametrize("planned", [False, True])
def test_a_database_that_goes_away_from_spark_is_unavailable(
    spark: SparkSession,
    clean_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    planned: bool,
) -> None:
    """Before the ranges are known, and when the executors come to read them."""
    if planned:
        monkeypatch.setattr(reviews_source, "plan", lambda *_: [ALL_IDS])
    uri = "mongodb://reader:hush-hush@127.0.0.1:1/?serverSelectionTimeoutMS=200"
    gone = load_settings(mongo_uri=uri)
    with pytest.raises(DatabaseUnavailableError) as caught, spark_errors():
        reviews_source.read_in_spark(spark, gone)
    assert "hush-hush" not in str(caught.value)
