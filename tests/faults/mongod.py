"""A mongod that can be hurt: killed and restarted on its data, its commands held up or refused.

What is held up or refused is done by the server's own fail points, and only to the product's
connections, which it knows by their name: the test's own client and the reader go on unhurt.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from pymongo import MongoClient

from recommender.core.mongo import APP_NAME, Client
from recommender.core.ports import LOOPBACK
from tests.mongods import MongodForTests
from tests.support import free_port

ADMINISTRATOR = ("root", "p@ss/w%rd:#?")
READER = ("reader", "read%only@/")

# However busy the machine is; what waits so long has gone wrong.
LONG_SECONDS = 300

_FAIL_POINT = "failCommand"
_HELD_SECONDS = 60.0


@dataclass(frozen=True)
class Trap:
    """A command of the product's that is caught when it reaches the server, before it is done.

    Attributes
    ----------
    command
        Name of the command.
    collection
        The collection that it is for; None: any.
    skip
        How many such commands pass before one is caught.
    seconds
        How long it is held; then it is done, unless the catcher releases it or ``reply`` fails it.
    reply
        How it is failed after that, as fail points have it: ``closeConnection``, ``errorCode``; a
        ``writeConcernError`` is reported after it was done.
    always
        Whether all that follow are caught as well.
    """

    command: str
    collection: str | None = None
    skip: int = 0
    seconds: float = _HELD_SECONDS
    reply: tuple[tuple[str, Any], ...] = ()
    always: bool = False


class FaultyMongo(MongodForTests):
    """A mongod in a folder of its own, on one port from start to start.

    Parameters
    ----------
    folder
        Where its data and its log are kept.
    replica_set
        Run as the primary of a replica set of one.
    administrator
        User and password that exist already, with which it asks everybody for theirs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replica_set: bool = False,
        administrator: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port=free_port(), replica_set=replica_set)
        self._administrator = administrator
        self.up = False

    def start(self) -> FaultyMongo:
        """Start it, and wait until it answers."""
        super().start()
        self.up = True
        return self

    @property
    def uri(self) -> str:
        """Where it answers, with the administrator's name and password."""
        if not self._administrator:
            return super().uri
        credentials = ":".join(quote_plus(part) for part in self._administrator)
        return super().uri.replace("://", f"://{credentials}@")

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        self.up = False
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait(LONG_SECONDS)

    @property
    def folder(self) -> Path:
        """Where its data and its log are kept."""
        return self._folder

    def log(self) -> str:
        """Return what it has logged so far."""
        return self._log.read_text(errors="replace")

    def ended(self) -> bool:
        """Return true if it was started and has ended, by itself or not."""
        return self._process is not None and self._process.poll() is not None

    def ensure(self) -> None:
        """Start it again, if it has ended."""
        if self.ended():
            self.start()

    def stop(self) -> None:
        """Stop it, if it runs."""
        super().stop()
        self.up = False

    def admin(self) -> Client:
        """Return a client for the test itself, which no trap catches."""
        return self._client()

    @contextmanager
    def trap(self, trap: Trap, db: str) -> Iterator[Callable[[], None]]:
        """Set a trap for the block; give a function that returns when something is in it.

        Parameters
        ----------
        db
            The database of the trap's collection.
        """
        data: dict[str, Any] = {
            "failCommands": [trap.command],
            "appName": APP_NAME,
            "blockConnection": trap.seconds > 0,
            "blockTimeMS": round(trap.seconds * 1000),
            **dict(trap.reply),
        }
        if trap.collection:
            data["namespace"] = f"{db}.{trap.collection}"
        # The server can skip some or catch some, not both: all after the skipped are caught.
        every = trap.skip or trap.always
        mode = {"skip": trap.skip} if every else {"times": 1}
        with self.admin() as client:
            before = client.admin.command("configureFailPoint", _FAIL_POINT, mode=mode, data=data)

            def caught() -> None:
                client.admin.command(
                    "waitForFailPoint",
                    _FAIL_POINT,
                    timesEntered=before["count"] + 1,
                    maxTimeMS=LONG_SECONDS * 1000,
                )

            try:
                yield caught
            finally:
                self.catch_no_more()

    def catch_no_more(self) -> None:
        """Put the trap away; return when what it holds has been let go."""
        if self.up:
            with self.admin() as client:
                client.admin.command("configureFailPoint", _FAIL_POINT, mode="off")

    def drop_held(self, command: str) -> None:
        """Forget such commands that are held, as if they had never been sent."""
        with self.admin() as client:
            held = {"appName": APP_NAME, f"command.{command}": {"$exists": True}}
            stages: list[dict[str, Any]] = [{"$currentOp": {"allUsers": True}}, {"$match": held}]
            for operation in client.admin.aggregate(stages):
                client.admin.command("killOp", op=operation["opid"])

    def _command(self, program: Path) -> list[str]:
        options = ["--setParameter", "enableTestCommands=1"]
        return [*super()._command(program), *options, *(["--auth"] if self._administrator else [])]

    def _client(self) -> Client:
        credentials: dict[str, Any] = {}
        if self._administrator:
            credentials = dict(zip(("username", "password"), self._administrator, strict=True))
        return MongoClient(
            LOOPBACK,
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=2_000,
            tz_aware=True,
            **credentials,
        )


def with_users(folder: Path) -> FaultyMongo:
    """Return a mongod, not started, with an administrator and a user who may only read."""
    with FaultyMongo(folder) as open_to_all, open_to_all.admin() as client:
        for (name, password), role in ((ADMINISTRATOR, "root"), (READER, "readAnyDatabase")):
            client.admin.command("createUser", name, pwd=password, roles=[role])
    return FaultyMongo(folder, administrator=ADMINISTRATOR)
