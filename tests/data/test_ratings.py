"""Cleaning of rows, and merging of repeated ratings of the same restaurant by the same user."""

import math
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.core.errors import DataError
from recommender.data.cleaning import BLOCK_SCHEMA, clean_block
from recommender.data.ids import decode_id, decode_ids, encode_id
from recommender.data.ratings import Ratings, gather, gather_reviews, rating_shift, reader_shift
from recommender.data.rejection import Rejection

Row = tuple[Any, Any, Any, Any]


def clean(rows: list[Row], low: float = 1, high: float = 5) -> pa.RecordBatch:
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)]
    users, restaurants, ratings, times = columns or [[], [], [], []]
    return clean_block(users, restaurants, ratings, times, rating_min=low, rating_max=high)


def gathered(rows: list[Row], low: float = 1, high: float = 5) -> Ratings:
    return gather(pa.Table.from_batches([clean(rows, low, high)], schema=BLOCK_SCHEMA))


def triples(ratings: Ratings) -> list[tuple[Any, Any, float]]:
    users, restaurants = decode_ids(ratings.users), decode_ids(ratings.restaurants)
    return [
        (users[u], restaurants[i], r)
        for u, i, r in zip(ratings.user, ratings.restaurant, ratings.rating, strict=True)
    ]


def test_an_invalid_row_is_rejected_with_its_reason() -> None:
    cases: list[tuple[Row, Rejection]] = [
        ((None, "r", 4, None), Rejection.USER_MISSING),
        (("u", None, 4, None), Rejection.RESTAURANT_MISSING),
        (("u", "r", None, None), Rejection.RATING_MISSING),
        (("u" * 1025, "r", 4, None), Rejection.ID_TOO_LONG),
        (("u", "é" * 513, 4, None), Rejection.ID_TOO_LONG),
        ((Binary(b"x" * 1025), "r", 4, None), Rejection.ID_TOO_LONG),
        (("\ud800", "r", 4, None), Rejection.ID_UNUSABLE),
        ((2**70, "r", 4, None), Rejection.ID_UNUSABLE),
        ((["u"], "r", 4, None), Rejection.ID_UNUSABLE),
        (({"id": "u"}, "r", 4, None), Rejection.ID_UNUSABLE),
        ((math.nan, "r", 4, None), Rejection.ID_UNUSABLE),
        ((Decimal128("sNaN"), "r", 4, None), Rejection.ID_UNUSABLE),
        ((Regex("u"), "r", 4, None), Rejection.ID_UNUSABLE),
        (("u", "r", "good", None), Rejection.RATING_NOT_A_NUMBER),
        (("u", "r", "", None), Rejection.RATING_NOT_A_NUMBER),
        (("u", "r", "4_0", None), Rejection.RATING_NOT_A_NUMBER),
        (("u", "r", "٤", None), Rejection.RATING_NOT_A_NUMBER),
        (("u", "r", True, None), Rejection.RATING_NOT_A_NUMBER),
        (("u", "r", [4], None), Rejection.RATING_NOT_A_NUMBER),
        (("u", "r", {"value": {"value": 4}}, None), Rejection.RATING_NOT_A_NUMBER),
        (("u", "r", math.nan, None), Rejection.RATING_NOT_FINITE),
        (("u", "r", -math.inf, None), Rejection.RATING_NOT_FINITE),
        (("u", "r", "1e999", None), Rejection.RATING_NOT_FINITE),
        (("u", "r", Decimal128("NaN"), None), Rejection.RATING_NOT_FINITE),
        (("u", "r", Decimal128("sNaN"), None), Rejection.RATING_NOT_FINITE),
        (("u", "r", Decimal128("1E+6000"), None), Rejection.RATING_NOT_FINITE),
        (("u", "r", 0.999, None), Rejection.RATING_OUT_OF_RANGE),
        (("u", "r", 1e300, None), Rejection.RATING_OUT_OF_RANGE),
        (("u", "r", Int64(-(2**63)), None), Rejection.RATING_OUT_OF_RANGE),
    ]
    for row, reason in cases:
        block = clean([("a", "b", 3, None), row, ("c", "d", 5, None)])
        assert block["rejected"].to_pylist() == [0, reason, 0]
        assert block["user"].to_pylist() == ["a", None, "c"]


def test_numbers_of_every_type_are_parsed() -> None:
    cases: list[tuple[object, float]] = [
        (1, 1.0),
        (5.0, 5.0),
        (Int64(4), 4.0),
        (Decimal128("3.5"), 3.5),
        ("4", 4.0),
        (" 4.5 ", 4.5),
        ("4.", 4.0),
        ("+4", 4.0),
        ("4e0", 4.0),
    ]
    for value, number in cases:
        block = clean([("u", "r", value, None)])
        assert block["rejected"].to_pylist() == [0]
        assert block["rating"].to_pylist() == [number]


def test_a_row_counts_once_under_its_first_reason() -> None:
    ratings = gathered([(None, None, "x", None), (None, "r", 9, None), ("u", "r", 4, None)])
    assert ratings.report.rows_read == 3
    assert ratings.report.rows_rejected == {"user_missing": 2}


def test_ids_of_three_types_are_three_users() -> None:
    ids = [1, "1", ObjectId("0123456789ab0123456789ab")]
    ratings = gathered([(i, "r", 4, None) for i in ids])
    back = decode_ids(ratings.users)
    assert sorted(map(repr, back)) == sorted(map(repr, ids))


def test_a_decoded_id_has_the_same_value_and_type() -> None:
    cases: list[object] = [
        "",
        "plain",
        "\0starts with NUL",
        "$where",
        "a.b",
        "../x\n",
        "a\0b",
        7,
        Int64(7),
        -0.5,
        True,
        b"bytes",
        Binary(b"u" * 16, 4),
        ObjectId("0123456789ab0123456789ab"),
        Decimal128("1.50"),
        DatetimeMS(2**60),
        Code("c3"),
    ]
    for value in cases:
        key = encode_id(value)
        assert isinstance(key, str)
        back = decode_id(key)
        assert (back, type(back)) == (value, type(value))


@given(st.lists(st.one_of(st.text(st.characters(codec="utf-8")), st.integers(-5, 5)), max_size=20))
@settings(derandomize=True, deadline=None)
def test_keys_are_equal_only_for_equal_ids(ids: list[Any]) -> None:
    keys = {encode_id(i) for i in ids}
    assert len(keys) == len({(type(i), i) for i in ids})


def test_numbers_equal_in_mongodb_are_one_user() -> None:
    ids = [1, Int64(1), 1.0, Decimal128("1"), True, 2]
    ratings = gathered([(i, f"r{n}", 4, None) for n, i in enumerate(ids)])
    assert len(ratings.users) == 3  # 1, true and 2


def test_the_latest_rating_is_kept_or_the_mean_without_times() -> None:
    cases: list[tuple[list[Row], float]] = [
        ([("u", "r", 2, None), ("u", "r", 5, None), ("u", "r", 5, None)], 4.0),
        ([("u", "r", 2, 20), ("u", "r", 5, 10)], 2.0),
        ([("u", "r", 2, 20), ("u", "r", 4, 20), ("u", "r", 5, 10)], 3.0),
        ([("u", "r", 2, 20), ("u", "r", 5, None)], 2.0),
        ([("u", "r", 2, DatetimeMS(20)), ("u", "r", 5, 10)], 2.0),
        ([("u", "r", 2, "20"), ("u", "r", 5, 10)], 2.0),
        ([("u", "r", 2, 20), ("u", "r", 5, "yesterday")], 2.0),
        ([("u", "r", 2, 20), ("u", "r", 5, math.inf)], 2.0),
    ]
    for rows, expected in cases:
        ratings = gathered([*rows, ("u", "other", 1, None)])
        assert {i: r for _, i, r in triples(ratings)} == {"r": expected, "other": 1.0}
        assert ratings.report.rows_merged == len(rows) - 1


values = st.tuples(
    st.sampled_from(["u1", "u2", 3, None]),
    st.sampled_from(["r1", "r2", "r3"]),
    st.sampled_from([1, 2.5, "4", 5, 0, math.nan, "x"]),
    st.sampled_from([None, 1, 2, 3.0]),
)


@given(st.lists(values, min_size=1, max_size=40), st.integers(1, 5), st.randoms())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_gather_agrees_with_a_slow_oracle_in_any_order_and_blocks(
    rows: list[Row], blocks: int, shuffler: random.Random
) -> None:
    expected = slow_gather(rows)
    shuffler.shuffle(rows)
    parts = [rows[i::blocks] for i in range(blocks)]
    table = pa.Table.from_batches([clean(part) for part in parts], schema=BLOCK_SCHEMA)
    if not expected:
        with pytest.raises(DataError):
            gather(table)
        return
    ratings = gather(table)
    gathered_ratings = {(u, i): r for u, i, r in triples(ratings)}
    assert gathered_ratings == pytest.approx(expected)
    assert len(ratings) == len(gathered_ratings)
    assert ratings.report.rows_read == len(rows)
    order = list(zip(ratings.user.tolist(), ratings.restaurant.tolist(), strict=True))
    assert order == sorted(order)


def slow_gather(rows: list[Row]) -> dict[tuple[Any, Any], float]:
    valid: dict[tuple[Any, Any], list[tuple[float, float]]] = defaultdict(list)
    for user, restaurant, rating, time in rows:
        if user is None or rating == "x" or not 1 <= float(rating) <= 5:
            continue
        valid[user, restaurant].append((-math.inf if time is None else time, float(rating)))
    means = {}
    for pair, rows_of_pair in valid.items():
        latest = max(time for time, _ in rows_of_pair)
        kept = [rating for time, rating in rows_of_pair if time == latest]
        means[pair] = sum(kept) / len(kept)
    return means


def test_the_matrix_has_a_row_per_user_and_a_column_per_restaurant() -> None:
    ratings = gathered([("b", "y", 4, None), ("a", "x", 2, None), ("b", "x", 1, None)])
    assert ratings.matrix().toarray().tolist() == [[2, 0], [1, 4]]
    assert ratings.matrix(shift=1).toarray().tolist() == [[3, 0], [2, 5]]


def test_a_scale_that_reaches_zero_is_shifted() -> None:
    cases: list[tuple[float, float, float]] = [(1, 0, 0), (0.5, 0, 0), (0, 1, 0), (-2, 3, 3)]
    for low, shift, of_reader in cases:
        assert (rating_shift(low), reader_shift(low)) == (shift, of_reader)


def test_a_rating_of_minus_zero_on_a_scale_from_zero_is_a_rating() -> None:
    ratings = gathered([("u", "r", -0.0, None)], low=0, high=2)
    assert ratings.matrix(rating_shift(0)).toarray().tolist() == [[1.0]]


def test_no_review_is_an_error() -> None:
    with pytest.raises(DataError, match="MONGO_DB"):
        gather_reviews(BLOCK_SCHEMA.empty_table())


def test_no_valid_rating_is_an_error_with_the_counts_of_the_reasons() -> None:
    block = clean([("u", "r", None, None), ("v", "r", None, None)])
    for gather_all, settings_are_named in ((gather_reviews, True), (gather, False)):
        with pytest.raises(DataError) as caught:
            gather_all(pa.Table.from_batches([block]))
        assert f"2 {Rejection.RATING_MISSING.name.lower()}" in str(caught.value)
        assert ("REVIEWS_*_FIELD" in str(caught.value)) == settings_are_named


def test_a_million_copies_of_one_rating_are_one() -> None:
    copies = 1_000_000
    block = pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(copies, "u", dtype=object), pa.string()),
            pa.array(np.full(copies, "r", dtype=object), pa.string()),
            pa.array(np.full(copies, 4.0)),
            pa.array(np.full(copies, np.nan)),
            pa.array(np.zeros(copies, dtype=np.int8)),
        ],
        schema=BLOCK_SCHEMA,
    )
    ratings = gather(pa.Table.from_batches([block]))
    assert (len(ratings), ratings.report.rows_merged) == (1, copies - 1)
