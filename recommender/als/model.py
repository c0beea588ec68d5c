"""A trained model as plain arrays: it predicts ratings and ranks restaurants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.bias import Bias
from recommender.als.fold_in import PreferenceModel
from recommender.als.popularity import popularity_scores
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings, rating_shift


@dataclass(frozen=True, eq=False)
class RatingModel:
    """Predicts ratings: b_ui + w p_u.q_i.

    Attributes
    ----------
    bias
        The b_ui, subtracted before ALS was fitted; 0 where ALS was fitted to the ratings as they
        are.
    user_factors, restaurant_factors
        float32 (users, rank) and (restaurants, rank), the p_u and q_i; NaN in the rows of users
        and restaurants without a training rating.
    bounds
        Lowest and highest rating predicted.
    blend_weight
        The w, from 0 to 1.
    """

    bias: Bias
    user_factors: NDArray[np.float32]
    restaurant_factors: NDArray[np.float32]
    bounds: tuple[float, float] = (-np.inf, np.inf)
    blend_weight: float = 1.0

    def residual(
        self, user: NDArray[np.int32], restaurant: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return p_u.q_i of each pair, NaN without factors; the two broadcast together."""
        left = self.user_factors[user].astype(np.float64)
        return np.asarray(np.einsum("...d,...d->...", left, self.restaurant_factors[restaurant]))

    def predict(
        self, user: NDArray[np.int32], restaurant: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return the rating of each pair, NaN without factors; the two broadcast together."""
        rating = self.bias.predict(user, restaurant)
        rating = rating + self.blend_weight * self.residual(user, restaurant)
        return np.clip(rating, *self.bounds)


@dataclass(frozen=True, eq=False)
class Model:
    """The result of a training.

    Attributes
    ----------
    rating
        Predicts ratings.
    preferences
        Ranks restaurants; None where ``rating`` ranks them.
    """

    rating: RatingModel
    preferences: PreferenceModel | None

    @property
    def restaurant_factors(self) -> NDArray[np.float32]:
        """The restaurants' factors that rank: float32 (restaurants, d)."""
        return (self.preferences or self.rating).restaurant_factors

    def user_factors(self, user: NDArray[np.int32], confidence: csr_array) -> NDArray[np.float32]:
        """Return the users' factors that rank: float32 (n, d).

        Parameters
        ----------
        user
            (n,), positions.
        confidence
            (n, restaurants), their rows of :func:`confidence_matrix`.
        """
        if self.preferences is not None:
            return self.preferences.user_factors(confidence)
        return self.rating.user_factors[user]

    def with_users(self, bias: NDArray[np.float64], factors: NDArray[np.float32]) -> Model:
        """Return the model of other users: their b_u, (users,), and p_u, (users, rank)."""
        rating = self.rating
        rating = replace(rating, bias=replace(rating.bias, users=bias), user_factors=factors)
        return replace(self, rating=rating)

    def with_newcomers(self, count: int, popularity: NDArray[np.float64]) -> Model:
        """Return the model with ``count`` more users, who have no training rating.

        Where ``rating`` ranks, one more factor ranks the newcomers' restaurants by popularity,
        (restaurants,); it is 0 for the other users.
        """
        rating = self.rating
        users, restaurants = rating.user_factors, rating.restaurant_factors
        new = np.zeros((count, users.shape[1]), dtype=np.float32)
        if self.preferences is None:
            users = np.pad(users, ((0, 0), (0, 1)))
            new = np.pad(new, ((0, 0), (0, 1)), constant_values=1)
            restaurants = np.column_stack([restaurants, popularity.astype(np.float32)])
        bias = np.concatenate([rating.bias.users, np.zeros(count)])
        model = replace(self, rating=replace(rating, restaurant_factors=restaurants))
        return model.with_users(bias, np.concatenate([users, new]))

    def with_blend_weight(self, blend_weight: float) -> Model:
        """Return the model with another blend weight of ALS in the predicted ratings."""
        return replace(self, rating=replace(self.rating, blend_weight=blend_weight))


def confidence_matrix(ratings: Ratings, settings: Settings) -> csr_array:
    """Return the confidence matrix, (users, restaurants): the ratings, shifted to be above 0."""
    return ratings.matrix(rating_shift(settings.reviews.rating_min))


def popularity_of(ratings: Ratings, settings: Settings) -> NDArray[np.float64]:
    """Return the popularity of each restaurant, (restaurants,); see `popularity_scores`."""
    shifted = ratings.rating + rating_shift(settings.reviews.rating_min)
    return popularity_scores(ratings.restaurant, shifted, len(ratings.restaurants))


def training_users(ratings: Ratings, settings: Settings) -> NDArray[np.bool_]:
    """Return the training users, (users,); see :func:`draw_training_users`."""
    return draw_training_users(np.bincount(ratings.user, minlength=len(ratings.users)), settings)


def draw_training_users(counts: NDArray[np.integer[Any]], settings: Settings) -> NDArray[np.bool_]:
    """Return the training users, bool (users,), by the number of ratings of each user.

    These are the users with two or more ratings. Of more than ``ALS_PREFERENCE_USERS``, as many are
    drawn without replacement with weight n - 1, so that users with many co-rated restaurants come
    first. Each user's exponential clock of rate n - 1 gives such a draw (Efraimidis and Spirakis,
    2006).
    """
    several = np.flatnonzero(counts >= 2)
    clock = np.random.default_rng(settings.seed).exponential(1 / (counts[several] - 1.0))
    first = np.argsort(clock, kind="stable")[: settings.als.preference_users]
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[several[first]] = True
    return chosen
