"""Compares the whole training with a script that does the least, on the Reviews of MONGO_URI.

``python -m benchmarks.lean`` runs ``als_training.py`` and the lean script in turns, each in a
process of its own, and prints the medians, the ratio of each pair, and the memory of the largest
process. Trainings after the first reuse its choice of parameters. ``--only MODE`` runs the lean
script once. It reads Reviews by a cursor, numbers the ids by Arrow dictionaries, fits on 80 % and
then on all ratings, takes the 13 best unrated restaurants of each user by faiss, inserts them and
renames the collection, and clusters the users by scikit-learn's KMeans.

- ``preference`` fits implicit's ALS of 64 factors, in 15 iterations;
- ``rating`` fits cmfrec's explicit ALS of 10 factors, in 10 iterations.

Its collections are named ``Lean...``. It cleans, checks, evaluates and explains nothing.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from recommender.als.bson_encoder import RecommendationEncoder
from recommender.core.mongo import MongoDatabase, connect, database
from recommender.core.script import run_script
from recommender.core.settings import load_settings

SCRIPT = Path(__file__).parent.parent / "als_training.py"
TOP = 13
CLUSTERS = 50

Floats = NDArray[np.float32]
Factors = tuple[Floats, Floats]

_BLOCK = 4_096
_LEAST_SCORE = -3.0e38


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison, or the lean script alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lean", description=__doc__)
    parser.add_argument("--mode", choices=MODES, default="preference", help="the peer")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs (default 3)")
    parser.add_argument("--only", choices=MODES, help="run the lean script once, in this mode")
    arguments = parser.parse_args(argv)
    if arguments.only:
        lean(MODES[arguments.only])
        return 0
    commands = {
        "this service": [sys.executable, str(SCRIPT)],
        arguments.mode: [sys.executable, "-m", "benchmarks.lean", "--only", arguments.mode],
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(arguments.pairs):
        for name, command in commands.items():
            runs[name].append(timed(command))
    print(
        "| | median s | least | most | largest process, GiB |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, figures in runs.items():
        seconds, peaks = zip(*figures, strict=True)
        print(
            f"| {name} | {median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} | "
            f"{max(peaks):.1f} |"
        )
    ratios = [own[0] / peer[0] for own, peer in zip(*runs.values(), strict=True)]
    print(f"\nratio of each pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    return 0


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Return the seconds of a process, and the GiB of the largest one among it and its children."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, *(resident(pid) for pid in (process.pid, *descendants(process.pid))))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, peak / 2**20


def descendants(pid: int) -> list[int]:
    """Return the processes that a process and its children have started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def resident(pid: int) -> int:
    """Return the largest resident memory that a process has had, in KiB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def lean(fit: Callable[[coo_matrix], Factors]) -> None:
    """Run the lean script on MONGO_URI."""
    settings = load_settings()
    with connect(settings.mongo) as client:
        db = database(client, settings.mongo)
        started = time.monotonic()
        users, items, ratings = read(db)
        report("read", started)
        train = np.random.default_rng(0).random(ratings.nnz) < 0.8
        started = time.monotonic()
        part = (ratings.data[train], (ratings.row[train], ratings.col[train]))
        fit(coo_matrix(part, shape=ratings.shape))
        report("fit on 80 %", started)
        started = time.monotonic()
        user_factors, item_factors = fit(ratings)
        report("fit on all", started)
        started = time.monotonic()
        rated = csr_matrix(ratings)
        recommend(db, users.to_pylist(), items.to_pylist(), user_factors, item_factors, rated)
        report("top 13, insert and rename", started)
        started = time.monotonic()
        cluster(db, items.to_pylist(), user_factors, rated)
        report("cluster", started)


def report(step: str, started: float) -> None:
    """Print the seconds of a step."""
    print(f"lean: {step} {time.monotonic() - started:.1f} s", flush=True)


def read(db: MongoDatabase) -> tuple[pa.Array, pa.Array, coo_matrix]:
    """Return the ids of users and restaurants, and the ratings, (users, restaurants)."""
    fields = ("user_id", "gmap_id", "rating")
    cursor = db["Reviews"].find({}, dict.fromkeys(fields, 1) | {"_id": 0}, batch_size=50_000)
    rows = [(row["user_id"], row["gmap_id"], row["rating"]) for row in cursor]
    columns = list(zip(*rows, strict=True))
    users, items = (pa.array(column).dictionary_encode() for column in columns[:2])
    pairs = users.indices.to_numpy(), items.indices.to_numpy()
    values = np.array(columns[2], dtype=np.float32)
    shape = len(users.dictionary), len(items.dictionary)
    return users.dictionary, items.dictionary, coo_matrix((values, pairs), shape=shape)


def fit_preference(ratings: coo_matrix) -> Factors:
    """Fit implicit's ALS."""
    kind = import_module("implicit.als").AlternatingLeastSquares
    model = kind(factors=64, regularization=10.0, alpha=20.0, iterations=15, random_state=0)
    model.fit(csr_matrix(ratings), show_progress=False)
    return model.user_factors, model.item_factors


def fit_rating(ratings: coo_matrix) -> Factors:
    """Fit cmfrec's explicit ALS; the biases of users and restaurants are two more factors."""
    kind = import_module("cmfrec").CMF
    model = kind(k=10, niter=10, lambda_=1.0, verbose=False, use_float=True, random_state=0)
    model.fit(ratings)
    ones = np.ones((len(model.A_), 1), np.float32), np.ones((len(model.B_), 1), np.float32)
    users = np.hstack([model.A_, model.user_bias_[:, None], ones[0]])
    items = np.hstack([model.B_, ones[1], model.item_bias_[:, None]])
    return users.astype(np.float32), items.astype(np.float32)


MODES: dict[str, Callable[[coo_matrix], Factors]] = {
    "preference": fit_preference,
    "rating": fit_rating,
}


def recommend(
    db: MongoDatabase,
    users: list[Any],
    items: list[Any],
    user_factors: Floats,
    item_factors: Floats,
    rated: csr_matrix,
) -> None:
    """Insert the best unrated restaurants of each user, and rename the collection."""
    faiss = import_module("faiss")
    encoder = RecommendationEncoder(items, "lean", with_ratings=False)
    stage = db["LeanRecommendations.staged"]
    stage.drop()
    most = np.diff(rated.indptr)
    # Users of alike many ratings together: each needs as many more candidates.
    order = np.argsort(most, kind="stable")
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        count = min(len(items), TOP + int(most[block].max()))
        scores, best = faiss.knn(
            np.ascontiguousarray(user_factors[block]),
            item_factors,
            count,
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        seen = np.zeros((len(block), len(items)), dtype=bool)
        own = rated[block]
        seen[np.repeat(np.arange(len(block)), np.diff(own.indptr)), own.indices] = True
        scores[np.take_along_axis(seen, best, axis=1)] = _LEAST_SCORE
        first = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
        chosen = np.take_along_axis(best, first, axis=1).astype(np.int32)
        values = np.take_along_axis(scores, first, axis=1)
        ids = [users[i] for i in block.tolist()]
        documents: list[RawBSONDocument] = list(
            encoder.encode(block.astype(np.int32), ids, chosen, values)
        )
        stage.insert_many(documents, ordered=False)
    stage.create_index("user_id", unique=True)
    stage.rename("LeanRecommendations", dropTarget=True)


def cluster(db: MongoDatabase, items: list[Any], factors: Floats, rated: csr_matrix) -> None:
    """Cluster the users by their factors, and write each cluster's best restaurants."""
    lengths = np.linalg.norm(factors, axis=1, keepdims=True)
    kind = import_module("sklearn.cluster").KMeans
    labels = (
        kind(CLUSTERS, n_init=1, random_state=0).fit(factors / np.maximum(lengths, 1e-9)).labels_
    )
    documents = []
    for number in range(CLUSTERS):
        sums = np.asarray(rated[labels == number].sum(axis=0)).ravel()
        best = np.argsort(-sums)[:40].tolist()
        entries = [{"gmap_id": items[i], "score": float(sums[i])} for i in best]
        documents.append({"cluster_id": number, "recommendations": entries})
    db["LeanClusters"].drop()
    db["LeanClusters"].insert_many(documents)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
