"""Clean ratings as arrays: :func:`gather` makes :class:`Ratings` of cleaned blocks of rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.errors import DataError
from recommender.data.ids import Rejection, same_number_same_key
from recommender.data.times import is_implausible

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CleaningReport:
    """Counts of the rows read, rejected and merged.

    Attributes
    ----------
    rows_read
        Rows read.
    rejected
        Counts of the rejected rows by the lower-case name of their :class:`Rejection`.
    merged
        Rows merged into another one of the same user and restaurant.
    times_unknown
        Valid rows whose time is missing, unreadable, before 1990 or in the future.
    """

    rows_read: int
    rejected: dict[str, int] = field(default_factory=dict)
    merged: int = 0
    times_unknown: int = 0


@dataclass(frozen=True)
class Ratings:
    """Clean ratings, each user and restaurant pair once, ordered by user, then restaurant.

    Attributes
    ----------
    users, restaurants
        Keys of the ids, sorted; a row's integers point into them.
    user, restaurant
        int32 (n,), positions in ``users`` and ``restaurants``.
    rating
        float64 (n,), on the scale of the settings.
    time
        float64 (n,), milliseconds since the epoch, NaN where unknown.
    report
        Counts of the rows that the ratings were made from.
    """

    users: pa.StringArray
    restaurants: pa.StringArray
    user: NDArray[np.int32]
    restaurant: NDArray[np.int32]
    rating: NDArray[np.float64]
    time: NDArray[np.float64]
    report: CleaningReport

    def __len__(self) -> int:
        return len(self.rating)

    def rows(self, chosen: NDArray[np.bool_]) -> Ratings:
        """Return the rows where ``chosen``, bool (n,), is true; users and restaurants stay."""
        return replace(
            self,
            user=self.user[chosen],
            restaurant=self.restaurant[chosen],
            rating=self.rating[chosen],
            time=self.time[chosen],
        )

    def matrix(self, shift: float = 0.0) -> csr_array:
        """Return the sparse users x restaurants matrix of the ratings plus ``shift``."""
        counts = np.bincount(self.user, minlength=len(self.users))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        shape = (len(self.users), len(self.restaurants))
        return csr_array((self.rating + shift, self.restaurant, indptr), shape=shape)


def rating_shift(rating_min: float) -> float:
    """Return the constant added to ratings in a training so that 0 can mean unrated."""
    return 0.0 if rating_min > 0 else 1.0 - rating_min


def reader_shift(rating_min: float) -> float:
    """Return the constant that a reader of the clusters adds to ratings so that none is below 0.

    It is 0 on a scale from 0, where the contract's reader takes ratings as they are.
    """
    return 0.0 if rating_min >= 0 else rating_shift(rating_min)


def gather(table: pa.Table) -> Ratings:
    """Return the ratings of cleaned rows, with ids numbered and repeated pairs merged.

    Of a repeated pair the latest rating by time is kept, or the mean of those that share the
    latest time or have none. The order of the rows does not matter.

    Parameters
    ----------
    table
        Rows of :data:`BLOCK_SCHEMA`.

    Raises
    ------
    DataError
        If no row is valid.
    """
    reasons = np.bincount(_numpy(table["rejected"]), minlength=len(Rejection))
    rejected = {r.name.lower(): int(reasons[r]) for r in Rejection if r and reasons[r]}
    report = CleaningReport(rows_read=table.num_rows, rejected=rejected)
    if not reasons[Rejection.NONE]:
        raise DataError(_no_valid_row(report))
    users, user = _number(table["user"])
    restaurants, restaurant = _number(table["restaurant"])
    rating, time = _numpy(table["rating"]), _numpy(table["time"])
    valid = user >= 0
    unknown = np.isnan(time[valid]) | is_implausible(time[valid])
    user, restaurant, rating, time = merge_pairs(
        user[valid], restaurant[valid], rating[valid], time[valid]
    )
    merged = int(reasons[Rejection.NONE]) - len(rating)
    report = replace(report, merged=merged, times_unknown=int(unknown.sum()))
    log.info("%s", report)
    return Ratings(
        users=users,
        restaurants=restaurants,
        user=user,
        restaurant=restaurant,
        rating=rating,
        time=time,
        report=report,
    )


def counts_of(ratings: Ratings) -> dict[str, Any]:
    """Return the counts of rows and ratings for the ledger."""
    return {
        "rows_read": ratings.report.rows_read,
        "rows_rejected": ratings.report.rejected,
        "rows_merged": ratings.report.merged,
        "times_unknown": ratings.report.times_unknown,
        "ratings": len(ratings),
        "users": len(ratings.users),
        "restaurants": len(ratings.restaurants),
    }


def _no_valid_row(report: CleaningReport) -> str:
    if not report.rows_read:
        return "Reviews holds no review; load some, or check MONGO_DB"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected.items())
    return (
        f"none of the {report.rows_read:,} reviews is valid ({reasons}); check RATING_MIN, "
        "RATING_MAX and the REVIEWS_*_FIELD settings"
    )


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    array: NDArray[Any] = column.to_numpy()
    return array


def _number(keys: pa.ChunkedArray) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """Return the distinct keys, sorted, and each row's position among them; -1 for null."""
    coded = keys.dictionary_encode().combine_chunks()
    same = same_number_same_key(coded.dictionary).dictionary_encode()
    order = pc.sort_indices(same.dictionary)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    # A null is number -1, and so finds the -1 behind the last position.
    position = np.append(rank[same.indices], np.int32(-1))
    return same.dictionary.take(order), position[coded.indices.fill_null(-1)]


def merge_pairs(
    user: NDArray[np.int32],
    restaurant: NDArray[np.int32],
    rating: NDArray[np.float64],
    time: NDArray[np.float64],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Order rows by user and restaurant, and merge repeated pairs; see :func:`gather`."""
    pair = user.astype(np.int64) << 32 | restaurant
    order = np.argsort(pair)
    starts = _run_starts(pair[order])
    if not starts.all():
        # The rating as the last key keeps the mean's rounding independent of the rows' order.
        known = np.where(np.isnan(time), -np.inf, time)
        order = np.lexsort((rating, known, pair))
        latest = np.maximum.reduceat(known[order], np.flatnonzero(starts))
        row_of = np.cumsum(starts) - 1
        kept = known[order] == latest[row_of]
        totals = np.bincount(row_of[kept], weights=rating[order][kept])
        rating = totals / np.bincount(row_of[kept])
        time = np.where(np.isneginf(latest), np.nan, latest)
        return user[order][starts], restaurant[order][starts], rating, time
    return user[order], restaurant[order], rating[order], time[order]


def _run_starts(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where a run of equal values starts in sorted ``values``."""
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = values[1:] != values[:-1]
    return starts
