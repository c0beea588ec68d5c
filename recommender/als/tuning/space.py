"""The search space of ``als_training.py --tune``: its searches, their parameters and values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recommender.core.errors import ConfigurationError
from recommender.core.settings import load_settings

Parameters = dict[str, Any]
Axes = dict[str, tuple[Any, ...]]

# The settings that change a measure, besides the parameters.
DEPENDS_ON = (
    *("seed", "rating_min", "rating_max", "als_test_fraction", "als_test_split", "als_top_n"),
    *("als_objective", "als_preference_users", "als_user_weight", "als_restaurant_weight"),
    *("als_cold_start_strategy", "als_max_iter"),
)
_RATING_GRID = {"als_reg_param": (0.05, 0.1, 0.3), "als_rank": (5, 10, 20)}
_PREFERENCE_GRID = {
    "als_preference_reg_param": (1.0, 4.0, 12.0),
    "als_alpha": (5.0, 20.0, 60.0),
    "als_preference_rank": (32, 64),
    "als_max_iter": (10, 20),
}


@dataclass(frozen=True, eq=False)
class Search:
    """A fit whose parameters are searched, and the measure that compares them."""

    name: str
    measure: str  # RMSE, of which the lowest is best, or NDCG, of which the highest is
    grid: Axes  # default values to try of each searched parameter


RATING = Search("rating", "RMSE", _RATING_GRID)
RATING_ALONE = Search("rating", "RMSE", {**_RATING_GRID, "als_max_iter": (5, 10)})
PREFERENCE = Search("preference", "NDCG", _PREFERENCE_GRID)
# By ALS_OBJECTIVE. ALS_MAX_ITER belongs to the fit that ranks restaurants.
SEARCHES = {"preference": (RATING, PREFERENCE), "rating": (RATING_ALONE,)}


def parse_grid(texts: Sequence[str], objective: str) -> Axes:
    """Return the values to try by ``NAME=VALUE,VALUE,...`` texts, or those of the default grids.

    ValueError if a name is unknown or repeated, or a value is invalid for its setting.
    """
    defaults = {n: values for each in SEARCHES[objective] for n, values in each.grid.items()}
    axes: Axes = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip().lower()
        if name not in defaults:
            raise ValueError(
                f"--grid {text!r}: expected NAME=VALUE,VALUE,...; with ALS_OBJECTIVE={objective}, "
                f"NAME is one of {', '.join(defaults).upper()}"
            )
        if name in axes:
            raise ValueError(f"--grid has {name.upper()} twice; list all its values at once")
        try:
            parsed = [load_settings(**{name: v.strip()}).public()[name] for v in values.split(",")]
        except ConfigurationError as error:
            raise ValueError(f"--grid {name.upper()}: {error}") from None
        axes[name] = tuple(dict.fromkeys(parsed))
    return axes or defaults
