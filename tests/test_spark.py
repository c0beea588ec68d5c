"""What Spark leaves behind where it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from recommender import spark


def test_folders_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        f"spark-{ended.pid}-a": False,  # nobody has this number any more
        f"spark-{os.getpid()}-b": False,  # of who had ours before, as in another container
        f"spark-{os.getppid()}-c": True,
        "spark-events": True,
    }
    for name in names:
        (tmp_path / name).mkdir()
    spark._sweep(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names
