"""Reviews as a Spark data source, on PySpark's Python Data Source API: no jar to fetch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition

from recommender.ratings import Ratings, gather
from recommender.reviews import IdRange, plan, read
from recommender.settings import Settings

NAME = "mongo_reviews"

# recommender.ratings.BLOCK_SCHEMA in Spark's words.
SCHEMA = "user string, restaurant string, rating double, time double, rejected byte"


class ReviewsReader(DataSourceReader):
    """Reads the cleaned blocks of each range of ``_id`` as one partition."""

    def __init__(self, settings: Settings, ranges: int) -> None:
        self._settings = settings
        self._ranges = ranges

    def partitions(self) -> Sequence[InputPartition]:
        """Return the ranges to read; called once, before any is read."""
        return [InputPartition(id_range) for id_range in plan(self._settings, self._ranges)]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield the blocks of one range; called in an executor."""
        id_range: IdRange = partition.value
        return read(self._settings, id_range)


def read_reviews(spark: SparkSession, settings: Settings, ranges: int) -> DataFrame:
    """Return Reviews as a data frame of cleaned blocks (:data:`SCHEMA`), read when it is used.

    Parameters
    ----------
    ranges
        How many partitions to read at most.
    """

    # The settings travel inside the class, as pickled bytes: what is given to a data source as an
    # option is shown in Spark's plans and logs, and MONGO_URI may hold a password.
    class MongoReviews(DataSource):
        @classmethod
        def name(cls) -> str:
            return NAME

        def schema(self) -> str:
            return SCHEMA

        def reader(self, schema: object) -> DataSourceReader:
            return ReviewsReader(settings, ranges)

    spark.dataSource.register(MongoReviews)
    return spark.read.format(NAME).load()


def read_ratings(spark: SparkSession, settings: Settings) -> Ratings:
    """Read and clean Reviews in Spark's executors, and number users and restaurants here.

    Only what is clean comes here, as Arrow blocks. Numbering them in one process takes a tenth of
    the time of Spark's StringIndexer, and the clustering works on the same numbers.
    """
    ranges = 2 * spark.sparkContext.defaultParallelism
    return gather(read_reviews(spark, settings, ranges).toArrow())
