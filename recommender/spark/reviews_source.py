"""Reviews read by Spark's executors, each a range of them, without a jar."""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
from pyspark.sql import SparkSession

from recommender.core.mongo import MongoDatabase, mongo_errors
from recommender.core.settings import MongoSettings, ReviewsSettings, Settings
from recommender.core.threads import cores
from recommender.data.cleaning import BLOCK_SCHEMA
from recommender.data.ratings import Ratings, gather_reviews
from recommender.data.reviews import IdRange, plan, read, read_ratings, reviews_collection
from recommender.spark.session import SparkThread, is_local

# The JVM copies each block several times; lz4 halves them, and takes less time than one copy.
_STREAM = pa.ipc.IpcWriteOptions(compression="lz4")
_FEW_REVIEWS = 1_000_000  # read by one process in the time in which Spark starts its readers
_FEW_CORES = 2  # of which MongoDB needs one while the other reads


def count_reviews(db: MongoDatabase) -> int:
    """Return about how many documents ``Reviews`` has."""
    with mongo_errors("counting Reviews"):
        return reviews_collection(db).estimated_document_count()


def read_reviews(spark: SparkThread, settings: Settings, count: int) -> Ratings:
    """Read ``count`` Reviews in Spark's executors, or here if that is sooner."""
    few_cores = is_local(settings.spark) and cores() <= _FEW_CORES
    if count <= _FEW_REVIEWS or few_cores:
        return read_ratings(settings)
    return read_in_spark(spark.session(), settings)


def read_in_spark(spark: SparkSession, settings: Settings) -> Ratings:
    """Read and clean Reviews in Spark's executors; number users and restaurants here, as alone."""
    ranges = plan(settings.mongo, 2 * spark.sparkContext.defaultParallelism)
    tasks = spark.sparkContext.parallelize(ranges, len(ranges))
    read_range = partial(_packed, settings.mongo, settings.reviews)
    packed = tasks.flatMap(read_range).collect()
    blocks = (pa.ipc.open_stream(block).read_all() for block in packed)
    return gather_reviews(pa.concat_tables([BLOCK_SCHEMA.empty_table(), *blocks]))


def _packed(mongo: MongoSettings, fields: ReviewsSettings, id_range: IdRange) -> Iterator[bytes]:
    """Yield the blocks of one range as Arrow streams; called in an executor."""
    for block in read(mongo, fields, id_range):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, block.schema, options=_STREAM) as stream:
            stream.write_batch(block)
        yield sink.getvalue().to_pybytes()
