"""Rating sets: files, and generated ones of different laws, on which no parameter was tuned."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recommender.core.settings import Settings
from recommender.data.cleaning import BLOCK_SCHEMA, clean_block, clean_rows
from recommender.data.files import PRESETS, FileOptions
from recommender.data.ratings import Ratings, gather
from recommender.load import stored_reviews


@dataclass(frozen=True)
class Law:
    """The distribution that ratings are drawn from."""

    users: int
    items: int
    mean_ratings: float  # of a user, geometrically distributed from 1
    skew: float = 0.8  # exponent of the items' popularity by rank; 0 is flat
    rank: int = 8  # number of latent factors


GENERATED = {
    "dense": Law(users=2_000, items=400, mean_ratings=60),
    "flat": Law(users=4_000, items=800, mean_ratings=12, skew=0.0),
    "very sparse": Law(users=20_000, items=2_000, mean_ratings=2.5),
    "few items": Law(users=8_000, items=60, mean_ratings=6),
    "many items": Law(users=6_000, items=8_000, mean_ratings=15, rank=16),
}


def add_columns_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `recommender.load.columns_of` reads."""
    parser.add_argument("--preset", choices=sorted(PRESETS), help="as for recommender.load")
    parser.add_argument(
        "--map", action="append", default=[], metavar="FIELD=COLUMN", help="as for recommender.load"
    )


def read_file(name: str, settings: Settings, columns: Mapping[str, str] | None = None) -> Ratings:
    """Return a file's ratings as a training reads them once the file is loaded."""
    with stored_reviews(name, settings, FileOptions(columns)) as (_, batches):
        rows = [document for batch in batches for document in batch]
    return gather(pa.Table.from_batches([clean_rows(rows, settings.reviews)]))


def generate(law: Law, settings: Settings) -> Ratings:
    """Draw ratings from a law, on the scale of the settings and by their seed."""
    rng = np.random.default_rng(settings.seed)
    user_factors = rng.standard_normal((law.users, law.rank)) / np.sqrt(law.rank)
    item_factors = rng.standard_normal((law.items, law.rank))
    popularity = -law.skew * np.log(np.arange(1, law.items + 1))
    user_bias, item_bias = rng.normal(0, 0.5, law.users), rng.normal(0, 0.4, law.items)
    counts = np.minimum(rng.geometric(1 / law.mean_ratings, law.users), law.items // 2)
    user, item, rating = [], [], []
    for row, count in enumerate(counts):
        # The best of utility plus Gumbel noise are a draw without replacement by softmax weights.
        affinity = item_factors @ user_factors[row]
        chosen = np.argsort(-(2 * affinity + popularity + rng.gumbel(size=law.items)))[:count]
        noise = rng.normal(0, 0.7, count)
        score = user_bias[row] + item_bias[chosen] + 0.3 * affinity[chosen] + noise
        user += [row] * int(count)
        item += chosen.tolist()
        rating += (0.7 + score / 4).tolist()
    low, high = settings.reviews.rating_min, settings.reviews.rating_max
    ratings = np.clip(np.round(low + (high - low) * np.array(rating)), low, high).tolist()
    block = clean_block(user, item, ratings, [None] * len(user), rating_min=low, rating_max=high)
    return gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))
