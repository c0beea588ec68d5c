"""Faults of the machine: full disks, wrong clocks, users without rights."""

import datetime
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import quote_plus

import httpx2 as httpx
import pytest
from pymongo.errors import PyMongoError

from recommender.core.ports import LOOPBACK
from recommender.spark import session as spark
from tests.faults.catalogue import Fault, Moment, hit
from tests.faults.mongod import READER
from tests.faults.services import of_run
from tests.faults.trainings import kill
from tests.faults.world import Outcome, Running, World
from tests.waiting import until

DAY = 86_400
CLOCKS = (("10 years ahead", 3_652 * DAY), ("2 hours back", -7_200))

INTERVAL_SECONDS = 12.0
LATE_SECONDS = 40.0


@contextmanager
def small_disk(folder: Path, limits: str) -> Iterator[None]:
    """Mount a file system with these limits on a folder for the block."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", limits, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_spark_disk(world: World) -> Outcome:
    """Train where Spark's own files do not fit."""
    with small_disk(world.settings.work_dir / "small", "size=1m"):
        folder = str(world.settings.work_dir / "small")
        training = world.start("als_training.py", WORK_DIR=folder)
        outcome = world.outcome(training)
        assert spark._NO_SPACE_ADVICE in training.log(), training.log()
        return outcome


def full_mongod_disk(world: World, *, dies: bool) -> Outcome:
    """Leave mongod's disk no room for another file while a training trains, and then make room.

    It refuses what needs a file of its own, such as a collection. It dies at its next checkpoint,
    which is forced or kept from coming. (With no room for bytes, it dies as soon as its journal
    grows into a new page.)
    """
    fillers = world.mongo.folder / "fillers"

    def fill(world: World, training: Running) -> None:
        with world.reader.cut_off(), world.mongo.admin() as client:
            client.admin.command("setParameter", syncdelay=0)
            fillers.mkdir()
            with suppress(OSError):
                for number in count():
                    (fillers / str(number)).touch()
            if dies:
                with suppress(PyMongoError):
                    client.admin.command("fsync")
            training.end()
            assert os.strerror(errno.ENOSPC) in world.mongo.log()
            assert world.mongo.ended() == dies
            shutil.rmtree(fillers)
            world.mongo.ensure()

    return hit(Moment("", "train"), fill)(world)


def another_clock(folder: Path) -> tuple[Path, dict[str, str]]:
    """Return a file for the seconds to be ahead by, and what makes processes heed it.

    Their calls for the time are caught as they leave them: ``libfaketime`` breaks the sleeping of
    Python 3.11 where it leaves the steady clock as it is.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here to build the other clock with")
    folder.mkdir(parents=True, exist_ok=True)
    library, file = folder / "clock.so", folder / "clock"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    set_clock(file, 0)
    return file, {"LD_PRELOAD": str(library), "CLOCK_FILE": str(file)}


def set_clock(file: Path, seconds: int) -> None:
    """Set the clock that a file holds so far ahead."""
    with file.open("r+b" if file.exists() else "wb") as clock:
        clock.write(seconds.to_bytes(8, sys.byteorder, signed=True))


def training_elsewhen(world: World, seconds: int) -> Outcome:
    file, preloaded = another_clock(world.settings.work_dir)
    set_clock(file, seconds)
    outcome = world.outcome(world.start("als_training.py", **preloaded))
    run = world.latest() or {}
    off = run["started_at"] - datetime.datetime.now(datetime.UTC)
    assert abs(off.total_seconds() - seconds) < DAY / 24  # it did read another clock
    return outcome


def killed_elsewhen(world: World, seconds: int) -> Outcome:
    """Kill a training that reads another clock: nothing of it may go on."""
    file, preloaded = another_clock(world.settings.work_dir)
    set_clock(file, seconds)
    return hit(Moment("", "train"), kill, **preloaded)(world)


def service_whose_clock_jumps(world: World, seconds: int) -> Outcome:
    """Change a service's clock while it waits; the scheduled training comes when it was due."""
    file, preloaded = another_clock(world.settings.work_dir)
    interval = str(INTERVAL_SECONDS / 3600)
    with world.service(TRAIN_INTERVAL_HOURS=interval, **preloaded) as (_, url):
        left = float(httpx.get(f"{url}/next-training").json()["seconds_left"])
        due = time.monotonic() + left
        set_clock(file, seconds)
        assert httpx.get(f"{url}/next-training").json()["seconds_left"] <= left
        first = until(world.latest, left + LATE_SECONDS) or {}
        assert time.monotonic() > due - 1
        return of_run(world.ended(first["_id"]))  # the next slot may have begun by then


def limited_user(world: World) -> Outcome:
    """Train as a user who may only read."""
    name, password = (quote_plus(part) for part in READER)
    uri = f"mongodb://{name}:{password}@{LOOPBACK}:{world.mongo.port}/"
    return world.outcome(world.start("als_training.py", MONGO_URI=uri))


FAULTS = [
    Fault("no space for Spark's files", full_spark_disk, 78, "failed", "old"),
    Fault(
        "no space for mongod's files",
        lambda world: full_mongod_disk(world, dies=False),
        69,
        "failed",
        "old",
        server="small disk",
    ),
    Fault(
        "no space for mongod's files, and it dies of it",
        lambda world: full_mongod_disk(world, dies=True),
        69,
        "crashed",
        "old",
        server="small disk",
    ),
    *(
        Fault(
            f"the training's clock {words}",
            partial(training_elsewhen, seconds=seconds),
            0,
            "succeeded",
            "new",
        )
        for words, seconds in CLOCKS
    ),
    Fault(
        "kill -9 of a training whose clock is 2 hours back",
        partial(killed_elsewhen, seconds=-7_200),
        137,
        "crashed",
        "old",
    ),
    *(
        Fault(
            f"the service's clock set {words} while it waits",
            partial(service_whose_clock_jumps, seconds=seconds),
            0,
            "succeeded",
            "new",
        )
        for words, seconds in CLOCKS
    ),
    Fault("a user who may only read", limited_user, 69, "none", "old", server="with users"),
    Fault(
        "a user whose password holds @, /, % and more",
        lambda world: world.outcome(world.start("als_training.py")),
        0,
        "succeeded",
        "new",
        server="with users",
    ),
]
