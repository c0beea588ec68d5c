"""The search space, and how ``--grid`` selects from it."""

import pytest

from recommender.als.tuning.space import DEPENDS_ON, SEARCHES, parse_grid
from recommender.core.settings import load_settings

pytestmark = pytest.mark.usefixtures("clean_environment")
OBJECTIVES = ("preference", "rating")


def test_the_default_grids_are_valid_and_include_the_defaults() -> None:
    settings = load_settings().public()
    for objective in OBJECTIVES:
        for name, values in parse_grid([], objective).items():
            assert settings[name] in (None, *values)
            texts = ",".join(str(value) for value in values)
            assert parse_grid([f"{name}={texts}"], objective) == {name: values}


def test_every_parameter_and_dependency_is_a_setting() -> None:
    settings = load_settings().public()
    assert {*DEPENDS_ON} <= settings.keys()
    for search in (search for searches in SEARCHES.values() for search in searches):
        assert {*search.grid} <= settings.keys()


def test_a_grid_replaces_the_defaults() -> None:
    axes = parse_grid(["ALS_ALPHA=5,20,5", " als_preference_rank = 8 , 16"], "preference")
    assert axes == {"als_alpha": (5.0, 20.0), "als_preference_rank": (8, 16)}


def test_an_invalid_grid_is_refused_by_the_name_of_the_setting() -> None:
    for text in ("ALS_ALPHA", "ALS_ALPHA=1,,2", "ALS_ALPHA=-1", "ALS_ALPHA=nan", "ALS_RANK=1.5"):
        with pytest.raises(ValueError, match=text[:8]):
            parse_grid([text], "preference")
    for texts in (["ALS_TOP_N=3"], ["=3"], ["ALS_ALPHA=1", "ALS_ALPHA=2"]):
        with pytest.raises(ValueError, match="ALS_ALPHA"):
            parse_grid(texts, "preference")
    with pytest.raises(ValueError, match="ALS_OBJECTIVE=rating"):
        parse_grid(["ALS_ALPHA=5"], "rating")
