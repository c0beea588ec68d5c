"""Who would go where, from the restaurants' factors alone: the last half of an ALS step, exactly.

Implicit-feedback ALS (Hu, Koren and Volinsky, 2008) gives restaurants factors v_i. A user of the
ratings r_i of n restaurants then has the factors that minimise

    sum_i c_i (p_i - u.v_i)^2 + reg n |u|^2,    c_i = 1 + alpha r_i,  p_i = 1 where rated, else 0,

over *all* restaurants i. So somebody who has rated since the training, or never took part in it,
gets what a training would give. Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_TIE_BREAK = 1e-6
_GROUP_VALUES = 2**22


@dataclass(frozen=True, eq=False)
class Preferences:
    """Ranks restaurants for anybody by what they have rated.

    Built by :func:`preferences_of`.

    Attributes
    ----------
    factors
        float32 (restaurants, rank), turned so that their Gram matrix is diagonal, which leaves all
        inner products as they are; 0 for a restaurant that nobody rated besides another.
    spectrum
        float64 (rank,), that diagonal.
    popularity
        float32 (restaurants,), how good each is for anybody, the highest being 1.
    alpha, reg_param
        The parameters of the fit.
    """

    factors: NDArray[np.float32]
    spectrum: NDArray[np.float64]
    popularity: NDArray[np.float32]
    alpha: float
    reg_param: float

    @property
    def rank(self) -> int:
        """Number of factors."""
        return len(self.spectrum)

    @property
    def restaurant_factors(self) -> NDArray[np.float32]:
        """What user factors are multiplied by: float32 (restaurants, rank + 1).

        The last column breaks ties by popularity, and is all that counts for somebody of whom the
        other factors know nothing.
        """
        return np.column_stack([self.factors, np.float32(_TIE_BREAK) * self.popularity])

    def user_factors(self, visits: csr_array) -> NDArray[np.float32]:
        """Return the users' factors.

        Parameters
        ----------
        visits
            (users, restaurants), shifted ratings, above 0; see `recommender.models.visits_of`.

        Returns
        -------
        float32 (users, rank + 1)
            For :attr:`restaurant_factors`; 0 but for the last where nothing known is rated.
        """
        found = np.zeros((visits.shape[0], len(self.spectrum) + 1), dtype=np.float32)
        found[:, -1] = 1
        for users, rated, confidence in self._of_one_length(visits):
            found[users, :-1] = self._solved(rated, confidence, confidence[..., None])[..., 0]
        return found

    def reasons(self, visits: csr_array, items: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        """Return the rated restaurants that speak most for each recommended one.

        A score is a sum over what is rated, u.v_j = sum_i v_j.a_i c_i, with a_i the solution of
        `_solved` for restaurant i alone: those of the largest parts above 0 are the reasons.

        Parameters
        ----------
        visits
            (users, restaurants), as in `user_factors`.
        items
            (users, m), the recommended restaurants; -1 after the last.
        count
            Most reasons of each.

        Returns
        -------
        int32 (users, m, count)
            Restaurants, the one that speaks most first; -1 after the last.
        """
        found = np.full((*items.shape, count), -1, dtype=np.int32)
        for users, rated, confidence in self._of_one_length(visits):
            each = np.broadcast_to(np.eye(rated.shape[1]), (len(users), *[rated.shape[1]] * 2))
            parts = self._solved(rated, confidence, each) * confidence[:, None, :]
            wanted = self.factors[items[users]].astype(np.float64)
            speaks = np.matmul(wanted, parts)
            speaks[items[users] < 0] = 0
            order = np.argsort(-speaks, axis=-1, kind="stable")[..., :count]
            names = np.take_along_axis(rated[:, None, :], order, axis=-1)
            telling = np.take_along_axis(speaks, order, axis=-1) > 0
            found[users, :, : order.shape[-1]] = np.where(telling, names, -1)
        return found

    def _solved(
        self,
        rated: NDArray[np.int32],
        confidence: NDArray[np.float64],
        sides: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return (D + F'WF)^-1 F' S of each user, (users, rank, m), for the sides S, (users, n, m).

        F are the factors of the n restaurants rated, W = diag(alpha r), and D = V'V + reg n I is
        diagonal here. Where n is below the rank, the same is D^-1 F' (I + W F D^-1 F')^-1 S, with
        only n unknowns.
        """
        n, rank = rated.shape[1], len(self.spectrum)
        factors = self.factors[rated].astype(np.float64)
        weights, diagonal = (confidence - 1)[..., None], self.spectrum + self.reg_param * n
        if n < rank:
            spread = (factors / diagonal).swapaxes(1, 2)
            inner = np.eye(n) + weights * np.matmul(factors, spread)
            return np.asarray(np.matmul(spread, np.linalg.solve(inner, sides)))
        turned = factors.swapaxes(1, 2)
        normal = np.diag(diagonal) + np.matmul(turned, weights * factors)
        return np.linalg.solve(normal, np.matmul(turned, sides))

    def _of_one_length(
        self, visits: csr_array
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.float64]]]:
        """Yield groups of users with as many ratings: users, restaurants (u, n), and c (u, n)."""
        lengths = np.diff(visits.indptr)
        for n in np.unique(lengths[lengths > 0]):
            users = np.flatnonzero(lengths == n)
            rank = len(self.spectrum)
            step = max(1, _GROUP_VALUES // int(min(n, rank) ** 2 + n * rank))
            for start in range(0, len(users), step):
                group = users[start : start + step]
                places = visits.indptr[group][:, None] + np.arange(n)
                confidence = 1 + self.alpha * visits.data[places]
                yield group, visits.indices[places], confidence


def preferences_of(
    factors: NDArray[np.float32],
    popularity: NDArray[np.integer[Any]] | NDArray[np.floating[Any]],
    *,
    alpha: float,
    reg_param: float,
) -> Preferences:
    """Make ready what ALS found.

    Parameters
    ----------
    factors
        (restaurants, rank); NaN in the rows of restaurants that the fit did not see.
    popularity
        (restaurants,), how good each is for anybody, such as how many have rated it; 0 or more.
    alpha, reg_param
        The parameters of the fit; ``reg_param`` above 0.
    """
    known = np.where(np.isnan(factors), 0, factors).astype(np.float64)
    spectrum, turn = np.linalg.eigh(known.T @ known)
    return Preferences(
        factors=(known @ turn).astype(np.float32),
        spectrum=np.maximum(spectrum, 0),
        popularity=(popularity / (popularity.max(initial=0) or 1)).astype(np.float32),
        alpha=alpha,
        reg_param=reg_param,
    )


def alternate(
    visits: csr_array, rank: int, *, alpha: float, reg_param: float, iterations: int, seed: int
) -> NDArray[np.float32]:
    """Fit restaurants' factors by half steps of ALS in turn, here and without Spark.

    It is the same ALS; for what is small and is fitted many times, such as to try parameters.

    Parameters
    ----------
    visits
        (users, restaurants), as in `Preferences.user_factors`.
    rank, alpha, reg_param, iterations, seed
        Those of the fit.

    Returns
    -------
    float32 (restaurants, rank)
        NaN in the rows of restaurants that nobody has rated.
    """
    turned = csr_array(visits.T)
    unrated = np.diff(turned.indptr) == 0
    factors = np.random.default_rng(seed).standard_normal((len(unrated), rank), np.float32)
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    factors[unrated] = np.nan

    def half_step(known: NDArray[np.float32], rows: csr_array) -> NDArray[np.float32]:
        none = np.zeros(len(known), dtype=np.int64)
        found = preferences_of(known, none, alpha=alpha, reg_param=reg_param)
        return found.user_factors(rows)[:, :-1]

    for _ in range(iterations):
        factors = half_step(half_step(factors, visits), turned)
    factors[unrated] = np.nan
    return factors
