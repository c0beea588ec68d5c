"""What the trainings are compared with, each fitted to the same ratings.

Of the peers, the parameters are those that their authors recommend, or better ones where some were
found; the docstring of each says which. What a peer has no say about, restaurants that it scores
alike, goes by popularity, as it does here.
"""

from __future__ import annotations

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
from recommender.weights import find_weights, offsets
from scipy.sparse import csr_array, csr_matrix

from recommender.baseline import Baseline
from recommender.confidence import find_confidence
from recommender.evaluation import cross_fitted
from recommender.fitting import fit_preferences, fit_rating
from recommender.models import visits_of
from recommender.ratings import Ratings
from recommender.settings import Settings

Floats: TypeAlias = NDArray[Any]
# What a fit gives: of rows, the rating of each; of users, (users, restaurants), what ranks.
Foretell: TypeAlias = Callable[[Ratings], Floats]
Score: TypeAlias = Callable[[NDArray[np.int64]], Floats]
Fitted = TypeVar("Fitted")

_LAMBDA = 5.0
_EASE_LAMBDA = 50.0
_MOST_RESTAURANTS = 20_000
_RANK = 64


@dataclass(frozen=True)
class Contender(Generic[Fitted]):
    """Somebody who foretells ratings or ranks restaurants.

    Attributes
    ----------
    name
        Of its row.
    fit
        Given the ratings to learn from, and the settings, whose seed is the split's.
    needs
        The package without which it is left out.
    most_restaurants
        It is left out where there are more.
    """

    name: str
    fit: Callable[[Ratings, Settings], Fitted]
    needs: str | None = None
    most_restaurants: int | None = None

    def obstacle(self, ratings: Ratings) -> str | None:
        """Return why it is left out, if it is."""
        if self.needs and find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        if self.most_restaurants and len(ratings.restaurants) > self.most_restaurants:
            return f"more than {self.most_restaurants:,} restaurants"
        return None


def _global_mean(part: Ratings, settings: Settings) -> Foretell:
    mean = float(part.rating.mean())
    return lambda asked: np.full(len(asked), mean)


def _baseline(part: Ratings, settings: Settings) -> Foretell:
    """Take the restaurants' offsets from the mean, then the users' from both, once each."""
    mean, shape = float(part.rating.mean()), (len(part.users), len(part.restaurants))

    def offsets(of: NDArray[np.int32], left: Floats, count: int) -> NDArray[np.float64]:
        return np.bincount(of, left, count) / (np.bincount(of, minlength=count) + _LAMBDA)

    of_places = offsets(part.restaurant, part.rating - mean, shape[1])
    left = part.rating - mean - of_places[part.restaurant]
    of_people = offsets(part.user, left, shape[0])
    found = Baseline(mean, of_people, of_places)
    bounds = settings.rating_min, settings.rating_max
    return lambda asked: np.clip(found.predict(asked.user, asked.restaurant), *bounds)


def _seed_rating(spark: SparkSession, part: Ratings, settings: Settings) -> Foretell:
    model = fit_rating(spark, part, settings, None)
    return lambda asked: model.predict(asked.user, asked.restaurant)


def _own_offsets(part: Ratings, settings: Settings) -> Foretell:
    """Leave out of this service's rating what ALS adds."""
    found = offsets(part, find_weights(part, settings))
    bounds = settings.rating_min, settings.rating_max
    return lambda asked: np.clip(found.predict(asked.user, asked.restaurant), *bounds)


def _own_rating(spark: SparkSession, part: Ratings, settings: Settings) -> Foretell:
    """Believe ALS as a training does: on each half of what is asked by how it did on the other."""
    model = fit_rating(spark, part, settings, find_weights(part, settings))

    def foretell(asked: Ratings) -> Floats:
        base = model.baseline.predict(asked.user, asked.restaurant)
        rest = model.rest(asked.user, asked.restaurant)
        explained = cross_fitted(rest, asked.rating - base, seed=settings.seed)[1]
        return np.clip(base + explained, *model.bounds)

    return foretell


def _surprise(name: str, part: Ratings, settings: Settings) -> Foretell:
    """Fit as Surprise has it by default.

    SVD: 100 factors, 20 epochs, learning rate 0.005, regularisation 0.02. SVD++: 20 factors, 20
    epochs, learning rate 0.007, regularisation 0.02.
    """
    surprise = import_module("surprise")
    reader = surprise.Reader(rating_scale=(settings.rating_min, settings.rating_max))
    rows = pd.DataFrame({"user": part.user, "item": part.restaurant, "rating": part.rating})
    data = surprise.Dataset.load_from_df(rows, reader).build_full_trainset()
    model = getattr(surprise, name)(random_state=settings.seed).fit(data)

    def foretell(asked: Ratings) -> Floats:
        pairs = zip(asked.user.tolist(), asked.restaurant.tolist(), strict=True)
        return np.array([model.predict(*pair).est for pair in pairs])

    return foretell


def _popular(part: Ratings, settings: Settings) -> Score:
    counts = np.bincount(part.restaurant, minlength=len(part.restaurants))
    return lambda users: np.tile(counts.astype(np.float32), (len(users), 1))


def _random(part: Ratings, settings: Settings) -> Score:
    rng = np.random.default_rng(settings.seed)
    return lambda users: rng.random((len(users), len(part.restaurants)), np.float32)


def _seed_ranking(spark: SparkSession, part: Ratings, settings: Settings) -> Score:
    rating = fit_rating(spark, part, settings, None)
    places = np.nan_to_num(rating.restaurant_factors)
    return lambda users: rating.user_factors[users] @ places.T


def _own_ranking(spark: SparkSession, part: Ratings, settings: Settings) -> Score:
    preferences = fit_preferences(spark, part, settings, find_confidence(spark, part, settings))
    visits, places = visits_of(part, settings), preferences.restaurant_factors
    return lambda users: preferences.user_factors(csr_array(visits[users])) @ places.T


def _ease(part: Ratings, settings: Settings) -> Score:
    """Fit EASE (Steck, 2019), lambda 50, to who has rated what."""
    rated = _rated(part)
    inverse = np.linalg.inv((rated.T @ rated).toarray() + _EASE_LAMBDA * np.eye(rated.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return lambda users: np.asarray(rated[users] @ weights)


def _implicit_als(part: Ratings, settings: Settings) -> Score:
    """Fit implicit's ALS to who has rated what: rank 64, regularisation 10, alpha 20, 15 rounds."""
    kind = import_module("implicit.als").AlternatingLeastSquares
    model = kind(
        factors=_RANK, regularization=10.0, alpha=20.0, iterations=15, random_state=settings.seed
    )
    model.fit(csr_matrix(_rated(part), dtype=np.float32), show_progress=False)
    return lambda users: np.asarray(model.user_factors[users] @ model.item_factors.T)


def _implicit_bm25(part: Ratings, settings: Settings) -> Score:
    """Fit implicit's BM25 item neighbours to who has rated what: K 1000, K1 1.2, B 0.75."""
    kind = import_module("implicit.nearest_neighbours").BM25Recommender
    rated = csr_matrix(_rated(part))
    model = kind(K=1000, K1=1.2, B=0.75)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it hands on within itself
        model.fit(rated, show_progress=False)
    return lambda users: (rated[users] @ model.similarity).toarray()


def _lenskit_als(part: Ratings, settings: Settings) -> Score:
    """Fit LensKit's ImplicitMF: rank 64; by default 10 epochs, regularisation 0.1, weight 40."""
    kind = import_module("lenskit.als").ImplicitMFScorer
    return _lenskit(kind(embedding_size=_RANK), part, settings)


def _lenskit_neighbours(part: Ratings, settings: Settings) -> Score:
    """Fit LensKit's ItemKNN to implicit feedback: by default 20 neighbours, at least 1."""
    return _lenskit(import_module("lenskit.knn").ItemKNNScorer(feedback="implicit"), part, settings)


def _lenskit(model: Any, part: Ratings, settings: Settings) -> Score:
    data, training = import_module("lenskit.data"), import_module("lenskit.training")
    names = {"user_id": part.user, "item_id": part.restaurant, "rating": part.rating}
    options = training.TrainingOptions(rng=settings.seed)
    model.train(data.from_interactions_df(pd.DataFrame(names)), options)
    rows, places = _rated(part), data.ItemList(item_ids=np.arange(len(part.restaurants)))

    def scores_of(user: int) -> Floats:
        rated = data.ItemList(item_ids=rows.indices[rows.indptr[user] : rows.indptr[user + 1]])
        asked = data.RecQuery(user_id=user, history_items=rated)
        return np.asarray(model(asked, places).scores())

    return lambda users: np.nan_to_num([scores_of(user) for user in users.tolist()])


def _rated(part: Ratings) -> csr_array:
    """Return 1 for each rating: (users, restaurants)."""
    rows = part.matrix(1.0)
    return csr_array((np.ones(rows.nnz), rows.indices, rows.indptr), shape=rows.shape)


PLAIN_RATING: tuple[Contender[Foretell], ...] = (
    Contender("global mean", _global_mean),
    Contender("baseline, lambda 5", _baseline),
)
PLAIN_RANKING: tuple[Contender[Score], ...] = (
    Contender("random", _random),
    Contender("popular", _popular),
    Contender("EASE", _ease, most_restaurants=_MOST_RESTAURANTS),
)


def rating_contenders(spark: SparkSession) -> list[Contender[Foretell]]:
    """Return all who foretell ratings."""
    return [
        *PLAIN_RATING,
        Contender("seed configuration", partial(_seed_rating, spark)),
        Contender("Surprise SVD", partial(_surprise, "SVD"), needs="surprise"),
        Contender("Surprise SVD++", partial(_surprise, "SVDpp"), needs="surprise"),
        Contender("this service, offsets alone", _own_offsets),
        Contender("this service", partial(_own_rating, spark)),
    ]


def ranking_contenders(spark: SparkSession) -> list[Contender[Score]]:
    """Return all who rank restaurants."""
    return [
        *PLAIN_RANKING,
        Contender("seed configuration", partial(_seed_ranking, spark)),
        Contender("implicit ALS", _implicit_als, needs="implicit"),
        Contender("implicit BM25", _implicit_bm25, needs="implicit"),
        Contender("LensKit ImplicitMF", _lenskit_als, needs="lenskit"),
        Contender("LensKit ItemKNN", _lenskit_neighbours, needs="lenskit"),
        Contender("this service", partial(_own_ranking, spark)),
    ]
