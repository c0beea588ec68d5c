"""The home that Spark starts from, and what it leaves behind and says where it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from recommender.core.errors import ConfigurationError, SparkError
from recommender.core.settings import load_settings
from recommender.core.signals import Cancelled
from recommender.spark import session as spark
from recommender.spark.java import find_java
from tests.support import PROJECT

HOLDS_A_FOLDER = """
import sys, threading
from pathlib import Path
from typing import Any
from recommender.spark import session as spark
lock = spark._lock(Path(sys.argv[1]))
print("locked", flush=True)
threading.Event().wait(60)
"""


def test_scratch_of_a_killed_training_is_removed_and_of_a_living_one_kept(tmp_path: Path) -> None:
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
        spark._sweep(tmp_path)
        assert set(tmp_path.iterdir()) == {folder, fresh, other}
        owner.kill()
    spark._sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {fresh, other}


def test_a_stack_and_a_collector_chosen_by_hand_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in spark._OPTION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert _jvm_starts_with(spark._java_options())
    for name in spark._OPTION_VARIABLES:
        with monkeypatch.context() as by_hand:
            by_hand.setenv(name, "-Xmx64m -XX:+UseSerialGC")
            assert spark._java_options() == "-Xss4m"
            by_hand.setenv(name, "-Xss16m -XX:+UseStringDeduplication")
            assert spark._java_options() == "-XX:+UseParallelGC"


def _jvm_starts_with(options: str) -> bool:
    command = [str(find_java()), "-XX:-UsePerfData", *options.split(), "-version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", [Py4JError, KeyError])
def test_a_stop_is_not_taken_for_the_failure_of_spark_that_it_causes(kind: type) -> None:
    """PySpark asks a JVM for its result in a ``finally``, even where that JVM has been stopped."""

    def collect() -> None:
        try:
            raise Cancelled(signal.SIGTERM)
        finally:
            try:
                raise KeyError("the answer to another question")
            except KeyError as error:
                raise kind("converted") from error

    with pytest.raises(Cancelled, match="stopped by SIGTERM"), spark.errors_that_last():
        collect()


def test_an_error_that_is_neither_sparks_nor_a_stops_stays_what_it_is() -> None:
    with pytest.raises(KeyError, match="ours"), spark.errors_that_last():
        raise KeyError("ours")


def test_what_spark_submit_started_is_told_to_start_by_python(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    told = "started by spark-submit"
    with pytest.raises(ConfigurationError, match=told), spark.spark_session(load_settings(), "x"):
        pass


def test_a_jvm_that_is_gone_by_the_end_is_a_failure_of_spark(
    clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def stop(self) -> None:
            raise Py4JError("nobody answers")

    jvm = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    stand_ins = {"_start": lambda *_: Session(), "_jvm": lambda: jvm, "_end_jvm": lambda: None}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(spark, name, stand_in)
    told = "JVM ended with code 3"
    with pytest.raises(SparkError, match=told), spark.spark_session(load_settings(), "test"):
        jvm.wait()


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
