"""Settings: the contract's defaults, their sources, and what is refused."""

import json
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from recommender.core.errors import ConfigurationError
from recommender.core.settings import Settings, load_settings, setting_fields

pytestmark = pytest.mark.usefixtures("clean_environment")

CONTRACT_DEFAULTS = {
    "mongo_db": "Google-Maps-Restaurant",
    "reviews_user_field": "user_id",
    "reviews_restaurant_field": "gmap_id",
    "reviews_rating_field": "rating",
    "reviews_time_field": "time",
    "rating_min": 1.0,
    "rating_max": 5.0,
    "host": "127.0.0.1",
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

# Texts of valid values other than the default, and what public() shows of them.
OTHER_VALUES: dict[str, tuple[str, object]] = {
    "mongo_uri": ("mongodb://elsewhere:1/", None),
    "mongo_db": ("city", "city"),
    "reviews_user_field": ("who", "who"),
    "reviews_restaurant_field": ("business_id", "business_id"),
    "reviews_rating_field": ("stars ⭐", "stars ⭐"),
    "reviews_time_field": ("a$b", "a$b"),
    "restaurants_exclude": ('{"closed": true}', '{"closed": true}'),
    "rating_min": ("-1", -1.0),
    "rating_max": ("10", 10.0),
    "host": ("::1", "::1"),
    "port": ("9", 9),
    "api_key": ("k3y", None),
    "train_interval_hours": ("0", 0.0),
    "train_timeout_minutes": ("0.5", 0.5),
    "stop_grace_seconds": ("0", 0.0),
    "lease_seconds": ("10", 10.0),
    "gate": ("off", False),
    "gate_min_users_share": ("0", 0.0),
    "runs_kept": ("1", 1),
    "work_dir": ("/tmp/elsewhere", "/tmp/elsewhere"),
    "log_level": ("debug", "DEBUG"),
    "seed": ("0", 0),
    "spark_master": ("spark://s:7077", "spark://s:7077"),
    "spark_driver_memory": ("2G", "2g"),
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
    "clusters_k": ("2", 2),
    "clusters_space": ("ratings", "ratings"),
    "clusters_top_n": ("1", 1),
}

INVALID_VALUES = {
    "PORT": ["0", "65536", "http"],
    "RATING_MIN": ["nan"],
    "RATING_MAX": ["inf", "five"],
    "TRAIN_INTERVAL_HOURS": ["-1", "0.0001", "8761"],
    "TRAIN_TIMEOUT_MINUTES": ["0"],
    "LEASE_SECONDS": ["9.9"],
    "STOP_GRACE_SECONDS": ["-1"],
    "MONGO_DB": ["a b", "a/b", "a.b", "$a", "a" * 64],
    "GATE": ["ajar"],
    "GATE_MIN_USERS_SHARE": ["1.1"],
    "RUNS_KEPT": ["0", "1" + "0" * 19],
    "LOG_LEVEL": ["LOUD"],
    "SEED": ["-1", str(2**31)],
    "SPARK_DRIVER_MEMORY": ["8", "8GB"],
    "SPARK_EXECUTOR_MEMORY": ["0g"],
    "SPARK_EXECUTOR_CORES": ["0"],
    "ALS_RANK": ["20001", "0", "1.5"],
    "ALS_MAX_ITER": ["-3"],
    "ALS_REG_PARAM": ["-0.1"],
    "ALS_OBJECTIVE": ["guess"],
    "ALS_COLD_START_STRATEGY": ["keep"],
    "ALS_TEST_FRACTION": ["0", "1"],
    "ALS_TEST_SPLIT": ["latest"],
    "ALS_USER_WEIGHT": ["0"],
    "ALS_RESTAURANT_WEIGHT": ["0"],
    "ALS_PREFERENCE_RANK": ["0", "2147483647"],
    "ALS_ALPHA": ["1e308"],
    "ALS_PREFERENCE_REG_PARAM": ["0"],
    "ALS_TOP_N": ["1001"],
    "RESTAURANTS_EXCLUDE": ["closed", '{"a": 99999999999999999999}', '{"a\\u0000": 1}'],
    "CLUSTERS_K": ["0"],
    "CLUSTERS_SPACE": ["factors"],
    "CLUSTERS_TOP_N": ["0"],
    "REVIEWS_USER_FIELD": ["$set", "a.b", ".", "\udcff"],
    "REVIEWS_TIME_FIELD": ["$time"],
}


def test_defaults_are_those_of_the_contract() -> None:
    public = load_settings().public()
    assert {name: public[name] for name in CONTRACT_DEFAULTS} == CONTRACT_DEFAULTS
    assert load_settings().mongo.uri.get_secret_value() == "mongodb://localhost:27017/"
    assert load_settings().api.key is None


def test_there_are_at_most_45_settings_and_each_is_described() -> None:
    assert len(setting_fields()) <= 45
    assert [name for name, (_, field) in setting_fields().items() if not field.description] == []
    assert {name.lower() for name in setting_fields()} == set(OTHER_VALUES)


@pytest.mark.parametrize("source", ["environment", "file", "arguments"])
def test_every_setting_is_read(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {name: text for name, (text, _) in OTHER_VALUES.items()}
    if source == "environment":
        for name, text in texts.items():
            monkeypatch.setenv(name.upper(), text)
    elif source == "file":
        lines = [f"{name.upper()}='{text}'" for name, text in texts.items()]
        Path(".env").write_text("\n".join(["# a comment", *lines]))
    settings = load_settings(**texts) if source == "arguments" else load_settings()
    secrets = {"mongo_uri", "api_key"}
    expected = {name: value for name, (_, value) in OTHER_VALUES.items() if name not in secrets}
    assert settings.public() == expected
    assert settings.mongo.uri.get_secret_value() == texts["mongo_uri"]
    assert settings.api.key
    assert settings.api.key.get_secret_value() == texts["api_key"]


def test_arguments_win_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("PORT=1\nSEED=2\nALS_RANK=3\n")
    monkeypatch.setenv("PORT", "4")
    monkeypatch.setenv("SEED", "5")
    settings = load_settings(seed=6)
    assert (settings.api.port, settings.seed, settings.als.rank) == (4, 6, 3)


def test_an_empty_variable_leaves_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("API_KEY", "")
    settings = load_settings()
    assert (settings.api.port, settings.api.key) == (8080, None)


@pytest.mark.parametrize("source", ["environment", "file"])
def test_a_close_misspelling_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"ALS_RANKS": "ALS_RANK", "LEASE_SECOND": "LEASE_SECONDS", "als_alpa": "ALS_ALPHA"}
    if source == "file":
        names |= {"CLUSTER_K": "CLUSTERS_K", "MONGO_UIR": "MONGO_URI", "PROT": "PORT"}
        names["MONGO_URL"] = "MONGO_URI"
    for name, meant in names.items():
        with monkeypatch.context() as patch:
            if source == "file":
                Path(".env").write_text(f"{name}=1\n")
            else:
                patch.setenv(name, "1")
            with pytest.raises(ConfigurationError, match=rf"^{name.upper()} .*{meant}\?$"):
                load_settings()


def test_unknown_names_are_no_error_and_only_our_prefixes_warn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = ["CLUSTER_K", "SPARK_HOME", "MONGO_LOG", "REVIEWS_SERVICE_HOST", "TRAIN_PORT_80_TCP"]
    for name in others:
        monkeypatch.setenv(name, "x")
    in_file = ["MEMORY_LIMIT", "BIND_ADDRESS", "WORKER_DIR", "SPARK_WORKER_MEMORY"]
    in_file += ["SPARK_DAEMON_MEMORY", "SPARK_EXECUTOR_INSTANCES"]
    Path(".env").write_text("".join(f"{name}=x\n" for name in in_file))
    load_settings()
    assert caplog.records == []
    monkeypatch.setenv("ALS_XYZZY_QWFP", "1")
    load_settings()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_invalid_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in INVALID_VALUES.items():
        for value in values:
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                with pytest.raises(ConfigurationError) as caught:
                    load_settings()
            assert str(caught.value).startswith(f"{name}={value!r}: ")
            assert "\n" not in str(caught.value)


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown() -> None:
    for key in (" ", "s3cret\n", " s3cret", "s3\x1fcret"):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(api_key=key)
        assert "cret" not in str(caught.value)


def test_all_invalid_values_are_named_at_once() -> None:
    Path(".env").write_text("PORT=x\nSEED=y\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert all(text in str(caught.value) for text in ("PORT='x'", "SEED='y'"))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        load_settings(rating_min=6)
    with pytest.raises(ConfigurationError):
        load_settings(reviews_user_field="x", reviews_time_field="x")


def test_no_secret_is_shown() -> None:
    uri = "mongodb://u:s3cret@h/"
    settings = load_settings(mongo_uri=uri, api_key="s3cret2")
    assert "s3cret" not in f"{settings!r} {settings} {json.dumps(settings.public())}"
    for wrong in ({"mongo_uri": {"password": "s3cret"}}, {"mongo_uri": uri, "rating_min": 9}):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(**wrong)
        assert "s3cret" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_settings_are_frozen_pickle_and_change_by_copy() -> None:
    settings = load_settings(als_rank=3)
    with pytest.raises(ValidationError):
        settings.als.rank = 1
    changed = pickle.loads(pickle.dumps(settings)).with_values({"gate": False, "SEED": 1})
    assert isinstance(changed, Settings)
    assert (changed.gate.enabled, changed.seed, changed.als.rank) == (False, 1, 3)
    assert (settings.gate.enabled, settings.seed) == (True, 42)
    assert changed.spark.model_fields_set == set()  # a default stays one
    with pytest.raises(ValueError, match="ALS_RANKS"):
        settings.with_values({"als_ranks": 3})


def test_a_relevant_rating_is_three_quarters_up_the_scale() -> None:
    assert load_settings().reviews.relevant_from == 4
    assert load_settings(rating_min=0, rating_max=2).reviews.relevant_from == 1.5


def test_a_folder_of_the_work_folder_is_made_or_refused(tmp_path: Path) -> None:
    settings = load_settings(work_dir=tmp_path / "a" / "b")
    settings.make_folder(settings.log_dir)
    settings.make_folder(settings.log_dir)
    assert (tmp_path / "a" / "b" / "logs").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError):
        load_settings(work_dir=tmp_path / "file").make_folder(tmp_path / "file" / "logs")
    for folder in (Path("/proc"), Path("/sys")):  # which root may write to, by their permissions
        with pytest.raises(ConfigurationError):
            load_settings(work_dir=folder).make_folder(folder)
