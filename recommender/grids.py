"""What can be tuned: the searches, the values that they try, and the settings that decide them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recommender.errors import ConfigurationError
from recommender.settings import Settings, load_settings

Parameters = dict[str, Any]
Axes = dict[str, tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Search:
    """One fit whose parameters are searched for.

    Attributes
    ----------
    name
        What is fitted.
    measure
        What its candidates are compared by.
    sign
        1 where more of the measure is better, -1 where less is.
    grid
        Its parameters, which are settings, and the values to try; none where only those count that
        are asked for.
    decided_by
        Settings that, besides the parameters, decide what a fit reaches.
    """

    name: str
    measure: str
    sign: int
    grid: Mapping[str, tuple[Any, ...]]
    decided_by: tuple[str, ...]


_SPLIT = ("seed", "rating_min", "rating_max", "als_test_fraction", "als_test_split")
_OF_RATINGS = (*_SPLIT, "als_objective", "als_cold_start_strategy")

BASELINE = Search(
    "baseline",
    "RMSE",
    -1,
    {"als_user_weight": (1.5, 3.0, 6.0), "als_restaurant_weight": (2.5, 10.0, 40.0)},
    _OF_RATINGS,
)
RATING = Search(
    "rating",
    "RMSE",
    -1,
    {"als_reg_param": (0.05, 0.1, 0.3), "als_rank": (5, 10, 20), "als_max_iter": (5, 10)},
    _OF_RATINGS,
)
PREFERENCE = Search(
    "preference",
    "NDCG",
    1,
    {
        "als_preference_reg_param": (1.0, 4.0, 12.0),
        "als_alpha": (5.0, 20.0, 60.0),
        "als_preference_rank": (32, 64),
        "als_preference_max_iter": (10, 20),
        "als_half_life_days": (),
    },
    (*_SPLIT, "als_top_n", "als_evaluate_users", "als_preference_users"),
)

TUNABLE = (*BASELINE.grid, *RATING.grid, *PREFERENCE.grid)


def read_grid(texts: Sequence[str], settings: Settings) -> dict[str, Axes]:
    """Return what to search: for each search by its name, the values of its parameters.

    Parameters
    ----------
    texts
        Each ``NAME=value,value,...``. If there are any, these alone are tried; else the default
        grids are.

    Raises
    ------
    ValueError
        If a text is not of that form, names no setting that can be tuned, or one twice, or has a
        value that the setting cannot have.
    """
    searches = (RATING,) if settings.als_objective == "rating" else (BASELINE, RATING, PREFERENCE)
    asked: Axes = {}
    for text in texts:
        name, values = _read_axis(text)
        if name in asked:
            raise ValueError(f"--grid names {name.upper()} twice; give all its values at once")
        if not any(name in search.grid for search in searches):
            raise ValueError(f"{name.upper()} does nothing with ALS_OBJECTIVE=rating; leave it out")
        asked[name] = values
    grids = {
        search.name: {
            name: asked.get(name, ()) if asked else values for name, values in search.grid.items()
        }
        for search in searches
    }
    return {name: {n: v for n, v in axes.items() if v} for name, axes in grids.items()}


def _read_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    name, equals, values = text.partition("=")
    name = name.strip().lower()
    if name not in TUNABLE:
        tunable = ", ".join(name.upper() for name in TUNABLE)
        raise ValueError(f"--grid {text!r}: expected NAME=value,value,... with one of {tunable}")
    if not equals or not all(value.strip() for value in values.split(",")):
        raise ValueError(f"--grid {text!r}: expected {name.upper()}=value,value,...")
    return name, tuple(dict.fromkeys(valid(name, value.strip()) for value in values.split(",")))


def valid(name: str, value: object) -> Any:
    """Return the value as the setting has it.

    Raises
    ------
    ValueError
        If the setting cannot have it.
    """
    try:
        return getattr(load_settings(**{name: value}), name)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def parameters_of(search: Search, settings: Settings) -> Parameters:
    """Return the values in force of a search's parameters.

    Those of the rating include the baseline's, which it is fitted on top of.
    """
    names = (*BASELINE.grid, *RATING.grid) if search is RATING else tuple(search.grid)
    effective = {"als_preference_max_iter": settings.preference_iterations}
    return {name: effective.get(name, getattr(settings, name)) for name in names}


def told(parameters: Mapping[str, Any]) -> str:
    """Return parameters as one would set them."""
    return " ".join(f"{name.upper()}={shown(value)}" for name, value in parameters.items())


def shown(value: float | None) -> str:
    """Return a parameter's value as people read it."""
    return "unset" if value is None else f"{value:g}"
