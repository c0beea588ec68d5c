"""The lift of lists over the popular list, and its comparison with that of the live lists."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# Of fewer test users, a standard error means little.
_FEWEST_USERS = 30
# Two figures of the same model differ by more than this in one of twenty cases.
STANDARD_ERRORS = 2
_TOLERANCE = 0.2


class Lift(NamedTuple):
    """Mean difference of the NDCG of lists and of the popular list, and its standard error."""

    value: float
    error: float


def lift_of(figures: Mapping[str, Any]) -> Lift | None:
    """Return the lift in a run's figures of its lists; None with too few test users."""
    if (figures.get("users") or 0) < _FEWEST_USERS or figures.get("lift_error") is None:
        return None
    return Lift(figures["lift"], figures["lift_error"])


class LiftVerdict(NamedTuple):
    """The figures of a comparison for the ledger, reasons to reject the lists, and warnings."""

    figures: dict[str, float | None]
    reasons: list[str]
    warnings: list[str]


def compare_lifts(
    ours: Lift | None, live: Lift | None, *, is_live: bool, same_test: bool, tested: bool = True
) -> LiftVerdict:
    """Compare the lift of new lists with that of the live ones.

    It may fall by a fifth and two standard errors of the difference. Lists that do not beat the
    popular list are rejected where the live ones beat it beyond chance, else there is a warning.
    ``is_live`` is true if a training has published such lists, and ``same_test`` if both were
    tested alike, so that the size of the lifts compares. Without a test user, ``tested`` is false:
    such lists count as those that do not beat the popular list.
    """
    limit = None
    reasons, warnings = [], []
    if ours and live and same_test:
        chance = STANDARD_ERRORS * math.hypot(ours.error, live.error)
        limit = live.value - _TOLERANCE * abs(live.value) - chance
        if ours.value < limit:
            reasons.append(
                f"a lift over the popular list of {ours.value:.3f} where the live lists have "
                f"{live.value:.3f}; needed: {limit:.3f} "
                f"({_TOLERANCE:.0%} and two standard errors less)"
            )
    if (ours and ours.value <= 0) or not tested:
        why = f"their lift is {ours.value:.3f}" if ours else "no user could test them"
        text = f"lists that do not beat the popular list: {why}"
        if live and live.value > STANDARD_ERRORS * live.error:
            reasons.append(f"{text} where the live lists have {live.value:.3f}")
        else:
            warnings.append(text)
    if is_live and tested and not (ours and live):
        which = "live" if ours else "new"
        warnings.append(
            f"a lift that is not compared: the ledger has none of the {which} lists on "
            f"{_FEWEST_USERS} test users or more"
        )
    elif ours and live and not same_test:
        warnings.append("a lift that is not compared: the live run tested its lists differently")
    value, error = ours or (None, None)
    live_value, live_error = live or (None, None)
    figures = {"value": value, "error": error, "live": live_value, "live_error": live_error}
    return LiftVerdict({**figures, "limit": limit}, reasons, warnings)
