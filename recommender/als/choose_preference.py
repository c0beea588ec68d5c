"""Choice of the preference's alpha, rank and weights, by the NDCG of test ratings.

Implicit-feedback ALS gives a rating 1 + alpha times the confidence of no rating, and regularises
the factors. Quality has a ridge along which the two grow together, so the regularisation follows
alpha, and alpha is searched. It is low where a missing rating means something.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.confidence import confidence_matrix, mllib_users, popularity_of
from recommender.als.fold_in import preference_model, with_embedding
from recommender.als.item_item import candidates, item_item_weights, predicted, refined
from recommender.als.spectral_embedding import spectral_embedding
from recommender.als.sweeps import implicit_step, random_factors, sweep
from recommender.als.top_n import best_of_each, top_n
from recommender.core.settings import ReviewsSettings, Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import ndcg_of_each
from recommender.evaluation.splitting import fold_seed, relevant_items, split

DEFAULT_ALPHA = 20.0
_LOWEST, _LOW, _HIGH = 1.0, 5.0, 60.0
_RANKS = (32, 64)
_MANY_RATINGS = 1_000_000
_EMBEDDING_WEIGHTS, _ITEM_ITEM_WEIGHTS = (0.0, 0.15, 0.5, 1.5), (0.0, 0.2)
WEIGHTS = tuple(product(_EMBEDDING_WEIGHTS, _ITEM_ITEM_WEIGHTS))
_DEFAULT_WEIGHTS = WEIGHTS.index((0.5, 0.2))
_EMBEDDING_DIMENSIONS = 32
REG_PARAM_SHARE = 0.2
_MOST_SWEEPS = 10
# Test ratings are those of one group of users at a time, so that the fit stays about as dense.
_GROUPS = 5
_REPEATS = 8
_ENOUGH_USERS = 5_000
_FEWEST_USERS = 20  # fewer decide nothing
_MOST_TRAINING_USERS = 20_000  # of a split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreferenceParameters:
    """The parameters of the preference's fit."""

    alpha: float  # the mean rating has a confidence of 1 + alpha; ALS takes it for a rating of 1
    reg_param: float
    rank: int
    embedding_weight: float = 0.0  # as in `with_embedding`
    item_item_weight: float = 0.0  # as in `refined`


def choose_preference_parameters(ratings: Ratings, settings: Settings) -> PreferenceParameters:
    """Return the parameters of the settings and, where they set none, those of the best NDCG.

    NDCG has one peak over alpha. 20 and 5 are tried, then 1 if 5 is better, else 60, all at the
    lower rank, which takes half the time, and each with its best weights. Another alpha, rank or
    pair of weights than the default must win by more than a standard error.
    """
    als = settings.als
    ranks = [als.preference_rank] if als.preference_rank else [*_RANKS]
    low_rank, rank = ranks[0], ranks[0] if len(ratings) > _MANY_RATINGS else ranks[-1]
    alpha = als.alpha or DEFAULT_ALPHA

    def parameters(alpha: float, rank: int, *weights: float) -> PreferenceParameters:
        reg_param = als.preference_reg_param or alpha * REG_PARAM_SHARE
        return PreferenceParameters(alpha, reg_param, rank, *weights)

    splits = list(_validation_splits(ratings, settings))
    if not splits:
        log.info("no test rating to choose by: alpha is %g, the rank %d", alpha, rank)
        return parameters(alpha, rank)

    def measured(alpha: float, rank: int) -> _Measured:
        tried, n = parameters(alpha, rank), als.top_n
        # Each fit has another random start, so that its noise is averaged, too.
        numbered = enumerate(splits, start=settings.seed)
        by_weights = np.hstack([ndcg_by_weights(each, tried, n, start) for start, each in numbered])
        best = _best_weights(by_weights)
        described = alpha, rank, *WEIGHTS[best], by_weights[best].mean(), by_weights.shape[1]
        log.info("alpha %g, rank %d, weights %g and %g: NDCG %.4f of %d lists", *described)
        return _Measured(parameters(alpha, rank, *WEIGHTS[best]), by_weights[best])

    by_alpha = {alpha: measured(alpha, low_rank)}
    if als.alpha is None:
        by_alpha[_LOW] = measured(_LOW, low_rank)
        outer = _LOWEST if by_alpha[_LOW].ndcg.mean() > by_alpha[alpha].ndcg.mean() else _HIGH
        by_alpha[outer] = measured(outer, low_rank)
    best = max(by_alpha, key=lambda each: float(by_alpha[each].ndcg.mean()))
    if _beats(by_alpha[best].ndcg, by_alpha[alpha].ndcg):
        alpha = best
    by_rank = {low_rank: by_alpha[alpha]} | {other: measured(alpha, other) for other in ranks[1:]}
    for other in ranks:
        if _beats(by_rank[other].ndcg, by_rank[rank].ndcg):
            rank = other
    return by_rank[rank].parameters


class _Measured(NamedTuple):
    parameters: PreferenceParameters  # with the best weights
    ndcg: NDArray[np.float64]  # (test users of all splits,)


@dataclass(frozen=True, eq=False)
class ValidationSplit:
    """A split of the train set that parameters are tried on."""

    confidence: csr_array  # (training users, items)
    embedding: NDArray[np.float64]  # (items, dimensions)
    mean: float  # of the confidence matrix of all users
    popularity: NDArray[np.float64]  # (items,)
    seen: csr_array  # (test users, items), their confidence
    regression: csr_array  # (test users, items), by the training users' item-item weights
    relevant: csr_array  # (test users, items)


def _validation_splits(ratings: Ratings, settings: Settings) -> Iterator[ValidationSplit]:
    """Yield splits that test a fifth of the users each, until enough are tested."""
    group = np.random.default_rng(settings.seed).integers(0, _GROUPS, len(ratings.users))
    tested = 0
    # The latest ratings are the same in every repeat, random ones differ.
    repeats = 1 if settings.als.test_split == "time" else _REPEATS
    for number in range(_GROUPS * repeats):
        seed = fold_seed(settings.seed, number)
        parts = split(ratings, settings.als, seed, group == number % _GROUPS)
        if validation := validation_split_of(*parts, settings.reviews, seed):
            yield validation
            tested += validation.seen.shape[0]
        if tested >= _ENOUGH_USERS:
            return


def validation_split_of(
    train: Ratings, test: Ratings, reviews: ReviewsSettings, seed: int
) -> ValidationSplit | None:
    """Return the split into these parts; None without a relevant test item."""
    test_users, relevant = relevant_items(test, reviews.relevant_from, _ENOUGH_USERS, seed)
    if not len(test_users):
        return None
    confidence = confidence_matrix(train, reviews)
    rows = confidence[mllib_users(train, _MOST_TRAINING_USERS, seed)]
    popularity, mean = popularity_of(train, reviews), float(confidence.data.mean())
    embedding = preference_embedding(rows, seed)
    seen = confidence[test_users]
    regression = predicted(seen, item_item_weights(rows))
    return ValidationSplit(rows, embedding, mean, popularity, seen, regression, relevant)


def ndcg_by_weights(
    parts: ValidationSplit, parameters: PreferenceParameters, n: int, seed: int
) -> NDArray[np.float64]:
    """Return the NDCG of one fit for each of ``WEIGHTS``, (weights, test users)."""
    alpha, reg_param = parameters.alpha / parts.mean, parameters.reg_param
    step = partial(implicit_step, alpha=alpha, reg_param=reg_param)
    start = random_factors(len(parts.popularity), parameters.rank, seed)
    factors = sweep(step, parts.confidence, start, _MOST_SWEEPS)
    model = preference_model(factors, parts.popularity, alpha=alpha, reg_param=reg_param)
    by_weights = []
    for weight in _EMBEDDING_WEIGHTS:
        wide = with_embedding(model, parts.embedding, weight)
        users = wide.user_factors(parts.seen)
        items, scores = top_n(users, wide.item_factors, candidates(n), parts.seen)
        for item_item in _ITEM_ITEM_WEIGHTS:
            ranked = refined(items, scores, parts.regression, item_item) if item_item else scores
            lists, _ = best_of_each(items, ranked, min(n, items.shape[1]))
            by_weights.append(ndcg_of_each(lists, parts.seen, parts.relevant, n))
    return np.array(by_weights)


def preference_embedding(rows: csr_array, seed: int) -> NDArray[np.float64]:
    """Return the embedding that preferences are fitted with, from rows of the confidence matrix."""
    weights = np.ones(rows.shape[0])
    return spectral_embedding(rows, weights=weights, dimensions=_EMBEDDING_DIMENSIONS, seed=seed)


def _best_weights(by_weights: NDArray[np.float64]) -> int:
    """Return the position of the weights to take, by NDCG of (weights, test users)."""
    if by_weights.shape[1] < _FEWEST_USERS:
        return 0
    best = int(by_weights.mean(axis=1).argmax())
    return best if _beats(by_weights[best], by_weights[_DEFAULT_WEIGHTS]) else _DEFAULT_WEIGHTS


def _beats(ndcg: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return true if the mean is higher by more than a standard error, over the same users."""
    gain, users = ndcg - other, len(ndcg)
    return users >= _FEWEST_USERS and bool(gain.mean() > gain.std(ddof=1) / np.sqrt(users))
