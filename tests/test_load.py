from __future__ import annotations

import gzip
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import Int64, ObjectId

from recommender.demo import PROJECT
from recommender.errors import DatabaseUnavailableError, DataError
from recommender.load import GOOGLE_IF_NOTHING_IS_SAID, Columns, load, main, read_file
from recommender.mongo import MongoDatabase
from recommender.reviews import read_ratings
from recommender.settings import Settings

GOOGLE_CSV = "user_id,gmap_id,rating,time\n1,0xa:0x1,5,1609909927056\n2,0xa:0x2,3.5,\n"
GOOGLE_ROWS = [
    {"user_id": "1", "gmap_id": "0xa:0x1", "rating": 5, "time": 1609909927056},
    {"user_id": "2", "gmap_id": "0xa:0x2", "rating": 3.5},
]

Run = Callable[..., str]


@pytest.fixture
def run(
    db: MongoDatabase,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Write content to a file, load it with the arguments given and return what was printed."""
    monkeypatch.setenv("MONGO_URI", db_settings.mongo_uri.get_secret_value())
    monkeypatch.setenv("MONGO_DB", db_settings.mongo_db)

    def run(content: str | bytes, *arguments: str, name: str = "file.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        assert main([str(path), *arguments]) == 0
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def loaded(db: MongoDatabase) -> list[dict[str, Any]]:
    return list(db["Reviews"].find({}, {"_id": 0}))


def json_lines(*objects: object) -> str:
    return "".join(json.dumps(o) + "\n" for o in objects)


def megabytes(count: int, rating: int = 4) -> str:
    """Return CSV of 1,000 reviews a megabyte: more than is read or buffered at once."""
    return "user_id,gmap_id,rating,text\n" + f"u,g,{rating},{'x' * 991}\n" * (count * 1_000)


def with_rating(*ratings: str) -> str:
    return "user_id,gmap_id,rating\n" + "".join(f"u{i},g,{r}\n" for i, r in enumerate(ratings))


def test_csv_with_the_google_names_needs_no_preset(run: Run, db: MongoDatabase) -> None:
    summary = run(GOOGLE_CSV)
    assert loaded(db) == GOOGLE_ROWS
    assert isinstance(loaded(db)[0]["rating"], int)
    assert isinstance(loaded(db)[0]["time"], Int64)
    assert "Read 2 lines" in summary
    assert "Loaded 2 reviews" in summary
    assert "Rejected 0 lines." in summary


def test_csv_without_times_will_do_where_nothing_is_said(run: Run, db: MongoDatabase) -> None:
    run("gmap_id,extra,rating,user_id\ng,x,4,u\n")
    assert loaded(db) == [{"user_id": "u", "gmap_id": "g", "rating": 4}]


@pytest.mark.parametrize("name", ["file.csv.gz", "file.csv", "file"])
def test_gzip_is_known_by_its_content(run: Run, db: MongoDatabase, name: str) -> None:
    run(gzip.compress(GOOGLE_CSV.encode()), name=name)
    assert loaded(db) == GOOGLE_ROWS


@pytest.mark.parametrize("name", ["file.jsonl", "file.json", "file.ndjson", "file", "file.json.gz"])
def test_json_lines(run: Run, db: MongoDatabase, name: str) -> None:
    rows = [{"user_id": "1", "gmap_id": "g", "rating": 4.0, "time": 12, "text": "a\nb"}]
    content = json_lines(*rows, {"user_id": 7, "gmap_id": 2**40, "rating": "2"})
    run(gzip.compress(content.encode()) if name.endswith("gz") else content, name=name)
    assert loaded(db) == [
        {"user_id": "1", "gmap_id": "g", "rating": 4, "time": 12},
        {"user_id": 7, "gmap_id": 2**40, "rating": 2},
    ]


def test_format_given_wins(run: Run, db: MongoDatabase) -> None:
    run(GOOGLE_CSV, "--format", "csv", name="file.json")
    assert loaded(db) == GOOGLE_ROWS


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_line_endings_and_byte_order_mark(
    run: Run, db: MongoDatabase, ending: str, start: str, last: str
) -> None:
    text = start + GOOGLE_CSV.rstrip("\n") + last
    run(text.replace("\n", ending))
    assert loaded(db) == GOOGLE_ROWS
    run(start + json_lines(GOOGLE_ROWS[0]).replace("\n", ending), "--replace", name="f.jsonl")
    assert loaded(db) == GOOGLE_ROWS[:1]


def test_csv_ids_stay_strings_and_non_latin_text_survives(run: Run, db: MongoDatabase) -> None:
    run("user_id,gmap_id,rating\n007,Zoë 東京 🍜,4\n")
    assert loaded(db) == [{"user_id": "007", "gmap_id": "Zoë 東京 🍜", "rating": 4}]


def test_quoted_newlines_and_commas(run: Run, db: MongoDatabase) -> None:
    text = 'user_id,text,gmap_id,rating\nu,"two\nlines, ""quoted""",g,4\nv,,g,bad\n'
    assert "1  rating is no finite number" in run(text)
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


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2020-01-01", 1_577_836_800_000),
        ("2020-01-01T01:00:00+01:00", 1_577_836_800_000),
        ("2020-01-01T00:00:00.5Z", 1_577_836_800_500),
        ("1577836800000", 1_577_836_800_000),
        ("1577836800000.0", 1_577_836_800_000),
        ("-5", -5),
    ],
)
def test_times(run: Run, db: MongoDatabase, text: str, ms: int) -> None:
    run(f"user_id,gmap_id,rating,time\nu,g,4,{text}\n")
    assert loaded(db)[0]["time"] == ms


def test_map_wins_over_preset(run: Run, db: MongoDatabase) -> None:
    text = "user_id,business_id,stars,useful,date\nu,b,4,2,\n"
    run(text, "--preset", "yelp", "--map", "rating=useful")
    assert loaded(db) == [{"user_id": "u", "gmap_id": "b", "rating": 2}]


@pytest.mark.parametrize(
    "rating", ["nan", "NaN", "inf", "-Infinity", "1e999", "five", "4_0", "4,5", " "]
)
def test_ratings_that_are_no_finite_numbers_are_rejected(
    run: Run, db: MongoDatabase, rating: str
) -> None:
    assert "1  rating is no finite number" in run(with_rating("4", f'"{rating}"'))
    assert [r["user_id"] for r in loaded(db)] == ["u0"]


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
        good | {"gmap_id": 2**63},
        good | {"gmap_id": "half \ud800"},
        good | {"rating": None},
        good | {"rating": True},
        good | {"rating": math.nan},
        good | {"rating": [4]},
        good | {"rating": 10**400},
        good | {"time": "yesterday"},
        good | {"time": 1e300},
        good | {"time": math.nan},
    ]
    others = "not json\n[1]\n7\nnull\n" + "[" * 200_000 + "\n\n   \n"
    summary = run(json_lines(good, *bad) + others + json_lines(good), name="f.jsonl")
    assert loaded(db) == [good, good]
    assert "Read 22 lines" in summary
    assert "Rejected 20 lines:" in summary
    for line in (
        "3  user_id missing",
        "4  gmap_id is no id",
        "1  rating missing",
        "4  rating is no finite number",
        "3  time is neither ms since epoch nor a date",
        "5  not a JSON object",
    ):
        assert f"\n  {line}\n" in summary
    # The lines' numbers are those an editor shows.
    assert "user_id missing, such as line 2, 3, 4" in summary
    assert "not a JSON object, such as line 17, 18, 19" in summary


def test_bad_csv_lines_are_counted_by_reason(run: Run, db: MongoDatabase) -> None:
    text = 'user_id,text,gmap_id,rating\n\nu,"a\nb",g,4\nu,g,4\nu,x,g,4,5\nu,"a"b,g,4\nu,x,,4\n'
    summary = run(text + 'v,x,g,5\nu,"open to the end,g,4\n')
    assert [r["user_id"] for r in loaded(db)] == ["u", "v"]
    assert "2  not as many fields as the header" in summary
    assert "1  gmap_id missing" in summary
    assert "1  not CSV: unexpected end of data" in summary
    assert "1  not CSV: ',' expected after '\"'" in summary
    assert "header, such as line 5, 6" in summary
    assert "gmap_id missing, such as line 8" in summary


def test_huge_line_is_left_out_and_the_next_one_read(run: Run, db: MongoDatabase) -> None:
    good = json_lines({"user_id": "u", "gmap_id": "g", "rating": 4})
    huge = json_lines({"user_id": "x" * 3_000_000, "gmap_id": "g", "rating": 4})
    assert "1  a line of more than 1,000,000 bytes" in run(good + huge + good, name="f.jsonl")
    assert [r["user_id"] for r in loaded(db)] == ["u", "u"]


def test_batches_join_up(run: Run, db: MongoDatabase) -> None:
    run(with_rating(*["4"] * 25), "--batch", "10")
    assert [r["user_id"] for r in loaded(db)] == [f"u{i}" for i in range(25)]


def test_adds_unless_told_to_replace(run: Run, db: MongoDatabase) -> None:
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


class Watching(io.FileIO):
    """A file that reports each read from it, the last one's ``b""`` included."""

    def __init__(self, path: Path, seen: Callable[[], None]) -> None:
        super().__init__(path)
        self._seen = seen

    def readinto(self, buffer: Any) -> int | None:
        self._seen()
        return super().readinto(buffer)


def test_readers_see_the_old_reviews_until_all_is_read(
    db: MongoDatabase, db_settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "file.csv"
    path.write_text(megabytes(4))
    db["Reviews"].insert_one({"user_id": "old"})
    seen: list[int] = []
    with Watching(path, lambda: seen.append(db["Reviews"].count_documents({}))) as raw:
        report = load(raw, "file.csv", db, db_settings, replace=True, batch=50)
    assert len(seen) > 3
    assert set(seen) == {1}
    assert report.loaded == db["Reviews"].count_documents({}) == 4_000


LATIN = "user_id,gmap_id,rating\nu,g,4\nu,caf\u00e9,4\n".encode("latin-1")
DAMAGED = gzip.compress(GOOGLE_CSV.encode())[:-8] + bytes(8)
TRUNCATED = gzip.compress(megabytes(4).encode())[:-1_000]
BROKEN_FILES = [
    pytest.param(b"", "file.csv is empty", id="empty"),
    pytest.param(b"\n \n", "file.csv is empty", id="blank"),
    pytest.param(gzip.compress(b""), "file.csv is empty", id="empty gzip"),
    pytest.param(b"user_id,gmap_id,rating\n", "only a header", id="header only"),
    pytest.param(with_rating("x").encode(), "no valid review among 1 lines: rating is", id="bad"),
    pytest.param(LATIN, "line 3 has the byte 0xe9 at place 6", id="latin-1"),
    pytest.param(GOOGLE_CSV.encode("utf-16"), "holds a NUL byte", id="utf-16"),
    pytest.param(GOOGLE_CSV.encode("utf-16-le"), "holds a NUL byte", id="utf-16 without mark"),
    pytest.param(b"\x89PNG\r\n\x1a\n\0\0", "not UTF-8 text: line 1", id="binary"),
    pytest.param(TRUNCATED, "the gzip file is cut short", id="truncated gzip"),
    pytest.param(DAMAGED, "the gzip file is damaged", id="damaged gzip"),
    pytest.param(b"who,gmap_id,rating\nu,g,4\n", "found are who, gmap_id, rating", id="columns"),
    pytest.param(b"user_id,gmap_id,rating,rating\n", "columns rating once", id="twice"),
    pytest.param(b"user_id,gmap_id,rating\ru,g,4\r", "has no CSV header", id="old Mac"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN_FILES)
def test_broken_file_is_one_clear_error_and_leaves_what_was_there(
    run: Run, db: MongoDatabase, content: bytes, message: str
) -> None:
    db["Reviews"].insert_one({"user_id": "old"})
    with pytest.raises(DataError, match=message) as caught:
        run(content, "--replace")
    assert caught.value.exit_code == 65
    assert len(str(caught.value).splitlines()) == 1
    assert loaded(db) == [{"user_id": "old"}]
    assert db.list_collection_names() == ["Reviews"]


def test_json_array_says_how_to_convert_it(run: Run) -> None:
    with pytest.raises(DataError, match="one JSON array"):
        run('[{"user_id": "u"},\n{"user_id": "v"}]', name="f.json")


def test_json_without_the_keys_names_those_found(run: Run) -> None:
    with pytest.raises(DataError, match="user_id missing \\(1\\); columns found: who, rating"):
        run(json_lines({"who": "u", "rating": 4}), name="f.json")


def test_column_of_a_preset_or_map_must_be_there(run: Run) -> None:
    with pytest.raises(DataError, match="columns time once"):
        run("user_id,gmap_id,rating\nu,g,4\n", "--preset", "google")


def test_failed_addition_says_what_stays(
    run: Run, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="cut short"):
        run(TRUNCATED, "--batch", "100")
    count = db["Reviews"].count_documents({})
    assert count > 0
    assert (
        f"up to {count} reviews were added before the failure and stay" in capsys.readouterr().err
    )


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_unreadable_file(db_settings: Settings, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
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
        ["f", "--batch", "0"],
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
    db: MongoDatabase, db_settings: Settings, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text(megabytes(4, rating=1))
    second.write_text(with_rating("2", "2"))
    between: list[int] = []

    def load_second() -> None:
        if not between and any(".staged." in name for name in db.list_collection_names()):
            between.append(0)
            with io.FileIO(second) as raw:
                load(raw, "second.csv", db, db_settings, replace=True)
            between.append(db["Reviews"].count_documents({"rating": 2}))

    with Watching(first, load_second) as raw:
        load(raw, "first.csv", db, db_settings, replace=True)
    assert between == [0, 2]
    assert db["Reviews"].count_documents({"rating": 1}) == 4_000
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
        "MONGO_URI": db_settings.mongo_uri.get_secret_value(),
        "MONGO_DB": db_settings.mongo_db,
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
    assert b"Loaded 2 reviews" in done.stdout
    failed = command(b"")
    assert failed.returncode == 65
    assert failed.stderr.strip() == b"error: stdin is empty"
    assert failed.stdout == b""


def test_nothing_said_means_google() -> None:
    assert GOOGLE_IF_NOTHING_IS_SAID.names["gmap_id"] == "gmap_id"


def test_a_file_is_read_as_a_training_finds_it(
    run: Run, db_settings: Settings, tmp_path: Path
) -> None:
    run(GOOGLE_CSV + "2,0xa:0x2,9,\n2,0xa:0x3,,\n")
    found, trained = read_file(str(tmp_path / "file.csv"), db_settings), read_ratings(db_settings)
    assert found.users.equals(trained.users)
    assert found.restaurants.equals(trained.restaurants)
    assert found.rating.tolist() == trained.rating.tolist() == [5, 3.5]
    assert found.report == trained.report


def test_a_file_with_other_columns_or_nothing_in_it_is_read_too(
    db_settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("who,where,stars,mood\nu,a,4,glad\n")
    columns = Columns({"user_id": "who", "gmap_id": "where", "rating": "stars"})
    assert read_file(str(path), db_settings, columns).rating.tolist() == [4]
    path.write_text("who,where,stars\nu,a,\n")
    with pytest.raises(DataError, match="no valid review among 1 lines: rating missing"):
        read_file(str(path), db_settings, columns)
