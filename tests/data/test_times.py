"""Times in the notations that databases and exports have."""

import math
from datetime import datetime
from typing import Any

import numpy as np
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128

from recommender.data.times import is_implausible, parse_times

NEW_YEAR_2020 = 1_577_836_800_000


def parsed(*values: Any) -> list[float]:
    return [float(ms) for ms in parse_times(values)]


def test_each_notation_gives_milliseconds() -> None:
    for value in (
        *(1577836800, 1577836800_000, 1577836800_000_000, 1577836800_000_000_000),
        *("1577836800", " 1577836800000.0 ", Decimal128("1577836800"), DatetimeMS(NEW_YEAR_2020)),
        *(
            "2020-01-01",
            "20200101",
            "2020-01-01T01:00:00+01:00",
            "2020-01-01 00:00:00",
            datetime(2020, 1, 1),
        ),
    ):
        assert parsed(value) == [NEW_YEAR_2020], value


def test_what_is_no_time_is_unknown() -> None:
    values = [None, "", "nan", "NaT", "NULL", "soon", "may", True, [1], math.inf, 10**400, 1e300]
    assert np.isnan(parsed(*values)).all()
    assert parsed() == []


def test_other_numbers_are_milliseconds() -> None:
    assert parsed(5, -7.0, 20200101) == [5, -7, 20200101]


def test_times_before_1990_and_in_the_future_are_implausible() -> None:
    times = np.array([0, NEW_YEAR_2020, 4e12, math.nan])
    assert is_implausible(times).tolist() == [True, False, True, False]
