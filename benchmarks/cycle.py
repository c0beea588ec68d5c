"""Times the whole cycle at the scale of a real deployment, phase by phase.

``python -m benchmarks.cycle`` generates a city, loads it into an embedded MongoDB, runs
``als_training.py`` in a process of its own, and prints the phases from the ledger: the median over
the runs, the least and the most. It needs about 12 GB of memory and 4 GB of disk.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pydantic import SecretStr

from recommender.core.logs import configure_logging
from recommender.core.mongo import Document, connect, database
from recommender.core.script import run_script
from recommender.core.settings import Settings, load_settings
from recommender.demo.embedded_mongod import EmbeddedMongo
from recommender.demo.synthetic_city import City, write_city
from recommender.runs.ledger import Ledger

SCRIPT = Path(__file__).parent.parent / "als_training.py"
FULL_SCALE = City(users=588_284, restaurants=26_000, reviews=3_454_139)

_CACHE_GB = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycle", description=__doc__)
    for name in ("users", "restaurants", "reviews", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(FULL_SCALE, name))
    parser.add_argument("--runs", type=int, default=3, help="trainings to time (default 3)")
    arguments = parser.parse_args(argv)
    city = City(arguments.users, arguments.restaurants, arguments.reviews, arguments.seed)
    with (
        tempfile.TemporaryDirectory(prefix="cycle-") as folder,
        EmbeddedMongo(Path(folder), cache_gb=_CACHE_GB) as mongo,
    ):
        settings = load_settings(mongo_uri=SecretStr(mongo.uri), work_dir=Path(folder))
        configure_logging(settings)
        started = time.monotonic()
        with connect(settings.mongo) as client:
            reviews = write_city(database(client, settings.mongo), city, settings.reviews.fields)
        print(f"{reviews:,} reviews of {city.restaurants:,} restaurants by {city.users:,} users")
        print(f"generated and loaded in {time.monotonic() - started:.0f} s")
        runs = [timed_training(settings) for _ in range(arguments.runs)]
    print(table(runs))
    return 0


def timed_training(settings: Settings) -> Document:
    """Train once in a process of its own; return the run's document with its seconds."""
    environment = {
        **os.environ,
        "MONGO_URI": settings.mongo.uri.get_secret_value(),
        "MONGO_DB": settings.mongo.db,
        "WORK_DIR": str(settings.work_dir),
    }
    started = time.monotonic()
    subprocess.run([sys.executable, str(SCRIPT)], env=environment, check=True)
    seconds = time.monotonic() - started
    with connect(settings.mongo) as client:
        return Ledger(database(client, settings.mongo)).recent(1)[0] | {"seconds": seconds}


def table(runs: Sequence[Document]) -> str:
    """Return the median, least and most seconds of each phase, as a Markdown table."""
    lines = ["| phase | median s | least | most |", "| --- | ---: | ---: | ---: |"]
    for index, phase in enumerate(runs[0]["phases"]):
        lines.append(_row(phase["name"], [run["phases"][index]["seconds"] for run in runs]))
    lines.append(_row("the whole process", [run["seconds"] for run in runs]))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    lines.append(f"\nlargest process: {peak:.1f} GiB resident")
    return "\n".join(lines)


def _row(name: str, seconds: Sequence[float]) -> str:
    return f"| {name} | {median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} |"


if __name__ == "__main__":
    raise SystemExit(run_script(main))
