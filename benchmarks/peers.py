"""The methods that the trainings are compared with, each fitted to the same ratings.

Their parameters are those that their authors recommend, or better ones; the docstrings name them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from scipy.sparse import csr_array, csr_matrix

from recommender.als.bias import BiasDamping, fit_bias
from recommender.als.choose_damping import choose_damping
from recommender.als.choose_preference import choose_preference_parameters
from recommender.als.confidence import confidence_matrix
from recommender.als.evaluate import cross_fitted
from recommender.als.fit import fit_bias_only, fit_preferences, fit_rating, fit_rating_alone
from recommender.als.model import Model
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings

Floats: TypeAlias = NDArray[Any]
# The result of a fit: predicted ratings of rows, or scores of users, (users, restaurants).
Predict: TypeAlias = Callable[[Ratings], Floats]
Score: TypeAlias = Callable[[NDArray[np.int64]], Floats]
Fitted = TypeVar("Fitted")

_DAMPING = 5.0
_EASE_LAMBDAS = (10.0, 50.0, 200.0, 1_000.0)  # the best one, in hindsight, is a tuned EASE
_MOST_RESTAURANTS = 20_000
_RANK = 64


@dataclass(frozen=True)
class Method(Generic[Fitted]):
    """A method that predicts ratings or ranks restaurants."""

    name: str
    fit: Callable[[Ratings, Settings], Fitted]  # to training ratings, with the split's seed
    needs: str | None = None  # a package
    most_restaurants: int | None = None  # in the largest set that it is fitted to

    def obstacle(self, ratings: Ratings) -> str | None:
        """Return the reason to leave the method out, or None."""
        if self.needs and find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        if self.most_restaurants and len(ratings.restaurants) > self.most_restaurants:
            return f"there are more than {self.most_restaurants:,} restaurants"
        return None


def _global_mean(train: Ratings, settings: Settings) -> Predict:
    mean = float(train.rating.mean())
    return lambda test: np.full(len(test), mean)


def _bias(damping: BiasDamping | None, train: Ratings, settings: Settings) -> Predict:
    """Fit the bias alone, with the damping that a training chooses if ``damping`` is None."""
    bias = fit_bias(train.matrix(), damping or choose_damping(train, settings))
    bounds = settings.reviews.rating_min, settings.reviews.rating_max
    return lambda test: np.clip(bias.predict(test.user, test.restaurant), *bounds)


def _seed_rating(spark: SparkSession, train: Ratings, settings: Settings) -> Predict:
    model = fit_rating_alone(spark, train, settings.als, settings.seed)
    return lambda test: model.predict(test.user, test.restaurant)


def _own_rating(spark: SparkSession, train: Ratings, settings: Settings) -> Predict:
    """Blend ALS in as a training does: each half of the test by the weight of the other half."""
    model = fit_rating(spark, train, settings, choose_damping(train, settings))

    def predict(test: Ratings) -> Floats:
        bias = model.bias.predict(test.user, test.restaurant)
        residual = model.residual(test.user, test.restaurant)
        blended = cross_fitted(residual, test.rating - bias, seed=settings.seed)[1]
        return np.clip(bias + blended, *model.bounds)

    return predict


def _surprise(name: str, train: Ratings, settings: Settings) -> Predict:
    """Fit with the defaults of Surprise.

    SVD: 100 factors, 20 epochs, learning rate 0.005, regularisation 0.02. SVD++: 20 factors, 20
    epochs, learning rate 0.007, regularisation 0.02.
    """
    surprise = import_module("surprise")
    reader = surprise.Reader(
        rating_scale=(settings.reviews.rating_min, settings.reviews.rating_max)
    )
    rows = pd.DataFrame({"user": train.user, "item": train.restaurant, "rating": train.rating})
    data = surprise.Dataset.load_from_df(rows, reader).build_full_trainset()
    model = getattr(surprise, name)(random_state=settings.seed).fit(data)

    def predict(test: Ratings) -> Floats:
        pairs = zip(test.user.tolist(), test.restaurant.tolist(), strict=True)
        return np.array([model.predict(*pair).est for pair in pairs])

    return predict


def _popular(train: Ratings, settings: Settings) -> Score:
    counts = np.bincount(train.restaurant, minlength=len(train.restaurants))
    return lambda users: np.tile(counts.astype(np.float32), (len(users), 1))


def _random(train: Ratings, settings: Settings) -> Score:
    rng = np.random.default_rng(settings.seed)
    return lambda users: rng.random((len(users), len(train.restaurants)), np.float32)


def _seed_ranking(spark: SparkSession, train: Ratings, settings: Settings) -> Score:
    rating = fit_rating_alone(spark, train, settings.als, settings.seed)
    items = np.nan_to_num(rating.restaurant_factors)
    return lambda users: rating.user_factors[users] @ items.T


def _own_ranking(spark: SparkSession, train: Ratings, settings: Settings) -> Score:
    preferences = fit_preferences(
        spark, train, settings, choose_preference_parameters(train, settings)
    )
    model = Model(fit_bias_only(train, settings.reviews, BiasDamping()), preferences)
    confidence = confidence_matrix(train, settings.reviews)

    def scores_of(users: NDArray[np.int64]) -> Floats:
        rows = csr_array(confidence[users])
        factors = preferences.user_factors(rows)
        items, best = model.best(factors, rows, settings.als.top_n, rows)
        # The last column takes what is none.
        scores = np.full((rows.shape[0], rows.shape[1] + 1), -np.inf, np.float32)
        np.put_along_axis(scores, items, best, axis=1)
        return scores[:, :-1]

    return scores_of


def _ease(regularisation: float, train: Ratings, settings: Settings) -> Score:
    """Fit EASE (Steck, 2019) to the ratings as 0 or 1."""
    rated = _rated(train)
    inverse = np.linalg.inv((rated.T @ rated).toarray() + regularisation * np.eye(rated.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return lambda users: np.asarray(rated[users] @ weights)


def _implicit_als(train: Ratings, settings: Settings) -> Score:
    """Fit implicit's ALS to ratings as 0 or 1: rank 64, regularisation 10, alpha 20, 15 rounds."""
    kind = import_module("implicit.als").AlternatingLeastSquares
    model = kind(
        factors=_RANK, regularization=10.0, alpha=20.0, iterations=15, random_state=settings.seed
    )
    model.fit(csr_matrix(_rated(train), dtype=np.float32), show_progress=False)
    return lambda users: np.asarray(model.user_factors[users] @ model.item_factors.T)


def _implicit_bm25(train: Ratings, settings: Settings) -> Score:
    """Fit implicit's BM25 item neighbours to the ratings as 0 or 1: K 1000, K1 1.2, B 0.75."""
    kind = import_module("implicit.nearest_neighbours").BM25Recommender
    rated = csr_matrix(_rated(train))
    model = kind(K=1000, K1=1.2, B=0.75)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # implicit warns of its own sparse matrices
        model.fit(rated, show_progress=False)
    return lambda users: (rated[users] @ model.similarity).toarray()


def _lenskit_als(train: Ratings, settings: Settings) -> Score:
    """Fit LensKit's ImplicitMF: rank 64; by default 10 epochs, regularisation 0.1, weight 40."""
    kind = import_module("lenskit.als").ImplicitMFScorer
    return _lenskit(kind(embedding_size=_RANK), train, settings)


def _lenskit_neighbours(train: Ratings, settings: Settings) -> Score:
    """Fit LensKit's ItemKNN to implicit feedback: by default 20 neighbours, at least 1."""
    return _lenskit(
        import_module("lenskit.knn").ItemKNNScorer(feedback="implicit"), train, settings
    )


def _lenskit(model: Any, train: Ratings, settings: Settings) -> Score:
    data, training = import_module("lenskit.data"), import_module("lenskit.training")
    names = {"user_id": train.user, "item_id": train.restaurant, "rating": train.rating}
    options = training.TrainingOptions(rng=settings.seed)
    model.train(data.from_interactions_df(pd.DataFrame(names)), options)
    rows, items = _rated(train), data.ItemList(item_ids=np.arange(len(train.restaurants)))

    def scores_of(user: int) -> Floats:
        rated = data.ItemList(item_ids=rows.indices[rows.indptr[user] : rows.indptr[user + 1]])
        query = data.RecQuery(user_id=user, history_items=rated)
        return np.asarray(model(query, items).scores())

    return lambda users: np.nan_to_num([scores_of(user) for user in users.tolist()])


def _rated(train: Ratings) -> csr_array:
    """Return a 1 for each rating: (users, restaurants)."""
    rows = train.matrix(1.0)
    return csr_array((np.ones(rows.nnz), rows.indices, rows.indptr), shape=rows.shape)


PLAIN_RATING: tuple[Method[Predict], ...] = (
    Method("global mean", _global_mean),
    Method("bias, damping 5", partial(_bias, BiasDamping(_DAMPING, _DAMPING))),
)
PLAIN_RANKING: tuple[Method[Score], ...] = (
    Method("random", _random),
    Method("popular", _popular),
    *(
        Method(f"EASE, lambda {value:g}", partial(_ease, value), most_restaurants=_MOST_RESTAURANTS)
        for value in _EASE_LAMBDAS
    ),
)


def rating_methods(spark: SparkSession) -> list[Method[Predict]]:
    """Return all methods that predict ratings."""
    return [
        *PLAIN_RATING,
        Method("seed configuration", partial(_seed_rating, spark)),
        Method("Surprise SVD", partial(_surprise, "SVD"), needs="surprise"),
        Method("Surprise SVD++", partial(_surprise, "SVDpp"), needs="surprise"),
        Method("this service, bias alone", partial(_bias, None)),
        Method("this service", partial(_own_rating, spark)),
    ]


def ranking_methods(spark: SparkSession) -> list[Method[Score]]:
    """Return all methods that rank restaurants."""
    return [
        *PLAIN_RANKING,
        Method("seed configuration", partial(_seed_ranking, spark)),
        Method("implicit ALS", _implicit_als, needs="implicit"),
        Method("implicit BM25", _implicit_bm25, needs="implicit"),
        Method("LensKit ImplicitMF", _lenskit_als, needs="lenskit"),
        Method("LensKit ItemKNN", _lenskit_neighbours, needs="lenskit"),
        Method("this service", partial(_own_ranking, spark)),
    ]
