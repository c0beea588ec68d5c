"""The reasons why a review is rejected."""

from enum import IntEnum


class Rejection(IntEnum):
    """Reasons to reject a row; a row counts once, under the first that applies."""

    NONE = 0
    USER_MISSING = 1
    RESTAURANT_MISSING = 2
    RATING_MISSING = 3
    ID_TOO_LONG = 4
    ID_UNUSABLE = 5
    RATING_NOT_A_NUMBER = 6
    RATING_NOT_FINITE = 7
    RATING_OUT_OF_RANGE = 8
