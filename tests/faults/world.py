"""What a fault happens to: a city with a published model, a reader, and the product's processes."""

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from signal import Signals

import httpx2 as httpx
import psutil
from pydantic import SecretStr

import clustering_training
from recommender.core.mongo import Document, MongoDatabase, connect, database
from recommender.core.settings import Settings
from recommender.data.reviews import read_ratings
from recommender.runs.lease import LEASE_ID, holder
from recommender.runs.run import training_run
from tests.faults.mongod import LONG_SECONDS, FaultyMongo, Trap
from tests.faults.reader import GUEST, Reader, runs_of
from tests.support import PROJECT, TINY_CITY, environment, free_port, write_tiny_city
from tests.waiting import until

LEASE_SECONDS = 10
# What a killed training may take to notice on a busy machine; by itself it takes a second or two.
ENDED_SECONDS = 20.0
PUBLISHED = ("Recommendations", "Clusters", "Metadata")

_KILLED = 128
_TEMPLATE = ("Reviews", *PUBLISHED, "TrainingRuns")


@dataclass(frozen=True)
class Outcome:
    """What became of the attacked process and its run.

    Attributes
    ----------
    exit_code
        Of the process, 128 + n where signal n ended it.
    run_id
        The run; None where none was begun.
    """

    exit_code: int
    run_id: str | None


class Running:
    """A process of the product's, its output, and all that it started."""

    def __init__(self, command: Sequence[str], settings: Settings, more: dict[str, str]) -> None:
        settings.work_dir.mkdir(parents=True, exist_ok=True)
        self._log = settings.work_dir.parent / f"{settings.work_dir.name}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env=environment(settings, LEASE_SECONDS=str(LEASE_SECONDS), **more),
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._family: list[psutil.Process] = []

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def family(self) -> list[psutil.Process]:
        """Return the process and all that it has started, as far as they still run."""
        if self.process.poll() is None:
            top = psutil.Process(self.pid)
            self._family = list({*self._family, top, *top.children(recursive=True)})
        return [member for member in self._family if _runs(member)]

    def named(self, name: str) -> list[psutil.Process]:
        """Return those of the family that run this program."""
        return [member for member in self.family() if member.name() == name]

    def send(self, number: Signals) -> None:
        """Send the process alone a signal."""
        self.family()
        os.kill(self.pid, number)

    def send_all(self, number: Signals) -> None:
        """Send the whole family a signal."""
        for member in self.family():
            member.send_signal(number)

    def end(self, seconds: float = LONG_SECONDS) -> int:
        """Wait for its end and that of its family; return its exit code."""
        code = self.process.wait(seconds)
        until(lambda: not self.family(), seconds)
        return code if code >= 0 else _KILLED - code

    def log(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    def clean_up(self) -> None:
        """End what still runs."""
        for member in self.family():
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait(LONG_SECONDS)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _work_dir_of(process: psutil.Process) -> str:
    try:
        ended = process.status() == psutil.STATUS_ZOMBIE
        return "" if ended else process.environ().get("WORK_DIR", "")
    except psutil.Error:  # it has ended, or is not ours
        return ""


@dataclass
class World:
    """A database with a model of an earlier run, a reader of it, and ways to hurt them.

    Attributes
    ----------
    mongo
        The server, to kill and to set traps in.
    settings
        Those of the product's processes.
    db
        The database, by a client that no trap catches.
    reader
        Polls from before the fault to the end.
    old
        Id of the run that published the model before.
    restored
        Id of the run whose model a rollback publishes.
    """

    mongo: FaultyMongo
    settings: Settings
    db: MongoDatabase
    reader: Reader
    old: str
    restored: str | None = None
    processes: list[Running] = field(default_factory=list)

    def start(self, *command: str, **more: str) -> Running:
        """Start a script of the product's, such as ``als_training.py``."""
        script, *arguments = command
        running = Running([str(PROJECT / script), *arguments], self.settings, more)
        self.processes.append(running)
        return running

    def start_module(self, *command: str, **more: str) -> Running:
        """Start ``python -m`` with these arguments in the project's folder."""
        running = Running(["-m", *command], self.settings, more)
        self.processes.append(running)
        return running

    @contextmanager
    def service(self, **more: str) -> Iterator[tuple[Running, str]]:
        """Run the service for the block; give it and its address."""
        port = free_port()
        running = self.start("model.py", PORT=str(port), **more)
        url = f"http://127.0.0.1:{port}"
        until(lambda: alive(url), LONG_SECONDS)
        yield running, url
        if running.process.poll() is None:
            running.send(Signals.SIGTERM)
            running.end()

    def latest(self) -> Document | None:
        """Return the latest run that is not the earlier one."""
        return self.db["TrainingRuns"].find_one({"_id": {"$ne": self.old}}, sort=[("$natural", -1)])

    def reaches(self, phase: str, running: Running) -> None:
        """Wait until the latest run is in a phase."""

        def there() -> bool:
            assert running.process.poll() is None, f"ended before {phase}: {running.log()}"
            return (self.latest() or {}).get("phase") == phase

        until(there, LONG_SECONDS)
        running.family()  # while it is whole

    def runs(self, phase: str) -> None:
        """Wait until the latest run is in a phase."""
        until(lambda: (self.latest() or {}).get("phase") == phase, LONG_SECONDS)

    def ended(self, run_id: str | None = None) -> Document:
        """Wait until a run, or else the latest one, has ended and return it."""
        runs = self.db["TrainingRuns"]

        def closed() -> Document | None:
            run = (runs.find_one({"_id": run_id}) if run_id else self.latest()) or {}
            return run if run.get("exit_code") is not None else None

        run = until(closed, LONG_SECONDS)
        assert run
        return run

    @contextmanager
    def held(self, trap: Trap, start: Callable[[], Running]) -> Iterator[Running]:
        """Set a trap, start, do the block when something is caught, and let that be forgotten."""
        with self.mongo.trap(trap, self.db.name) as caught:
            running = start()
            caught()
            running.family()
            yield running
            if self.mongo.up and trap.seconds > LEASE_SECONDS:
                self.mongo.drop_held(trap.command)

    def outcome(self, running: Running) -> Outcome:
        """Wait for the process's end and return what became of it and its run."""
        code = running.end()
        return Outcome(code, (self.latest() or {}).get("run_id"))

    def published(self, run_id: str | None) -> str:
        """Return whose the three collections are: the old model's, the run's or another's."""
        whose: dict[str, list[str]] = defaultdict(list)
        for name in PUBLISHED:
            writers = runs_of(list(self.db[name].find()))
            one = next(iter(writers)) if len(writers) == 1 else None
            kinds = {self.restored: "restored", self.old: "old", run_id: "new", None: "broken"}
            kind = kinds.get(one, "another's")
            whose[kind].append(name)
        if len(whose) == 1:
            return next(iter(whose))
        new = (f"{kind} {' and '.join(names)}" for kind, names in whose.items() if kind != "old")
        return ", ".join(new)

    def restart_mongod(self) -> None:
        """Kill mongod and start it again on its data."""
        with self.reader.cut_off():
            self.mongo.kill()
            self.mongo.start()

    def state_of(self, run_id: str | None) -> str:
        """Return a run's state in the ledger."""
        run = self.db["TrainingRuns"].find_one({"_id": run_id}) if run_id else None
        return str(run["state"]) if run else "none"

    def step_down(self) -> None:
        """Make the server a secondary, until it elects itself again."""
        with self.reader.cut_off(), self.mongo.admin() as client:
            client.admin.command("replSetStepDown", 1, force=True)
            until(lambda: client.admin.command("hello")["isWritablePrimary"], LONG_SECONDS)

    def recover(self) -> str:
        """Cluster by hand as soon as the lease is free; return that run's id."""

        until(lambda: holder(self.db) is None, LONG_SECONDS)
        running = self.start("clustering_training.py")
        assert running.end() == 0, running.log()
        latest = self.latest()
        assert latest
        return str(latest["run_id"])

    def expire_lease(self, seconds: float = 0.001) -> None:
        """Move the lease's expiry into the past."""
        expired = {"$subtract": ["$$NOW", round(seconds * 1000)]}
        self.db["TrainingState"].update_one({"_id": LEASE_ID}, [{"$set": {"expires_at": expired}}])

    def left_behind(self) -> list[psutil.Process]:
        """Return the processes that run in this world's folder."""
        folder = str(self.settings.work_dir)
        return [one for one in psutil.process_iter() if _work_dir_of(one).startswith(folder)]

    def end_what_is_left(self) -> list[str]:
        """Give what was started its time to end; end the rest by force, and name it."""
        with suppress(AssertionError):
            until(lambda: not self.left_behind(), ENDED_SECONDS)
        lines = []
        while left := self.left_behind():
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    lines.append(f"{one.name()} {one.pid}, {one.status()}, child of {one.ppid()}")
                    one.kill()
            psutil.wait_procs(left, ENDED_SECONDS)
        return lines

    def clean_up(self) -> None:
        """End what still runs, and bring the server back."""
        for running in self.processes:
            running.clean_up()
        self.end_what_is_left()
        if not self.mongo.up:
            self.mongo.start()

    def leftovers(self) -> list[str]:
        """Return what a training that ended well may not leave behind."""
        left = [name for name in self.db.list_collection_names() if ".staged." in name]
        left += ["a switch"] * self.db["TrainingState"].count_documents(
            {"switch": {"$exists": True}}
        )
        held = holder(self.db)
        return left + ([f"the lease of {held['run_id']}"] if held else [])


def alive(url: str) -> bool:
    """Return true if the service answers."""
    try:
        return httpx.get(f"{url}/health/live").is_success
    except httpx.TransportError:
        return False


def template(settings: Settings) -> dict[str, list[Document]]:
    """Return what a database holds before each fault: reviews, a model and its run."""
    with connect(settings.mongo) as client:
        db = database(client, settings.mongo)
        write_tiny_city(db, settings)
        with training_run(settings) as run:
            clustering_training.train(run, read_ratings(settings))
        popular = db["Metadata"].find_one({"_id": "fallback"}) or {}
        users = db["Reviews"].distinct("user_id", {"user_id": {"$type": "string"}})
        entries = popular["recommendations"][:13]
        db["Recommendations"].insert_many(
            {"user_id": user, "recommendations": entries, "run_id": run.run_id} for user in users
        )
        db["Recommendations"].insert_one(dict(GUEST))
        content = {name: list(db[name].find()) for name in _TEMPLATE}
        client.drop_database(db.name)
    return content


@contextmanager
def world_in(
    mongo: FaultyMongo, settings: Settings, content: dict[str, list[Document]]
) -> Iterator[World]:
    """Fill a database of the server's with the content and have it read for the block."""
    own = settings.with_values({"mongo_uri": SecretStr(mongo.uri)})
    with mongo.admin() as client:
        db = client[own.mongo.db]
        for name, documents in content.items():
            db[name].insert_many(documents)
        db["Recommendations"].create_index("user_id", unique=True)
        old = str(content["TrainingRuns"][0]["_id"])
        with Reader(mongo.uri, db.name, TINY_CITY.users) as reader:
            world = World(mongo, own, db, reader, old)
            try:
                reader.catch_up()
                yield world
            finally:
                world.clean_up()
        client.drop_database(db.name)
