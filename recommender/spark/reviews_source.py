"""Reviews as a Spark data source, on PySpark's Python Data Source API, without a jar."""

import pickle
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from recommender.core.mongo import connect, database, mongo_errors, source_of
from recommender.core.settings import Settings
from recommender.data import reviews
from recommender.data.cleaning import BLOCK_SCHEMA
from recommender.data.ratings import Ratings, gather
from recommender.data.reviews import BATCH_ROWS, IdRange, plan, read

# A row is a block of reviews as an Arrow stream, so that Spark carries hundreds of values.
SCHEMA = "block binary"
# The JVM copies each block several times; lz4 halves them, and takes less time than one copy.
_STREAM = pa.ipc.IpcWriteOptions(compression="lz4")
_FEW_REVIEWS = 100_000  # read by one process in the time in which Spark starts its readers
ROWS_A_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"


def read_reviews(
    spark: SparkSession, settings: Settings, ranges: int, batch_rows: int = BATCH_ROWS
) -> DataFrame:
    """Return Reviews as cleaned blocks, in at most ``ranges`` partitions, to be read when used."""
    # Imported here, as an older PySpark lacks it: the session names that problem.
    from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition

    # Pickled bytes hide the password of MONGO_URI from Spark's plans and logs, and spare the two
    # processes in which Spark plans a read the import of this package.
    parts = plan(settings, ranges, batch_rows)
    tasks = [pickle.dumps(partial(_packed, settings, part, batch_rows)) for part in parts]

    # Classes in a function are pickled by value; those of a module would be imported there.
    class ReviewsReader(DataSourceReader):
        def partitions(self) -> Sequence[InputPartition]:
            return [InputPartition(task) for task in tasks]

        def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
            blocks: Iterator[pa.RecordBatch] = pickle.loads(partition.value)()  # noqa: S301 our own
            return blocks

    class MongoReviews(DataSource):
        def schema(self) -> str:
            return SCHEMA

        def reader(self, schema: object) -> DataSourceReader:
            return ReviewsReader()

    spark.dataSource.register(MongoReviews)
    return spark.read.format(MongoReviews.name()).load()


def _packed(settings: Settings, id_range: IdRange, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the blocks of one range, each as one row; called in an executor."""
    for block in read(settings, id_range, batch_rows=batch_rows):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, block.schema, options=_STREAM) as stream:
            stream.write_batch(block)
        yield pa.RecordBatch.from_pydict({"block": [sink.getvalue().to_pybytes()]})


def _unpacked(rows: pa.Table) -> pa.Table:
    """Return the reviews of packed blocks, as rows of :data:`BLOCK_SCHEMA`."""
    blocks = (pa.ipc.open_stream(row.as_buffer()).read_all() for row in rows["block"])
    return pa.concat_tables([BLOCK_SCHEMA.empty_table(), *blocks])


def read_few(settings: Settings) -> Ratings | None:
    """Read Reviews in this process, without Spark, if there are few; else return None."""
    with connect(settings) as client, mongo_errors("counting Reviews"):
        collection = source_of(database(client, settings))[reviews.COLLECTION]
        if collection.estimated_document_count() > _FEW_REVIEWS:
            return None
    return reviews.read_ratings(settings)


def read_ratings(spark: SparkSession, settings: Settings, batch_rows: int = BATCH_ROWS) -> Ratings:
    """Read and clean Reviews in Spark's executors; number users and restaurants here, as alone."""
    ranges = 2 * spark.sparkContext.defaultParallelism
    frame = read_reviews(spark, settings, ranges, batch_rows)
    # A batch holds 2 GiB at most, and blocks at Spark's default of 10,000 rows would exceed it.
    usual = str(spark.conf.get(ROWS_A_BATCH))
    spark.conf.set(ROWS_A_BATCH, 1)
    try:
        blocks = frame.toArrow()
    finally:
        spark.conf.set(ROWS_A_BATCH, usual)
    return gather(_unpacked(blocks))
