"""Finds what Spark runs on; ``python -m recommender.spark.java --install`` installs it.

That is Java and, though Spark does without, a LAPACK: ALS of many factors takes half the time with
it. Spark finds it by itself.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from ctypes.util import find_library
from functools import lru_cache
from pathlib import Path

from recommender.core.errors import ConfigurationError

SUPPORTED = (17, 21)
# Where people give options to any Java that starts.
OPTION_VARIABLES = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
DEBIAN_PACKAGE = "openjdk-17-jre-headless"
# Of OpenBLAS's builds the one for programs that have threads enough, as Spark has.
LAPACK_PACKAGE = "libopenblas0-serial"

_ADVICE = (
    f"Spark needs Java {SUPPORTED[0]} or {SUPPORTED[1]}: install it (Debian and Ubuntu: "
    f"apt-get install {DEBIAN_PACKAGE}) or set JAVA_HOME to one"
)


def find_java() -> Path:
    """Return the ``java`` program that Spark will start: JAVA_HOME's, else the one on PATH.

    Raises
    ------
    ConfigurationError
        If there is none, it does not start, or is of a version that Spark does not run on.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if not found or not Path(found).is_file():
        raise ConfigurationError(f"no Java found at {found or 'PATH'}. {_ADVICE}")
    version = _major_version(found)
    if version not in SUPPORTED:
        raise ConfigurationError(f"{found} is Java {version}. {_ADVICE}")
    return Path(found)


@lru_cache
def _major_version(java: str) -> int:
    command = [java, "-XX:-UsePerfData", "-version"]  # nothing goes to /tmp
    try:
        shown = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ConfigurationError(f"{java} does not start: {error}. {_ADVICE}") from None
    match = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    if shown.returncode or not match:
        # What it said is not quoted: it may repeat its options, and these a password.
        options = ", ".join(name for name in OPTION_VARIABLES if os.environ.get(name)) or "none"
        raise ConfigurationError(
            f"`{java} -version` ended with {shown.returncode} and without a version that can be "
            f"read; run it to see why (variables with options for it that are set: {options}). "
            f"{_ADVICE}"
        )
    return int(match[1])


def has_lapack() -> bool:
    """Say whether there is a LAPACK on this machine that Spark can load."""
    return find_library("lapack") is not None


def install() -> None:
    """Install Debian's headless Java and OpenBLAS, where this is Debian and we are root.

    Raises
    ------
    ConfigurationError
        If we may not or cannot; it says what to install.
    """
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ConfigurationError(_ADVICE)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    packages = [DEBIAN_PACKAGE, LAPACK_PACKAGE]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "--quiet", *command], env=environment, check=False)
        if done.returncode:
            raise ConfigurationError(
                f"apt-get {command[0]} ended with {done.returncode}. {_ADVICE}"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Say which Java Spark will use, after installing one where asked to and none is there."""
    parser = argparse.ArgumentParser(prog="python -m recommender.spark.java", description=__doc__)
    parser.add_argument("--install", action="store_true", help="install one if there is none")
    arguments = parser.parse_args(argv)
    try:
        java = find_java()
    except ConfigurationError:
        if not arguments.install:
            raise
        install()
        java = find_java()
    sys.stdout.write(f"Java: {java}\n")
    return 0


if __name__ == "__main__":
    from recommender.core.script import run_script

    raise SystemExit(run_script(main))
