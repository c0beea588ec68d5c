"""Reviews that are not as they should be, under the eyes of the reader."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from recommender.core.mongo import Document, MongoDatabase
from tests.data.bad_rows import BAD_ROWS, GOOD
from tests.faults.catalogue import Fault
from tests.faults.world import Outcome, World

COPIES = 1_000_000
# Enough of each kind for some in every block that is read.
BAD_ONES = 200
_BLOCK = 100_000

Spoil = Callable[[MongoDatabase], object]


def copies(db: MongoDatabase) -> None:
    """Repeat one review a million times."""
    one = db["Reviews"].find_one({}, {"_id": 0}) or {}
    rows: Iterator[Document] = ({**one} for _ in range(COPIES))
    while block := list(islice(rows, _BLOCK)):
        db["Reviews"].insert_many(block, ordered=False)


def bad_rows(db: MongoDatabase) -> None:
    """Add rows of every bad kind; those of a megabyte once."""
    rows = [{**GOOD, **bad} for _, bad in BAD_ROWS]
    small = [row for row in rows if len(str(row)) < 10_000]
    many = [{**row} for row in small for _ in range(BAD_ONES)]
    db["Reviews"].insert_many([*rows, *many])


def every_rating(value: object) -> Spoil:
    """Return what gives all reviews the same rating."""
    return lambda db: db["Reviews"].update_many({}, {"$set": {"rating": value}})


def no_review(db: MongoDatabase) -> None:
    db["Reviews"].delete_many({})


@contextmanager
def kept(db: MongoDatabase) -> Iterator[None]:
    """Have the reviews back as they were after the block."""
    db["Reviews"].aggregate([{"$out": "Kept"}])
    yield
    db["Kept"].rename("Reviews", dropTarget=True)


def trained_on(spoil: Spoil, script: str = "als_training.py") -> Callable[[World], Outcome]:
    """Return what trains on spoilt reviews."""

    def do(world: World) -> Outcome:
        with kept(world.db):
            spoil(world.db)
            return world.outcome(world.start(script))

    return do


_CLUSTERING = "clustering_training.py"

FAULTS = [
    Fault("a million copies of one review", trained_on(copies), 0, "succeeded", "new"),
    Fault("reviews of every bad kind", trained_on(bad_rows), 0, "succeeded", "new"),
    Fault("all ratings equal", trained_on(every_rating(4)), 0, "succeeded", "new"),
    Fault("no valid rating", trained_on(every_rating("five")), 65, "failed", "old"),
    Fault("no review", trained_on(no_review, _CLUSTERING), 65, "failed", "old", slow=False),
]
