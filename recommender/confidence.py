"""How much more a rating says of a preference than no rating: found on held-out ratings.

Implicit-feedback ALS counts a rating 1 + alpha times as much as no rating, and holds factors back
by a regularisation. Only together do they matter: quality has a ridge along which one grows with
the other. So the regularisation follows alpha, and alpha is tried. Where users have rated little of
what they know, it is high; where somebody's not having rated a place tells something, it is low.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from scipy.sparse import csr_array

from recommender.evaluation import ndcg_of_each
from recommender.foldin import alternate, preferences_of
from recommender.models import popularity_of, visits_of
from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.splits import of_fold, split, teachers, who_liked
from recommender.topn import top_n

USUAL_ALPHA = 20.0

_ALPHAS = (1.0, 5.0, USUAL_ALPHA, 60.0)
_REG_PARAM_SHARE = 0.2
_ITERATIONS = 5
# Users who are judged at a time: a fifth, so that the fit is hardly less dense for it.
_GROUPS = 5
_MOST_IN_A_GROUP = 2_000
_ENOUGH_USERS = 500
_STANDARD_ERRORS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Confidence:
    """The parameters of the preference's fit that go together.

    Attributes
    ----------
    alpha
        What a rating of the mean height adds to a confidence of 1.
    reg_param
        ALS regularisation.
    """

    alpha: float
    reg_param: float

    def alpha_of(self, visits: csr_array) -> float:
        """Return alpha as ALS has it, which multiplies it by each visit."""
        return self.alpha / float(visits.data.mean())


def confidence_of(alpha: float, settings: Settings) -> Confidence:
    """Return the alpha with the regularisation of the settings, or if unset, its own."""
    given = settings.als_preference_reg_param
    return Confidence(alpha, alpha * _REG_PARAM_SHARE if given is None else given)


def find_confidence(spark: SparkSession, ratings: Ratings, settings: Settings) -> Confidence:
    """Return the confidence of the settings; where alpha is unset, the one that ranks best.

    A part of the users who teach the preference is judged by a part of their ratings, which is held
    out, on a fit to all their other ratings. Fewer users would tell something else: what is best
    depends on how dense the ratings are. Spark's executors try one alpha each. It departs from the
    usual alpha only where the users judged bear it out: the mean gain in NDCG has to be above two
    of its standard errors.
    """
    if settings.als_alpha is not None:
        return confidence_of(settings.als_alpha, settings)
    trials = list(_trials(ratings.rows(teachers(ratings, settings)[ratings.user]), settings))
    if not trials:
        log.info("nothing liked can be held out: alpha is %g, as usual", USUAL_ALPHA)
        return confidence_of(USUAL_ALPHA, settings)
    shared = spark.sparkContext.broadcast(trials)
    tasks = spark.sparkContext.parallelize(_ALPHAS, len(_ALPHAS))
    found = dict(
        tasks.map(
            lambda alpha: (alpha, np.concatenate([_tried(t, alpha) for t in shared.value]))
        ).collect()
    )
    shared.destroy()
    sure = {alpha: _sure_gain(found[alpha] - found[USUAL_ALPHA]) for alpha in _ALPHAS}
    best = max(_ALPHAS, key=lambda alpha: (sure[alpha], alpha == USUAL_ALPHA))
    means = ", ".join(f"{alpha:g} {found[alpha].mean():.4f}" for alpha in _ALPHAS)
    log.info("NDCG of %d users by alpha: %s; taking %g", len(found[best]), means, best)
    return confidence_of(best, settings)


@dataclass(frozen=True, eq=False)
class Trial:
    """What an alpha is tried on.

    Attributes
    ----------
    visits
        (users, restaurants), of the ratings to fit to; see `recommender.models.visits_of`.
    teachers
        bool (users,), whose visits the fit is taught by.
    popularity
        float64 (restaurants,), what breaks ties; see `recommender.models.popularity_of`.
    asked
        int32, the users who are judged.
    liked
        (asked, restaurants), what they liked of what is held out.
    settings
        Those of the training.
    """

    visits: csr_array
    teachers: NDArray[np.bool_]
    popularity: NDArray[np.float64]
    asked: NDArray[np.int32]
    liked: csr_array
    settings: Settings


def _trials(ratings: Ratings, settings: Settings) -> Iterator[Trial]:
    """Yield trials that judge different users, until enough are judged."""
    users = np.random.default_rng(settings.seed).permutation(np.unique(ratings.user))
    groups = max(_GROUPS, len(users) // _MOST_IN_A_GROUP)
    group = np.full(len(ratings.users), -1)
    group[users] = np.arange(len(users)) % groups
    judged = 0
    for number in range(groups):
        part, held_out = split(ratings, of_fold(settings, number), group == number)
        asked, liked = who_liked(held_out, settings)
        if len(asked):
            yield Trial(
                visits=visits_of(part, settings),
                teachers=teachers(part, settings),
                popularity=popularity_of(part, settings),
                asked=asked,
                liked=liked,
                settings=settings,
            )
        judged += len(asked)
        if judged >= _ENOUGH_USERS:
            return


def _tried(trial: Trial, alpha: float) -> NDArray[np.float64]:
    """Return the NDCG of each user asked."""
    settings = trial.settings
    confidence = confidence_of(alpha, settings)
    weight = confidence.alpha_of(trial.visits)
    factors = alternate(
        csr_array(trial.visits[trial.teachers]),
        settings.als_preference_rank,
        alpha=weight,
        reg_param=confidence.reg_param,
        iterations=_ITERATIONS,
        seed=settings.seed,
    )
    preferences = preferences_of(
        factors, trial.popularity, alpha=weight, reg_param=confidence.reg_param
    )
    seen = csr_array(trial.visits[trial.asked])
    users, n = preferences.user_factors(seen), settings.als_top_n
    lists = top_n(users, preferences.restaurant_factors, n, seen)[0].astype(np.int64)
    return ndcg_of_each(lists, seen, trial.liked, n)


def _sure_gain(gains: NDArray[np.float64]) -> float:
    """Return the mean gain less what chance may have a part in; none of a single user's."""
    if len(gains) < 2:
        return 0.0
    standard_error = float(gains.std(ddof=1)) / np.sqrt(len(gains))
    return float(gains.mean() - _STANDARD_ERRORS * standard_error)
