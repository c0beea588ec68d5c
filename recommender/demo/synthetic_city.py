"""A seeded generator of a synthetic city's reviews, with groups of users of like taste.

A taste is a home neighbourhood, a favourite and a second cuisine. Users choose restaurants near
home and of their cuisines more often and rate them higher, so that clusters and factors have a
structure to recover. Activity and popularity are heavy-tailed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from bson import Int64
from numpy.typing import NDArray

from recommender.core.errors import DataError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import insert_batches, replacing
from recommender.core.settings import Settings

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Progress: TypeAlias = Callable[[int], object]

NEIGHBOURHOODS = (
    "Old Harbour", "Station Quarter", "Riverside", "University", "Hillcrest", "Market Square",
    "Greenfield", "Docklands", "Castle Ward", "Lakeside", "Mill Lane", "Parkview",
)  # fmt: skip
CUISINES = (
    "Italian", "Mexican", "Japanese", "Chinese", "Indian", "Thai", "French", "Greek",
    "American", "Korean", "Vietnamese", "Turkish", "Spanish", "Ethiopian", "Lebanese", "Vegan",
)  # fmt: skip
_FIRST_WORDS = (
    "Golden", "Copper", "Little", "Blue", "Hidden", "Royal", "Crooked", "Silver", "Happy", "Old",
    "Wild", "Velvet", "Sunny", "Salty", "Lucky", "Quiet", "Red", "Smoky", "Gentle", "Rusty",
    "Proud", "Tiny", "Amber", "Frosty", "Merry", "Noble", "Bright", "Green", "Ivory", "Jolly",
)  # fmt: skip
_SECOND_WORDS = (
    "Fig", "Lantern", "Anchor", "Lemon", "Spoon", "Sparrow", "Olive", "Garden", "Table", "Fox",
    "Pepper", "Oven", "Lotus", "Barrel", "Plum", "Heron", "Basil", "Kettle", "Turtle", "Almond",
    "Bridge", "Crane", "Ginger", "Hearth", "Juniper", "Maple", "Orchard", "Pearl", "Quail", "Thyme",
)  # fmt: skip
_KINDS = ("Kitchen", "House", "Bar")

# What a match of neighbourhood or cuisine adds to the log odds of a choice, and to the stars given.
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
_MASK = 2**64 - 1


@dataclass(frozen=True)
class City:
    """The size and seed of a synthetic city.

    Parameters
    ----------
    users, restaurants
        Their numbers; each user rates at least one restaurant.
    reviews
        Their number, within a few percent; no user rates a restaurant twice.
    seed
        The same seed gives the same city.
    tastes
        Number of groups of users of like taste.

    Raises
    ------
    ValueError
        If a size is out of range.
    """

    users: int = 5_000
    restaurants: int = 400
    reviews: int = 40_000
    seed: int = 7
    tastes: int = 12

    def __post_init__(self) -> None:
        if min(self.users, self.restaurants, self.tastes) < 1 or self.seed < 0:
            raise ValueError("users, restaurants and tastes are at least 1, the seed at least 0")
        kinds = len(NEIGHBOURHOODS) * len(CUISINES)
        if self.tastes > kinds:
            raise ValueError(f"tastes={self.tastes} exceeds the {kinds} possible")
        most = self.users * self.most_reviews_of_a_user
        if not self.users <= self.reviews <= most // 2:
            raise ValueError(
                f"reviews={self.reviews} should be from {self.users} (one a user) "
                f"to {max(self.users, most // 2)}"
            )

    @property
    def most_reviews_of_a_user(self) -> int:
        """Largest number of restaurants that one user rates."""
        return min(_MOST_REVIEWS_OF_A_USER, max(2, self.restaurants // 2))


@dataclass(frozen=True)
class Tastes:
    """Groups of users of like taste; each array has one entry per group.

    ``neighbourhood`` indexes :data:`NEIGHBOURHOODS`; ``favourite`` and ``second`` index
    :data:`CUISINES`.
    """

    neighbourhood: Indices
    favourite: Indices
    second: Indices


@dataclass(frozen=True)
class Restaurants:
    """Restaurants of a city; each field has one entry per restaurant.

    ``quality`` is standard normal; ``popularity`` is the weight with which a user without taste
    would choose it.
    """

    gmap_id: list[str]
    name: list[str]
    neighbourhood: Indices
    cuisine: Indices
    quality: Floats
    popularity: Floats


@dataclass(frozen=True)
class Users:
    """Users of a city; each array has one entry per user.

    ``taste`` indexes :class:`Tastes`; ``strictness`` is standard normal; ``activity`` is the
    number of reviews that the user writes.
    """

    taste: Indices
    strictness: Floats
    activity: Indices


@dataclass(frozen=True)
class Population:
    """A city without its reviews.

    ``choice`` and ``stars`` have the shape (tastes, restaurants): the cumulative probability with
    which a user of a taste chooses a restaurant, and the rating that an average user would give.
    """

    city: City
    tastes: Tastes
    restaurants: Restaurants
    users: Users
    choice: Floats
    stars: Floats

    def user_ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Return the ids of the users from ``start`` to before ``stop``: 21 digits each."""
        offset = self.city.seed + 1
        indices = range(self.city.users)[start:stop]
        return [f"1{(i + offset) * _SCATTER & _MASK:020d}" for i in indices]


@dataclass(frozen=True)
class ReviewBlock:
    """Reviews of some users, sorted by user; each array has one entry per review.

    ``user`` and ``restaurant`` are indices, ``rating`` is from 1 to 5, ``time`` in ms since epoch.
    """

    user: Indices
    restaurant: Indices
    rating: NDArray[np.int8]
    time: Indices


def populate(city: City) -> Population:
    """Return a city without its reviews."""
    rng = np.random.default_rng(city.seed)
    tastes = _make_tastes(rng, city)
    restaurants = _make_restaurants(rng, city)
    users = _make_users(rng, city)
    near = tastes.neighbourhood[:, None] == restaurants.neighbourhood
    favourite = tastes.favourite[:, None] == restaurants.cuisine
    second = tastes.second[:, None] == restaurants.cuisine
    pull = near * _NEAR_PULL + favourite * _CUISINE_PULL + second * _SECOND_CUISINE_PULL
    choice = np.cumsum(restaurants.popularity * np.exp(pull), axis=1)
    liking = near * _NEAR_STARS + favourite * _CUISINE_STARS + second * _SECOND_CUISINE_STARS
    return Population(
        city=city,
        tastes=tastes,
        restaurants=restaurants,
        users=users,
        choice=choice / choice[:, -1:],
        stars=_BASE_STARS + _QUALITY_STARS * restaurants.quality + liking,
    )


def review_blocks(population: Population) -> Iterator[ReviewBlock]:
    """Yield a city's reviews in blocks of users.

    Each block has its own random generator, so that it does not depend on the others.
    """
    city, users = population.city, population.users
    for start in range(0, city.users, _USERS_PER_BLOCK):
        rng = np.random.default_rng((city.seed, start))
        some = np.arange(start, min(start + _USERS_PER_BLOCK, city.users))
        user, restaurant = _choose(rng, population, some)
        stars = population.stars[users.taste[user], restaurant]
        stars -= _STRICTNESS_STARS * users.strictness[user]
        stars += _NOISE_STARS * rng.standard_t(3, len(user))  # some evenings go very wrong
        age = rng.random(len(user)) ** 1.5  # the newer, the more there are
        yield ReviewBlock(
            user=user,
            restaurant=restaurant,
            rating=np.clip(np.rint(stars), 1, 5).astype(np.int8),
            time=_LATEST_MS - (age * _SPAN_MS).astype(np.int64),
        )


def write_city(
    database: MongoDatabase,
    city: City,
    settings: Settings,
    *,
    with_users: bool = True,
    progress: Progress = lambda _: None,
) -> int:
    """Write a city into ``Restaurants``, ``Users`` and, last, ``Reviews``.

    Parameters
    ----------
    settings
        Its ``review_fields`` name the fields of ``Reviews``.
    with_users
        Whether to write ``Users`` too: the same ratings, one document per user.
    progress
        Called with the number of reviews written since its last call.

    Returns
    -------
    int
        Number of reviews.

    Raises
    ------
    DataError
        If ``Reviews`` is not empty.
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    with mongo_errors("writing the generated city"):
        if database["Reviews"].find_one(projection={"_id": 1}):
            raise DataError(
                f"Reviews of {database.name} is not empty; write the city into an empty database"
            )
        population = populate(city)
        with replacing(database, "Restaurants") as restaurants:
            insert_batches(restaurants, [_restaurant_documents(population)])
        if with_users:
            blocks = review_blocks(population)
            with replacing(database, "Users") as users:
                insert_batches(users, (_user_documents(population, block) for block in blocks))
        with replacing(database, "Reviews") as reviews:
            return insert_batches(reviews, _review_batches(population, settings, progress))


def _make_tastes(rng: np.random.Generator, city: City) -> Tastes:
    """Draw distinct pairs of neighbourhood and favourite cuisine, and a second cuisine for each."""
    n_cuisines = len(CUISINES)
    pairs = rng.permutation(len(NEIGHBOURHOODS) * n_cuisines)[: city.tastes]
    neighbourhood, favourite = np.divmod(pairs, n_cuisines)
    second = (favourite + rng.integers(1, n_cuisines, city.tastes)) % n_cuisines
    return Tastes(neighbourhood, favourite, second)


def _make_restaurants(rng: np.random.Generator, city: City) -> Restaurants:
    neighbourhood = rng.integers(0, len(NEIGHBOURHOODS), city.restaurants)
    cuisine = rng.integers(0, len(CUISINES), city.restaurants)
    quality = rng.standard_normal(city.restaurants)
    log_popularity = _POPULARITY_SIGMA * rng.standard_normal(city.restaurants)
    cells = (neighbourhood << 24) + rng.integers(0, 1 << 24, city.restaurants)
    places = ((i + city.seed + 1) * _SCATTER & _MASK for i in range(city.restaurants))
    return Restaurants(
        gmap_id=[
            f"0x89c25{cell:011x}:0x{place:x}"
            for cell, place in zip(cells.tolist(), places, strict=True)
        ],
        name=_make_names(rng, cuisine),
        neighbourhood=neighbourhood,
        cuisine=cuisine,
        quality=quality,
        popularity=np.exp(log_popularity + _QUALITY_PULL * quality),
    )


def _make_names(rng: np.random.Generator, cuisine: Indices) -> list[str]:
    """Return distinct names such as ``Copper Fig Thai Kitchen``, one per restaurant."""
    n_first, n_second, n_kinds = len(_FIRST_WORDS), len(_SECOND_WORDS), len(_KINDS)
    order = rng.permutation(n_first * n_second * n_kinds).tolist()
    starts = rng.integers(0, len(order), len(CUISINES)).tolist()
    taken = [0] * len(CUISINES)
    names = []
    for c in cuisine.tolist():
        branch = taken[c] // len(order)
        words, kind = divmod(order[(starts[c] + taken[c]) % len(order)], n_kinds)
        taken[c] += 1
        first, second = divmod(words, n_second)
        name = f"{_FIRST_WORDS[first]} {_SECOND_WORDS[second]} {CUISINES[c]} {_KINDS[kind]}"
        names.append(f"{name} No. {branch + 1}" if branch else name)
    return names


def _make_users(rng: np.random.Generator, city: City) -> Users:
    return Users(
        taste=rng.integers(0, city.tastes, city.users),
        strictness=rng.standard_normal(city.users),
        activity=_make_activity(rng, city),
    )


def _make_activity(rng: np.random.Generator, city: City) -> Indices:
    """Draw log-normal numbers of reviews that sum up to about ``city.reviews``."""
    weights = np.exp(_ACTIVITY_SIGMA * rng.standard_normal(city.users))

    def activity(scale: float) -> Indices:
        return np.clip(np.rint(scale * weights), 1, city.most_reviews_of_a_user).astype(np.int64)

    low, high = 0.0, 1.0
    while activity(high).sum() < city.reviews:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if activity(middle).sum() < city.reviews else (low, middle)
    return activity(high)


def _choose(
    rng: np.random.Generator, population: Population, users: Indices
) -> tuple[Indices, Indices]:
    """Draw each user's restaurants, none twice; return (user, restaurant) of each review, sorted.

    A user who draws a restaurant again draws anew, at most ``_DRAWS`` times in all.
    """
    n_tastes, n_restaurants = population.choice.shape
    # One ascending array: a search for taste + u finds the restaurant that u falls to within taste.
    ladder = (population.choice + np.arange(n_tastes)[:, None]).ravel()
    pairs = np.empty(0, dtype=np.int64)
    missing = population.users.activity[users]
    for _ in range(_DRAWS):
        user = np.repeat(users, missing)
        taste = population.users.taste[user]
        step = np.searchsorted(ladder, taste + rng.random(len(user)), side="right")
        restaurant = np.minimum(step - taste * n_restaurants, n_restaurants - 1)
        pairs = np.unique(np.concatenate((pairs, user * n_restaurants + restaurant)))
        written = np.bincount(pairs // n_restaurants - users[0], minlength=len(users))
        missing = population.users.activity[users] - written
        if not missing.any():
            break
    user, restaurant = np.divmod(pairs, n_restaurants)
    return user, restaurant


def _restaurant_documents(population: Population) -> list[Document]:
    restaurants = population.restaurants
    return [
        {
            "gmap_id": gmap_id,
            "name": name,
            "cuisine": CUISINES[cuisine],
            "neighbourhood": NEIGHBOURHOODS[neighbourhood],
        }
        for gmap_id, name, cuisine, neighbourhood in zip(
            restaurants.gmap_id,
            restaurants.name,
            restaurants.cuisine.tolist(),
            restaurants.neighbourhood.tolist(),
            strict=True,
        )
    ]


def _review_batches(
    population: Population, settings: Settings, progress: Progress
) -> Iterator[list[Document]]:
    user_field, restaurant_field, rating_field, time_field = settings.reviews.fields
    for block in review_blocks(population):
        user_ids = population.user_ids(int(block.user[0]), int(block.user[-1]) + 1)
        gmap_ids = population.restaurants.gmap_id
        yield [
            {
                user_field: user_ids[user],
                restaurant_field: gmap_ids[restaurant],
                rating_field: rating,
                time_field: Int64(time),
            }
            for user, restaurant, rating, time in zip(
                (block.user - block.user[0]).tolist(),
                block.restaurant.tolist(),
                block.rating.tolist(),
                block.time.tolist(),
                strict=True,
            )
        ]
        progress(len(block.user))


def _user_documents(population: Population, block: ReviewBlock) -> list[Document]:
    gmap_ids = population.restaurants.gmap_id
    ratings = [
        {"gmap_id": gmap_ids[restaurant], "rating": rating, "timestamp": Int64(time)}
        for restaurant, rating, time in zip(
            block.restaurant.tolist(), block.rating.tolist(), block.time.tolist(), strict=True
        )
    ]
    users, starts = np.unique(block.user, return_index=True)
    ends = [*starts[1:].tolist(), len(ratings)]
    user_ids = population.user_ids(int(users[0]), int(users[-1]) + 1)
    return [
        {"user_id": user_id, "ratings": ratings[start:end]}
        for user_id, start, end in zip(user_ids, starts.tolist(), ends, strict=True)
    ]
