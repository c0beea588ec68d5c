"""The settings of the service: typed, grouped, read from the environment or a ``.env`` file."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from bson import json_util
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from recommender.core.errors import ConfigurationError

ENV_FILE = ".env"

# Only this service has names with these prefixes. Other programs use SPARK_, MONGO_ and LOG_, too.
_OWN_PREFIXES = ("ALS_", "CLUSTERS_", "RATING_", "REVIEWS_", "TRAIN_", "LEASE_", "GATE_")
# Variables that Kubernetes sets for a Service that is named like one of the prefixes.
_KUBERNETES = re.compile(r"_(SERVICE_(HOST|PORT\w*)|PORT(_\w+)?)$")
_TYPO_SIMILARITY = 0.75
_RELEVANT_SHARE = 0.75
_SECRETS = {"MONGO_URI", "API_KEY"}

log = logging.getLogger(__name__)


def _plain_field_name(name: str) -> str:
    if not name or name.startswith("$") or "." in name or "\0" in name:
        raise ValueError("a field name is not empty, starts with no '$' and holds no '.' or NUL")
    return name


def _json_filter(text: str) -> str:
    if not isinstance(json_util.loads(text), dict):
        raise ValueError('expected a MongoDB filter as a JSON object, such as {"closed": true}')
    return text


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


JsonFilter = Annotated[str, AfterValidator(_json_filter)]
FieldName = Annotated[str, AfterValidator(_plain_field_name)]
Memory = Annotated[str, BeforeValidator(_lower), Field(pattern=r"^[1-9][0-9]*[kmgt]$")]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class _Group(BaseModel):
    """Settings that belong together; each field's alias is its environment variable."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True
    )


def _setting(name: str, default: object, description: str, **limits: Any) -> Any:
    """Return the field of a setting; ``name`` is its environment variable."""
    return Field(default, alias=name, description=description, **limits)


class MongoSettings(_Group):
    """The MongoDB deployment."""

    uri: SecretStr = _setting(
        "MONGO_URI",
        SecretStr("mongodb://localhost:27017/"),
        "MongoDB's address, with credentials and options",
    )
    db: str = _setting(
        "MONGO_DB",
        "Google-Maps-Restaurant",
        "name of the database",
        max_length=63,
        pattern=r'^[^/\\. "$\x00]+$',
    )


class ReviewsSettings(_Group):
    """The reviews: their fields, their rating scale and the restaurants to leave out."""

    user_field: FieldName = _setting(
        "REVIEWS_USER_FIELD", "user_id", "field of `Reviews`: the user's id"
    )
    restaurant_field: FieldName = _setting(
        "REVIEWS_RESTAURANT_FIELD", "gmap_id", "field of `Reviews`: the restaurant's id"
    )
    rating_field: FieldName = _setting(
        "REVIEWS_RATING_FIELD", "rating", "field of `Reviews`: the rating"
    )
    time_field: FieldName = _setting(
        "REVIEWS_TIME_FIELD", "time", "field of `Reviews`: the time of the rating"
    )
    restaurants_exclude: JsonFilter | None = _setting(
        "RESTAURANTS_EXCLUDE",
        None,
        "restaurants to train on but never recommend: a MongoDB filter of "
        """`Restaurants`, as JSON, such as `{"closed": true}`""",
    )
    rating_min: float = _setting("RATING_MIN", 1.0, "lowest valid rating")
    rating_max: float = _setting("RATING_MAX", 5.0, "highest valid rating")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.rating_min >= self.rating_max:
            raise ValueError(
                f"RATING_MIN={self.rating_min:g} is not below RATING_MAX={self.rating_max:g}"
            )
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"the four REVIEWS_*_FIELD settings must differ, found {self.fields}")
        return self

    @property
    def fields(self) -> tuple[str, str, str, str]:
        """Fields of ``Reviews`` with the user, the restaurant, the rating and the time."""
        return (self.user_field, self.restaurant_field, self.rating_field, self.time_field)

    @property
    def exclude_filter(self) -> dict[str, Any]:
        """The MongoDB filter of ``RESTAURANTS_EXCLUDE``."""
        parsed: dict[str, Any] = json_util.loads(self.restaurants_exclude or "{}")
        return parsed

    @property
    def relevant_from(self) -> float:
        """The lowest rating of a relevant restaurant: three quarters up the scale."""
        return self.rating_min + _RELEVANT_SHARE * (self.rating_max - self.rating_min)


class ApiSettings(_Group):
    """The HTTP server."""

    host: str = _setting("HOST", "127.0.0.1", "address that the API listens on")
    port: int = _setting("PORT", 8080, "port that the API listens on", ge=1, le=65535)
    key: SecretStr | None = _setting(
        "API_KEY",
        None,
        "if set, the key that every call but `/next-training` and `/health/...` must "
        "send, as `X-API-Key` or bearer token",
    )


class ScheduleSettings(_Group):
    """The schedule of trainings and the limits of a single one."""

    interval_hours: float = _setting(
        "TRAIN_INTERVAL_HOURS",
        3.0,
        "hours from one scheduled training to the next",
        ge=1 / 3600,
        le=8760,
    )
    timeout_minutes: float = _setting(
        "TRAIN_TIMEOUT_MINUTES", 170.0, "minutes after which a training is ended", gt=0, le=525600
    )
    stop_grace_seconds: float = _setting(
        "STOP_GRACE_SECONDS", 7.0, "seconds that a stopped training has to clean up", ge=0, le=600
    )
    lease_seconds: float = _setting(
        "LEASE_SECONDS",
        60.0,
        "seconds without a heartbeat after which a training loses its lease",
        ge=10,
        le=3600,
    )
    runs_kept: Count = _setting("RUNS_KEPT", 200, "ended runs, with their logs, kept in the ledger")


class GateSettings(_Group):
    """The check of a new model against the published one."""

    enabled: bool = _setting(
        "GATE", True, "whether a model that is worse than the live one is refused"
    )
    min_users_share: float = _setting(
        "GATE_MIN_USERS_SHARE",
        0.5,
        "share of the live model's users that a new model must serve",
        ge=0,
        le=1,
    )


class SparkSettings(_Group):
    """The Spark session."""

    master: str = _setting("SPARK_MASTER", "local[*]", "Spark master: local or a URL", min_length=1)
    driver_memory: Memory = _setting(
        "SPARK_DRIVER_MEMORY",
        "8g",
        "heap of the Spark driver; the default shrinks on a machine with less memory",
    )
    executor_memory: Memory = _setting("SPARK_EXECUTOR_MEMORY", "8g", "heap of one Spark executor")
    executor_cores: Count = _setting("SPARK_EXECUTOR_CORES", 4, "cores of one Spark executor")
    shuffle_partitions: Count = _setting(
        "SPARK_SHUFFLE_PARTITIONS", 400, "partitions of a Spark shuffle"
    )
    checkpoint_dir: str | None = _setting(
        "SPARK_CHECKPOINT_DIR",
        None,
        "folder of ALS's checkpoints; on a cluster, one that all machines share",
    )


class AlsSettings(_Group):
    """The two fits of ALS, their evaluation and the recommendations."""

    objective: Literal["preference", "rating"] = _setting(
        "ALS_OBJECTIVE",
        "preference",
        "what ranks a user's restaurants: `preference`, fitted by implicit-feedback "
        "ALS, or `rating`, predicted by explicit ALS alone",
    )
    max_iter: Count = _setting("ALS_MAX_ITER", 10, "ALS iterations")
    rank: Count = _setting("ALS_RANK", 10, "latent factors of the rating fit")
    reg_param: float = _setting("ALS_REG_PARAM", 0.1, "ALS regularisation of the rating fit", ge=0)
    user_weight: float | None = _setting(
        "ALS_USER_WEIGHT",
        None,
        "damping of the user bias, in ratings; unset: chosen by each training",
        gt=0,
    )
    restaurant_weight: float | None = _setting(
        "ALS_RESTAURANT_WEIGHT",
        None,
        "damping of the restaurant bias, in ratings; unset: chosen by each training",
        gt=0,
    )
    preference_rank: Count | None = _setting(
        "ALS_PREFERENCE_RANK",
        None,
        "latent factors of the preference fit; unset: 32 or 64, chosen by each training",
    )
    preference_reg_param: float | None = _setting(
        "ALS_PREFERENCE_REG_PARAM",
        None,
        "ALS regularisation of the preference fit; unset: a fifth of `ALS_ALPHA`",
        gt=0,
    )
    preference_users: Count = _setting(
        "ALS_PREFERENCE_USERS",
        20_000,
        "most users of two or more ratings that MLlib fits; half-steps extend the fit to all",
    )
    alpha: float | None = _setting(
        "ALS_ALPHA",
        None,
        "confidence that the mean rating adds to that of an unrated restaurant; unset: "
        "chosen by each training",
        gt=0,
    )
    cold_start_strategy: Literal["drop", "nan"] = _setting(
        "ALS_COLD_START_STRATEGY",
        "drop",
        "test ratings of unknown users or restaurants: left out, or RMSE is null",
    )
    test_fraction: Fraction = _setting(
        "ALS_TEST_FRACTION", 0.2, "share of each user's ratings to test with"
    )
    test_split: Literal["random", "time"] = _setting(
        "ALS_TEST_SPLIT", "random", "test ratings: `random` or, by `time`, the latest"
    )
    top_n: int = _setting("ALS_TOP_N", 13, "restaurants recommended to each user", ge=1, le=1000)


class ClustersSettings(_Group):
    """The clustering of users."""

    k: Count = _setting("CLUSTERS_K", 50, "number of clusters")
    space: Literal["tastes", "ratings"] = _setting(
        "CLUSTERS_SPACE",
        "tastes",
        "what is clustered: `tastes`, a spectral embedding of the restaurants that "
        "users rate, or the raw `ratings`",
    )
    top_n: int = _setting("CLUSTERS_TOP_N", 40, "restaurants kept for each cluster", ge=1, le=1000)


class Settings(_Group):
    """Files, logs and seed.

    Holds the groups of all other settings, too; build it with :func:`load_settings`.
    """

    mongo: MongoSettings
    reviews: ReviewsSettings
    api: ApiSettings
    schedule: ScheduleSettings
    gate: GateSettings
    spark: SparkSettings
    als: AlsSettings
    clusters: ClustersSettings
    work_dir: Path = _setting(
        "WORK_DIR", Path("var"), "the only folder written to: logs, Spark's files, demo database"
    )
    log_level: LogLevel = _setting("LOG_LEVEL", "INFO", "lowest level of the log lines shown")
    seed: int = _setting("SEED", 42, "seed of the splits, of ALS and of K-Means", ge=0, lt=2**31)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Settings:
        """Return the settings with these values, by environment name; the rest has its default.

        Raises
        ------
        pydantic.ValidationError
            If a value is invalid.
        """
        return cls.model_validate({**values, **dict.fromkeys(_GROUPS, values)})

    def with_values(self, changes: Mapping[str, object]) -> Settings:
        """Return these settings with some values changed, by environment name in either case."""
        values = self._flat(exclude_unset=True)
        return Settings.of(values | {name.upper(): value for name, value in changes.items()})

    @property
    def log_dir(self) -> Path:
        """Folder of the trainings' logs."""
        return self.work_dir / "logs"

    def make_folder(self, folder: Path) -> None:
        """Create ``work_dir`` or a folder below it, unless it exists.

        Raises
        ------
        ConfigurationError
            If it cannot be created or written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise ConfigurationError(f"WORK_DIR={self.work_dir}: {error}; set another") from None
        if not writable:
            raise ConfigurationError(f"WORK_DIR={self.work_dir}: {folder} is not writable")

    def public(self) -> dict[str, Any]:
        """Return every setting but the secrets, by environment name in lower case."""
        values = self._flat(mode="json")
        return {name.lower(): value for name, value in values.items() if name not in _SECRETS}

    def _flat(self, **options: Any) -> dict[str, Any]:
        """Return the values by environment name."""
        values = self.model_dump(by_alias=True, **options)
        for name in _GROUPS:
            values |= values.pop(name)
        return values


_GROUPS: dict[str, type[BaseModel]] = {
    "mongo": MongoSettings,
    "reviews": ReviewsSettings,
    "api": ApiSettings,
    "schedule": ScheduleSettings,
    "gate": GateSettings,
    "spark": SparkSettings,
    "als": AlsSettings,
    "clusters": ClustersSettings,
}


def setting_fields() -> dict[str, tuple[str, FieldInfo]]:
    """Return every setting by its environment name: its group's title, and its field."""
    models: list[type[BaseModel]] = [*_GROUPS.values(), Settings]
    return {
        field.alias: ((model.__doc__ or "").partition(".")[0], field)
        for model in models
        for field in model.model_fields.values()
        if field.alias
    }


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment and ``.env``; the environment wins.

    Parameters
    ----------
    overrides
        Values by lower-case name, such as from a command line; they win over both.

    Raises
    ------
    ConfigurationError
        If a value is invalid or a name is a typo. The values of secrets are not repeated.
    """
    values = _file_values() | {name.upper(): value for name, value in os.environ.items()}
    _check_names(values)
    given = {name: value for name, value in values.items() if value}
    try:
        return Settings.of(given | {name.upper(): value for name, value in overrides.items()})
    except ValidationError as error:
        lines = dict.fromkeys(_explain(detail, given | overrides) for detail in error.errors())
        raise ConfigurationError("; ".join(lines)) from None


def _file_values() -> dict[str, str]:
    try:
        values = dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {}
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{ENV_FILE} cannot be read as UTF-8 text: {error}") from None
    return {name.upper(): value or "" for name, value in values.items()}


def _check_names(values: Mapping[str, object]) -> None:
    """Refuse a close misspelling of a setting; warn of an unknown name with one of our prefixes."""
    known = list(setting_fields())
    for name in _suspects(values, known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=_TYPO_SIMILARITY)
        if near:
            raise ConfigurationError(f"{name} is not a setting; did you mean {near[0]}?")
        if name.startswith(_OWN_PREFIXES):
            log.warning("%s is not a setting; docs/settings.md lists all of them", name)


def _suspects(values: Mapping[str, object], known: list[str]) -> Iterator[str]:
    from_file = _file_values()
    for name in values:
        ours = name in from_file or name.startswith(_OWN_PREFIXES)
        if ours and name not in known and not _KUBERNETES.search(name):
            yield name


def _explain(detail: Any, values: Mapping[str, object]) -> str:
    """Return one line about one invalid setting, without the value of a secret."""
    name = str(detail["loc"][-1]) if detail["loc"] else ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if name not in setting_fields():
        return message
    value = "" if name in _SECRETS else f"={values.get(name, values.get(name.lower()))!r}"
    return f"{name}{value}: {message}"
