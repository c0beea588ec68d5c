"""Finds the Java and the LAPACK that Spark runs on."""

import logging
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

SUPPORTED = (17, 21, 25)
OPTION_VARIABLES = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")  # of any Java
JAVA_PACKAGE = "openjdk-17-jre-headless"
LAPACK_PACKAGE = "libopenblas0-serial"  # for programs that start threads themselves, as Spark does
_ADVICE = (
    f"Spark needs a Java of version {', '.join(map(str, SUPPORTED))}: install it (Debian: "
    f"apt-get install {JAVA_PACKAGE}) or set JAVA_HOME to one"
)

log = logging.getLogger(__name__)


def find_java() -> Path:
    """Return the ``java`` of JAVA_HOME, else PATH; ConfigurationError if Spark cannot run on it."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if not java or not Path(java).is_file():
        raise ConfigurationError(f"no Java found at {java or 'PATH'}. {_ADVICE}")
    version = java_version(java)
    if version not in SUPPORTED:
        raise ConfigurationError(f"{java} is Java {version}. {_ADVICE}")
    return Path(java)


@lru_cache
def java_version(java: str) -> int:
    """Return the major version of a ``java`` program; ConfigurationError if it does not start."""
    command = [java, "-XX:-UsePerfData", "-version"]  # writes nothing to /tmp
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise ConfigurationError(f"{java} does not start: {error}. {_ADVICE}") from None
    version = re.search(rb'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if done.returncode or not version:
        # The output is not quoted: it may repeat Java's options, and these a password.
        options = ", ".join(name for name in OPTION_VARIABLES if os.environ.get(name)) or "none"
        raise ConfigurationError(
            f"`{java} -version` ended with {done.returncode} and no version that can be read; run "
            f"it to see why (variables set that hold options for it: {options}). {_ADVICE}"
        )
    return int(version[1])


def advise_lapack() -> None:
    """Log the command that installs a LAPACK, if Spark can load none."""
    if not find_library("lapack"):
        log.info("ALS would be faster with a LAPACK (Debian: apt-get install %s)", LAPACK_PACKAGE)


def main(_: Sequence[str] | None = None) -> int:
    """Print which Java Spark will use."""
    sys.stdout.write(f"Java: {find_java()}\n")
    return 0


if __name__ == "__main__":
    from recommender.core.script import run_script

    raise SystemExit(run_script(main))
