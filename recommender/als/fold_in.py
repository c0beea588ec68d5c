"""Fold-in: any user's preferences from the item factors alone, by one exact ALS half-step."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.sweeps import Factors, diagonalise, implicit_rows

_TIE_BREAK = 1e-6
_DAMPING = 10  # ratings in the popularity


@dataclass(frozen=True, eq=False)
class PreferenceModel:
    """Ranks items for any user by the user's ratings; see :func:`preference_model`.

    ``factors``, (items, rank), are those of the fit, rotated so that their Gram matrix is diagonal,
    and the dimensions of an embedding; 0 for an item without any. ``spectrum``, (rank,), is that
    diagonal; each embedding dimension gets its mean.
    """

    factors: NDArray[np.float32]
    spectrum: NDArray[np.float64]
    popularity: NDArray[np.float32]  # (items,), the highest is 1
    alpha: float
    reg_param: float
    item_item: csr_array | None = None  # see `item_item_weights`
    item_item_weight: float = 0.0

    @cached_property
    def item_factors(self) -> NDArray[np.float32]:
        """The items' factors, and their popularity to break ties: (items, rank + 1)."""
        return np.column_stack([self.factors, np.float32(_TIE_BREAK) * self.popularity])

    def user_factors(self, confidence: csr_array) -> NDArray[np.float32]:
        """Return the factors of users, float32 (users, rank + 1), from their confidence matrix."""
        parameters = self.spectrum, self.alpha, self.reg_param
        solved = implicit_rows(confidence, self.factors, *parameters)
        return np.column_stack([solved, np.ones(len(solved), np.float32)])

    def reasons(
        self, confidence: csr_array, items: NDArray[np.integer[Any]], count: int
    ) -> NDArray[np.int32]:
        """Return the rated items that add most to each recommendation, (m,), of one user.

        With u = A^-1 F'c, the solution of the user's half-step, a score is a sum over the rated
        items: u.v_j = sum_i (A^-1 v_j).f_i c_i. ``confidence`` is (1, items). The reasons, of terms
        above 0, are (m, count), the largest first, -1 after the last.
        """
        rated, weight = confidence.indices, self.alpha * confidence.data
        factors, recommended = (self.factors[i].astype(np.float64) for i in (rated, items))
        # The matrix A of the half-step, and each rated item's term of each score.
        normal = np.diag(self.spectrum + self.reg_param * max(len(rated), 1))
        normal += factors.T @ (weight[:, None] * factors)
        terms = np.linalg.solve(normal, recommended.T).T @ factors.T * (1 + weight)
        # The largest terms, if above 0.
        order = np.argsort(-terms, axis=1, kind="stable")[:, :count]
        reasons = np.full((len(items), count), -1, dtype=np.int32)
        positive = np.take_along_axis(terms, order, axis=1) > 0
        reasons[:, : order.shape[1]] = np.where(positive, rated[order], -1)
        return reasons


def preference_model(
    factors: Factors, popularity: NDArray[Any], *, alpha: float, reg_param: float
) -> PreferenceModel:
    """Return the model of item factors, NaN or 0 without any, that these parameters fitted."""
    rotated, spectrum, _ = diagonalise(np.nan_to_num(factors))
    scaled = (popularity / (popularity.max(initial=0) or 1)).astype(np.float32)
    return PreferenceModel(rotated, spectrum, scaled, alpha, reg_param)


def with_embedding(
    model: PreferenceModel, embedding: NDArray[np.float64], weight: float
) -> PreferenceModel:
    """Return the model that ranks by its factors v_i and by an embedding e_i of the items.

    The factors become [v_i, c e_i], with c such that the mean squared length of the c e_i is
    ``weight`` times that of the v_i. The Gram matrix of the wider factors is replaced: without the
    products of v and e, the two do not compete to explain the same unrated items, and a constant
    diagonal keeps the proportions of the ``embedding``, (items, dimensions). The model stays
    as it is if ``weight`` or all v_i or e_i are 0.
    """
    lengths, dimensions = float((embedding**2).sum()), embedding.shape[1]
    squared = float(model.spectrum.sum())  # the trace of the Gram matrix of the v_i
    if not weight * lengths * squared:
        return model
    scaled = (np.sqrt(weight * squared / lengths) * embedding).astype(np.float32)
    precision = np.full(dimensions, model.spectrum.mean())
    return replace(
        model,
        factors=np.hstack([model.factors, scaled]),
        spectrum=np.concatenate([model.spectrum, precision]),
    )


def popularity_scores(
    item: NDArray[np.integer[Any]], rating: NDArray[np.float64], items: int
) -> NDArray[np.float64]:
    """Score each item by its share of the ratings, above 0, times its damped mean: (items,).

    With n_i ratings of item i of sum s_i, N ratings in all of mean m, and damping d, the score is
    n_i / N (s_i + d m) / (n_i + d).
    """
    sums, counts = np.bincount(item, rating, items), np.bincount(item, minlength=items)
    means = (sums + _DAMPING * rating.mean()) / (counts + _DAMPING)
    return np.asarray(counts / len(rating) * means)
