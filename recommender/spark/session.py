"""The one place that builds a Spark session, and takes it down with all it left behind."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import PicklingError
from typing import IO, Any

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

import recommender
from recommender.core.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    DataError,
    RecommenderError,
    SparkError,
)
from recommender.core.logs import one_line
from recommender.core.settings import Settings
from recommender.core.signals import Stopped, call_on_stop, signals_deferred
from recommender.spark.java import LAPACK_PACKAGE, OPTION_VARIABLES, find_java, has_lapack

_PACKAGE = Path(recommender.__file__).parent
_LOG_CONFIG = Path(__file__).with_name("log4j2.properties")
_SCRATCH = "spark-scratch-"
_LOCK = "owner.lock"
# A folder without a lock that is older belongs to a process that died before it locked it.
_UNLOCKED_SECONDS = 60.0
# What is left of the machine's memory is for Python, numpy and the page cache.
_HEAP_SHARE = 0.6
_BESIDE_HEAP_BYTES = 1280 * 2**20
_LEAST_HEAP_BYTES = 512 * 2**20
_JVM_END_SECONDS = 5.0
_JVM_LAST_WORDS_SECONDS = 1.0
# ALS's lineage is written and read by recursion. A thread's usual 1 MiB holds 15 iterations, and
# once did not hold the 10 between two checkpoints; this holds 60. Only what is used is taken.
_STACK = "-Xss4m"
_STACK_BY_HAND = re.compile(r"-Xss|-XX:ThreadStackSize=")
# Of who waits for the end, not for each answer.
_COLLECTOR = "-XX:+UseParallelGC"
_COLLECTOR_BY_HAND = re.compile(r"-XX:\+Use\w+GC\b")
_OPTION_VARIABLES = (*OPTION_VARIABLES, "SPARK_SUBMIT_OPTS")
# PicklingError is what PySpark makes of any failure to write what executors are to have.
_SPARK_ERRORS = (PySparkException, Py4JError, OSError, PicklingError)

log = logging.getLogger(__name__)


@contextmanager
def spark_session(settings: Settings, name: str) -> Iterator[SparkSession]:
    """Give a Spark session with a checkpoint directory; end its JVM and remove its files after.

    Parameters
    ----------
    name
        The application's name, as a cluster's pages show it.

    Raises
    ------
    ConfigurationError
        If there is no Java that Spark runs on, or Spark does not start, or has been started before
        by ``spark-submit``.
    SparkError
        In place of what PySpark raises in the block.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        raise ConfigurationError(
            "this was started by spark-submit, but starts Spark itself; run it with python, and "
            "name a cluster by SPARK_MASTER"
        )
    find_java()
    if not has_lapack():
        log.info("ALS would be faster with a LAPACK (Debian: apt-get install %s)", LAPACK_PACKAGE)
    settings.make_folder(settings.work_dir)
    _sweep(settings.work_dir)
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=settings.work_dir.resolve()))
    lock = _lock(scratch)
    # Executors must start the Python that runs this, with its packages.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    try:
        spark = _start(settings, name, scratch)
        with call_on_stop(_jvm().terminate), errors_that_last():
            yield spark
            spark.stop()
    finally:
        _end_jvm()
        shutil.rmtree(scratch, ignore_errors=True)
        lock.close()


def _start(settings: Settings, name: str, scratch: Path) -> SparkSession:
    """Start the JVM, and Spark in it; a signal waits until there is a JVM to be ended."""

    def not_started(text: str) -> ConfigurationError:
        return ConfigurationError(
            f"Spark does not start with SPARK_MASTER={settings.spark.master} and WORK_DIR="
            f"{settings.work_dir}: {one_line(text)}"
        )

    with _errors_as(not_started):
        conf = _conf(settings, name, scratch)
        with signals_deferred():
            SparkContext._ensure_initialized(conf=conf)  # the JVM alone
        with call_on_stop(_jvm().terminate):
            with _sigint_kept():
                SparkContext(conf=conf)
            spark = SparkSession.builder.config(conf=conf).getOrCreate()
            # Long lineages overflow the JVM's stack; ALS cuts them where there is a checkpoint.
            checkpoints = settings.spark.checkpoint_dir or str(scratch / "checkpoints")
            spark.sparkContext.setCheckpointDir(checkpoints)
            spark.sparkContext.addPyFile(str(_zip_package(scratch)))
            return spark


@contextmanager
def _sigint_kept() -> Iterator[None]:
    """Take SIGINT back from PySpark, whose handler knows of no clean-up, for the block's end.

    It would also ask the JVM something amid the answer to another call.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) not in (before, signal.SIG_IGN):  # ignored: a stop
            signal.signal(signal.SIGINT, before)


@contextmanager
def errors_that_last() -> Iterator[None]:
    """Turn what PySpark raises into errors of ours while the JVM, which knows their text, lives.

    What a task in an executor raised of ours is raised here again, with its exit code; and so is
    what stopped us, where PySpark failed of it while it cleaned up.
    """
    with _errors_as(_failure):
        yield


@contextmanager
def _errors_as(ours: Callable[[str], RecommenderError]) -> Iterator[None]:
    """Raise what ``ours`` makes of the text of an error of Spark's, or the stop it came of.

    A stop can end in any error: the answer to the call that it cut short is still in the
    connection, and PySpark, which cleans up, takes it for the answer to its next one.
    """
    try:
        yield
    except Exception as error:
        if stopped := _stopped_before(error):
            raise stopped from None
        if not isinstance(error, _SPARK_ERRORS):
            raise
        raise ours(_text_of(error)) from None


def _stopped_before(error: BaseException | None) -> Stopped | None:
    """Return what an error came of, if that was a stop: a signal, the limit of time."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the JVM that has the text is gone
        return type(error).__name__


def _failure(text: str) -> RecommenderError:
    log.error("Spark failed: %s", text)
    with suppress(subprocess.TimeoutExpired):
        code = _jvm().wait(_JVM_LAST_WORDS_SECONDS)
        return SparkError(
            f"Spark's JVM ended with code {code}, perhaps for lack of memory; nothing more was "
            "published; set SPARK_DRIVER_MEMORY"
        )
    for kind in (DatabaseUnavailableError, DataError, ConfigurationError):
        found = re.search(rf"{kind.__module__}\.{kind.__name__}: (.*)", text)
        if found:
            return kind(found[1])
    if "No space left on device" in text:
        return ConfigurationError("no space is left for Spark's files; set WORK_DIR elsewhere")
    return SparkError(f"Spark failed: {one_line(text, limit=300)}; the log has more")


def _jvm() -> subprocess.Popen[bytes]:
    gateway: Any = SparkContext._gateway
    process: subprocess.Popen[bytes] = gateway.proc
    return process


def _lock(folder: Path) -> IO[str]:
    """Create the folder's lock file and lock it for as long as it is open, at most to our death."""
    file = (folder / "unlocked").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    (folder / "unlocked").rename(folder / _LOCK)  # nobody sees it unlocked
    return file


def _sweep(work_dir: Path) -> None:
    """Remove the folders of trainings that were killed.

    A process id would not do: containers that share the volume do not see each other's processes.
    """
    for folder in work_dir.glob(f"{_SCRATCH}*/"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        with suppress(FileNotFoundError):  # its owner has just removed it
            return time.time() - folder.stat().st_mtime > _UNLOCKED_SECONDS
    except OSError:  # locked, or not ours to open
        pass
    return False


def driver_memory(settings: Settings) -> str:
    """Return the driver's heap: as set by hand, else at most what this machine has room for.

    That is 60 % of its memory, less where under 1.25 GiB would be left. A container's limit counts
    as its memory.
    """
    if "spark_driver_memory" in settings.model_fields_set:
        return settings.spark.driver_memory
    wanted = _megabytes(settings.spark.driver_memory)
    limit = memory_limit()
    fits_bytes = max(min(limit * _HEAP_SHARE, limit - _BESIDE_HEAP_BYTES), _LEAST_HEAP_BYTES)
    fits = int(fits_bytes / 2**20)
    if fits >= wanted:
        return settings.spark.driver_memory
    log.info("the Spark driver gets %d MiB, as the machine has no room for %d", fits, wanted)
    return f"{fits}m"


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: the machine's or the container's."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for control in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path("/sys/fs/cgroup", control).read_text()))
    return min(limits)


def _megabytes(memory: str) -> int:
    scale = {"k": 2**-10, "m": 1, "g": 2**10, "t": 2**20}[memory[-1]]
    return int(int(memory[:-1]) * scale)


def _conf(settings: Settings, name: str, scratch: Path) -> SparkConf:
    options = {
        "spark.driver.memory": driver_memory(settings),
        "spark.executor.memory": settings.spark.executor_memory,
        "spark.executor.cores": settings.spark.executor_cores,
        "spark.sql.shuffle.partitions": settings.spark.shuffle_partitions,
        "spark.local.dir": scratch,
        "spark.sql.warehouse.dir": scratch / "warehouse",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.driver.extraJavaOptions": (
            f'"-Djava.io.tmpdir={scratch}" -Dlog4j2.configurationFile={_LOG_CONFIG.as_uri()} '
            f"{_java_options()}"
        ),
        "spark.executor.defaultJavaOptions": _STACK,  # the extra ones, a cluster's own, win
        "spark.driver.maxResultSize": "0",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if not settings.spark.master.startswith("spark://"):  # there, all must share one secret
        options |= {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}
    if _is_local(settings):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        options |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    conf = SparkConf().setAppName(name).setMaster(settings.spark.master)
    return conf.setAll([(key, str(value)) for key, value in options.items()])


def _java_options() -> str:
    """Return a stack and a garbage collector for the driver, where none was chosen by hand.

    Of two stacks ours would win, and with two collectors Java does not start.
    """
    by_hand = " ".join(os.environ.get(name, "") for name in _OPTION_VARIABLES)
    ours = ((_STACK, _STACK_BY_HAND), (_COLLECTOR, _COLLECTOR_BY_HAND))
    return " ".join(option for option, chosen in ours if not chosen.search(by_hand))


def _is_local(settings: Settings) -> bool:
    return settings.spark.master == "local" or settings.spark.master.startswith("local[")


def _zip_package(scratch: Path) -> Path:
    """Zip the modules that executors import: they run elsewhere, if only in another folder."""
    archive = scratch / "recommender.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for module in (*sorted(_PACKAGE.rglob("*.py")), _PACKAGE.parent / "dists.py"):
            bundle.write(module, module.relative_to(_PACKAGE.parent))
    return archive


def _end_jvm() -> None:
    """End Spark's JVM, which would else hold its heap until this process ends.

    Nothing is asked of it any more: when a signal or an error cut a call short, the answer to that
    call is still in the connection, and the next call would take it for its own.
    """
    context, gateway = SparkContext._active_spark_context, SparkContext._gateway
    SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
    if gateway is None:
        return
    # Where Spark was not stopped in order, its server would print that the JVM is gone.
    if (server := getattr(context, "_accumulatorServer", None)) is not None:
        server.handle_error = lambda *_: None
    process: subprocess.Popen[bytes] = gateway.proc
    if process.stdin is not None:
        process.stdin.close()  # the JVM ends when its standard input does
    process.terminate()
    try:
        process.wait(_JVM_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    gateway.close()
