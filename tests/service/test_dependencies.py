"""What routes share."""

import subprocess
import sys

from tests.support import PROJECT


def test_each_module_of_routes_has_the_convertor_of_ids_by_itself() -> None:
    program = "import recommender.service.{}"
    for name in ("routes_catalog", "routes_pages", "routes_recommendations"):
        command = [sys.executable, "-c", program.format(name)]
        subprocess.run(command, cwd=PROJECT, check=True)
