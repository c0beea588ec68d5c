"""Entry of ``python -m recommender.demo``."""

from recommender.core.script import run_script
from recommender.demo.commands import main

if __name__ == "__main__":
    raise SystemExit(run_script(main))
