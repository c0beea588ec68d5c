"""The damped user and item bias of ratings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_SWEEPS = 10


@dataclass(frozen=True, eq=False)
class Bias:
    """The damped user and item bias b_ui = mu + b_u + b_i; b_u and b_i are 0 without a rating."""

    mean: float
    users: NDArray[np.float64]  # (users,)
    items: NDArray[np.float64]  # (items,)

    def predict(self, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return b_ui of each pair; ``user`` and ``item`` broadcast together."""
        return self.mean + self.users[user] + self.items[item]


@dataclass(frozen=True)
class BiasDamping:
    """Damping above 0: how many ratings of the mean are added to each user and item."""

    user: float = 3.0
    restaurant: float = 20.0


def fit_bias(ratings: csr_array, damping: BiasDamping) -> Bias:
    """Fit the bias to one or more ratings, (users, items), by coordinate descent (Koren, 2010).

    Minimises the squared errors + ``damping.user`` |b_u|^2 + ``damping.restaurant`` |b_i|^2.
    """
    users, items = ratings.shape
    user, item = np.repeat(np.arange(users), np.diff(ratings.indptr)), ratings.indices
    mean = float(ratings.data.mean())
    centred = ratings.data - mean
    user_total = np.bincount(user, minlength=users) + damping.user
    item_total = np.bincount(item, minlength=items) + damping.restaurant
    b_u, b_i = np.zeros(users), np.zeros(items)
    for _ in range(_SWEEPS):
        # Each bias is the damped mean of the other one's residuals.
        b_i = np.bincount(item, centred - b_u[user], items) / item_total
        b_u = np.bincount(user, centred - b_i[item], users) / user_total
    return Bias(mean, b_u, b_i)
