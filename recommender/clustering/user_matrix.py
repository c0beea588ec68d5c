"""The sparse matrix of users and restaurants that is clustered."""

import logging
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.errors import DataError
from recommender.data.ids import decode_ids
from recommender.data.ratings import Ratings, reader_shift
from recommender.publishing.bson_size import columns_that_fit

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class UserMatrix:
    """Ratings by user, as a reader of the clusters computes with them.

    A rating of 0 is stored in ``ratings`` only, because a reader cannot distinguish it from
    unrated; so rows can be empty.
    """

    ratings: csr_array  # (users, restaurants), each rating plus ``shift``
    restaurants: pa.StringArray  # keys of the restaurants' ids
    rows: csr_array  # (users, columns), the ratings of the columns
    columns: NDArray[np.int64]  # the restaurants of the columns, the most rated first
    shift: float  # added to each rating by every reader; above 0 on scales below 0
    lowest: float  # the lowest valid rating, with the shift

    @property
    def restaurants_left_out(self) -> int:
        """Restaurants that are no columns."""
        return self.ratings.shape[1] - len(self.columns)

    @property
    def confidence(self) -> csr_array:
        """The confidence matrix, (users, restaurants): the ratings, raised to be above 0."""
        values = self.ratings.data + (self.lowest == 0)
        return csr_array((values, self.ratings.indices, self.ratings.indptr), self.ratings.shape)

    def subset(self, users: NDArray[np.int64]) -> Self:
        """Return the matrix of some of the users."""
        return replace(self, ratings=self.ratings[users], rows=self.rows[users])


def user_matrix(ratings: Ratings, k: int, rating_min: float) -> UserMatrix:
    """Build the matrix, of which k centroids fit MongoDB; DataError without a rating above 0."""
    # Order the restaurants by ratings, and take those that fit.
    counts = np.bincount(ratings.restaurant, minlength=len(ratings.restaurants))
    order = np.argsort(-counts, kind="stable")
    ids = decode_ids(ratings.restaurants.take(order))
    columns = order[: columns_that_fit(min(k, len(ratings.users)), ids)]
    shift = reader_shift(rating_min)
    all_ratings = ratings.matrix(shift)
    rows = csr_array(all_ratings[:, columns])
    rows.data[rows.data**2 == 0] = 0  # also ratings whose square underflows
    rows.eliminate_zeros()
    if not rows.nnz:
        raise DataError(
            f"no rating above 0 is left to cluster: {len(columns):,} of "
            f"{len(ratings.restaurants):,} restaurants fit the published documents, and all their "
            "ratings are 0, like unrated ones; check RATING_MIN, RATING_MAX and CLUSTERS_K"
        )
    matrix = UserMatrix(all_ratings, ratings.restaurants, rows, columns, shift, rating_min + shift)
    if matrix.restaurants_left_out:
        log.warning(
            "%d restaurants, the least rated, are left out of the centroids: they would exceed "
            "MongoDB's 16 MB per document",
            matrix.restaurants_left_out,
        )
    if empty := int((np.diff(rows.indptr) == 0).sum()):
        log.info("%d users have no rating above 0 in the columns and are in no cluster", empty)
    return matrix
