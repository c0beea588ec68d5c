"""Java is found, judged by its version, and installed only where that is asked for."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recommender.core.errors import ConfigurationError
from recommender.demo.commands import PROJECT
from recommender.spark import java
from recommender.spark.java import find_java, main

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


def java_of(home: Path, version: str) -> Path:
    """Make a stand-in of Java that says its version as the real one does, on stderr."""
    return program(home / "bin" / "java", f"echo '{version}' >&2")


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the PATH."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


@pytest.mark.parametrize(("said", "version"), VERSIONS.items())
def test_java_is_taken_at_its_word_and_only_17_and_21_will_do(
    said: str, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = java_of(tmp_path, said)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if version in {17, 21}:
        assert find_java() == found
        return
    with pytest.raises(ConfigurationError, match=r"Spark needs Java 17 or 21") as caught:
        find_java()
    assert f"{found} is Java {version}." in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_java_that_does_not_say_its_version_or_does_not_start_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = java_of(tmp_path, "no word of it")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"-version` ended with 0 and without a version"):
        find_java()
    found.write_text("no program")
    with pytest.raises(ConfigurationError, match=rf"{found} does not start: .*Spark needs Java"):
        find_java()


@pytest.mark.parametrize("name", java.OPTION_VARIABLES)
def test_options_that_java_cannot_start_with_are_hinted_at_but_not_repeated(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    java._major_version.cache_clear()
    for other in java.OPTION_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "-Dpassword=of two s3cret words -XX:+NoSuchOption")
    with pytest.raises(ConfigurationError, match=rf"ended with 1 .* are set: {name}\)") as caught:
        find_java()
    assert "s3cret" not in str(caught.value)


def test_java_home_wins_over_the_path(
    no_java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(no_java / "java", "echo 'version \"17\"'")
    home = java_of(tmp_path / "home", 'version "21.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == home


def test_a_java_home_without_java_is_not_passed_over(
    no_java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(no_java / "java", "echo 'version \"17\"'")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=rf"no Java found at {tmp_path}/bin/java"):
        find_java()


def test_else_java_is_the_one_on_the_path(no_java: Path) -> None:
    on_path = program(no_java / "java", "echo 'version \"17.0.1\"'")
    assert find_java() == on_path


@pytest.mark.usefixtures("no_java")
def test_no_java_at_all_says_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match=r"no Java found at PATH\..*openjdk-17") as caught:
        main([])
    assert "JAVA_HOME" in str(caught.value)


def test_the_java_found_is_told(no_java: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_path = program(no_java / "java", "echo 'version \"17.0.1\"'")
    assert main(["--install"]) == 0
    assert capsys.readouterr().out == f"Java: {on_path}\n"


def test_installing_asks_the_package_manager_and_looks_again(
    no_java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program(
        no_java / "apt-get",
        f"echo \"$DEBIAN_FRONTEND $*\" >> {asked}; echo '#!/bin/sh' > {no_java}/java;"
        f"echo 'echo version \\\\\"17\\\\\"' >> {no_java}/java; /bin/chmod +x {no_java}/java",
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["--install"]) == 0
    assert asked.read_text().splitlines() == [
        "noninteractive --quiet update",
        "noninteractive --quiet install --yes --no-install-recommends "
        "openjdk-17-jre-headless libopenblas0-serial",
    ]


def test_a_failed_installation_is_told(no_java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(no_java / "apt-get", '[ "$2" = update ] || exit 100')
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigurationError, match="apt-get install ended with 100"):
        main(["--install"])


def test_only_root_installs(no_java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(no_java / "apt-get", "exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError, match=r"^Spark needs Java"):
        main(["--install"])


@pytest.mark.usefixtures("no_java")
def test_where_there_is_no_apt_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigurationError, match=r"^Spark needs Java"):
        java.install()


@pytest.mark.usefixtures("no_java")
def test_the_command_ends_with_the_code_for_a_lack_of_java() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recommender.spark.java"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.startswith("error: no Java found")


def test_a_lapack_is_found_if_one_can_be_loaded() -> None:
    try:
        ctypes.CDLL("liblapack.so.3")
    except OSError:
        assert not java.has_lapack()
    else:
        assert java.has_lapack()


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_java_that_cannot_be_run_is_a_configuration_error(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("no program")
    (tmp_path / "bin" / "java").chmod(mode)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError):
        find_java()
