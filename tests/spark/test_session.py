"""The Spark session: its Java and memory, its clean-up, and its errors and stops."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyspark
import pytest
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from recommender.core.errors import ConfigurationError, SparkError
from recommender.core.settings import Settings, load_settings
from recommender.core.signals import Cancelled
from recommender.spark import session as spark
from recommender.spark.java import find_java
from tests.support import PROJECT, environment

HOLDS_A_FOLDER = """
import sys, threading
from pathlib import Path
from typing import Any
from recommender.spark import session as spark
lock = spark._lock(Path(sys.argv[1]))
print("locked", flush=True)
threading.Event().wait(60)
"""


def test_the_scratch_folders_of_killed_trainings_are_removed(tmp_path: Path) -> None:
    names = ("spark-scratch-1", "spark-scratch-2", "spark-scratch-3", "spark-events")
    folder, fresh, old, other = (tmp_path / name for name in names)
    for path in (folder, fresh, old, other):
        path.mkdir()
        if path != fresh:
            os.utime(path, (0, 0))
    command = [sys.executable, "-c", HOLDS_A_FOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "locked\n"
        spark._remove_abandoned(tmp_path)
        assert set(tmp_path.iterdir()) == {folder, fresh, other}
        owner.kill()
    spark._remove_abandoned(tmp_path)
    assert set(tmp_path.iterdir()) == {fresh, other}


@pytest.fixture
def java_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """The driver's options for Java, with options of an environment variable."""
    for name in spark._OPTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def options(
        name: str = "JAVA_TOOL_OPTIONS", by_hand: str = "", *, brief: bool = False
    ) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setenv(name, by_hand)
            conf = spark._conf(load_settings().spark, "test", tmp_path, brief=brief)
        text = conf.get("spark.driver.extraJavaOptions")
        assert text
        return [option for option in text.split() if option.startswith("-X")]

    return options


@pytest.mark.usefixtures("clean_environment")
def test_a_stack_and_a_collector_chosen_by_hand_stay(
    java_options: Callable[..., list[str]],
) -> None:
    command = [str(find_java()), "-XX:-UsePerfData", *java_options(), "-version"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    for name in spark._OPTION_VARIABLES:
        assert java_options(name, "-Xmx64m -XX:+UseSerialGC") == ["-Xss4m"]
        assert java_options(name, "-Xss16m -XX:+UseStringDeduplication") == ["-XX:+UseParallelGC"]


@pytest.mark.usefixtures("clean_environment")
def test_a_brief_session_has_one_compiler_unless_set_by_hand(
    java_options: Callable[..., list[str]],
) -> None:
    first_alone = "-XX:TieredStopAtLevel=1"
    assert first_alone in java_options(brief=True)
    assert first_alone not in java_options()
    assert first_alone not in java_options(by_hand="-XX:TieredStopAtLevel=4", brief=True)


@pytest.mark.usefixtures("clean_environment")
def test_the_default_heap_shrinks_with_the_memory_and_one_set_by_hand_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for gib, heap in ((64, "8g"), (10, "6144m"), (2, "768m"), (1, "512m")):
        monkeypatch.setattr(spark, "memory_limit", lambda gib=gib: gib * 2**30)
        assert spark.driver_memory(load_settings().spark) == heap
        assert spark.driver_memory(load_settings(spark_driver_memory="8g").spark) == "8g"


def test_the_memory_limit_is_the_least_of_the_nested_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    monkeypatch.setattr(spark, "_OWN_CGROUPS", own)
    monkeypatch.setattr(spark, "_CGROUPS", groups)
    machine = spark.memory_limit()
    limits = {
        "memory.max": 7 * 2**20,
        "pod/memory.max": 5 * 2**20,
        "pod/job/memory.max": 6 * 2**20,
        "memory/slice/memory.limit_in_bytes": 4 * 2**20,
        "memory/slice/job/memory.limit_in_bytes": machine * 2,
    }
    for name, limit in limits.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(f"{limit}\n")
    (groups / "free").mkdir()
    (groups / "free" / "memory.max").write_text("max\n")
    for line, limit in {
        "0::/": 7,
        "0::/free": 7,
        "0::/of/the/host/as/seen/in/a/container": 7,
        "0::/pod/job": 5,
        "12:cpu:/\n4:memory:/slice/job": 4,
    }.items():
        own.write_text(f"{line}\n")
        assert spark.memory_limit() == limit * 2**20


@pytest.mark.parametrize("kind", [Py4JError, KeyError])
def test_a_stop_passes_though_it_made_spark_fail(kind: type) -> None:
    """PySpark calls the JVM in a ``finally``, even if that JVM has been stopped."""

    def collect() -> None:
        try:
            raise Cancelled(signal.SIGTERM)
        finally:
            try:
                raise KeyError("the answer to another call")
            except KeyError as error:
                raise kind("converted") from error

    with pytest.raises(Cancelled) as caught, spark.spark_errors():
        collect()
    assert caught.value.exit_code == 143


def test_a_failure_before_there_is_a_jvm_is_a_spark_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparkContext, "_gateway", None)
    with pytest.raises(SparkError), spark.spark_errors():
        raise OSError("disk")


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), spark.spark_errors():
        raise KeyError("ours")


def test_a_start_by_spark_submit_is_refused(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    expected = pytest.raises(ConfigurationError)
    with expected, spark.spark_session(load_settings(), "x"):
        pass


def test_another_spark_is_named(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise OSError("no")

    def error() -> str:
        expected = pytest.raises(ConfigurationError)
        with expected as caught, spark.spark_session(load_settings(), "x") as spark_thread:
            spark_thread.session()
        return str(caught.value)

    with monkeypatch.context() as patch:
        patch.setattr(pyspark, "__version__", "3.5.1")
        assert "PYTHONPATH" in error()
    (clean_environment / "jars").mkdir()
    (clean_environment / "jars/spark-core_2.13-3.5.1.jar").touch()
    with monkeypatch.context() as patch:
        patch.setenv("SPARK_HOME", str(clean_environment))
        assert error().startswith(f"SPARK_HOME={clean_environment} ")
    monkeypatch.setattr(SparkContext, "_ensure_initialized", fails)
    monkeypatch.setattr(spark, "_end_jvm", lambda: None)  # that of the other tests goes on
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master yarn pyspark-shell")
    assert "PYSPARK_SUBMIT_ARGS" in error()


CHECKPOINTS = """
from recommender.core.settings import load_settings
from recommender.spark.session import spark_session
with spark_session(load_settings(), "x") as spark_thread:
    numbers = spark_thread.session().sparkContext.parallelize(range(4), 1)
    numbers.checkpoint()
    print(numbers.sum(), numbers.isCheckpointed())
"""


@pytest.mark.nightly
def test_neither_hdfs_as_default_nor_the_locale_c_matters(db_settings: Settings) -> None:
    folder = db_settings.work_dir / "caf\u00e9 100%20"
    folder.mkdir()
    (folder / "core-site.xml").write_text(
        "<configuration><property><name>fs.defaultFS</name>"
        "<value>hdfs://nowhere.invalid:8020</value></property></configuration>"
    )
    more = {"HADOOP_CONF_DIR": str(folder), "LC_ALL": "C", "WORK_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", CHECKPOINTS],
        env=environment(db_settings, PYTHONPATH=str(PROJECT), **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.stdout == "6 True\n", done.stderr


def test_a_jvm_that_ended_early_is_a_spark_error(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def stop(self) -> None:
            raise Py4JError("nobody answers")

    jvm = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    stand_ins = {"_start": lambda *_: Session(), "_jvm": lambda: jvm, "_end_jvm": lambda: None}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(spark, name, stand_in)
    monkeypatch.setattr(SparkContext, "_ensure_initialized", lambda **_: None)
    monkeypatch.setattr(SparkContext, "_gateway", jvm)
    expected = pytest.raises(SparkError, match="code 3")
    with expected, spark.spark_session(load_settings(), "test"):
        jvm.wait()


def test_a_failure_beside_a_job_of_spark_ends_the_job(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, killed = threading.Event(), threading.Event()
    stand_ins = {"_start": lambda *_: None, "_kill_jvm": killed.set, "_end_jvm": lambda: None}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(spark, name, stand_in)
    monkeypatch.setattr(SparkContext, "_ensure_initialized", lambda **_: None)

    def job(_: SparkSession) -> bool:
        begun.set()
        return killed.wait(60)  # as a call to the JVM does

    with suppress(ZeroDivisionError), spark.spark_session(load_settings(), "x") as thread:
        running, waiting = thread.submit(job), thread.submit(job)
        begun.wait(60)
        raise ZeroDivisionError
    assert running.result()
    assert waiting.cancelled()


def test_no_job_begins_if_spark_has_failed_to_start(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise SparkError("no")

    monkeypatch.setattr(spark, "_start", fails)
    monkeypatch.setattr(spark, "_end_jvm", lambda: None)
    monkeypatch.setattr(SparkContext, "_ensure_initialized", lambda **_: None)
    with suppress(SparkError), spark.spark_session(load_settings(), "x") as thread:
        with suppress(SparkError):
            thread.session()
        thread.submit(lambda _: pytest.fail("it began"))
        pytest.fail("it was to begin")


STOPPED_WHILE_IT_ENDS = """
import os, signal
from pyspark import SparkContext
from recommender.core.script import run_script
from recommender.core.settings import load_settings
from recommender.spark import session as spark

def main(argv):
    with spark.spark_session(load_settings(), "x") as spark_thread:
        spark_thread.session()

class Session:
    def stop(self):
        pass

SparkContext._ensure_initialized = lambda **_: None
spark._start = lambda *_: Session()
spark._end_jvm = lambda: os.kill(os.getpid(), signal.SIGTERM)
raise SystemExit(run_script(main))
"""


def test_a_stop_while_spark_ends_leaves_no_folder(db_settings: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_WHILE_IT_ENDS],
        env=environment(db_settings, PYTHONPATH=str(PROJECT)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 143
    assert re.fullmatch("error: .*SIGTERM\n", done.stderr)
    assert list(db_settings.work_dir.iterdir()) == []


def test_a_cluster_without_a_secret_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for authenticate in ("true", "false"):
        conf = SparkConf(False).setMaster("spark://h:7077")
        spark._warn_if_open(conf.set("spark.authenticate", authenticate))
        assert len(caplog.records) == (authenticate == "false")


_RPC_REQUEST, _RPC_RESPONSE, _OPEN_BLOCKS = 3, 4, 0


def test_another_process_cannot_fetch_a_broadcast(spark: SparkSession) -> None:
    """As Spark's own client would without the secret, in Spark's network protocol."""
    broadcast = spark.sparkContext.broadcast("mongodb://user:s3cret@host/")
    piece = f"broadcast_{broadcast._jbroadcast.id()}_piece0"
    context: Any = spark._jsc
    host, port = context.sc().getExecutorMemoryStatus().keySet().head().split(":")
    names = [struct.pack(f">i{len(n)}s", len(n), n.encode()) for n in ("app", "driver", piece)]
    blocks = struct.pack(">b", _OPEN_BLOCKS) + names[0] + names[1] + struct.pack(">i", 1) + names[2]
    request = struct.pack(">bqi", _RPC_REQUEST, 7, len(blocks)) + blocks
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(struct.pack(">q", 8 + len(request)) + request)
        answer = connection.recv(9)
    assert answer[8:] != bytes([_RPC_RESPONSE])
