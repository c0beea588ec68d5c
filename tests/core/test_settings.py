"""Settings: the contract's defaults, where values come from, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from recommender.core.errors import ConfigurationError
from recommender.core.settings import Settings, load_settings

pytestmark = pytest.mark.usefixtures("clean_environment")

SEED_CONFIGURATION = {
    "mongo_db": "Google-Maps-Restaurant",
    "reviews_user_field": "user_id",
    "reviews_restaurant_field": "gmap_id",
    "reviews_rating_field": "rating",
    "reviews_time_field": "time",
    "rating_min": 1.0,
    "rating_max": 5.0,
    "port": 8080,
    "train_interval_hours": 3.0,
    "spark_master": "local[*]",
    "spark_driver_memory": "8g",
    "spark_executor_memory": "8g",
    "spark_executor_cores": 4,
    "spark_shuffle_partitions": 400,
    "als_rank": 10,
    "als_max_iter": 10,
    "als_reg_param": 0.1,
    "als_cold_start_strategy": "drop",
    "als_test_fraction": 0.2,
    "als_top_n": 13,
    "clusters_k": 50,
    "clusters_top_n": 40,
}

# A value for each setting that is not its default.
OTHER_VALUES: dict[str, tuple[str, Any]] = {
    "mongo_uri": ("mongodb://elsewhere:1/", SecretStr("mongodb://elsewhere:1/")),
    "mongo_db": ("city", "city"),
    "reviews_user_field": ("who", "who"),
    "reviews_restaurant_field": ("business_id", "business_id"),
    "reviews_rating_field": ("stars", "stars"),
    "reviews_time_field": ("date", "date"),
    "restaurants_exclude": ('{"closed": true}', '{"closed": true}'),
    "rating_min": ("-1", -1.0),
    "rating_max": ("10", 10.0),
    "host": ("::1", "::1"),
    "port": ("9", 9),
    "api_key": ("k3y", SecretStr("k3y")),
    "train_interval_hours": ("0.001", 0.001),
    "train_timeout_minutes": ("0.5", 0.5),
    "stop_grace_seconds": ("0", 0.0),
    "lease_seconds": ("10", 10.0),
    "gate": ("off", False),
    "gate_min_users_share": ("0", 0.0),
    "runs_kept": ("1", 1),
    "work_dir": ("/tmp/elsewhere", Path("/tmp/elsewhere")),
    "log_level": ("DEBUG", "DEBUG"),
    "seed": ("0", 0),
    "spark_master": ("spark://s:7077", "spark://s:7077"),
    "spark_driver_memory": ("512m", "512m"),
    "spark_executor_memory": ("1t", "1t"),
    "spark_executor_cores": ("1", 1),
    "spark_shuffle_partitions": ("3", 3),
    "spark_checkpoint_dir": ("hdfs://h/c", "hdfs://h/c"),
    "als_rank": ("64", 64),
    "als_max_iter": ("1", 1),
    "als_reg_param": ("0", 0.0),
    "als_objective": ("rating", "rating"),
    "als_user_weight": ("2", 2.0),
    "als_restaurant_weight": ("0.5", 0.5),
    "als_preference_rank": ("16", 16),
    "als_preference_reg_param": ("0.1", 0.1),
    "als_preference_users": ("9", 9),
    "als_alpha": ("40", 40.0),
    "als_cold_start_strategy": ("nan", "nan"),
    "als_test_fraction": ("0.5", 0.5),
    "als_test_split": ("time", "time"),
    "als_top_n": ("1000", 1000),
    "als_reasons": ("3", 3),
    "clusters_k": ("2", 2),
    "clusters_space": ("ratings", "ratings"),
    "clusters_top_n": ("1", 1),
}
SETTINGS = list(Settings.model_fields)

BAD_VALUES = [
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "http"),
    ("RATING_MIN", "nan"),
    ("RATING_MAX", "inf"),
    ("RATING_MAX", "five"),
    ("TRAIN_INTERVAL_HOURS", "0"),
    ("TRAIN_INTERVAL_HOURS", "8761"),
    ("TRAIN_TIMEOUT_MINUTES", "0"),
    ("LEASE_SECONDS", "9.9"),
    ("STOP_GRACE_SECONDS", "-1"),
    ("MONGO_DB", "a b"),
    ("MONGO_DB", "a/b"),
    ("MONGO_DB", "a.b"),
    ("MONGO_DB", "$a"),
    ("MONGO_DB", "a" * 64),
    ("GATE", "ajar"),
    ("GATE_MIN_USERS_SHARE", "1.1"),
    ("RUNS_KEPT", "0"),
    ("LOG_LEVEL", "LOUD"),
    ("SEED", "-1"),
    ("SEED", str(2**31)),
    ("SPARK_DRIVER_MEMORY", "8"),
    ("SPARK_DRIVER_MEMORY", "8GB"),
    ("SPARK_EXECUTOR_MEMORY", "0g"),
    ("SPARK_EXECUTOR_CORES", "0"),
    ("ALS_RANK", "0"),
    ("ALS_RANK", "1.5"),
    ("ALS_MAX_ITER", "-3"),
    ("ALS_REG_PARAM", "-0.1"),
    ("ALS_OBJECTIVE", "guess"),
    ("ALS_COLD_START_STRATEGY", "keep"),
    ("ALS_TEST_FRACTION", "0"),
    ("ALS_TEST_FRACTION", "1"),
    ("ALS_TEST_SPLIT", "latest"),
    ("ALS_USER_WEIGHT", "0"),
    ("ALS_RESTAURANT_WEIGHT", "0"),
    ("ALS_PREFERENCE_RANK", "0"),
    ("ALS_PREFERENCE_REG_PARAM", "0"),
    ("ALS_REASONS", "4"),
    ("RESTAURANTS_EXCLUDE", "closed"),
    ("ALS_TOP_N", "1001"),
    ("CLUSTERS_K", "0"),
    ("CLUSTERS_SPACE", "euclidean"),
    ("CLUSTERS_TOP_N", "0"),
    *(("REVIEWS_USER_FIELD", name) for name in ("$set", "a.b", ".")),
    ("REVIEWS_RESTAURANT_FIELD", "$id"),
    ("REVIEWS_RATING_FIELD", "deep.rating"),
    ("REVIEWS_TIME_FIELD", "$time"),
]


def test_the_defaults_are_the_contracts() -> None:
    found = load_settings()
    assert {name: getattr(found, name) for name in SEED_CONFIGURATION} == SEED_CONFIGURATION
    assert found.mongo_uri.get_secret_value() == "mongodb://localhost:27017/"
    assert found.api_key is None


def test_the_api_listens_on_the_loopback_address_unless_told() -> None:
    assert load_settings().host == "127.0.0.1"


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_table_of_other_values_has_every_setting() -> None:
    assert set(OTHER_VALUES) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_comes_from_the_environment(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = OTHER_VALUES[name]
    monkeypatch.setenv(name.upper(), text)
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_comes_from_the_file(name: str) -> None:
    text, value = OTHER_VALUES[name]
    Path(".env").write_text(f"# a remark\n{name.upper()}={text}\n")
    assert getattr(load_settings(), name) == value


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=1\nSEED=2\n")
    monkeypatch.setenv("PORT", "3")
    found = load_settings()
    assert (found.port, found.seed) == (3, 2)


def test_what_is_given_by_hand_wins_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=1\n")
    monkeypatch.setenv("PORT", "3")
    assert load_settings(port=4).port == 4


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("API_KEY", "")
    found = load_settings()
    assert (found.port, found.api_key) == (8080, None)


@pytest.mark.parametrize("source", ["environment", "file"])
@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("ALS_RANKS", "ALS_RANK"),
        ("CLUSTERS_KK", "CLUSTERS_K"),
        ("RATING_MINIMUM", "RATING_MIN"),
        ("REVIEWS_USER_FILED", "REVIEWS_USER_FIELD"),
        ("TRAIN_INTERVAL_HOUR", "TRAIN_INTERVAL_HOURS"),
        ("LEASE_SECOND", "LEASE_SECONDS"),
        ("GATE_MIN_USER_SHARE", "GATE_MIN_USERS_SHARE"),
        ("als_ranks", "ALS_RANK"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_one_that_was_meant(
    wrong: str, meant: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "file":
        Path(".env").write_text(f"{wrong}=1\n")
    else:
        monkeypatch.setenv(wrong, "1")
    with pytest.raises(ConfigurationError, match=rf"^{wrong} is no .*did you mean {meant}\?$"):
        load_settings()


@pytest.mark.parametrize("name", ["CLUSTER_K", "SPARK_HOME", "MONGO_LOG", "PORTS"])
def test_a_name_that_may_be_another_programs_is_let_be_in_the_environment(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    assert load_settings().model_fields_set == set()


@pytest.mark.parametrize("name", ["SPARK_HOME", "MEMORY_LIMIT", "BIND_ADDRESS"])
def test_a_name_that_resembles_no_setting_is_let_be_in_the_file(name: str) -> None:
    Path(".env").write_text(f"{name}=x\n")
    assert load_settings().model_fields_set == set()


@pytest.mark.parametrize("name", ["CLUSTER_K", "MONGO_UIR", "API_KYE", "PROT", "SPARK_MASTR"])
def test_a_slip_of_the_pen_in_the_file_is_refused(name: str) -> None:
    Path(".env").write_text(f"{name}=x\n")
    with pytest.raises(ConfigurationError, match=f"{name} is no setting; did you mean"):
        load_settings()


def test_a_name_that_is_like_no_other_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALS_XYZZY_QWFP", "1")
    with pytest.raises(ConfigurationError, match="ALS_XYZZY_QWFP"):
        load_settings()


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_value_that_cannot_be_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{name}={value!r}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_bad_value_in_the_file_is_refused_as_well() -> None:
    Path(".env").write_text("PORT=none\n")
    with pytest.raises(ConfigurationError, match=r"^PORT='none': "):
        load_settings()


def test_all_bad_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("SEED", "y")
    with pytest.raises(ConfigurationError, match=r"PORT=.*SEED="):
        load_settings()


@pytest.mark.parametrize("name", ["", "$a", "a.b", "a\0b"])
def test_a_name_that_cannot_be_a_field_of_mongodb_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"REVIEWS_TIME_FIELD.*a field name is not empty"):
        load_settings(reviews_time_field=name)


@pytest.mark.parametrize("name", ["a$b", "stars ⭐", "_id2", "with space"])
def test_any_other_field_name_will_do(name: str) -> None:
    assert load_settings(reviews_time_field=name).reviews_time_field == name


def test_two_roles_cannot_share_a_field() -> None:
    with pytest.raises(ConfigurationError, match=r"REVIEWS_.*_FIELD settings must differ"):
        load_settings(reviews_user_field="x", reviews_time_field="x")


@pytest.mark.parametrize(("low", "high"), [(5, 5), (6, 5), (1, 0)])
def test_a_scale_that_does_not_ascend_is_refused(
    low: int, high: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATING_MIN", str(low))
    monkeypatch.setenv("RATING_MAX", str(high))
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value) == f"RATING_MIN={low} is not below RATING_MAX={high}"


@pytest.mark.parametrize("name", ["mongo_uri", "api_key"])
def test_the_value_of_a_secret_is_not_repeated(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**{name: {"password": "s3cret"}})
    assert str(caught.value).startswith(f"{name.upper()}: ")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_mistake_elsewhere_does_not_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_URI", "mongodb://u:s3cret@h/")
    monkeypatch.setenv("API_KEY", "s3cret")
    monkeypatch.setenv("RATING_MIN", "9")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "s3cret" not in str(caught.value)


def test_what_is_public_is_everything_but_the_secrets() -> None:
    settings = load_settings(mongo_uri="mongodb://u:s3cret@h/", api_key="s3cret2")
    assert set(settings.public()) == set(SETTINGS) - {"mongo_uri", "api_key"}
    assert "s3cret" not in json.dumps(settings.public())
    assert "s3cret" not in f"{settings!r} {settings}"


def test_settings_do_not_change_once_they_are_made() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_the_review_fields_stand_in_the_order_of_their_roles() -> None:
    settings = load_settings(
        reviews_user_field="a",
        reviews_restaurant_field="b",
        reviews_rating_field="c",
        reviews_time_field="d",
    )
    assert settings.review_fields == ("a", "b", "c", "d")


def test_the_logs_lie_in_the_work_folder(tmp_path: Path) -> None:
    assert load_settings(work_dir=tmp_path).log_dir == tmp_path / "logs"


def test_a_folder_of_the_work_folder_is_made_with_what_is_above_it(tmp_path: Path) -> None:
    settings = load_settings(work_dir=tmp_path / "a" / "b")
    settings.make_folder(settings.log_dir)
    settings.make_folder(settings.log_dir)
    assert settings.log_dir.is_dir()


def test_a_work_folder_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    settings = load_settings(work_dir=in_the_way)
    with pytest.raises(ConfigurationError, match=rf"^WORK_DIR={in_the_way}: .*; set another$"):
        settings.make_folder(settings.log_dir)


def test_a_work_folder_that_may_not_be_written_to_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    with pytest.raises(ConfigurationError, match=rf"^WORK_DIR={tmp_path}: .* be written to$"):
        load_settings(work_dir=tmp_path).make_folder(tmp_path)


@pytest.mark.usefixtures("clean_environment")
def test_a_file_that_is_no_text_is_a_configuration_error() -> None:
    Path(".env").write_bytes(b"PORT=\xff\n")
    with pytest.raises(ConfigurationError, match=r"\.env"):
        load_settings()
