"""``make soak``: random faults at random moments, with two services and a reader that polls.

It prints a line per fault, then the figures, and ends with 1 if there was a violation: a state that
no reader may see, a training that does not succeed after all faults, or something left behind.
"""

import argparse
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from tempfile import TemporaryDirectory

import httpx2 as httpx
import psutil

from recommender.core.mongo import Document
from recommender.core.settings import load_settings
from recommender.runs.lease import holder
from tests.faults.mongod import LONG_SECONDS, FaultyMongo, Trap
from tests.faults.world import LEASE_SECONDS, Running, World, alive, template, world_in
from tests.support import free_port
from tests.waiting import until

# Where a fault comes: up to this long after a phase has begun.
_PHASES = (
    *(None, "read", "choose", "train", "evaluate", "refit", "recommend"),
    *("publish recommendations", "cluster", "evaluate clusters", "publish clusters"),
)
_AFTER_SECONDS = 1.5
_OPEN = ("queued", "running")


class Soak:
    """A world with two services, and the faults that are done to it."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.faults: Counter[str] = Counter()
        self._ports = [free_port(), free_port()]
        self._services: dict[int, Running] = {}

    def train(self) -> None:
        """Have a training begun: by either service, or the clustering by hand."""
        for port in self._ports:
            if port not in self._services or self._services[port].process.poll() is not None:
                self._services[port] = self.world.start("model.py", PORT=str(port))
        urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        until(lambda: all(map(alive, urls)), LONG_SECONDS)
        if self.rng.random() < 0.3:
            self.world.start("clustering_training.py")
        with suppress(httpx.TransportError):
            httpx.post(f"{self.rng.choice(urls)}/train", timeout=LONG_SECONDS)

    def wait(self) -> str | None:
        """Wait for a random moment of the training; return its phase."""
        phase = self.rng.choice(_PHASES)
        with suppress(AssertionError):
            until(lambda: self.phase() in {phase, "none"}, LONG_SECONDS)
        time.sleep(self.rng.uniform(0, _AFTER_SECONDS))
        return self.phase()

    def phase(self) -> str | None:
        """Return the phase of the run in progress, ``none`` if there is no run."""
        run = self.world.db["TrainingRuns"].find_one({"state": {"$in": _OPEN}})
        return run.get("phase") if run else "none"

    def hurt(self) -> str:
        """Do a random fault, and return its name."""
        name = self.rng.choice(list(_FAULTS))
        _FAULTS[name](self)
        self.faults[name] += 1
        return name

    def settle(self) -> None:
        """Wait until no training is in progress and what was left is recovered."""
        self.world.reader.catch_up()
        runs = self.world.db["TrainingRuns"]
        until(lambda: holder(self.world.db) is None, LONG_SECONDS)
        until(lambda: not runs.count_documents({"state": {"$in": _OPEN}}), LONG_SECONDS)
        until(lambda: not self.world.leftovers(), LONG_SECONDS)
        self.world.reader.catch_up()

    def training(self) -> psutil.Process | None:
        """Return the process of the training in progress, if there is one."""
        run: Document = self.world.db["TrainingRuns"].find_one({"state": "running"}) or {}
        with suppress(psutil.NoSuchProcess):
            if run.get("pid"):
                return psutil.Process(run["pid"])
        return None

    def signal_training(self, *numbers: int) -> None:
        """Send the training a signal, or one and after its lease's time another."""
        with suppress(psutil.NoSuchProcess):
            if training := self.training():
                training.send_signal(numbers[0])
                for number in numbers[1:]:
                    time.sleep(LEASE_SECONDS * self.rng.uniform(0.2, 2))
                    training.send_signal(number)

    def signal_service(self, number: int) -> None:
        """Send either service a signal, and wait for its end."""
        service = self._services[self.rng.choice(self._ports)]
        if service.process.poll() is None:
            service.family()
            service.process.send_signal(number)
            service.end()

    def kill_mongod(self) -> None:
        """Kill mongod, and start it again at once or later."""
        with self.world.reader.cut_off():
            self.world.mongo.kill()
            time.sleep(self.rng.choice([0.0, 8.0]))
            self.world.mongo.start()

    def cut_connections(self) -> None:
        """Cut the product's connections in its next command of a kind, if one comes soon."""
        command = self.rng.choice(["insert", "update", "find", "aggregate", "renameCollection"])
        trap = Trap(command, seconds=0, reply=(("closeConnection", True),), always=True)
        with self.world.mongo.trap(trap, self.world.db.name):
            time.sleep(self.rng.uniform(0.5, 5))


_FAULTS: dict[str, Callable[[Soak], None]] = {
    "kill -9 of the training": lambda soak: soak.signal_training(SIGKILL),
    "SIGTERM of the training": lambda soak: soak.signal_training(SIGTERM),
    "the training stopped and woken": lambda soak: soak.signal_training(SIGSTOP, SIGCONT),
    "kill -9 of a service": lambda soak: soak.signal_service(SIGKILL),
    "SIGTERM of a service": lambda soak: soak.signal_service(SIGTERM),
    "kill -9 of mongod": Soak.kill_mongod,
    "step-down of the primary": lambda soak: soak.world.step_down(),
    "connections cut": Soak.cut_connections,
}


def soak(world: World, minutes: float, seed: int) -> list[str]:
    """Do faults until the time is over; print the figures, and return the violations."""
    rng = random.Random(seed)
    one, violations = Soak(world, rng), []
    started = time.monotonic()
    while time.monotonic() - started < 60 * minutes:
        one.train()
        phase = one.wait()
        name = one.hurt()
        print(f"{time.monotonic() - started:7.1f} s  {name}; phase: {phase or 'start'}", flush=True)
        try:
            one.settle()
        except AssertionError:
            violations.append(f"after {name} in {phase}: {world.leftovers()} stays")
            break
    world.recover()
    for running in world.processes:
        if running.process.poll() is None:
            running.process.send_signal(SIGTERM)
            running.end()
    violations += [f"left behind: {what}" for what in world.end_what_is_left()]
    violations += [f"left behind: {what}" for what in world.leftovers()]
    world.reader.catch_up()
    violations += [f"{count} times: {what}" for what, count in world.reader.wrong.items()]
    states = Counter(run["state"] for run in world.db["TrainingRuns"].find({}, {"state": 1}))
    print(f"{(time.monotonic() - started) / 60:.0f} minutes, seed {seed}")
    print(f"{one.faults.total()} faults: " + "; ".join(f"{n} {c}" for n, c in one.faults.items()))
    print(f"{states.total()} runs: " + ", ".join(f"{count} {n}" for n, count in states.items()))
    print(f"{world.reader.polls:,} polls, {world.reader.mixed} mixed")
    print(f"{len(violations)} violations", *violations, sep="\n  ")
    return violations


def main() -> int:
    """Run the soak with a mongod of its own; return 1 if there were violations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        work_dir = Path(folder) / "work"
        with FaultyMongo(Path(folder) / "mongod", replica_set=True) as mongo:
            name = f"soak-{uuid.uuid4().hex}"
            settings = load_settings(mongo_uri=mongo.uri, mongo_db=name, work_dir=work_dir)
            with world_in(mongo, settings, template(settings)) as world:
                return bool(soak(world, arguments.minutes, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
