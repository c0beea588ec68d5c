"""The report of a search: its table, its lines for ``.env``, and its chart."""

from pathlib import Path
from typing import Any

import pytest

from recommender.als.tuning.report import env_lines, print_search
from recommender.core.settings import load_settings


def row(
    mean: float, alpha: float | None, reg: float, *, in_force: bool = False, deviation: Any = 0.01
) -> dict[str, Any]:
    parameters = {"als_alpha": alpha, "als_preference_reg_param": reg, "als_max_iter": 10}
    figures = {"mean": mean, "deviation": deviation, "seconds": 3.0}
    return {"parameters": parameters, "in_force": in_force, **figures}


def entry(*table: dict[str, Any], candidates: int = 5) -> dict[str, Any]:
    failed = {"parameters": {"als_alpha": 5.0}, "reason": "not finite"}
    return {"measure": "NDCG", "candidates": candidates, "table": table, "failed": [failed]}


def test_the_table_has_the_best_first_then_the_failed_and_the_count_of_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = [row(0.305, 20.0, 4.0), row(0.15, None, 2.0, in_force=True, deviation=None)]
    print_search("preference", entry(*table))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["0.3050", "0.0100", "3.0", "20", "4", "10"]
    *figures, in_force = lines[3].split(maxsplit=6)
    assert figures == ["0.1500", "none", "3.0", "unset", "2", "10"]
    assert [line.endswith(in_force) for line in lines] == [i == 3 for i in range(6)]
    assert lines[5].split() == ["ALS_ALPHA=5", "not", "finite"]
    assert "2 of 5" in lines[0]
    print_search("preference", entry(candidates=1))
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.usefixtures("clean_environment")
def test_the_env_lines_set_the_searched_parameters_to_the_best_values() -> None:
    entries = [entry(row(0.3, None, 0.1 + 0.2), row(0.2, 20.0, 4.0)), entry()]
    lines = env_lines(entries, ["als_alpha", "als_preference_reg_param"])
    Path(".env").write_text("\n".join(["ALS_ALPHA=7", *lines]))
    settings = load_settings()
    assert settings.als.alpha is None
    assert settings.als.preference_reg_param == pytest.approx(0.3)
    assert len(lines) == 2
    assert env_lines([entry()], ["als_alpha"]) == []
