"""How well clusters foretell what people like: the protocol of every training, on a CSV file.

``python -m benchmarks.clusters ratings.csv --user user_id --restaurant item_id --rating rating``
prints NDCG@13, hit rate and coverage of new users, mean of several splits, for each space that can
be clustered and for the one popular list.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from clustering_training import held_out_quality, user_matrix
from recommender.ratings import BLOCK_SCHEMA, Ratings, clean_block, gather
from recommender.settings import load_settings

_SPACES = ("tastes", "ratings")


def read(path: Path, fields: Sequence[str], low: float, high: float, least: int) -> Ratings:
    """Read ratings, of the users with at least ``least`` of them."""
    table = pd.read_csv(path, usecols=list(fields))
    user, restaurant, rating = (table[field].tolist() for field in fields)
    times = [None] * len(table)
    block = clean_block(user, restaurant, rating, times, rating_min=low, rating_max=high)
    ratings = gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))
    counts = np.bincount(ratings.user)
    return ratings.rows(counts[ratings.user] >= least)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of figures."""
    parser = argparse.ArgumentParser(description="Judge the clusters by users kept out.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--user", default="user_id")
    parser.add_argument("--restaurant", default="gmap_id")
    parser.add_argument("--rating", default="rating")
    parser.add_argument("--rating-min", type=float, default=1)
    parser.add_argument("--rating-max", type=float, default=5)
    parser.add_argument("--least", type=int, default=1, help="least ratings of a user")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("-k", type=int, default=50)
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    fields = (given.user, given.restaurant, given.rating)
    ratings = read(given.path, fields, given.rating_min, given.rating_max, given.least)
    print(f"{'space':<10} {'NDCG':>7} {'hits':>7} {'coverage':>9} {'users':>7} {'seconds':>8}")
    for space in _SPACES:
        began, found = time.perf_counter(), []
        for seed in range(given.splits):
            settings = load_settings(
                clusters_space=space,
                clusters_k=given.k,
                seed=seed,
                rating_min=given.rating_min,
                rating_max=given.rating_max,
            )
            found.append(held_out_quality(user_matrix(ratings, settings), settings))
        seconds = (time.perf_counter() - began) / given.splits
        _print(space, found, seconds)
    _print("popular", [{**one["popular"], "users": one["users"]} for one in found], 0)


def _print(name: str, found: Sequence[dict[str, float]], seconds: float) -> None:
    names = ("ndcg", "hit_rate", "coverage", "users")
    ndcg, hits, coverage, users = (np.mean([one[name] for one in found]) for name in names)
    print(f"{name:<10} {ndcg:7.4f} {hits:7.4f} {coverage:9.3f} {users:7.0f} {seconds:8.1f}")


if __name__ == "__main__":
    main()
