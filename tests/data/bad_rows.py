"""Invalid rows of Reviews, each with the reason of its rejection."""

import math

from recommender.core.mongo import Document

NESTED: Document = {"$gt": 0}
for _ in range(60):
    NESTED = {"rating": NESTED}
BAD_ROWS: list[tuple[str, Document]] = [
    ("user_missing", {"user_id": None}),
    ("restaurant_missing", {"gmap_id": None}),
    ("rating_missing", {"rating": None}),
    ("id_too_long", {"user_id": "u" * 2**20}),
    ("id_too_long", {"gmap_id": "g" * 2**20}),
    ("id_unusable", {"gmap_id": {"$ne": 1}}),
    ("rating_not_a_number", {"rating": NESTED}),
    ("rating_not_a_number", {"rating": "five"}),
    ("rating_not_finite", {"rating": math.nan}),
    ("rating_not_finite", {"rating": math.inf}),
    ("rating_out_of_range", {"rating": 1e300}),
    ("rating_out_of_range", {"rating": -0.0}),
]
GOOD: Document = {"user_id": "u", "gmap_id": "g", "rating": 4, "time": 1_700_000_000_000}
