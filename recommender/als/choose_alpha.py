"""Choice of the preference's alpha and rank, by the NDCG of held-out ratings.

Implicit-feedback ALS gives a rating 1 + alpha times the confidence of no rating, and regularises
the factors. Quality has a ridge along which the two grow together, so the regularisation follows
alpha, and alpha is searched. It is high where users have rated little of what they know, and low
where a missing rating means something.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.fold_in import alternate, preference_model
from recommender.als.model import confidence_matrix, popularity_of, training_users
from recommender.als.sweeps import SETTLED, cores
from recommender.als.top_n import top_n
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import ndcg_of_each
from recommender.evaluation.splitting import relevant_items, split, with_fold_seed

USUAL_ALPHA = 20.0

_LOWEST, _LOW, _HIGH = 1.0, 5.0, 60.0
_RANKS = (32, 64)
_REG_PARAM_SHARE = 0.2
_MOST_SWEEPS = 10
# Ratings are held out of a part of the users at a time, so that the fit stays about as dense.
_GROUPS = 5
_REPEATS = 4
_ENOUGH_USERS = 5_000
_FEWEST_TESTS = 20  # fewer decide nothing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Confidence:
    """The parameters of the preference's fit that are chosen together.

    Attributes
    ----------
    alpha
        What a rating of the mean height adds to a confidence of 1.
    reg_param
        ALS regularisation.
    rank
        Number of factors.
    """

    alpha: float
    reg_param: float
    rank: int

    def alpha_of(self, visits: csr_array) -> float:
        """Return alpha as ALS defines it, which multiplies it by each value."""
        return self.alpha / float(visits.data.mean())


def confidence_of(alpha: float, rank: int, settings: Settings) -> Confidence:
    """Return the parameters for an alpha; the regularisation follows it unless it is set."""
    reg_param = settings.als.preference_reg_param
    return Confidence(alpha, alpha * _REG_PARAM_SHARE if reg_param is None else reg_param, rank)


def choose_preference_parameters(ratings: Ratings, settings: Settings) -> Confidence:
    """Return the parameters of the settings and, of what is unset, those that rank best.

    Each trial fits all ratings but those held out. Test users are the same in all trials, so that
    means are compared in pairs. NDCG has one peak over alpha: where the low alpha beats the usual
    one, the lowest is tried, else the high one. Another alpha than the usual one, and the lower
    rank, are taken if they are better by more than a standard error.
    """
    ranks = (settings.als.preference_rank,) if settings.als.preference_rank else _RANKS
    alpha, rank = settings.als.alpha or USUAL_ALPHA, max(ranks)
    if settings.als.alpha and len(ranks) == 1:
        return confidence_of(alpha, rank, settings)
    trials = list(_trials(ratings, settings))
    if not trials:
        log.info("no held-out rating to choose by: alpha is %g, the rank %d", alpha, rank)
        return confidence_of(alpha, rank, settings)

    def ndcg(alpha: float, rank: int) -> NDArray[np.float64]:
        confidence = confidence_of(alpha, rank, settings)
        each = np.concatenate([_ndcg(trial, confidence, settings) for trial in trials])
        log.info("alpha %g, rank %d: NDCG %.4f of %d users", alpha, rank, each.mean(), len(each))
        return each

    tried = {alpha: ndcg(alpha, rank)}
    if settings.als.alpha is None:
        tried[_LOW] = ndcg(_LOW, rank)
        outer = _LOWEST if tried[_LOW].mean() > tried[alpha].mean() else _HIGH
        tried[outer] = ndcg(outer, rank)
    best = max(tried, key=lambda each: float(tried[each].mean()))
    if _beats(tried[best], tried[alpha]):
        alpha = best
    if min(ranks) < rank and _beats(ndcg(alpha, min(ranks)), tried[alpha]):
        rank = min(ranks)
    return confidence_of(alpha, rank, settings)


@dataclass(frozen=True, eq=False)
class Trial:
    """A split that parameters are tried on.

    Attributes
    ----------
    visits
        (users, restaurants), of the ratings to fit; see `recommender.als.model.confidence_matrix`.
    training_users
        bool (users,), the users to fit.
    popularity
        float64 (restaurants,), breaks ties; see `recommender.als.model.popularity_of`.
    test_users
        int32 (t,).
    relevant
        (t, restaurants), the held-out restaurants that they liked.
    """

    visits: csr_array
    training_users: NDArray[np.bool_]
    popularity: NDArray[np.float64]
    test_users: NDArray[np.int32]
    relevant: csr_array


def _trials(ratings: Ratings, settings: Settings) -> Iterator[Trial]:
    """Yield trials with a fifth of the users each, until enough are tested, some repeatedly."""
    rng = np.random.default_rng(settings.seed)
    group = rng.integers(0, _GROUPS, len(ratings.users))
    tested = 0
    # The latest ratings are the same in every repeat, random ones differ.
    repeats = 1 if settings.als.test_split == "time" else _REPEATS
    for number in range(_GROUPS * repeats):
        part, held_out = split(ratings, with_fold_seed(settings, number), group == number % _GROUPS)
        test_users, relevant = relevant_items(held_out, settings)
        if len(test_users):
            chosen = rng.permutation(len(test_users))[:_ENOUGH_USERS]
            yield Trial(
                visits=confidence_matrix(part, settings),
                training_users=training_users(part, settings),
                popularity=popularity_of(part, settings),
                test_users=test_users[chosen],
                relevant=csr_array(relevant[chosen]),
            )
        tested += len(test_users)
        if tested >= _ENOUGH_USERS:
            return


def _ndcg(trial: Trial, confidence: Confidence, settings: Settings) -> NDArray[np.float64]:
    """Return the NDCG of each test user."""
    alpha, reg_param = confidence.alpha_of(trial.visits), confidence.reg_param
    factors = alternate(
        csr_array(trial.visits[trial.training_users]),
        confidence.rank,
        alpha=alpha,
        reg_param=reg_param,
        iterations=_MOST_SWEEPS,
        settled=SETTLED,
        seed=settings.seed,
        threads=cores(),
    )
    preferences = preference_model(factors, trial.popularity, alpha=alpha, reg_param=reg_param)
    seen, n = csr_array(trial.visits[trial.test_users]), settings.als.top_n
    users = preferences.user_factors(seen)
    lists = top_n(users, preferences.restaurant_factors, n, seen)[0].astype(np.int64)
    return ndcg_of_each(lists, seen, trial.relevant, n)


def _beats(ndcg: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return true if the mean is higher by more than a standard error, over the same users."""
    gain = ndcg - other
    if len(gain) < _FEWEST_TESTS:
        return False
    standard_error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
    return bool(gain.mean() > standard_error)
