"""Fold-in: a user's preferences from the item factors alone, by one exact ALS half-step.

A user who has rated since the training, or did not take part in it, gets the factors that a
training would give. Arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.sweeps import diagonalise, implicit_step, solve_rows, sweep

_TIE_BREAK = 1e-6


@dataclass(frozen=True, eq=False)
class PreferenceModel:
    """Ranks restaurants for any user by what the user has rated.

    Built by :func:`preference_model`.

    Attributes
    ----------
    factors
        float32 (restaurants, rank), rotated so that their Gram matrix is diagonal, which leaves all
        inner products as they are; 0 for a restaurant that nobody rated besides another.
    spectrum
        float64 (rank,), that diagonal.
    popularity
        float32 (restaurants,), the score of each for all users alike, the highest being 1.
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
        """The factors that user factors are multiplied by: float32 (restaurants, rank + 1).

        The last column breaks ties by popularity. It alone ranks for a user without any rating of
        a restaurant that has factors.
        """
        return np.column_stack([self.factors, np.float32(_TIE_BREAK) * self.popularity])

    def user_factors(self, visits: csr_array) -> NDArray[np.float32]:
        """Return the users' factors.

        Parameters
        ----------
        visits
            The confidence matrix of `recommender.als.model.confidence_matrix`, (users, items).

        Returns
        -------
        float32 (users, rank + 1)
            For :attr:`restaurant_factors`; 0 but for the last where nothing known is rated.
        """
        weight = self.alpha * visits.data
        solved = solve_rows(
            visits, weight, 1 + weight, self.factors, self.spectrum, reg_param=self.reg_param
        )
        return np.column_stack([solved, np.ones(len(solved), np.float32)])

    def reasons(self, visits: csr_array, items: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        """Return the rated restaurants that contribute most to each recommended one's score.

        With u = A^-1 F'c, the solution of the user's half-step, a score is a sum over the rated
        restaurants: u.v_j = sum_i (A^-1 v_j).f_i c_i. Those of the largest parts above 0 count.

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
            Restaurants, the largest part first; -1 after the last.
        """
        reasons = np.full((*items.shape, count), -1, dtype=np.int32)
        for user in np.flatnonzero(np.diff(visits.indptr)):
            span = slice(visits.indptr[user], visits.indptr[user + 1])
            rated, weight = visits.indices[span], self.alpha * visits.data[span]
            factors = self.factors[rated].astype(np.float64)
            normal = np.diag(self.spectrum + self.reg_param * len(rated))
            normal += factors.T @ (weight[:, None] * factors)
            recommended = self.factors[items[user]].astype(np.float64)
            parts = np.linalg.solve(normal, recommended.T).T @ factors.T * (1 + weight)
            parts[items[user] < 0] = 0
            order = np.argsort(-parts, axis=1, kind="stable")[:, :count]
            positive = np.take_along_axis(parts, order, axis=1) > 0
            reasons[user, :, : order.shape[1]] = np.where(positive, rated[order], -1)
        return reasons


def preference_model(
    factors: NDArray[np.float32],
    popularity: NDArray[np.integer[Any]] | NDArray[np.floating[Any]],
    *,
    alpha: float,
    reg_param: float,
) -> PreferenceModel:
    """Make a fit's item factors ready to rank with.

    Parameters
    ----------
    factors
        (restaurants, rank); NaN or 0 in the rows of restaurants that the fit did not see.
    popularity
        (restaurants,), the score of each for all users alike, 0 or more, such as its ratings.
    alpha, reg_param
        The parameters of the fit; ``reg_param`` above 0.
    """
    rotated, spectrum, _ = diagonalise(np.nan_to_num(factors))
    return PreferenceModel(
        factors=rotated,
        spectrum=spectrum,
        popularity=(popularity / (popularity.max(initial=0) or 1)).astype(np.float32),
        alpha=alpha,
        reg_param=reg_param,
    )


def alternate(
    visits: csr_array,
    rank: int,
    *,
    alpha: float,
    reg_param: float,
    iterations: int,
    seed: int,
    settled: float = 0.0,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Fit item factors by sweeps from random ones, without Spark, for fits that are evaluated.

    Parameters
    ----------
    visits
        (users, restaurants), as in `PreferenceModel.user_factors`.
    rank, alpha, reg_param, seed
        Those of the fit.
    iterations, settled
        Most sweeps, and the change below which they stop; see `recommender.als.sweeps.sweep`.

    Returns
    -------
    float32 (restaurants, rank)
        0 in the rows of restaurants that nobody has rated.
    """
    start = np.random.default_rng(seed).standard_normal((visits.shape[1], rank), np.float32)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    start[np.bincount(visits.indices, minlength=len(start)) == 0] = 0
    step = partial(implicit_step, alpha=alpha, reg_param=reg_param, threads=threads)
    return sweep(step, visits, start, iterations, settled)
