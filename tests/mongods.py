"""A mongod for tests, also as the primary of a replica set of one."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from recommender.core.mongo import Client
from recommender.core.ports import LOOPBACK
from recommender.demo.embedded_mongod import EmbeddedMongo

_REPLICA_SET = "rs0"
_ALREADY_INITIATED = 23
_PRIMARY_SECONDS = 60.0
_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 * 2**30


class MongodForTests(EmbeddedMongo):
    """A mongod that can be a replica set of one, which stores its port: start it there again."""

    def __init__(self, folder: Path, *, port: int = 0, replica_set: bool = False) -> None:
        super().__init__(folder)
        self.port = port
        self._replica_set = replica_set

    @property
    def uri(self) -> str:
        """Its URI, for ``MONGO_URI``."""
        return super().uri + (f"?replicaSet={_REPLICA_SET}" if self._replica_set else "")

    @property
    def pid(self) -> int:
        """The mongod's process id."""
        return int((self._data / "mongod.lock").read_text())

    def start(self) -> Self:
        """Start it and wait until it answers, as primary in a replica set."""
        super().start()
        if self._replica_set:
            self._initiate()
        return self

    def _command(self, program: Path) -> list[str]:
        if not self._replica_set:
            return super()._command(program)
        options = ["--replSet", _REPLICA_SET, "--oplogSize", "64", "--journalCommitInterval", "10"]
        # A primary would wait for another member to take over; here it is the only one.
        options += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]
        return [*super()._command(program), *options]

    def _client(self) -> Client:
        return MongoClient(
            LOOPBACK, self.port, directConnection=True, serverSelectionTimeoutMS=2_000
        )

    def _initiate(self) -> None:
        members = [{"_id": 0, "host": f"{LOOPBACK}:{self.port}"}]
        deadline = time.monotonic() + _PRIMARY_SECONDS
        with self._client() as client:
            try:
                client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": members})
            except OperationFailure as error:
                if error.code != _ALREADY_INITIATED:
                    raise
            while not client.admin.command("hello")["isWritablePrimary"]:
                assert time.monotonic() < deadline, "mongod did not become primary"
                time.sleep(0.02)


@contextmanager
def shared_mongod(*, replica_set: bool = False) -> Iterator[str]:
    """Run a mongod for many tests, in memory if there is room; give its URI."""
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES
    place = _MEMORY if has_room else None  # in memory, its journal waits for no disk
    for lock in _MEMORY.glob("recommender-mongod-*/data/mongod.lock"):
        with suppress(OSError), lock.open("r+") as file:  # locked by a mongod that runs
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent.parent)  # of a test run that was killed
    with (
        TemporaryDirectory(prefix="recommender-mongod-", dir=place) as folder,
        MongodForTests(Path(folder), replica_set=replica_set) as mongo,
    ):
        yield mongo.uri
