"""How good the trainings are for known users, next to libraries that do the same: on a file.

``python -m benchmarks.quality ratings.csv --map user_id=a --map gmap_id=b --map rating=c`` prints
two tables for all users, and two for those with three ratings and more: what is foretold of
ratings, and what lists are worth, as mean and deviation over several splits; how far that is from
the last row, this service, on the same split; and the median seconds of a fit, next to whatever
else the machine was doing.

Each split is the one of a training (`recommender.splits.split`): a fifth of each user's ratings,
at least one, is held out of who has two or more. Everybody is asked the same. Of ratings: those
held out, of restaurants that are in the training part. Of lists: the users who liked something
held out, as in `recommender.judging`; all restaurants are candidates, less what the user has in the
training part.

The peers are in `requirements.txt` beside this file; who is not installed is left out.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from benchmarks.clusters import of_active_users
from benchmarks.contenders import (
    Contender,
    Fitted,
    Foretell,
    Score,
    ranking_contenders,
    rating_contenders,
)
from recommender.evaluation import ranking_quality, rating_error
from recommender.load import PRESETS, columns_of, read_file
from recommender.ratings import Ratings
from recommender.scripts import run_script
from recommender.settings import Settings, load_settings
from recommender.spark import spark_session
from recommender.splits import split, who_liked

OF_RATINGS = ("RMSE", "MAE")
# Fields of `recommender.evaluation.RankingQuality`.
OF_LISTS = ("ndcg", "recall", "hit_rate", "map", "coverage", "popularity")
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Split:
    """What is learnt from, and what is asked.

    Attributes
    ----------
    settings
        Their seed is the split's.
    part
        To learn from.
    held_out
        What is held out, of restaurants that are in the part.
    asked
        int64, the users who liked something that is held out.
    seen, liked
        (asked, restaurants), of the part and of what is held out.
    """

    settings: Settings
    part: Ratings
    held_out: Ratings
    asked: NDArray[np.int64]
    seen: csr_array
    liked: csr_array


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = _parser()
    given = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)
    settings = load_settings()
    everything = read_file(given.file, settings, columns_of(given.preset, given.map, parser))
    with spark_session(settings, "quality") as spark:
        for least in given.least:
            ratings = of_active_users(everything, least)
            splits = [split_of(ratings, settings, seed) for seed in range(given.seeds)]
            users = len(np.unique(ratings.user))
            print(f"\n{users:,} users with {least} or more of {len(ratings):,} ratings;")
            print(f"{len(splits)} splits, mean ± deviation; seconds to fit, median")
            for table in (
                ratings_table(splits, rating_contenders(spark)),
                lists_table(splits, ranking_contenders(spark)),
            ):
                print()
                for line in table:
                    print(line, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="CSV or JSON lines, as for recommender.load")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="as for recommender.load")
    parser.add_argument(
        "--map", action="append", default=[], metavar="WHAT=COLUMN", help="as for recommender.load"
    )
    parser.add_argument("--seeds", type=int, default=3, help="splits (default 3)")
    parser.add_argument(
        "--least", type=int, nargs="+", default=[1, 3], help="least ratings of a user (1 3)"
    )
    return parser


def split_of(ratings: Ratings, settings: Settings, seed: int) -> Split:
    """Split the ratings by a seed."""
    settings = settings.model_copy(update={"seed": seed})
    part, held_out = split(ratings, settings)
    known = held_out.rows(np.isin(held_out.restaurant, part.restaurant))
    asked, liked = who_liked(held_out, settings)
    if len(asked) > settings.als_evaluate_users:
        chance = np.random.default_rng(seed)
        drawn = np.sort(chance.choice(len(asked), settings.als_evaluate_users, replace=False))
        asked, liked = asked[drawn], csr_array(liked[drawn])
    seen = csr_array(part.matrix(1.0)[asked])
    return Split(settings, part, known, asked.astype(np.int64), seen, liked)


def ratings_table(
    splits: Sequence[Split], contenders: Sequence[Contender[Foretell]]
) -> Iterator[str]:
    """Yield the lines of a table of what is foretold of ratings."""
    return _table("rating", OF_RATINGS, splits, contenders, _judge_ratings)


def lists_table(splits: Sequence[Split], contenders: Sequence[Contender[Score]]) -> Iterator[str]:
    """Yield the lines of a table of what lists are worth."""
    return _table("list", OF_LISTS, splits, contenders, _judge_lists)


def _table(
    what: str,
    figures: Sequence[str],
    splits: Sequence[Split],
    contenders: Sequence[Contender[Fitted]],
    judge: Callable[[Fitted, Split], list[float]],
) -> Iterator[str]:
    found: dict[str, NDArray[np.float64]] = {}
    seconds: dict[str, float] = {}
    left_out = []
    for contender in contenders:
        if obstacle := contender.obstacle(splits[0].part):
            left_out.append(f"Left out: {contender.name}, as {obstacle}.")
            continue
        qualities, times = zip(*_runs(contender, splits, judge), strict=True)
        found[contender.name] = np.array(qualities)
        seconds[contender.name] = median(times)
    yield f"| {what} | {' | '.join(figures)} | {figures[0]} less the last's | seconds |"
    yield f"| --- |{' ---: |' * (len(figures) + 2)}"
    for name, values in found.items():
        others = list(found.values())[-1]
        columns = [*values.T, values[:, 0] - others[:, 0]]
        cells = " | ".join(_cell(column) for column in columns)
        yield f"| {name} | {cells} | {seconds[name]:.1f} |"
    if left_out:
        yield ""
        yield from left_out


def _runs(
    contender: Contender[Fitted],
    splits: Sequence[Split],
    judge: Callable[[Fitted, Split], list[float]],
) -> Iterator[tuple[list[float], float]]:
    for one in splits:
        began = time.perf_counter()
        fitted = contender.fit(one.part, one.settings)
        seconds = time.perf_counter() - began
        yield judge(fitted, one), seconds


def _cell(values: NDArray[np.float64]) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.4f} ± {deviation:.4f}"


def _judge_ratings(foretell: Foretell, one: Split) -> list[float]:
    error = rating_error(foretell(one.held_out), one.held_out.rating, float(one.part.rating.mean()))
    return [np.nan if figure is None else figure for figure in (error.rmse, error.mae)]


def _judge_lists(score: Score, one: Split) -> list[float]:
    if not len(one.asked):
        return [np.nan] * len(OF_LISTS)
    n = one.settings.als_top_n
    quality = ranking_quality(lists_of(score, one, n), one.seen, one.liked, n)
    return [getattr(quality, figure) for figure in OF_LISTS]


def lists_of(score: Score, one: Split, n: int) -> NDArray[np.int64]:
    """Return the lists of those who are asked, (asked, n): places that they have not seen.

    What scores alike comes in the order of its popularity.
    """
    counts = np.bincount(one.part.restaurant, minlength=len(one.part.restaurants))
    popular_first = np.argsort(-counts, kind="stable")
    lists = np.full((len(one.asked), n), -1, dtype=np.int64)
    for start in range(0, len(one.asked), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores = np.array(score(one.asked[rows]), dtype=np.float32)
        scores[one.seen[rows].toarray() > 0] = -np.inf
        scores = scores[:, popular_first]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        unseen = np.take_along_axis(scores, order, axis=1) > -np.inf
        lists[rows, : order.shape[1]] = np.where(unseen, popular_first[order], -1)
    return lists


if __name__ == "__main__":
    raise SystemExit(run_script(main))
