"""What the fits take in: the confidence matrix, the popularity, and the users for MLlib."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.fold_in import popularity_scores
from recommender.core.settings import ReviewsSettings
from recommender.data.ratings import Ratings, rating_shift


def confidence_matrix(ratings: Ratings, reviews: ReviewsSettings) -> csr_array:
    """Return the confidence matrix, (users, restaurants): the ratings, shifted to be above 0."""
    return ratings.matrix(rating_shift(reviews.rating_min))


def popularity_of(ratings: Ratings, reviews: ReviewsSettings) -> NDArray[np.float64]:
    """Return the popularity of each restaurant, (restaurants,); see `popularity_scores`."""
    shifted = ratings.rating + rating_shift(reviews.rating_min)
    return popularity_scores(ratings.restaurant, shifted, len(ratings.restaurants))


def mllib_users(ratings: Ratings, most: int, seed: int) -> NDArray[np.bool_]:
    """Return the users that MLlib is fitted to, bool (users,): ``most`` of two ratings or more.

    They are drawn without replacement with weight n - 1, so that users with many co-rated
    restaurants come first, by exponential clocks of rate n - 1 (Efraimidis and Spirakis, 2006).
    """
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    candidates = np.flatnonzero(counts >= 2)
    clock = np.random.default_rng(seed).exponential(1 / (counts[candidates] - 1.0))
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[candidates[np.argsort(clock, kind="stable")[:most]]] = True
    return chosen
