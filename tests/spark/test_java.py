"""The search for Java and a LAPACK, and the check of Java's version."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recommender.core.errors import ConfigurationError
from recommender.demo.commands import PROJECT
from recommender.spark import java
from recommender.spark.java import find_java

VERSIONS = {
    'openjdk version "17.0.13" 2024-10-15': 17,
    'openjdk version "21" 2023-09-19': 21,
    'openjdk version "21-ea" 2023-09-19': 21,
    'java version "1.8.0_202"': 8,
    'openjdk version "11.0.2" 2019-01-15': 11,
    'openjdk version "170.0.1"': 170,
}


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def java_of(folder: Path, output: str) -> Path:
    """Make a stand-in of Java that prints its version on stderr, as the real one does."""
    return program(folder / "java", f"echo '{output}' >&2")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the PATH, and no JAVA_HOME."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def test_supported_versions_of_java_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (output, version) in enumerate(VERSIONS.items()):
        home = tmp_path / str(number)
        monkeypatch.setenv("JAVA_HOME", str(home))
        expected = java_of(home / "bin", output)
        if version in {17, 21, 25}:
            assert find_java() == expected
        else:
            with pytest.raises(ConfigurationError):
                find_java()


def test_a_java_without_a_version_or_that_does_not_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    broken = java_of(tmp_path / "bin", "no version")
    with pytest.raises(ConfigurationError):
        find_java()
    broken.write_text("no program")
    for mode in (0o644, 0o755):
        broken.chmod(mode)
        with pytest.raises(ConfigurationError):
            find_java()


def test_options_that_stop_java_are_named_but_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in java.OPTION_VARIABLES:
        java.java_version.cache_clear()
        with monkeypatch.context() as patch:
            for other in java.OPTION_VARIABLES:
                patch.delenv(other, raising=False)
            patch.setenv(name, "-Dpassword=of two s3cret words -XX:+NoSuchOption")
            with pytest.raises(ConfigurationError) as caught:
                find_java()
            assert re.findall(r"\w*JAVA\w*OPTIONS", str(caught.value)) == [name]
            assert "s3cret" not in str(caught.value)


def test_java_home_wins_over_the_path(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = java_of(path, 'version "17"')
    assert find_java() == on_path
    at_home = java_of(tmp_path / "home" / "bin", 'version "21.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == at_home
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError):
        find_java()


def test_a_missing_lapack_is_advised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for library in (None, "liblapack.so.3"):
        monkeypatch.setattr(java, "find_library", lambda _, library=library: library)
        java.advise_lapack()
    assert [java.LAPACK_PACKAGE in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.usefixtures("path")
def test_without_java_the_command_ends_with_78() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recommender.spark.java"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert re.match("error: .* PATH", done.stderr)
    assert java.JAVA_PACKAGE in done.stderr
