"""The sparse matrix of the users who are clustered, by the restaurants that tell them apart."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.errors import DataError
from recommender.factors import load_factors
from recommender.foldin import Preferences, alternate, preferences_of
from recommender.mongo import MongoDatabase
from recommender.ratings import Ratings, decode_ids, positions_in, rating_shift, reader_shift
from recommender.settings import Settings
from recommender.splits import teachers_of
from recommender.publishing.bson_size import columns_that_fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserMatrix:
    """What is clustered.

    Attributes
    ----------
    rows
        (users, columns), what a reader of the clusters has, 0 where unrated. On a scale from 0 a
        rating of 0 is not stored, and the row of who gave nothing else is empty.
    everything
        (users, restaurants), the same users' shifted ratings of all restaurants, also those that
        are no columns.
    surplus
        What a rating in ``everything`` has more than in ``rows``.
    columns
        int64 (columns,), the restaurants that the columns stand for, the most rated first.
    users
        int64 (users,), the users that the rows stand for.
    users_left_out, restaurants_left_out
        Users and restaurants with ratings that take no part, by the limits in force.
    preferences
        What ALS found of all restaurants, if users are to be clustered on the map of its factors.
    """

    rows: csr_array
    everything: csr_array
    surplus: float
    columns: NDArray[np.int64]
    users: NDArray[np.int64]
    users_left_out: int
    restaurants_left_out: int
    preferences: Preferences | None = None

    @property
    def places(self) -> NDArray[np.float64] | None:
        """Where the columns are on the map of ALS's factors, float64 (columns, rank), or None."""
        if self.preferences is None:
            return None
        return self.preferences.factors[self.columns].astype(np.float64)

    def unshifted(self, everything: csr_array) -> csr_array:
        """Return rows like those of ``everything`` as a reader has them, ratings of 0 stored."""
        values = everything.data - self.surplus
        return csr_array((values, everything.indices, everything.indptr), shape=everything.shape)

    def part(self, chosen: NDArray[np.int64]) -> UserMatrix:
        """Return the chosen rows as a matrix."""
        return replace(
            self,
            rows=csr_array(self.rows[chosen]),
            everything=csr_array(self.everything[chosen]),
            users=self.users[chosen],
        )


def user_matrix(ratings: Ratings, settings: Settings) -> UserMatrix:
    """Build the sparse matrix of the users and restaurants that take part.

    Restaurants are left out below ``CLUSTERS_MIN_RESTAURANT_RATINGS``, beyond
    ``CLUSTERS_MAX_RESTAURANTS``, and where the centroids would outgrow a MongoDB document, the
    least rated first; users below ``CLUSTERS_MIN_USER_RATINGS``, beyond ``CLUSTERS_MAX_USERS``,
    and those who have rated nothing but what was left out.

    Raises
    ------
    DataError
        If nobody or nothing is left, or no rating that a reader can tell from none.
    """
    columns = _columns(ratings, settings)
    users = _most_active(ratings, settings)
    shift, read = rating_shift(settings.rating_min), reader_shift(settings.rating_min)
    everything = ratings.matrix(shift)[users]
    rows = (everything if read == shift else ratings.matrix(read)[users])[:, columns]
    filled = np.flatnonzero(np.diff(rows.indptr))
    if not len(filled):
        raise DataError(
            f"no user is left to cluster: of {len(ratings.users):,} users and "
            f"{len(ratings.restaurants):,} restaurants, the CLUSTERS_MIN_* and CLUSTERS_MAX_* "
            f"settings leave {len(users):,} and {len(columns):,}, with no rating in common"
        )
    rows.data[rows.data**2 == 0] = 0  # a length that underflows is 0 to a reader, too
    rows.eliminate_zeros()
    if not rows.nnz:
        raise DataError(
            "every rating left to cluster is 0, which a reader cannot tell from unrated: expected "
            "some above 0; check RATING_MIN, RATING_MAX and the CLUSTERS_MIN_* and CLUSTERS_MAX_* "
            "settings"
        )
    matrix = UserMatrix(
        rows=rows,
        everything=everything,
        surplus=shift - read,
        columns=columns,
        users=users,
        users_left_out=len(ratings.users) - len(filled),
        restaurants_left_out=len(ratings.restaurants) - len(columns),
    ).part(filled)
    _log_who_is_left_out(matrix)
    return matrix


def _log_who_is_left_out(matrix: UserMatrix) -> None:
    silent = int((np.diff(matrix.rows.indptr) == 0).sum())
    if silent:
        log.info("%d users gave nothing but 0, and are in no cluster", silent)
    if matrix.users_left_out or matrix.restaurants_left_out:
        log.warning(
            "%d users and %d restaurants take no part in the clustering, by the limits in force",
            matrix.users_left_out,
            matrix.restaurants_left_out,
        )


def with_factors(
    matrix: UserMatrix, ratings: Ratings, preferences: Preferences | None, db: MongoDatabase
) -> UserMatrix:
    """Return the matrix with the map that ALS found: of this training, else the published one.

    Raises
    ------
    DataError
        If there is none.
    """
    if preferences is not None:
        return replace(matrix, preferences=preferences)
    published = load_factors(db)
    if published is None:
        raise DataError(
            "CLUSTERS_SPACE=factors, and no training has published factors; run als_training.py "
            "with ALS_OBJECTIVE=preference, or set CLUSTERS_SPACE=tastes"
        )
    row = positions_in(published.restaurants, ratings.restaurants)
    known, seen = row >= 0, published.preferences
    factors = np.zeros((len(row), seen.rank), dtype=np.float32)
    factors[known] = seen.factors[row[known]]
    popularity = np.zeros(len(row), dtype=np.float32)
    popularity[known] = seen.popularity[row[known]]
    return replace(matrix, preferences=replace(seen, factors=factors, popularity=popularity))


def with_factors_of_its_own(part: UserMatrix, settings: Settings) -> UserMatrix:
    """Return a part with the map that ALS finds of that part alone, with the same parameters.

    For judging by users who are not in the part: the map at hand has seen them, too.
    """
    seen = part.preferences
    if seen is None:
        return part
    taught = teachers_of(np.diff(part.everything.indptr), settings)
    parameters = {"alpha": seen.alpha, "reg_param": seen.reg_param}
    factors = alternate(
        csr_array(part.everything[taught]),
        seen.rank,
        **parameters,
        iterations=settings.als_max_iter,
        seed=settings.seed,
    )
    return replace(part, preferences=preferences_of(factors, seen.popularity, **parameters))


def _columns(ratings: Ratings, settings: Settings) -> NDArray[np.int64]:
    counts = np.bincount(ratings.restaurant, minlength=len(ratings.restaurants))
    order = np.argsort(-counts, kind="stable")[: settings.clusters_max_restaurants]
    order = order[counts[order] >= settings.clusters_min_restaurant_ratings]
    ids = decode_ids(ratings.restaurants.take(order))
    most_clusters = min(settings.clusters_k, len(ratings.users))
    return order[: columns_that_fit(most_clusters, ids)]


def _most_active(ratings: Ratings, settings: Settings) -> NDArray[np.int64]:
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    order = np.argsort(-counts, kind="stable")[: settings.clusters_max_users]
    return np.sort(order[counts[order] >= settings.clusters_min_user_ratings])
