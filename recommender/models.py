"""What a training finds, as plain arrays: how a user rates, and where a user would go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.baseline import Baseline
from recommender.foldin import Preferences
from recommender.ratings import Ratings, rating_shift
from recommender.scoring import city_scores
from recommender.settings import Settings


@dataclass(frozen=True, eq=False)
class RatingModel:
    """Foretells ratings: b_ui + w p_u.q_i.

    Attributes
    ----------
    baseline
        The b_ui, which ALS was not shown; 0 where it was fitted to the ratings as they are.
    user_factors, restaurant_factors
        float32 (users, rank) and (restaurants, rank), the p_u and q_i; NaN in the rows of those
        that the fit did not see.
    bounds
        Least and highest rating that is foretold.
    share
        The w: how much of what ALS says of the rest is to be believed, from 0 to 1.
    """

    baseline: Baseline
    user_factors: NDArray[np.float32]
    restaurant_factors: NDArray[np.float32]
    bounds: tuple[float, float] = (-np.inf, np.inf)
    share: float = 1.0

    def rest(self, user: NDArray[np.int32], restaurant: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return p_u.q_i of each pair, NaN for the unseen; the two broadcast together."""
        left = self.user_factors[user].astype(np.float64)
        return np.asarray(np.einsum("...d,...d->...", left, self.restaurant_factors[restaurant]))

    def predict(
        self, user: NDArray[np.int32], restaurant: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return the rating of each pair, NaN for the unseen; the two broadcast together."""
        rating = self.baseline.predict(user, restaurant)
        return np.clip(rating + self.share * self.rest(user, restaurant), *self.bounds)


@dataclass(frozen=True, eq=False)
class Model:
    """What a training finds.

    Attributes
    ----------
    rating
        Foretells ratings.
    preferences
        Ranks restaurants; None where the foretold rating ranks them.
    newcomers
        How many of the last users ratings were not fitted to.
    popularity
        (restaurants,), by which newcomers' restaurants are ranked where ratings rank the others'.
    """

    rating: RatingModel
    preferences: Preferences | None
    newcomers: int = 0
    popularity: NDArray[np.floating[Any]] | None = None

    @property
    def restaurant_factors(self) -> NDArray[np.float32]:
        """What ranks, of restaurants: float32 (restaurants, d)."""
        ranking = self.preferences or self.rating
        factors = ranking.restaurant_factors
        if self.preferences is not None or self.popularity is None:
            return factors
        return np.column_stack([factors, self.popularity.astype(np.float32)])

    def user_factors(self, user: NDArray[np.int32], visits: csr_array) -> NDArray[np.float32]:
        """Return what ranks, of users: float32 (n, d).

        Parameters
        ----------
        user
            (n,), their positions.
        visits
            (n, restaurants), their rows of :func:`visits_of`.
        """
        if self.preferences is not None:
            return self.preferences.user_factors(visits)
        factors = self.rating.user_factors[user]
        if self.popularity is None:
            return factors
        is_new = user >= len(self.rating.user_factors) - self.newcomers
        return np.column_stack([factors, is_new.astype(np.float32)])

    def with_newcomers(self, count: int, popularity: NDArray[np.floating[Any]]) -> Model:
        """Return the model with so many more users, whom ratings were not fitted to.

        Where ratings rank, popularity, (restaurants,), ranks for them: it is one factor more, which
        is 0 for everybody else.
        """
        rating = self.rating
        offsets = np.concatenate([rating.baseline.user_offsets, np.zeros(count)])
        none = np.zeros((count, rating.user_factors.shape[1]), dtype=np.float32)
        more = replace(
            rating,
            baseline=replace(rating.baseline, user_offsets=offsets),
            user_factors=np.concatenate([rating.user_factors, none]),
        )
        return replace(self, rating=more, newcomers=count, popularity=popularity)

    def believing(self, share: float) -> Model:
        """Return the model whose foretold ratings believe so much of what ALS says."""
        return replace(self, rating=replace(self.rating, share=share))


def visits_of(ratings: Ratings, settings: Settings) -> csr_array:
    """Return the ratings shifted so that 0 means unrated: (users, restaurants), all above 0."""
    return ratings.matrix(rating_shift(settings.rating_min))


def popularity_of(ratings: Ratings, settings: Settings) -> NDArray[np.float64]:
    """Return how good each restaurant is for anybody, (restaurants,); see `city_scores`."""
    shifted = ratings.rating + rating_shift(settings.rating_min)
    return city_scores(ratings.restaurant, shifted, len(ratings.restaurants))
