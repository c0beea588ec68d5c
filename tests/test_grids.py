"""What can be tuned, and how a grid is asked for."""

from __future__ import annotations

import pytest

from recommender.grids import (
    BASELINE,
    PREFERENCE,
    RATING,
    TUNABLE,
    parameters_of,
    read_grid,
    told,
    valid,
)
from recommender.settings import Settings, load_settings

pytestmark = pytest.mark.usefixtures("clean_environment")
BY_RATING = {"als_objective": "rating"}


def test_by_default_every_search_has_a_grid_that_holds_the_defaults() -> None:
    settings = load_settings()
    axes = read_grid([], settings)
    assert list(axes) == ["baseline", "rating", "preference"]
    for search in (BASELINE, RATING, PREFERENCE):
        now = parameters_of(search, settings)
        assert all(now[name] in (None, *values) for name, values in axes[search.name].items())
        assert all(valid(n, v) == v for n, values in search.grid.items() for v in values)


def test_what_is_asked_for_is_all_that_is_tried() -> None:
    axes = read_grid(["ALS_ALPHA=5,20,5", " als_preference_rank = 8 , 16"], load_settings())
    assert axes == {
        "baseline": {},
        "rating": {},
        "preference": {"als_alpha": (5.0, 20.0), "als_preference_rank": (8, 16)},
    }


@pytest.mark.parametrize(
    ("texts", "told_of"),
    [
        (["ALS_TOP_N=3"], "with one of ALS_USER_WEIGHT"),
        (["=3"], "expected NAME=value"),
        (["ALS_ALPHA"], "expected ALS_ALPHA=value"),
        (["ALS_ALPHA=1,,2"], "expected ALS_ALPHA=value"),
        (["ALS_ALPHA=-1"], "ALS_ALPHA='-1': Input should be greater than 0"),
        (["ALS_ALPHA=nan"], "finite"),
        (["ALS_RANK=1.5"], "ALS_RANK='1.5'"),
        (["ALS_ALPHA=1", "ALS_ALPHA=2"], "ALS_ALPHA twice"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(texts: list[str], told_of: str) -> None:
    with pytest.raises(ValueError, match=told_of):
        read_grid(texts, load_settings())


def test_where_ratings_rank_there_is_no_baseline_and_no_preference_to_search_for() -> None:
    settings = load_settings(**BY_RATING)
    assert list(read_grid([], settings)) == ["rating"]
    with pytest.raises(ValueError, match="ALS_ALPHA does nothing with ALS_OBJECTIVE=rating"):
        read_grid(["ALS_ALPHA=5"], settings)


def test_the_preferences_iterations_are_als_max_iter_unless_set() -> None:
    name = "als_preference_max_iter"
    assert parameters_of(PREFERENCE, load_settings(als_max_iter=7))[name] == 7
    both = load_settings(als_max_iter=7, als_preference_max_iter=3)
    assert parameters_of(PREFERENCE, both)[name] == 3


def test_the_rating_is_tuned_with_the_baseline_below_it() -> None:
    assert set(parameters_of(RATING, load_settings())) == {*BASELINE.grid, *RATING.grid}


def test_what_can_be_tuned_and_what_decides_are_settings() -> None:
    decides = {name for s in (BASELINE, RATING, PREFERENCE) for name in s.decided_by}
    assert {*TUNABLE, *decides} <= set(Settings.model_fields)


def test_parameters_are_told_as_one_would_set_them() -> None:
    assert told({"als_rank": 5, "als_reg_param": 0.30}) == "ALS_RANK=5 ALS_REG_PARAM=0.3"
    assert told({"als_half_life_days": None}) == "ALS_HALF_LIFE_DAYS=unset"
