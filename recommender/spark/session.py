"""The one place that builds a Spark session, and removes its JVM and files at the end."""

import fcntl
import locale
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from pickle import PicklingError
from typing import IO, Any, TypeVar, cast

import pyspark
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

import recommender
from recommender.core import errors
from recommender.core.errors import ConfigurationError, RecommenderError, SparkError
from recommender.core.logs import one_line
from recommender.core.settings import Settings, SparkSettings
from recommender.core.signals import call_on_stop, signals_deferred, stop_behind
from recommender.spark.java import OPTION_VARIABLES, advise_lapack, find_java

_PACKAGE = Path(recommender.__file__).parent
_LOG_CONFIG = Path(__file__).with_name("log4j2.properties")
BESIDE_HEAP_MIB = 1280  # at least, of Python, numpy and the page cache
_SCRATCH = "spark-scratch-"
_LOCK = "owner.lock"
_UNLOCKED_SECONDS = 60.0  # an older folder without a lock belongs to a process that died
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_JVM_END_SECONDS = 5.0
_JVM_LAST_WORDS_SECONDS = 1.0
# Java serialises ALS's lineage by recursion: 1 MiB, the default, may not hold the 10 iterations
# between two checkpoints; this holds 60. Only the used part is allocated.
_STACK = "-Xss4m"
# Option -> pattern of options set by hand that replace it; Java accepts one collector only.
_JAVA_OPTIONS = {_STACK: r"-Xss|-XX:ThreadStackSize=", "-XX:+UseParallelGC": r"-XX:\+Use\w+GC\b"}
# Java's second compiler takes longer than it saves in seconds of work.
_BRIEF_OPTIONS = {"-XX:TieredStopAtLevel=1": r"-XX:TieredStopAtLevel=|-XX:.TieredCompilation"}
_NO_SPACE = "No space left on device"  # in the text of Java's errors
_NO_SPACE_ADVICE = "no space is left for Spark's files; set WORK_DIR elsewhere"
# Variables of Spark's scripts, which another Spark on the machine may have left behind.
_SPARKS_OWN = ("PYSPARK_SUBMIT_ARGS", "SPARK_CONF_DIR", "HADOOP_CONF_DIR", "YARN_CONF_DIR")
_OPTION_VARIABLES = (*OPTION_VARIABLES, "SPARK_SUBMIT_OPTS")
# PySpark raises PicklingError for any failure to write the data of executors.
_SPARK_ERRORS = (PySparkException, Py4JError, OSError, PicklingError)

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class SparkThread:
    """The thread where Spark starts, and where jobs of Spark run beside the caller's work."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._futures: list[Future[Any]] = []

    def start(self, conf: SparkConf, settings: Settings, scratch: Path) -> None:
        """Begin to start the JVM, then Spark in it."""
        launch = self._add(partial(SparkContext._ensure_initialized, conf=conf))
        self._started = self._add(partial(_start, launch, conf, settings, scratch))

    def session(self) -> SparkSession:
        """Wait until Spark has started, and return its session."""
        return self._started.result()

    def submit(self, job: Callable[[SparkSession], Result]) -> Future[Result]:
        """Begin a job in the thread, once Spark has started; raise why it has not, if it failed."""
        if self._started.done():
            self.session()
        return self._add(lambda: job(self.session()))

    def _add(self, call: Callable[[], Result]) -> Future[Result]:
        future = self._thread.submit(call)
        self._futures.append(future)
        return future

    def end(self) -> None:
        """Cancel what has not begun, and end the JVM if a call to it is in progress."""
        for future in self._futures:
            future.cancel()  # unless it has begun
        if not all(future.done() for future in self._futures):
            _kill_jvm()
        # A JVM that starts is waited for. A step of numpy is, too, but by the interpreter's exit.
        wait(self._futures[:2])
        self._thread.shutdown(wait=False)


@contextmanager
def spark_session(settings: Settings, name: str, *, brief: bool = False) -> Iterator[SparkThread]:
    """Start a Spark session of an application ``name``; end its JVM and remove its files after.

    It starts in the thread that is yielded. ``brief`` is for jobs of seconds.
    ConfigurationError if Spark does not start; SparkError for PySpark's errors.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        raise ConfigurationError(
            "this was started by spark-submit, but starts Spark itself; run it with python, and "
            "name a cluster by SPARK_MASTER"
        )
    _check_version()
    find_java()
    advise_lapack()
    settings.make_folder(settings.work_dir)
    _remove_abandoned(settings.work_dir)
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=settings.work_dir.resolve()))
    lock = _lock(scratch)
    # Executors must start the Python that runs this, with its packages.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if locale.getencoding().lower() != "utf-8":  # else Java cannot open a folder with an accent
        os.environ["LC_ALL"] = "C.UTF-8"
    thread = SparkThread()
    try:
        conf = _conf(settings.spark, name, scratch, brief=brief)
        # By SIGKILL: after SIGTERM, Spark logs each call that it can no longer answer.
        with call_on_stop(_kill_jvm), spark_errors():
            with signals_deferred():  # else a stop between them would wait for the whole start
                thread.start(conf, settings, scratch)
            yield thread
            thread.session().stop()
            _kill_jvm()  # it has nothing to do but to end, which takes half a second
    finally:
        with signals_deferred():  # else a first stop here would leave the folder
            thread.end()
            _end_jvm()
            shutil.rmtree(scratch, ignore_errors=True)
            lock.close()


def _check_version() -> None:
    """Raise ConfigurationError if PYTHONPATH or SPARK_HOME leads to another version of Spark."""
    if tuple(map(int, pyspark.__version__.split(".")[:2])) < (4, 1):
        raise ConfigurationError(
            f"PySpark {pyspark.__version__} of {Path(pyspark.__file__).parent} is too old, "
            "expected 4.1 or later; remove another Spark's folder from PYTHONPATH"
        )
    home = os.environ.get("SPARK_HOME")
    if home and not [*Path(home).glob(f"jars/spark-core_*-{pyspark.__version__}.jar")]:
        raise ConfigurationError(
            f"SPARK_HOME={home} holds no Spark {pyspark.__version__}, as PySpark needs; unset it"
        )


def _start(launch: Future[None], conf: SparkConf, settings: Settings, folder: Path) -> SparkSession:
    """Start Spark in the JVM, once that is launched."""

    def not_started(text: str) -> RecommenderError:
        if _NO_SPACE in text:
            return ConfigurationError(_NO_SPACE_ADVICE)
        if ended := _jvm_ended():
            return ended
        names = [name for name in _SPARKS_OWN if name in os.environ]
        advice = f"; it also reads {', '.join(names)}: unset what is left over" if names else ""
        return ConfigurationError(
            f"Spark does not start with SPARK_MASTER={settings.spark.master} and WORK_DIR="
            f"{settings.work_dir}: {one_line(text)}{advice}"
        )

    with spark_errors(not_started):
        launch.result()
        context: Any = SparkContext(conf=conf)
        # We have no accumulators; their server would print that a stop ended the JVM.
        context._accumulatorServer.handle_error = lambda *_: None
        _warn_if_open(context.getConf())
        spark = SparkSession.builder.config(conf=conf).getOrCreate()
        # Long lineages overflow the JVM's stack; ALS cuts them at checkpoints.
        checkpoints = settings.spark.checkpoint_dir or f"file://{folder}/checkpoints"
        spark.sparkContext.setCheckpointDir(checkpoints)
        spark.sparkContext.addPyFile(str(_zip_package(folder)))
        return spark


def _warn_if_open(conf: SparkConf) -> None:
    """Log a warning if others on the network can read what Spark's processes exchange."""
    if conf.get("spark.authenticate") != "true":
        log.warning("Spark's connections have no secret, others can read them: docs/operations.md")


def _failure(text: str) -> RecommenderError:
    """Return the error for the text of a Spark error, such as one of ours raised in an executor."""
    log.error("Spark failed: %s", text)
    if ended := _jvm_ended():
        return ended
    for kind in (errors.DatabaseUnavailableError, errors.DataError, ConfigurationError):
        if ours := re.search(rf"{kind.__module__}\.{kind.__name__}: (.*)", text):
            return kind(ours[1])
    if _NO_SPACE in text:
        return ConfigurationError(_NO_SPACE_ADVICE)
    return SparkError(f"Spark failed: {one_line(text, limit=300)}; the log has more")


@contextmanager
def spark_errors(ours: Callable[[str], RecommenderError] = _failure) -> Iterator[None]:
    """Raise ``ours`` of an error's text for PySpark's errors, or the stop that caused them.

    A stop can end in any error: PySpark's clean-up reads the answer to the call that it cut short.
    """
    try:
        yield
    except Exception as error:
        if stop := stop_behind(error):
            raise stop from None
        if not isinstance(error, _SPARK_ERRORS):
            raise
        try:
            text = str(error)
        except Exception:  # the JVM that has the text is gone
            text = type(error).__name__
        raise ours(text) from None


def _jvm() -> subprocess.Popen[bytes]:
    gateway: Any = SparkContext._gateway
    return cast("subprocess.Popen[bytes]", gateway.proc)


def _jvm_ended() -> SparkError | None:
    """Return the error of a JVM that has ended; None if there is none, or it runs."""
    if not SparkContext._gateway:
        return None
    with suppress(subprocess.TimeoutExpired):
        code = _jvm().wait(_JVM_LAST_WORDS_SECONDS)
        return SparkError(
            f"Spark's JVM ended with code {code}, perhaps for lack of memory; nothing more was "
            "published; set SPARK_DRIVER_MEMORY"
        )
    return None


def _kill_jvm() -> None:
    if SparkContext._gateway:
        _jvm().kill()


def _lock(folder: Path) -> IO[str]:
    """Return the folder's lock file, locked until it is closed or this process dies."""
    file = (folder / "unlocked").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    (folder / "unlocked").rename(folder / _LOCK)  # it appears locked
    return file


def _remove_abandoned(work_dir: Path) -> None:
    """Remove the folders of killed trainings, also in other containers: their locks are free."""
    for folder in work_dir.glob(f"{_SCRATCH}*/"):
        with suppress(OSError):  # locked, not ours to open, or just removed by its owner
            if (folder / _LOCK).exists():
                with (folder / _LOCK).open("r+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif time.time() - folder.stat().st_mtime <= _UNLOCKED_SECONDS:
                continue
            shutil.rmtree(folder, ignore_errors=True)


def driver_memory(spark: SparkSettings) -> str:
    """Return the driver's heap: as set, else the default, or less where memory is short."""
    if "driver_memory" in spark.model_fields_set:
        return spark.driver_memory
    limit_mib = memory_limit() // 2**20
    # What is beside the heap needs 40 % of the memory.
    fits = max(min(limit_mib * 6 // 10, limit_mib - BESIDE_HEAP_MIB), 512)
    wanted = 2**10 * int(spark.driver_memory.removesuffix("g"))
    if fits >= wanted:
        return spark.driver_memory
    log.info("the Spark driver gets %d MiB, as the machine has no room for %d", fits, wanted)
    return f"{fits}m"


def memory_limit() -> int:
    """Return the bytes of memory for this process: the least limit of machine and cgroups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    own = _OWN_CGROUPS.read_text() if _OWN_CGROUPS.exists() else ""
    # A line of version 2 names no controller; version 1 has one tree for each.
    for controller, path in re.findall(r"^\d+:(|memory):/(.*)$", own, re.MULTILINE):
        group = _CGROUPS / controller / path
        for folder in (group, *group.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # "max" is no limit
                    limits.append(int((folder / name).read_text()))
    return min(limits)


def is_local(spark: SparkSettings) -> bool:
    """Return true if Spark has no processes but its JVM and the workers that this starts."""
    return re.match(r"local(\[|$)", spark.master) is not None


def _conf(spark: SparkSettings, name: str, scratch: Path, *, brief: bool) -> SparkConf:
    by_hand = " ".join(os.environ.get(variable, "") for variable in _OPTION_VARIABLES)
    options = _JAVA_OPTIONS | (_BRIEF_OPTIONS if brief else {})
    java = [option for option, chosen in options.items() if not re.search(chosen, by_hand)]
    java += [f'"-Djava.io.tmpdir={scratch}"', f"-Dlog4j2.configurationFile={_LOG_CONFIG.as_uri()}"]
    conf = {
        "spark.driver.memory": driver_memory(spark),
        "spark.executor.memory": spark.executor_memory,
        "spark.executor.cores": spark.executor_cores,
        "spark.sql.shuffle.partitions": spark.shuffle_partitions,
        "spark.local.dir": scratch,
        "spark.sql.warehouse.dir": f"file://{scratch}/warehouse",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.driver.extraJavaOptions": " ".join(java),
        "spark.executor.defaultJavaOptions": _STACK,  # the extra ones, a cluster's own, win
        "spark.driver.maxResultSize": "0",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if not spark.master.startswith("spark://"):  # there, all must share one secret
        conf |= {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}
    if is_local(spark):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    named = SparkConf().setAppName(name).setMaster(spark.master)
    return named.setAll([(key, str(value)) for key, value in conf.items()])


def _zip_package(scratch: Path) -> Path:
    """Zip the modules that executors import, as these run in another folder or machine."""
    archive = scratch / "recommender.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for module in (*sorted(_PACKAGE.rglob("*.py")), _PACKAGE.parent / "dists.py"):
            bundle.write(module, module.relative_to(_PACKAGE.parent))
    return archive


def _end_jvm() -> None:
    """End Spark's JVM without a call: the answer to a call cut short may be in the connection."""
    gateway = SparkContext._gateway
    SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
    if gateway is None:
        return
    process = gateway.proc
    if process.stdin is not None:
        process.stdin.close()  # the JVM ends with its standard input
    process.terminate()
    try:
        process.wait(_JVM_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    gateway.close()
