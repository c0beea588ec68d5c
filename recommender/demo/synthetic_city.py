"""A seeded generator of a synthetic city's reviews, with groups of users of like taste.

A taste is a home neighbourhood, a favourite and a second cuisine. Users choose restaurants near
home and of their cuisines more often and rate them higher, so that clusters and factors have a
structure to recover. Activity and popularity are heavy-tailed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import bisect

from recommender.core.errors import DataError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import insert_batches, replacing

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

_WORDS = json.loads(Path(__file__).with_name("city_words.json").read_text("utf-8"))
NEIGHBOURHOODS, CUISINES = _WORDS["neighbourhoods"], _WORDS["cuisines"]

# Effects of a match of neighbourhood or cuisine: on the log odds of a choice, and on the rating.
_NEAR_PULL, _CUISINE_PULL, _SECOND_CUISINE_PULL = 2.5, 2.3, 1.6
_NEAR_STARS, _CUISINE_STARS, _SECOND_CUISINE_STARS = 0.5, 1.2, 0.8
_BASE_STARS, _QUALITY_STARS, _STRICTNESS_STARS, _NOISE_STARS = 3.45, 0.45, 0.35, 0.28

_ACTIVITY_SIGMA, _POPULARITY_SIGMA, _QUALITY_PULL = 1.15, 1.1, 0.4
_MOST_REVIEWS_OF_A_USER = 400
_USERS_PER_BLOCK = 20_000
_DRAWS = 8

_LATEST_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
_SPAN_MS = 5 * 365 * 86_400_000
# An odd number: index * odd mod 2**64 gives each index an id of its own, and scatters them.
_SCATTER = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class City:
    """The size and seed of a synthetic city; raises `ValueError` if a size is out of range.

    Each user rates at least one restaurant, and none twice. The same seed gives the same city.
    """

    users: int = 5_000
    restaurants: int = 400
    reviews: int = 40_000  # within a few percent
    seed: int = 7
    tastes: int = 12  # groups of users of like taste

    def __post_init__(self) -> None:
        if min(self.users, self.restaurants, self.tastes) < 1 or self.seed < 0:
            raise ValueError("users, restaurants and tastes are at least 1, the seed at least 0")
        if self.tastes > (kinds := len(NEIGHBOURHOODS) * len(CUISINES)):
            raise ValueError(f"tastes={self.tastes} exceeds the {kinds} possible")
        least, most = self.users, max(self.users, self.users * self.most_reviews_of_a_user // 2)
        if not least <= self.reviews <= most:
            raise ValueError(f"reviews={self.reviews}; expected {least} (one a user) to {most}")

    @property
    def most_reviews_of_a_user(self) -> int:
        """Largest number of restaurants that one user rates."""
        return min(_MOST_REVIEWS_OF_A_USER, max(2, self.restaurants // 2))


@dataclass(frozen=True)
class Population:
    """A city without its reviews."""

    city: City
    home: Indices  # (tastes,), indices into :data:`NEIGHBOURHOODS`
    favourite: Indices  # (tastes,), indices into :data:`CUISINES`
    restaurants: list[Document]  # (restaurants,), the documents of ``Restaurants``
    gmap_ids: NDArray[np.object_]  # (restaurants,)
    user_ids: NDArray[np.object_]  # (users,)
    taste: Indices  # (users,)
    strictness: Floats  # (users,), standard normal
    activity: Indices  # (users,), numbers of reviews
    choice: Floats  # (tastes, restaurants), cumulative probabilities of a choice by a user
    stars: Floats  # (tastes, restaurants), the rating that an average user would give


@dataclass(frozen=True)
class ReviewBlock:
    """Reviews of some users, sorted by user; each array has one entry per review."""

    user: Indices
    restaurant: Indices
    rating: NDArray[np.int8]  # 1 to 5
    time: Indices  # milliseconds since the epoch


def populate(city: City) -> Population:
    """Return a city without its reviews."""
    rng = np.random.default_rng(city.seed)
    # Tastes: distinct pairs of neighbourhood and favourite cuisine, and another second cuisine.
    pairs = rng.permutation(len(NEIGHBOURHOODS) * len(CUISINES))[: city.tastes]
    home, favourite = np.divmod(pairs, len(CUISINES))
    second = (favourite + rng.integers(1, len(CUISINES), city.tastes)) % len(CUISINES)
    # Restaurants, whose popularity is the weight of a choice without any taste.
    neighbourhood = rng.integers(0, len(NEIGHBOURHOODS), city.restaurants)
    cuisine = rng.integers(0, len(CUISINES), city.restaurants)
    quality = rng.standard_normal(city.restaurants)
    log_popularity = _POPULARITY_SIGMA * rng.standard_normal(city.restaurants)
    popularity = np.exp(log_popularity + _QUALITY_PULL * quality)
    cells = (neighbourhood << 24) + rng.integers(0, 1 << 24, city.restaurants)
    numbers = _scattered(city.restaurants, city.seed)
    gmap_ids = [f"0x89c25{c:011x}:0x{n:x}" for c, n in zip(cells.tolist(), numbers, strict=True)]
    restaurants = _documents(
        ("gmap_id", "name", "cuisine", "neighbourhood"),
        gmap_ids,
        list(_make_names(rng, cuisine)),
        np.array(CUISINES)[cuisine],
        np.array(NEIGHBOURHOODS)[neighbourhood],
    )
    # Each taste's pull to each restaurant.
    near = home[:, None] == neighbourhood
    likes, also_likes = favourite[:, None] == cuisine, second[:, None] == cuisine
    pull = near * _NEAR_PULL + likes * _CUISINE_PULL + also_likes * _SECOND_CUISINE_PULL
    bonus = near * _NEAR_STARS + likes * _CUISINE_STARS + also_likes * _SECOND_CUISINE_STARS
    choice = np.cumsum(popularity * np.exp(pull), axis=1)
    return Population(
        city=city,
        home=home,
        favourite=favourite,
        restaurants=restaurants,
        gmap_ids=np.array(gmap_ids, dtype=object),
        user_ids=np.array([f"1{n:020d}" for n in _scattered(city.users, city.seed)], dtype=object),
        taste=rng.integers(0, city.tastes, city.users),
        strictness=rng.standard_normal(city.users),
        activity=_make_activity(rng, city),
        choice=choice / choice[:, -1:],
        stars=_BASE_STARS + _QUALITY_STARS * quality + bonus,
    )


def review_blocks(population: Population) -> Iterator[ReviewBlock]:
    """Yield a city's reviews in blocks of users, each from a random generator of its own."""
    city = population.city
    for start in range(0, city.users, _USERS_PER_BLOCK):
        rng = np.random.default_rng((city.seed, start))
        users = np.arange(start, min(start + _USERS_PER_BLOCK, city.users))
        user, restaurant = _choose(rng, population, users)
        stars = population.stars[population.taste[user], restaurant]
        stars -= _STRICTNESS_STARS * population.strictness[user]
        stars += _NOISE_STARS * rng.standard_t(3, len(user))  # heavy-tailed
        rating = np.clip(np.rint(stars), 1, 5).astype(np.int8)
        age = rng.random(len(user)) ** 1.5  # recent reviews are more frequent
        yield ReviewBlock(user, restaurant, rating, _LATEST_MS - (age * _SPAN_MS).astype(np.int64))


def write_city(database: MongoDatabase, city: City, fields: Sequence[str]) -> int:
    """Write ``Restaurants`` and, last, ``Reviews``, and return the number of reviews.

    ``fields`` name user, restaurant, rating and time in ``Reviews``. If ``Reviews`` is not empty,
    it raises `DataError`.
    """
    with mongo_errors("writing the generated city"):
        if database["Reviews"].find_one(projection={"_id": 1}):
            raise DataError(f"{database.name}.Reviews is not empty; choose an empty database")
        population = populate(city)
        with replacing(database, "Restaurants") as restaurants:
            insert_batches(restaurants, [population.restaurants])
        user_ids, ids = population.user_ids, population.gmap_ids
        batches = (
            _documents(fields, user_ids[b.user], ids[b.restaurant], b.rating, b.time)
            for b in review_blocks(population)
        )
        with replacing(database, "Reviews") as reviews:
            return insert_batches(reviews, batches)


def _scattered(count: int, seed: int) -> list[int]:
    """Return distinct numbers below 2**64 in no visible order."""
    return [(i + seed + 1) * _SCATTER % 2**64 for i in range(count)]


def _make_names(rng: np.random.Generator, cuisine: Indices) -> Iterator[str]:
    """Yield distinct names such as ``Copper Fig Thai Kitchen``, one per restaurant."""
    words = list(product(_WORDS["first"], _WORDS["second"], _WORDS["kinds"]))
    order = rng.permutation(len(words)).tolist()
    starts = rng.integers(0, len(words), len(CUISINES)).tolist()
    named: Counter[int] = Counter()
    for c in cuisine.tolist():
        branch, number = divmod(named[c], len(words))
        named[c] += 1
        first, second, kind = words[order[(starts[c] + number) % len(words)]]
        name = f"{first} {second} {CUISINES[c]} {kind}"
        yield f"{name} No. {branch + 1}" if branch else name


def _make_activity(rng: np.random.Generator, city: City) -> Indices:
    """Draw log-normal numbers of reviews that sum up to about ``city.reviews``."""
    weights = np.exp(_ACTIVITY_SIGMA * rng.standard_normal(city.users))

    def activity(scale: float) -> Indices:
        return np.clip(np.rint(scale * weights), 1, city.most_reviews_of_a_user).astype(np.int64)

    largest = city.most_reviews_of_a_user / weights.min()
    return activity(bisect(lambda scale: activity(scale).sum() - city.reviews, 0, largest))


def _choose(
    rng: np.random.Generator, population: Population, users: Indices
) -> tuple[Indices, Indices]:
    """Draw each user's distinct restaurants; return user and restaurant of each review, sorted."""
    n_tastes, n_restaurants = population.choice.shape
    # One ascending array: a search for taste + u finds the restaurant that u falls to within taste.
    ladder = (population.choice + np.arange(n_tastes)[:, None]).ravel()
    pairs = np.empty(0, dtype=np.int64)
    missing = population.activity[users]
    for _ in range(_DRAWS):  # a repeated restaurant is drawn anew
        user = np.repeat(users, missing)
        taste = population.taste[user]
        step = np.searchsorted(ladder, taste + rng.random(len(user)), side="right")
        restaurant = np.minimum(step - taste * n_restaurants, n_restaurants - 1)
        pairs = np.unique(np.concatenate((pairs, user * n_restaurants + restaurant)))
        written = np.bincount(pairs // n_restaurants - users[0], minlength=len(users))
        missing = population.activity[users] - written
        if not missing.any():
            break
    user, restaurant = np.divmod(pairs, n_restaurants)
    return user, restaurant


def _documents(fields: Sequence[str], *columns: list[Any] | NDArray[Any]) -> list[Document]:
    lists = [column if isinstance(column, list) else column.tolist() for column in columns]
    return [dict(zip(fields, row, strict=True)) for row in zip(*lists, strict=True)]
