"""A trained model as plain arrays: it predicts ratings and ranks restaurants."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.bias import Bias
from recommender.als.fold_in import PreferenceModel
from recommender.als.item_item import candidates, predicted, refined
from recommender.als.top_n import Floats32, Mask, best_of_each, top_n

Positions = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class RatingModel:
    """Predicts ratings: b_ui + w p_u.q_i, within ``bounds``, with the blend weight w in [0, 1]."""

    bias: Bias
    user_factors: NDArray[np.float32]  # (users, rank), NaN in rows without a training rating
    restaurant_factors: NDArray[np.float32]  # (restaurants, rank), NaN likewise
    bounds: tuple[float, float] = (-np.inf, np.inf)
    blend_weight: float = 1.0

    def residual(self, user: Positions, restaurant: Positions) -> NDArray[np.float64]:
        """Return p_u.q_i of each pair, NaN without factors; the two broadcast together."""
        left = self.user_factors[user].astype(np.float64)
        return np.asarray(np.einsum("...d,...d->...", left, self.restaurant_factors[restaurant]))

    def predict(self, user: Positions, restaurant: Positions) -> NDArray[np.float64]:
        """Return the rating of each pair, NaN without factors; the two broadcast together."""
        residual = self.blend_weight * self.residual(user, restaurant)
        return np.clip(self.bias.predict(user, restaurant) + residual, *self.bounds)


@dataclass(frozen=True, eq=False)
class Model:
    """The result of a training: ``preferences`` rank restaurants; if None, ``rating`` does."""

    rating: RatingModel
    preferences: PreferenceModel | None

    @property
    def restaurant_factors(self) -> NDArray[np.float32]:
        """The restaurants' ranking factors: float32 (restaurants, d)."""
        return self.preferences.item_factors if self.preferences else self.rating.restaurant_factors

    def user_factors(self, user: Positions, confidence: csr_array) -> NDArray[np.float32]:
        """Return these users' ranking factors, (n, d), from their confidence rows."""
        if self.preferences is not None:
            return self.preferences.user_factors(confidence)
        return self.rating.user_factors[user]

    def best(
        self, users: Floats32, rows: csr_array, n: int, rated: csr_array, shown: Mask | None = None
    ) -> tuple[NDArray[np.int32], Floats32]:
        """Return each user's ``n`` best unrated restaurants and the scores, as `top_n` does.

        ``users`` are the factors of these ``rows`` of confidence. If there is an item-item
        regression, it refines the scores of the best 3 n by the factors.
        """
        model, factors = self.preferences, self.restaurant_factors
        if model is None or model.item_item is None:
            factors = factors if model else np.nan_to_num(factors)
            return top_n(users, factors, n, rated, shown)
        items, scores = top_n(users, factors, candidates(n), rated, shown)
        regression = predicted(rows, model.item_item)
        scores = refined(items, scores, regression, model.item_item_weight)
        return best_of_each(items, scores, min(n, items.shape[1]))

    def with_users(self, bias: NDArray[np.float64], factors: NDArray[np.float32]) -> Self:
        """Return the model of other users: their b_u, (users,), and p_u, (users, rank)."""
        b_ui = replace(self.rating.bias, users=bias)
        return replace(self, rating=replace(self.rating, bias=b_ui, user_factors=factors))

    def with_newcomers(self, count: int, popularity: NDArray[np.float64]) -> Self:
        """Return the model with ``count`` more users, who have no training rating."""
        rating, restaurants = self.rating, self.rating.restaurant_factors
        users = np.pad(rating.user_factors, ((0, count), (0, 0)))
        if self.preferences is None:  # a factor, 0 for others, ranks for them by popularity
            is_new = np.arange(len(users)) >= len(rating.user_factors)
            users = np.column_stack([users, is_new.astype(np.float32)])
            restaurants = np.column_stack([restaurants, popularity.astype(np.float32)])
        model = replace(self, rating=replace(rating, restaurant_factors=restaurants))
        return model.with_users(np.pad(rating.bias.users, (0, count)), users)

    def with_blend_weight(self, blend_weight: float) -> Self:
        """Return the model with another blend weight of ALS in the predicted ratings."""
        return replace(self, rating=replace(self.rating, blend_weight=blend_weight))
