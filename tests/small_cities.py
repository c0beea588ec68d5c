"""Small data sets, some of them degenerate."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from recommender.data.ratings import Ratings
from recommender.demo.synthetic_city import populate, review_blocks
from tests.support import TINY_CITY, ratings_of


def few_ratings() -> Ratings:
    """Eleven ratings: "a" is rated by 4 users, "b" by 4, "c" by 2, "d" by 1."""
    return ratings_of(
        [
            *(("u1", r, 5) for r in "abcd"),
            *(("u2", r, 4) for r in "abc"),
            *(("u3", r, 3) for r in "ab"),
            ("u4", "a", 2),
            ("u5", "b", 1),
        ]
    )


def some_users(items: list[tuple[Any, ...]], rating: Any) -> list[tuple[Any, Any, float]]:
    """Return rows of users who have rated these items, the ratings by user and item."""
    return [(u, i, float(rating(u, i))) for u, rated in enumerate(items) for i in rated]


DRAWN = [
    tuple(np.random.default_rng(u).choice(15, 1 + u % 4, replace=False).tolist()) for u in range(40)
]
DEGENERATE = {
    "one user of one restaurant": some_users([(0,)], lambda u, p: 3),
    "one user": some_users([(0, 1, 2)], lambda u, p: 3),
    "all users equal": some_users([(0, 1)] * 9, lambda u, p: 4),
    "users who differ in magnitude only": some_users([(0, 1)] * 9, lambda u, p: 1 + u % 5),
    "one rating each": some_users([(u % 6,) for u in range(40)], lambda u, p: 1 + u % 5),
    "one restaurant": some_users([(0,)] * 40, lambda u, p: 1 + u % 5),
    "all ratings equal": some_users(DRAWN, lambda u, p: 5),
    "a user who rated everything": some_users([tuple(range(15)), *DRAWN], lambda u, p: 1 + p % 5),
    "users within users": some_users([tuple(range(n)) for n in range(1, 9)], lambda u, p: 5),
    "two groups": some_users([(0, 1), (2, 3)] * 9, lambda u, p: 2),
}


def tiny_ratings() -> Ratings:
    return ratings_of(
        [
            (int(u), int(i), float(r))
            for block in review_blocks(populate(TINY_CITY))
            for u, i, r in zip(block.user, block.restaurant, block.rating, strict=True)
        ]
    )


def tiny_matrix() -> csr_array:
    """Return the ratings of a tiny city by user and item, without users of none."""
    blocks = list(review_blocks(populate(TINY_CITY)))
    user, item, rating = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("user", "restaurant", "rating")
    )
    shape = (TINY_CITY.users, TINY_CITY.restaurants)
    rows = csr_array((rating.astype(np.float64), (user, item)), shape=shape)
    rows.sum_duplicates()
    return csr_array(rows[np.diff(rows.indptr) > 0])


def planted_groups() -> csr_array:
    """Three groups of forty items, of different popularity, and users who rate one group only."""
    rng = np.random.default_rng(0)
    rows = np.zeros((700, 120))
    for user, row in enumerate(rows):
        group = 0 if user < 400 else 1 if user < 600 else 2
        row[40 * group + rng.choice(40, 5, replace=False)] = rng.integers(1, 6, 5)
    return csr_array(rows)
