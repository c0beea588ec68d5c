"""Clean ratings as arrays: :func:`gather` makes :class:`Ratings` of cleaned blocks of rows."""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.errors import DataError
from recommender.data.ids import KeyIndex, decode_ids, same_number_same_key
from recommender.data.rejection import Rejection
from recommender.data.times import is_implausible

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleaningReport:
    """Counts of the rows read, rejected and merged."""

    rows_read: int
    rows_rejected: dict[str, int]  # by the lower-case name of the `Rejection`
    rows_merged: int  # into another row of the same user and restaurant
    times_unknown: int  # of valid rows: missing, unreadable, before 1990 or in the future


@dataclass(frozen=True)
class Ratings:
    """Clean ratings, each user and restaurant pair once, ordered by user, then restaurant."""

    users: pa.StringArray  # keys of the ids, sorted
    restaurants: pa.StringArray  # likewise
    user: NDArray[np.int32]  # (n,), positions in ``users``
    restaurant: NDArray[np.int32]  # (n,), positions in ``restaurants``
    rating: NDArray[np.float64]  # (n,), on the scale of the settings
    time: NDArray[np.float64]  # (n,), milliseconds since the epoch, NaN where unknown
    report: CleaningReport  # of the rows that the ratings were made from

    def __len__(self) -> int:
        return len(self.rating)

    def rows(self, chosen: NDArray[np.bool_]) -> Self:
        """Return the rows where ``chosen``, bool (n,), is true; users and restaurants stay."""
        columns = ("user", "restaurant", "rating", "time")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})

    def restaurant_ids(self) -> list[Any]:
        """Return the restaurant's id of each row."""
        return decode_ids(self.restaurants.take(pa.array(self.restaurant)))

    def best_first(self) -> list[tuple[Any, float, float]]:
        """Return the restaurant's id, the rating and the time of each row, the best first."""
        rows = zip(self.restaurant_ids(), self.rating.tolist(), self.time.tolist(), strict=True)
        return sorted(rows, key=lambda row: -row[1])

    def over(self, columns: KeyIndex, shift: float) -> csr_array:
        """Return the matrix over these restaurants alone, (users, columns), as :meth:`matrix`."""
        column = columns.find_all(decode_ids(self.restaurants))[self.restaurant]
        known = column >= 0
        # The rows are in the order of the users.
        starts = np.searchsorted(self.user[known], np.arange(len(self.users) + 1))
        shape = (len(self.users), len(columns.keys))
        return csr_array((self.rating[known] + shift, column[known], starts), shape=shape)

    def matrix(self, shift: float = 0.0) -> csr_array:
        """Return the sparse users x restaurants matrix of the ratings plus ``shift``."""
        pairs, shape = (self.user, self.restaurant), (len(self.users), len(self.restaurants))
        return csr_array((self.rating + shift, pairs), shape=shape)


def rating_shift(rating_min: float) -> float:
    """Return the constant added to ratings in a training so that 0 can mean unrated."""
    return 0.0 if rating_min > 0 else 1.0 - rating_min


def reader_shift(rating_min: float) -> float:
    """Return the constant that a reader of the clusters adds to ratings so that none is below 0."""
    return 0.0 if rating_min >= 0 else rating_shift(rating_min)


def gather_reviews(table: pa.Table) -> Ratings:
    """Return the ratings of all rows of Reviews, see :func:`gather`, and log the counts of rows."""
    if not table.num_rows:
        raise DataError("Reviews holds no review; load some, or check MONGO_DB")
    ratings = gather(table, "check RATING_MIN, RATING_MAX and the REVIEWS_*_FIELD settings")
    rows = ratings.report
    log.info(
        "%d reviews read; rejected: %s; merged: %d; of unknown time: %d",
        *(rows.rows_read, rows.rows_rejected or "none", rows.rows_merged, rows.times_unknown),
    )
    return ratings


def gather(table: pa.Table, remedy: str = "check the ratings") -> Ratings:
    """Return the ratings of rows of ``BLOCK_SCHEMA``; raise `DataError` if no row is valid.

    Ids are numbered, and repeated pairs merged: the latest rating by time is kept, or the mean of
    those that share the latest time or have none. The order of the rows does not matter.
    """
    reasons = np.bincount(table["rejected"].to_numpy(), minlength=len(Rejection))
    rejected = {r.name.lower(): int(reasons[r]) for r in Rejection if r and reasons[r]}
    if not reasons[Rejection.NONE]:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in rejected.items())
        raise DataError(f"none of the {table.num_rows:,} ratings is valid ({counts}); {remedy}")
    users, user = _number(table["user"])
    restaurants, restaurant = _number(table["restaurant"])
    valid = user >= 0
    time = table["time"].to_numpy()[valid]
    times_unknown = int((np.isnan(time) | is_implausible(time)).sum())
    rating = table["rating"].to_numpy()[valid]
    merged = merge_pairs(user[valid], restaurant[valid], rating, time)
    report = CleaningReport(table.num_rows, rejected, len(time) - len(merged[0]), times_unknown)
    return Ratings(users, restaurants, *merged, report)


def counts_of(ratings: Ratings) -> dict[str, Any]:
    """Return the counts of rows and ratings for the ledger."""
    return {
        **asdict(ratings.report),
        "ratings": len(ratings),
        "users": len(ratings.users),
        "restaurants": len(ratings.restaurants),
    }


def _number(keys: pa.ChunkedArray) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """Return the distinct keys, sorted, and each row's position among them, -1 for null."""
    coded = keys.dictionary_encode().combine_chunks()
    same = same_number_same_key(coded.dictionary)
    distinct = same.unique().sort()
    position = pc.index_in(same, value_set=distinct)
    return distinct, position.take(coded.indices).fill_null(-1).to_numpy()


def merge_pairs(
    user: NDArray[np.int32],
    restaurant: NDArray[np.int32],
    rating: NDArray[np.float64],
    time: NDArray[np.float64],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Return rows, (n,) each, as distinct pairs in their order, (pairs,) each; see `gather`."""
    pair = user.astype(np.int64) << 32 | restaurant
    order = np.argsort(pair)
    starts = np.diff(pair[order], prepend=-1) > 0
    if starts.all():
        return user[order], restaurant[order], rating[order], time[order]
    known = np.where(np.isnan(time), -np.inf, time)
    # By pair as before, so that `starts` stays valid; within a pair by rating, so that the rounding
    # of a mean does not depend on the order of the rows.
    order = np.lexsort((rating, pair))
    # Keep the rows with the latest time of their pair, and take the mean of their ratings.
    latest = np.maximum.reduceat(known[order], np.flatnonzero(starts))
    row_of = np.cumsum(starts) - 1
    kept = known[order] == latest[row_of]
    totals = np.bincount(row_of[kept], weights=rating[order][kept])
    rating = totals / np.bincount(row_of[kept])
    time = np.where(np.isneginf(latest), np.nan, latest)
    return user[order][starts], restaurant[order][starts], rating, time
