import bz2
import errno
import gzip
import io
import json
import lzma
import math
import os
import re
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson import Binary, Int64, ObjectId, json_util

from benchmarks.datasets import read_file
from recommender.core.errors import DatabaseUnavailableError, DataError, RecommenderError
from recommender.core.mongo import MongoDatabase
from recommender.core.mongo_collections import insert_batches
from recommender.core.settings import Settings
from recommender.data import files
from recommender.data.reviews import read_ratings
from recommender.data.times import UNITS
from recommender.demo.commands import PROJECT
from recommender.load import load, main

GOOGLE_CSV = "user_id,gmap_id,rating,time\n1,0xa:0x1,5,1609909927056\n2,0xa:0x2,3.5,\n"
GOOGLE_ROWS = [
    {"user_id": "1", "gmap_id": "0xa:0x1", "rating": 5, "time": 1609909927056},
    {"user_id": "2", "gmap_id": "0xa:0x2", "rating": 3.5},
]
# The reasons of rejections, which are keys of the report.
NO_USER, NO_PLACE, NO_RATING = (f"{each} missing" for each in ("user_id", "gmap_id", "rating"))
NO_NUMBER, NO_OBJECT = "rating is no finite number", "not a JSON object"
IMPLAUSIBLE = "before 1990 or in the future"  # a key of its times
FIELDS, QUOTE = "not as many fields as the header", "unclosed or stray quote"

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(
    db: MongoDatabase,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Write content to a file, load it with the arguments given and return the report."""
    monkeypatch.setenv("MONGO_URI", db_settings.mongo.uri.get_secret_value())
    monkeypatch.setenv("MONGO_DB", db_settings.mongo.db)

    def run(content: str | bytes, *arguments: str, name: str = "file.csv") -> dict[str, Any]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        assert main([str(path), *arguments, "--json"]) == 0
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    return run


def loaded(db: MongoDatabase) -> list[dict[str, Any]]:
    return list(db["Reviews"].find({}, {"_id": 0}))


def json_lines(*objects: object) -> str:
    return "".join(json.dumps(o) + "\n" for o in objects)


def with_rating(*ratings: str) -> str:
    return "user_id,gmap_id,rating\n" + "".join(f"u{i},g,{r}\n" for i, r in enumerate(ratings))


def test_csv_with_the_google_names_needs_no_preset(run: Run, db: MongoDatabase) -> None:
    report = run(GOOGLE_CSV)
    assert loaded(db) == GOOGLE_ROWS
    assert isinstance(loaded(db)[0]["rating"], int)
    assert isinstance(loaded(db)[0]["time"], Int64)
    assert (report["read"], report["loaded"], report["rejected"]) == (2, 2, {})


def test_csv_without_times_will_do_where_nothing_is_said(run: Run, db: MongoDatabase) -> None:
    run("gmap_id,extra,rating,user_id\ng,x,4,u\n")
    assert loaded(db) == [{"user_id": "u", "gmap_id": "g", "rating": 4}]


def zipped(content: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_compression_is_known_by_content(run: Run, db: MongoDatabase) -> None:
    content = GOOGLE_CSV.encode()
    for packed in (
        gzip.compress(content),
        bz2.compress(content),
        lzma.compress(content),
        pa.compress(content, "zstd", asbytes=True),
        pa.compress(content, "lz4", asbytes=True),
        lzma.compress(content, format=lzma.FORMAT_ALONE),
        gzip.compress(gzip.compress(content)),
        zipped(gzip.compress(content), "file.csv.gz"),
        zipped(content, "folder/", "file.csv", "__MACOSX/._file.csv"),
        gzip.compress(json_lines(*GOOGLE_ROWS).encode()),
    ):
        run(packed, "--replace", name="file")
        assert loaded(db) == GOOGLE_ROWS


def test_json_in_any_layout(run: Run, db: MongoDatabase) -> None:
    first = {"user_id": "1", "gmap_id": "g", "rating": 4.0, "time": 1.6e12, "text": "a\n[{]}"}
    rows = [first, {"user_id": 7, "gmap_id": 2**40, "rating": "2", "pics": [{"url": [1]}]}]
    one, two = map(json.dumps, rows)
    for content in (
        f"{one}\n{two}",
        f"\n \n{one}\r\n\n{two}\n",
        f"{one}{two}",
        "\n".join(json.dumps(row, indent=2) for row in rows),
        json.dumps(rows),
        f" \n[{one}\n,{two}]",
        json.dumps(rows, indent=4),
    ):
        run(content, "--replace", name="file")
        assert loaded(db) == [
            {"user_id": "1", "gmap_id": "g", "rating": 4, "time": 1_600_000_000_000},
            {"user_id": 7, "gmap_id": 2**40, "rating": 2},
        ]


def test_no_array_and_no_object_of_a_line_is_lost(run: Run, db: MongoDatabase) -> None:
    rows = [{"user_id": f"u{n}", "gmap_id": "g", "rating": 4} for n in range(5)]
    one, two, *rest = map(json.dumps, rows)
    for text in (
        f"[{one}, {two}, {rest[0]}]\n{rest[1]}\n{rest[2]}",
        f"{one}\n[{two},\n{', '.join(rest)}]\n",
        f"[{one},{two}]\n[{', '.join(rest)}]\n",
        f"{one}\n{two}\n{' '.join(rest)}\n",
        f"{one}\n{two}\n{rest[0].replace(', ', ',' + chr(10))}\n{rest[1]}{rest[2]}\n",
    ):
        assert run(text, "--replace", name="f.json")["loaded"] == len(rows), text
        assert loaded(db) == rows
    report = run(f'{one}\n{two} {rest[0]}\n{rest[1]}{rest[2]}\n{{"user_id": "u', "--replace")
    assert (report["loaded"], report["rejected"]) == (len(rows), {NO_OBJECT: 1})
    assert run(f"[null, {one}]", "--replace")["columns"] == list(rows[0])


def test_json_values_keep_their_meaning(run: Run, db: MongoDatabase) -> None:
    """Integers beyond 64 bits, nested keys and MongoDB's extended JSON."""
    long_id = 114_000_000_000_000_000_001
    nested = {"user": {"id": long_id}, "place.id": "x", "rating": {"$numberInt": "5"}}
    maps = ("--map", "user_id=user.id", "--map", "gmap_id=place.id", "--map", "rating=rating")
    run(json_lines(nested), *maps, name="file.jsonl")
    oid = "5f1b2c3d4e5f6a7b8c9d0e20"
    for when in (
        {"$date": "2020-01-01T00:00:00Z"},
        {"$date": {"$numberLong": "1577836800000"}},
        {"$numberLong": "1577836800000"},
    ):
        exported = {"user_id": {"$oid": oid}, "gmap_id": "x", "rating": 5, "time": when}
        run(json_lines({"_id": {"$oid": oid}, **exported}), name="file.json")
    assert loaded(db) == [
        {"user_id": str(long_id), "gmap_id": "x", "rating": 5},
        *[{"user_id": ObjectId(oid), "gmap_id": "x", "rating": 5, "time": 1577836800000}] * 3,
    ]


def test_parquet(run: Run, db: MongoDatabase) -> None:
    when = datetime(2020, 1, 1)
    rows = [{"user": {"id": i}, "place": "x", "stars": 4.5, "when": when} for i in (1, 2)]
    maps = ("user_id=user.id", "gmap_id=place", "rating=stars", "time=when")
    run(parquet(rows), *(part for text in maps for part in ("--map", text)), name="f")
    rest = {"gmap_id": "x", "rating": 4.5, "time": 1577836800000}
    assert loaded(db) == [{"user_id": 1, **rest}, {"user_id": 2, **rest}]
    with pytest.raises(DataError):
        run(parquet(rows))
    rows = [{"user_id": "u", "gmap_id": "g", "rating": 4, "t": {"user_id": "of t", "rating": 1}}]
    run(parquet(rows), "--replace")
    assert loaded(db) == [{"user_id": "u", "gmap_id": "g", "rating": 4}]


def test_delimiters_blanks_and_encodings(run: Run, db: MongoDatabase) -> None:
    table = "user_id,gmap_id,rating,time\nJosé,a: b,4.5,\nv,c,3,\n"
    expected = [
        {"user_id": "José", "gmap_id": "a: b", "rating": 4.5},
        {"user_id": "v", "gmap_id": "c", "rating": 3},
    ]
    for delimiter in ("\t", ";", "|", "::", ", "):
        run(table.replace(",", delimiter), "--replace")
        assert loaded(db) == expected
    run(table.replace(",", ";").replace("4.5", "4,5"), "--replace")
    assert loaded(db) == expected
    run(table.replace("\n", "\r"), "--replace")
    assert loaded(db) == expected
    for encoding in ("utf-16", "utf-8-sig", "utf-32"):
        run(table.encode(encoding), "--replace")
        assert loaded(db) == expected
    for encoding in ("latin-1", "utf-16-le"):
        run(table.encode(encoding), "--replace", "--encoding", encoding)
        assert loaded(db) == expected


def test_columns_may_be_named_where_there_is_no_header(run: Run, db: MongoDatabase) -> None:
    run("1::g::5::978300760\n2::h::3::978302109\n", "--columns", "user_id,gmap_id,rating,time")
    assert [(r["user_id"], r["time"]) for r in loaded(db)] == [
        ("1", 978300760000),
        ("2", 978302109000),
    ]


def test_columns_named_so_may_have_blanks(run: Run, db: MongoDatabase) -> None:
    maps = ("--map=user_id=user id", "--map=gmap_id=b", "--map=rating=c")
    run("1,g,5\n", "--columns", "user id, b ,c", *maps)
    assert loaded(db) == [{"user_id": "1", "gmap_id": "g", "rating": 5}]


def test_the_delimiter_noted_for_excel_is_no_header(run: Run, db: MongoDatabase) -> None:
    for note in ("sep=,", '"sep=,"', "\n\ufeffSEP=;\r"):
        run(f"{note}\n{GOOGLE_CSV}2,0xa:0x3,,\n", "--replace")
        assert loaded(db) == GOOGLE_ROWS
    assert run("sep=;\nuser_id;gmap_id;rating\nu;g;x\nu;g;4\n")["examples"] == {NO_NUMBER: [3]}


def test_names_in_a_quoted_header_may_hold_the_delimiter(run: Run, db: MongoDatabase) -> None:
    for delimiter in (",", "::"):
        header = delimiter.join([*GOOGLE_CSV.split(",")[:2], "rating", f'"a{delimiter}b"'])
        run(f"{header}\n" + delimiter.join(["u", "g", "4", "x\n"]), "--replace")
        assert loaded(db) == [{"user_id": "u", "gmap_id": "g", "rating": 4}]


def test_the_content_decides_whether_a_file_is_json(run: Run, db: MongoDatabase) -> None:
    for name in ("reviews.json.csv", "reviews.json"):
        run(GOOGLE_CSV, "--replace", name=name)
        assert loaded(db) == GOOGLE_ROWS
    for broken in ('{"user_id": u7}', '{"user_id": "u",', "oops"):
        report = run(f"{broken}\n{json_lines(*GOOGLE_ROWS)}", "--replace", name="reviews.json")
        assert loaded(db) == GOOGLE_ROWS
        assert report["rejected"] == {NO_OBJECT: 1}
    with pytest.raises(DataError):
        run("[user_id],[gmap_id],[rating]\nu,g,4\n")


def test_objects_of_lines_may_end_with_commas(run: Run, db: MongoDatabase) -> None:
    one, two = map(json.dumps, GOOGLE_ROWS)
    for text in (f"{one},\n{two},\n", f"{one},\n{two}\n", f"{one},\r\n\n{two},"):
        assert run(text, "--replace", name="f.json")["read"] == 2
        assert loaded(db) == GOOGLE_ROWS


def test_format_given_wins(run: Run, db: MongoDatabase) -> None:
    maps = ("--map=user_id=[u]", "--map=gmap_id=gmap_id", "--map=rating=rating", "--map=time=time")
    run(GOOGLE_CSV.replace("user_id", "[u]"), "--format", "csv", *maps)
    assert loaded(db) == GOOGLE_ROWS


def test_csv_ids_stay_strings_and_non_latin_text_survives(run: Run, db: MongoDatabase) -> None:
    run("user_id,gmap_id,rating\n007,Zoë 東京 🍜,4\n")
    assert loaded(db) == [{"user_id": "007", "gmap_id": "Zoë 東京 🍜", "rating": 4}]


def test_quoted_newlines_and_commas(run: Run, db: MongoDatabase) -> None:
    text = 'user_id,text,gmap_id,rating\nu,"two\nlines, ""quoted""",g,4\nv,,g,bad\n'
    assert run(text)["rejected"] == {NO_NUMBER: 1}
    assert loaded(db) == [{"user_id": "u", "gmap_id": "g", "rating": 4}]


def test_mapping_of_columns(run: Run, db: MongoDatabase) -> None:
    maps = ("user_id=userID", "gmap_id=placeID", "rating=stars", "time=when")
    text = "userID,placeID,rating,stars,when\nU1,135085,2,1,1970-01-01 00:00:01\n"
    run(text, *(part for text_ in maps for part in ("--map", text_)))
    assert loaded(db) == [{"user_id": "U1", "gmap_id": "135085", "rating": 1, "time": 1000}]


def test_fields_of_reviews_are_the_settings(
    run: Run, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REVIEWS_RESTAURANT_FIELD", "business_id")
    monkeypatch.setenv("REVIEWS_RATING_FIELD", "stars")
    run(GOOGLE_CSV, "--preset", "google")
    assert loaded(db)[1] == {"user_id": "2", "business_id": "0xa:0x2", "stars": 3.5}


def test_yelp(run: Run, db: MongoDatabase) -> None:
    review = {"user_id": "u", "business_id": "b", "stars": 4.0, "date": "2018-07-07 22:09:11"}
    run(json_lines(review), "--preset", "yelp", name="reviews.json")
    expected = {"user_id": "u", "gmap_id": "b", "rating": 4, "time": 1_531_001_351_000}
    assert loaded(db) == [expected]


def test_no_rating_is_rejected_for_its_time(run: Run, db: MongoDatabase) -> None:
    times = ["nan", "NaT", "NULL", "null", "", "yesterday", "-1", "2020-01-01"]
    rows = "".join(f"u,g{i},4,{text}\n" for i, text in enumerate(times))
    report = run(f"user_id,gmap_id,rating,time\n{rows}")
    assert [r.get("time") for r in loaded(db)] == [None] * 6 + [-1, 1_577_836_800_000]
    assert report["times"] == {"unknown": 6, IMPLAUSIBLE: 1, "dates": 1}
    report = run("user_id,gmap_id,rating,time\nu,g,4,2020\nu,g,4,0\n")
    assert report["times"] == {"unknown": 1, IMPLAUSIBLE: 0, "dates as numbers": 1}


def test_times_are_understood_by_their_whole_column(run: Run, db: MongoDatabase) -> None:
    new_year = 1_577_836_800_000
    for texts, expected in (
        (["01/01/2020 0:00"], [new_year]),
        (["1.1.2020", "January 1, 2020", "01 1, 2020", "1/1/20"], [new_year] * 4),
        (["1577836800", "1577836800000", "1577836800000000"], [new_year] * 3),
        (["2020-01-01T01:00:00+01:00", "2020-01-01 00:00:00"], [new_year] * 2),
        (["2020-01-01T00:00Z", "2020-01-01T01:00+01:00", "2020-01-01 0:00"], [new_year] * 3),
        (["2020-01-01 00:00:00 UTC", "2020-01-01T05:30:00.0+0530"], [new_year] * 2),
        (["2020-01-01 00:00:00 GMT", "2020-01-01t00:00z"], [new_year] * 2),
        (
            ["2020-01-01 00:00 EST", "2020-01-01 00:00 Asia/Tokyo", "2020-01-01"],
            [None, None, new_year],
        ),
        (["20200101T000000", "1 Jan 2020 00:00", "Wed Jan 01 00:00:00 2020"], [new_year] * 3),
        (["20200101", "2020", "1577836800"], [new_year] * 3),
        (["1/1/2020 12:00:00 AM", "1-Jan-2020", "20200101T000000Z"], [new_year] * 3),
        (["Wed, 01 Jan 2020 00:00:00 GMT", "Wed, 1 Jan 2020 01:00:00 +0100"], [new_year] * 2),
        (["5", "2020", "2500"], [5, 2020, 2500]),
        (["1/1/20 0:00", "Jan 1, 2020 12:00 AM", "Wednesday, January 1, 2020"], [new_year] * 3),
        (["20200101", "0", "-1"], [new_year, None, None]),
        (["20200101", "20200101", "20201345"], [new_year, new_year, None]),
        ([*["1577836800"] * 2, "600000000", "0"], [*[new_year] * 2, 600_000_000_000, 0]),
        (["1/2/2020", *["2/1/2020"] * 9, "25/5/2020"], [new_year + 31 * 86_400_000]),
        (["1/2/2020", *["2/1/2020"] * 9, "5/25/2020"], [new_year + 86_400_000]),
    ):
        rows = "".join(f'u,g,4,"{text}"\n' for text in texts)
        run(f"user_id,gmap_id,rating,time\n{rows}", "--replace")
        assert [r.get("time") for r in loaded(db)][: len(expected)] == expected, texts


def test_null_is_a_missing_value_and_blanks_are_no_id(run: Run, db: MongoDatabase) -> None:
    rows = (
        "nan,g,4,\nNaN,g,4,\n<NA>,g,4,\nu,g,4,NULL\nNULL,g,4,1\n\\N,g,4,1\nu,None,4,1\nu,g,null,1\n"
    )
    good = {"user_id": "u", "gmap_id": "g", "rating": 4}
    report = run(f"user_id,gmap_id,rating,time\n{rows}")
    assert loaded(db) == [good]
    assert report["rejected"] == {NO_USER: 5, NO_PLACE: 1, NO_RATING: 1}
    report = run(json_lines(good, good | {"user_id": "  "}), "--replace", name="f.jsonl")
    assert report["rejected"] == {NO_USER: 1}


def test_ids_of_extended_json_keep_their_type(run: Run, db: MongoDatabase) -> None:
    ids = [
        ObjectId(),
        Int64(2**63 - 1),
        Int64(-(2**63)),
        Binary.from_uuid(uuid.uuid4()),
        Binary(b"abcd", 5),
        7,
    ]
    rows = [{"user_id": i, "gmap_id": "g", "rating": 4, "time": None} for i in ids]
    canonical = json_util.CANONICAL_JSON_OPTIONS
    lines = [json_util.dumps(row, json_options=canonical) for row in rows]
    lines += [json.dumps(rows[0] | {"user_id": {"$uuid": str(uuid.uuid4())}})]
    lines += [json.dumps(rows[0] | {"user_id": {"$binary": {"base64": "A=", "subType": "00"}}})]
    report = run("\n".join(lines), name="f.jsonl")
    assert [row["user_id"] for row in loaded(db)][:-1] == ids
    assert loaded(db)[-1]["user_id"].subtype == 4
    assert report["rejected"] == {"user_id is no id": 1}


def test_the_unit_of_times_may_be_given(run: Run, db: MongoDatabase) -> None:
    for unit, ms in UNITS.items():
        run("user_id,gmap_id,rating,time\nu,g,4,5e7\n", "--time-unit", unit, "--replace")
        assert loaded(db)[0]["time"] == 5e7 * ms
    for unit, number in (("yyyymmdd", "19850101"), ("years", "1985")):
        rows = f"u,g,4,{number}\nv,g,4,20201345\n"
        times = run(f"user_id,gmap_id,rating,time\n{rows}", "--time-unit", unit, "--replace")[
            "times"
        ]
        assert [row.get("time") for row in loaded(db)] == [473_385_600_000, None]
        assert times == {"unknown": 1, IMPLAUSIBLE: 1, f"in {unit}": 1}


def test_a_dry_run_shows_what_would_be_stored_and_needs_no_database(
    clean_environment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGO_URI", "mongodb://127.0.0.1:1/")
    Path("f.csv").write_text(with_rating(*"12345678", '"bad\n"'))
    assert main(["f.csv", "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert json.loads(shown[0]) == {"user_id": "u0", "gmap_id": "g", "rating": 1}
    assert sum(line.startswith("{") for line in shown) == 5
    assert [re.findall(r"\d+", line)[0] for line in shown[5:]] == list("918811")
    assert shown[-1].endswith(NO_NUMBER)
    assert main(["f.csv", "--dry-run", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["first"] == [json.loads(line) for line in shown[:5]]
    assert (outcome["read"], outcome["loaded"], outcome["dry_run"]) == (9, 8, True)
    assert outcome["rejected"] == {NO_NUMBER: 1}


def test_map_wins_over_preset(run: Run, db: MongoDatabase) -> None:
    text = "user_id,business_id,stars,useful,date\nu,b,4,2,\n"
    run(text, "--preset", "yelp", "--map", "rating=useful")
    assert loaded(db) == [{"user_id": "u", "gmap_id": "b", "rating": 2}]


def test_ratings_are_numbers_in_the_spellings_that_exports_have(
    run: Run, db: MongoDatabase
) -> None:
    good = {"4": 4, " 4.50 ": 4.5, "4,5": 4.5, "4.5/5": 4.5, "4 / 5,0": 4, "4e0": 4, "4.": 4}
    bad = ["nan", "inf", "-Infinity", "1e999", "five", "4_0", "1,000,000", "4/", "★★★★"]
    report = run(with_rating(*(f'"{rating}"' for rating in [*good, *bad])))
    assert [r["rating"] for r in loaded(db)] == list(good.values())
    assert report["rejected"] == {NO_NUMBER: len(bad)}


def test_a_rating_out_of_another_maximum_is_rejected(
    run: Run, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for highest, expected in (("5", [4, 3]), ("10", [8, 3])):
        monkeypatch.setenv("RATING_MAX", highest)
        (reason,) = run(with_rating("4/5", "8/10", "3"), "--replace")["rejected"]
        assert "RATING_MAX" in reason
        assert [r["rating"] for r in loaded(db)] == expected


def test_ratings_out_of_range_are_left_to_the_training(run: Run, db: MongoDatabase) -> None:
    run(with_rating("-1", "0", "99", "1e30"))
    assert [r["rating"] for r in loaded(db)] == [-1, 0, 99, 1e30]


def test_bad_json_lines_are_counted_by_reason(run: Run, db: MongoDatabase) -> None:
    good = {"user_id": "u", "gmap_id": "g", "rating": 4}
    bad: list[dict[str, Any]] = [
        {"gmap_id": "g", "rating": 4},
        good | {"user_id": None},
        good | {"user_id": ""},
        good | {"gmap_id": True},
        good | {"gmap_id": ["g"]},
        good | {"gmap_id": "half \ud800"},
        good | {"rating": None},
        good | {"rating": True},
        good | {"rating": math.nan},
        good | {"rating": [4]},
        good | {"rating": 10**400},
    ]
    others = "not json\n[1]\n7\nnull\n" + '{"a":' * 100_000 + "\n\n   \n"
    report = run(json_lines(good, *bad) + others + json_lines(good), name="f.jsonl")
    assert loaded(db) == [good, good]
    counts = {NO_USER: 3, "gmap_id is no id": 2, NO_RATING: 1, NO_NUMBER: 4, NO_OBJECT: 6}
    assert (report["read"], report["rejected"]) == (18, counts)
    assert report["examples"][NO_USER] == [2, 3, 4]
    assert report["examples"][NO_OBJECT] == [7, 13, 14]


def test_bad_csv_lines_are_counted_by_reason(run: Run, db: MongoDatabase) -> None:
    text = 'user_id,text,gmap_id,rating\n\nu,"a\nb",g,4\nu,g,4\nu,x,g,4,5\nu,"a"b,g,4\nu,x,,4\n'
    report = run(text + 'v,x,g,5\nu,"open to the end,g,4\n')
    assert [r["user_id"] for r in loaded(db)] == ["u", "v"]
    assert report["rejected"] == {FIELDS: 2, NO_PLACE: 1, QUOTE: 2}
    assert report["examples"] == {FIELDS: [5, 6], NO_PLACE: [8], QUOTE: [7, 10]}


def test_a_stray_quote_costs_its_own_line_only(run: Run, db: MongoDatabase) -> None:
    fine = [f"u{i},g,4,fine\n" for i in range(3_000)]
    head = "user_id,gmap_id,rating,text\n"
    for stray in (
        [*fine[:100], 'bad,g,4,"opened\n', *fine[100:]],
        [*fine[:10], 'bad,g,4,"opened\n', *fine[10:30], 'last,g,4,"closed"\n', *fine[30:]],
        [*fine[:10], 'bad,g,4,"opened\n', *fine[10:30], 'not,a,review,"\n', *fine[30:]],
        [*fine, 'bad,g,4,"opened\n'],
        ['bad,g,4,"a"b\n', *fine],
    ):
        report = run(head + "".join(stray), "--replace")
        users = {r["user_id"] for r in loaded(db)}
        assert users >= {f"u{i}" for i in range(3_000)}
        assert "bad" not in users
        assert report["read"] == len(stray)
    run(head + 'u,g,4,"she said \\"hi\\", twice"\n' + fine[0], "--replace")
    assert [r["user_id"] for r in loaded(db)] == ["u", "u0"]


def test_no_line_is_lost_uncounted_after_a_stray_quote(run: Run, db: MongoDatabase) -> None:
    start, end = 'bad,g,4,"opened\n', 'last,g,4,closed"\n'
    for lines, loadable in (
        ([start, "u,g,-3.5,fine\n", end, "z,g,4,ok\n"], 2),
        ([start, "u, g, -.5,fine\n", end, "z,g,4,ok\n"], 2),
        ([start, *['u,g,.5,the "best" place\n'] * 9, end, "z,g,4,ok\n"], 10),
        ([start, "u,g,4 stars,fine\n", 'closed"\n', "z,g,4,ok\n"], 1),
        ([start, "u,g,NULL,fine\n", 'closed"\n', "z,g,4,ok\n"], 1),
        ([start, *["u,g,bad,fine\n"] * 9, 'closed"\n', "z,g,4,ok\n"], 1),
        ([start, end, "z,g,4,ok\n"], 1),
        (['a,g,4,"He said "go"\n', 'and I went"\n', "z,g,4,ok\n"], 1),
        (['a,g,"4"x"y,"c\n', "z,g,4,ok\n"], 1),
        ([start, 'y,g,4,"two\nlines"\n', "z,g,4,ok\n"], 2),
        ([start, "u,g,good,fine\n", 'closed"\n', "z,g,4,ok\n"], 1),
        ([start, "\n", "u,g,,fine\n", "v,g,good,fine\n", 'closed"\n', "z,g,4,ok\n"], 1),
        (['bad,g,good,"opened\n', end, "z,g,4,ok\n"], 1),
        ([start, 'last,g,good,closed"\n', "z,g,4,ok\n"], 1),
        (['"u,g,good,fine\n', 'v",g,4,fine\n', "z,g,4,ok\n"], 1),
    ):
        report = run("user_id,gmap_id,rating,text\n" + "".join(lines), "--replace")
        assert report["read"] == sum(line != "\n" for line in lines), lines
        assert len(loaded(db)) == loadable, lines


def test_a_row_with_a_word_as_rating_is_no_text_in_a_padded_table(
    run: Run, db: MongoDatabase
) -> None:
    lines = ('bad, g, 4, "opened\n', "u, g, good, fine\n", 'closed"\n', "z, g, 4, ok\n")
    assert run("user_id, gmap_id, rating, text\n" + "".join(lines))["read"] == 4
    assert [r["user_id"] for r in loaded(db)] == ["z"]


def test_texts_of_several_lines_stay_whole(run: Run, db: MongoDatabase) -> None:
    for text in (
        '"Good food, nice, clean, cheap\nin 2 hours, 3 dishes, 5 waiters, ok\n""so"", a, b, c"',
        '"menu\na, b, c, d\ne, f, g, h\ni, j, k, l\nend"',
        '"We had\nsoup, salad,, wine\nand more"',
        '"\n{""a"": 1}\n{""b"": 2}\n"',
    ):
        report = run(f"user_id,gmap_id,rating,text\nu,g,4,{text}\nv,g,5,ok\n", "--replace")
        assert [r["user_id"] for r in loaded(db)] == ["u", "v"], text
        assert report["continued"] == text.count("\n")


def test_a_backslash_may_end_a_field(run: Run, db: MongoDatabase) -> None:
    run('user_id,gmap_id,rating,text\na,x,5,"nice \\"\nb,y,4,"ok \\"\nc,"z\\",3,fine\n')
    assert [r["user_id"] for r in loaded(db)] == ["a", "b", "c"]


def test_huge_line_is_left_out_and_the_next_one_read(run: Run, db: MongoDatabase) -> None:
    # DuckDB alone would not count one that exceeds its buffer of 32 MB.
    for size in (3_000_000, 34_000_000):
        for huge in ("u,g,4," + "x" * size, 'u,g,4,"' + "x" * size + '\ny"'):
            text = f"user_id,gmap_id,rating,text\nu,g,4,\n{huge}\nv,g,4,\n"
            report = run(text, "--replace")
            ((reason, lines),) = report["examples"].items()
            assert "2,000,000" in reason
            assert lines == [3]
            assert [r["user_id"] for r in loaded(db)] == ["u", "v"]


def test_rows_that_duckdb_loses_are_an_error(
    run: Run, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db["Reviews"].insert_one({"user_id": "old"})
    monkeypatch.setattr(files._File, "_records", lambda self, lines, *_: lines)
    with pytest.raises(DataError, match=r"file.csv .*rows"):
        run('user_id,gmap_id,rating\nu,g,4\nv,"g,4\n' + "w,g,4\n" * 9, "--replace")
    assert loaded(db) == [{"user_id": "old"}]


def test_lines_after_a_stray_quote_are_held_up_to_a_limit(
    run: Run, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LONGEST", 100)
    lines = ["no row\n"] * 50
    report = run("".join(["user_id,gmap_id,rating,text\n", 'u,g,4,"open\n', *lines, "v,g,4,\n"]))
    assert (report["read"], report["loaded"]) == (52, 1)
    assert report["rejected"][QUOTE] < 25
    assert loaded(db) == [{"user_id": "v", "gmap_id": "g", "rating": 4}]


def test_a_nul_byte_costs_no_file(run: Run, db: MongoDatabase) -> None:
    report = run(with_rating("4", "5").replace("u1", "u\0") + "\0\n")
    assert report["rejected"] == {FIELDS: 1}
    assert [row["user_id"] for row in loaded(db)] == ["u0", "u\0"]


def test_batches_join_up(run: Run, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK_ROWS", 10)
    run(with_rating(*["4"] * 25))
    assert [r["user_id"] for r in loaded(db)] == [f"u{i}" for i in range(25)]


def test_reviews_are_added_unless_replaced(run: Run, db: MongoDatabase) -> None:
    run(with_rating("1", "2"))
    run(with_rating("3"))
    assert [r["rating"] for r in loaded(db)] == [1, 2, 3]
    run(with_rating("4"), "--replace")
    assert [r["rating"] for r in loaded(db)] == [4]
    assert db.list_collection_names() == ["Reviews"]


def test_replacing_keeps_the_indexes(run: Run, db: MongoDatabase) -> None:
    db["Reviews"].create_index([("user_id", 1), ("time", -1)], name="by_user", sparse=True)
    run(with_rating("4"), "--replace")
    indexes = db["Reviews"].index_information()
    assert set(indexes) == {"_id_", "by_user"}
    assert indexes["by_user"]["key"] == [("user_id", 1), ("time", -1)]
    assert indexes["by_user"]["sparse"]


def watch_batches(monkeypatch: pytest.MonkeyPatch, seen: Callable[[], None]) -> None:
    """Call ``seen`` before each batch that is inserted, and after the last one."""

    def inserted(collection: Any, batches: Iterator[Any]) -> int:
        def watched() -> Iterator[Any]:
            for batch in batches:
                seen()
                yield batch
            seen()

        return insert_batches(collection, watched())

    monkeypatch.setattr("recommender.load.insert_batches", inserted)


def test_readers_see_the_old_reviews_until_all_is_inserted(
    run: Run, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db["Reviews"].insert_one({"user_id": "old"})
    seen: list[int] = []
    watch_batches(monkeypatch, lambda: seen.append(db["Reviews"].count_documents({})))
    monkeypatch.setattr(files, "BLOCK_ROWS", 2048)
    run(with_rating(*"4" * 5_000), "--replace")
    assert len(seen) > 2
    assert set(seen) == {1}
    assert db["Reviews"].count_documents({}) == 5_000


TRUNCATED = gzip.compress(with_rating(*"12345" * 99).encode())[:-20]
# Bit 0 of the flags, of the entry and in the directory, says that there is a password.
ENCRYPTED = zipped(b"a", "r.csv").replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0")
BROKEN_FILES: list[tuple[bytes, str]] = [
    (b"", "file.csv.*empty"),
    (b"\n \n", "file.csv.*empty"),
    (gzip.compress(b""), "file.csv.*empty"),
    (b"user_id,gmap_id,rating\n", "header"),
    (with_rating("x").encode(), rf"{NO_NUMBER} \(1\)"),
    (b"user_id,gmap_id,rating\nu,g,4\nu,caf\xe9,4\n", "0xe9.*--encoding latin-1"),
    (GOOGLE_CSV.encode("utf-16-le"), "NUL.*utf-16-le"),
    (with_rating(*"45" * 9_000).encode() + b"u,g\xe9,4\n", "byte 0xe9: .*cp1252"),
    (b"\x89PNG\r\n\x1a\n\0\0", "--encoding"),
    (TRUNCATED, "damaged"),
    (gzip.compress(GOOGLE_CSV.encode())[:-8] + bytes(8), "damaged"),
    (b"BZh9" + bytes(20), "damaged"),
    (zipped(b"", "a.csv", "b.csv"), "2 files.*a.csv, b.csv"),
    (ENCRYPTED, "password"),
    (b"PAR1" + bytes(20), "damaged"),
    (b"who,gmap_id,rating\nu,g,4\n", "user_id.*who, gmap_id, rating"),
    (b"a,x,5\n", "--columns"),
    (b"user_id,gmap_id,rating,rating\n", "rating once"),
    (b"{'user_id': u'a', 'gmap_id': 'x', 'rating': 5.0}\n", "json.dumps"),
    (b'[{"user_id": "u", "gmap_id": "g", "rating": 4}, {"user_id": u7}]', "byte 13.*record 2"),
    (b"[]", "file.csv.*empty"),
    (b'[{"user_id": "u", "gmap_id": "g", "rating": 4},\n', "ends with a comma"),
    (b"x" * 2_100_000, "first line of more than 2,000,000 bytes"),
    (parquet(GOOGLE_ROWS)[:-20], "damaged[^;]*file.csv'; export it again$"),
    (b'{"who": x}\n{"who": 1}\n{"who": 2}\n', rf"{NO_USER} \(2\).* who;"),
    (json_lines({"who": "u", "rating": 4}).encode(), rf"{NO_USER} \(1\).* who, rating;"),
]


def test_broken_file_is_one_clear_error_and_leaves_what_was_there(
    run: Run, db: MongoDatabase
) -> None:
    db["Reviews"].insert_one({"user_id": "old"})
    for content, message in BROKEN_FILES:
        with pytest.raises(DataError, match=message) as caught:
            run(content, "--replace")
        assert len(str(caught.value).splitlines()) == 1
    assert loaded(db) == [{"user_id": "old"}]
    assert db.list_collection_names() == ["Reviews"]


def test_want_of_room_is_no_fault_of_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        duckdb.IOException(f"Could not write: {os.strerror(errno.ENOSPC)}"),
        duckdb.OutOfMemoryException("could not allocate"),
    ):
        monkeypatch.setattr(files._File, "_clean", Mock(side_effect=error))
        with pytest.raises(DataError, match="room in WORK_DIR=var"):
            run(GOOGLE_CSV)


def test_column_of_a_preset_or_map_must_be_there(run: Run) -> None:
    with pytest.raises(DataError):
        run("user_id,gmap_id,rating\nu,g,4\n", "--preset", "google")


def test_failed_addition_says_what_stays(
    run: Run, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    db["Reviews"].create_index("gmap_id", unique=True)
    with pytest.raises(RecommenderError):
        run(with_rating("4", "5"))
    assert db["Reviews"].count_documents({}) == 1
    assert re.search(r"WARNING recommender\.load: .*\b2\b", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_unreadable_file(db_settings: Settings, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    with pytest.raises(DataError):
        main([str(path)])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["f", "--preset", "tripadvisor"],
        ["f", "--map", "rating"],
        ["f", "--map", "stars=rating", "--preset", "google"],
        ["f", "--map", "user_id=a", "--map", "gmap_id=b"],
        ["f", "--format", "xml"],
        ["f", "--encoding", "klingon"],
        ["f", "--encoding", "base64"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_no_database(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("f.csv").write_text(GOOGLE_CSV)
    monkeypatch.setenv("MONGO_URI", "mongodb://u:hush@127.0.0.1:1/?serverSelectionTimeoutMS=50")
    for arguments in (["f.csv"], ["f.csv", "--replace"]):
        with pytest.raises(DatabaseUnavailableError) as caught:
            main(arguments)
        assert "hush" not in str(caught.value)


def test_of_two_replacements_at_once_the_last_one_stays(
    run: Run, db: MongoDatabase, db_settings: Settings, tmp_path: Path, monkeypatch: Any
) -> None:
    second = tmp_path / "second.csv"
    second.write_text(with_rating("2", "2"))
    between: list[int] = []

    def load_second() -> None:
        if not between:
            between.append(0)
            load(str(second), db, db_settings, files.FileOptions(), replace=True)
            between.append(db["Reviews"].count_documents({"rating": 2}))

    watch_batches(monkeypatch, load_second)
    run(with_rating("1", "1", "1"), "--replace")
    assert between == [0, 2]
    assert [r["rating"] for r in loaded(db)] == [1, 1, 1]
    assert db.list_collection_names() == ["Reviews"]


def test_what_a_killed_replacement_left_is_dropped_after_a_day(run: Run, db: MongoDatabase) -> None:
    now = datetime.now(UTC)
    old, young = (
        f"Reviews.staged.{ObjectId.from_datetime(now - age)}"
        for age in (timedelta(hours=25), timedelta(hours=23))
    )
    for name in (old, young, "Reviews.staged.mine"):
        db[name].insert_one({})
    run(with_rating("4"), "--replace")
    assert set(db.list_collection_names()) == {"Reviews", young, "Reviews.staged.mine"}


def test_as_a_command_from_stdin(db: MongoDatabase, db_settings: Settings, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "MONGO_URI": db_settings.mongo.uri.get_secret_value(),
        "MONGO_DB": db_settings.mongo.db,
    }

    def command(content: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "recommender.load", "-"],
            input=content,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            check=False,
            timeout=60,
        )

    done = command(gzip.compress(json_lines(*GOOGLE_ROWS).encode()))
    assert done.returncode == 0, done.stderr
    assert loaded(db) == GOOGLE_ROWS
    assert b"2 reviews" in done.stdout
    failed = command(b"")
    assert failed.returncode == 65
    assert re.fullmatch(rb"error: stdin .*\n", failed.stderr)
    assert failed.stdout == b""
    archived = command(zipped(GOOGLE_CSV.encode(), "file.csv"))
    assert archived.returncode == 65
    assert re.fullmatch(rb"error: .*pipe; .*\n", archived.stderr)


def test_a_closed_stdin_is_empty(
    db_settings: Settings, clean_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="stdin is empty"):
        main(["-", "--dry-run"])


def test_a_file_is_read_as_a_training_finds_it(
    run: Run, db_settings: Settings, tmp_path: Path
) -> None:
    run(GOOGLE_CSV + "2,0xa:0x2,9,\n2,0xa:0x3,,\n")
    loaded, trained = read_file(str(tmp_path / "file.csv"), db_settings), read_ratings(db_settings)
    assert loaded.users.equals(trained.users)
    assert loaded.restaurants.equals(trained.restaurants)
    assert loaded.rating.tolist() == trained.rating.tolist() == [5, 3.5]
    assert loaded.report == trained.report


def test_a_file_with_other_columns_or_nothing_in_it_is_read_too(
    db_settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("who,where,stars,mood\nu,a,4,glad\n")
    columns = {"user_id": "who", "gmap_id": "where", "rating": "stars"}
    assert read_file(str(path), db_settings, columns).rating.tolist() == [4]
    path.write_text("who,where,stars\nu,a,\n")
    with pytest.raises(DataError):
        read_file(str(path), db_settings, columns)
