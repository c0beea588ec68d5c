"""The settings of the service: typed, grouped, read from the environment or a ``.env`` file."""

import difflib
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import bson
from bson import json_util
from bson.errors import BSONError
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
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
_SECRETS = {"MONGO_URI", "API_KEY"}

log = logging.getLogger(__name__)


def _plain_field_name(name: str) -> str:
    if name.startswith("$") or "." in name or "\0" in name:
        raise ValueError("a field name is not empty, starts with no '$' and holds no '.' or NUL")
    return name


def _no_tiny_interval(hours: float) -> float:
    if 0 < hours < 1 / 3600:
        raise ValueError("expected 0, for no schedule, or at least a second (1/3600)")
    return hours


def _parsed(value: object) -> dict[str, Any]:
    try:
        parsed = json_util.loads(value) if isinstance(value, str) else value
        bson.encode({"": parsed})  # as it is sent to MongoDB
    except (TypeError, OverflowError, BSONError) as error:
        raise ValueError(f"invalid MongoDB extended JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError('expected a MongoDB filter as a JSON object, such as {"closed": true}')
    return parsed


def _sendable(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if text != text.strip() or not text.isprintable():
        raise ValueError("expected no blanks at the ends and no control characters")
    return key


MongoFilter = Annotated[dict[str, Any], BeforeValidator(_parsed), PlainSerializer(json_util.dumps)]
DatabaseName = Annotated[str, Field(max_length=63, pattern=r'^[^/\\. "$\x00]+$')]
FieldName = Annotated[str, Field(min_length=1), AfterValidator(_plain_field_name)]
Memory = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[1-9][0-9]*[kmgtKMGT]$")]
Upper = BeforeValidator(lambda text: str(text).upper())
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Upper]
Interval = Annotated[float, AfterValidator(_no_tiny_interval)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
ApiKey = Annotated[SecretStr, AfterValidator(_sendable)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
ListLength = Annotated[int, Field(ge=1, le=1000)]
Rank = Annotated[int, Field(ge=1, le=20_000)]


class _Group(BaseModel):
    """Settings that belong together: aliases are environment variables, docstrings descriptions."""

    model_config = ConfigDict(
        frozen=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class MongoSettings(_Group):
    """The MongoDB deployment."""

    uri: SecretStr = Field(SecretStr("mongodb://localhost:27017/"), alias="MONGO_URI")
    """MongoDB's address, with credentials and options."""
    db: DatabaseName = Field("Google-Maps-Restaurant", alias="MONGO_DB")
    """Name of the database."""


class ReviewsSettings(_Group):
    """The reviews: their fields, their rating scale and the restaurants to leave out."""

    user_field: FieldName = Field("user_id", alias="REVIEWS_USER_FIELD")
    """Field of `Reviews`: the user's id."""
    restaurant_field: FieldName = Field("gmap_id", alias="REVIEWS_RESTAURANT_FIELD")
    """Field of `Reviews`: the restaurant's id."""
    rating_field: FieldName = Field("rating", alias="REVIEWS_RATING_FIELD")
    """Field of `Reviews`: the rating."""
    time_field: FieldName = Field("time", alias="REVIEWS_TIME_FIELD")
    """Field of `Reviews`: the time of the rating."""
    restaurants_exclude: MongoFilter | None = Field(None, alias="RESTAURANTS_EXCLUDE")
    """Restaurants to train on but never recommend: MongoDB filter, such as `{"closed": true}`."""
    rating_min: float = Field(1.0, alias="RATING_MIN")
    """Lowest valid rating."""
    rating_max: float = Field(5.0, alias="RATING_MAX")
    """Highest valid rating."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        low, high = self.rating_min, self.rating_max
        if low >= high:
            raise ValueError(f"RATING_MIN={low:g} is not below RATING_MAX={high:g}")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"the four REVIEWS_*_FIELD settings must differ, found {self.fields}")
        return self

    @property
    def fields(self) -> tuple[str, str, str, str]:
        """Fields of ``Reviews`` with the user, the restaurant, the rating and the time."""
        return (self.user_field, self.restaurant_field, self.rating_field, self.time_field)

    @property
    def relevant_from(self) -> float:
        """The lowest rating of a relevant restaurant: three quarters up the scale."""
        return self.rating_min + 0.75 * (self.rating_max - self.rating_min)


class ApiSettings(_Group):
    """The HTTP server."""

    host: str = Field("127.0.0.1", alias="HOST")
    """Address that the API listens on."""
    port: int = Field(8080, alias="PORT", ge=1, le=65535)
    """Port that the API listens on."""
    key: ApiKey | None = Field(None, alias="API_KEY")
    """Key that all calls but `/next-training`, `/health/...` send: `X-API-Key` or bearer token."""


class ScheduleSettings(_Group):
    """The schedule of trainings and the limits of a single one."""

    interval_hours: Interval = Field(3.0, alias="TRAIN_INTERVAL_HOURS", ge=0, le=8760)
    """Hours from one scheduled training to the next; 0: no schedule."""
    timeout_minutes: float = Field(170.0, alias="TRAIN_TIMEOUT_MINUTES", gt=0, le=525600)
    """Minutes after which a training is ended."""
    stop_grace_seconds: float = Field(7.0, alias="STOP_GRACE_SECONDS", ge=0, le=600)
    """Seconds that a stopped training has to clean up."""
    lease_seconds: float = Field(60.0, alias="LEASE_SECONDS", ge=10, le=3600)
    """Seconds without a heartbeat after which a training loses its lease."""
    runs_kept: Count = Field(200, alias="RUNS_KEPT")
    """Ended runs, with their logs, kept in the ledger."""


class GateSettings(_Group):
    """The check of a new model against the published one."""

    enabled: bool = Field(True, alias="GATE")
    """Whether a model that is worse than the live one is refused."""
    min_users_share: float = Field(0.5, alias="GATE_MIN_USERS_SHARE", ge=0, le=1)
    """Share of the live model's users that a new model must serve."""


class SparkSettings(_Group):
    """The Spark session."""

    master: str = Field("local[*]", alias="SPARK_MASTER", min_length=1)
    """Spark master: local or a URL."""
    driver_memory: Memory = Field("8g", alias="SPARK_DRIVER_MEMORY")
    """Heap of the Spark driver; the default shrinks on a machine with less memory."""
    executor_memory: Memory = Field("8g", alias="SPARK_EXECUTOR_MEMORY")
    """Heap of one Spark executor."""
    executor_cores: Count = Field(4, alias="SPARK_EXECUTOR_CORES")
    """Cores of one Spark executor."""
    shuffle_partitions: Count = Field(400, alias="SPARK_SHUFFLE_PARTITIONS")
    """Partitions of a Spark shuffle."""
    checkpoint_dir: str | None = Field(None, alias="SPARK_CHECKPOINT_DIR")
    """Folder of ALS's checkpoints; on a cluster, one that all machines share."""


class AlsSettings(_Group):
    """The two fits of ALS, their evaluation and the recommendations."""

    objective: Literal["preference", "rating"] = Field("preference", alias="ALS_OBJECTIVE")
    """Ranking score: `preference` (implicit-feedback ALS) or predicted `rating` (explicit ALS)."""
    max_iter: Count = Field(10, alias="ALS_MAX_ITER")
    """Least ALS iterations: three by MLlib, then half-steps; fewer beyond a million ratings."""
    rank: Rank = Field(10, alias="ALS_RANK")
    """Latent factors of the rating fit."""
    reg_param: float = Field(0.1, alias="ALS_REG_PARAM", ge=0)
    """ALS regularisation of the rating fit."""
    user_weight: Positive | None = Field(None, alias="ALS_USER_WEIGHT")
    """Damping of the user bias, in ratings; unset: chosen by each training."""
    restaurant_weight: Positive | None = Field(None, alias="ALS_RESTAURANT_WEIGHT")
    """Damping of the restaurant bias, in ratings; unset: chosen by each training."""
    preference_rank: Rank | None = Field(None, alias="ALS_PREFERENCE_RANK")
    """Latent factors of the preference fit; unset: 32 or 64, chosen by each training."""
    preference_reg_param: Positive | None = Field(None, alias="ALS_PREFERENCE_REG_PARAM")
    """ALS regularisation of the preference fit; unset: a fifth of `ALS_ALPHA`."""
    preference_users: Count = Field(10_000, alias="ALS_PREFERENCE_USERS")
    """Most users of two or more ratings that MLlib fits; half-steps extend the fit to all."""
    alpha: Positive | None = Field(None, alias="ALS_ALPHA")
    """Confidence that a mean rating adds to an unrated one's; unset: chosen by each training."""
    cold_start_strategy: Literal["drop", "nan"] = Field("drop", alias="ALS_COLD_START_STRATEGY")
    """Test ratings of unknown users or restaurants: left out, or RMSE is null."""
    test_fraction: Fraction = Field(0.2, alias="ALS_TEST_FRACTION")
    """Share of each user's ratings to test with."""
    test_split: Literal["random", "time"] = Field("random", alias="ALS_TEST_SPLIT")
    """Test ratings: `random` or, by `time`, the latest."""
    top_n: ListLength = Field(13, alias="ALS_TOP_N")
    """Restaurants recommended to each user."""


class ClustersSettings(_Group):
    """The clustering of users."""

    k: Count = Field(50, alias="CLUSTERS_K")
    """Number of clusters."""
    space: Literal["tastes", "ratings"] = Field("tastes", alias="CLUSTERS_SPACE")
    """What is clustered: `tastes`, a spectral embedding of rated restaurants, or raw `ratings`."""
    top_n: ListLength = Field(40, alias="CLUSTERS_TOP_N")
    """Restaurants kept for each cluster."""


class Settings(_Group):
    """Files, logs and seed. Holds all groups, too; :func:`load_settings` builds it."""

    mongo: MongoSettings
    reviews: ReviewsSettings
    api: ApiSettings
    schedule: ScheduleSettings
    gate: GateSettings
    spark: SparkSettings
    als: AlsSettings
    clusters: ClustersSettings
    work_dir: Path = Field(Path("var"), alias="WORK_DIR")
    """The only folder written to: logs, Spark's files, demo database."""
    log_level: LogLevel = Field("INFO", alias="LOG_LEVEL")
    """Lowest level of the log lines shown."""
    seed: int = Field(42, alias="SEED", ge=0, lt=2**31)
    """Seed of the splits, of ALS and of K-Means."""

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Self:
        """Return settings with these values, by environment name; the rest has its default."""
        return cls.model_validate({**values, **dict.fromkeys(_GROUPS, values)})

    def with_values(self, changes: Mapping[str, object]) -> Self:
        """Return a copy with values changed by name; an unknown name raises `ValueError`."""
        changed = _upper_names(changes)
        if unknown := changed.keys() - setting_fields().keys():
            raise ValueError(f"{', '.join(sorted(unknown))}: not a setting")
        return self.of(self._flat(exclude_unset=True) | changed)

    @property
    def log_dir(self) -> Path:
        """Folder of the trainings' logs."""
        return self.work_dir / "logs"

    def make_folder(self, folder: Path) -> None:
        """Create ``work_dir`` or a folder below it, unless it exists and can be written to."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # root may write to /proc, yet cannot
        except OSError as error:
            raise ConfigurationError(f"WORK_DIR={self.work_dir}: {error}; set another") from None

    def public(self) -> dict[str, Any]:
        """Return every setting but the secrets, by environment name in lower case."""
        values = self._flat(mode="json")
        return {name.lower(): value for name, value in values.items() if name not in _SECRETS}

    def sources(self) -> dict[str, str]:
        """Return each setting's source by environment name: environment, .env or default."""
        environment = {name for name, value in _upper_names(os.environ).items() if value}
        names, chosen = setting_fields(), self._flat(exclude_unset=True)
        in_file = {name: ".env" if name in chosen else "default" for name in names}
        return in_file | dict.fromkeys(environment & names.keys(), "environment")

    def _flat(self, **options: Any) -> dict[str, Any]:
        """Return the values by environment name."""
        values = self.model_dump(by_alias=True, **options)
        for name in _GROUPS:
            values |= values.pop(name)
        return values


_GROUPS = [name for name, field in Settings.model_fields.items() if not field.alias]


def setting_fields() -> dict[str, tuple[str, FieldInfo]]:
    """Return the title of its group and the field of every setting, by environment name."""
    models: list[Any] = [*(Settings.model_fields[name].annotation for name in _GROUPS), Settings]
    return {
        field.alias: (model.__doc__.partition(".")[0], field)
        for model in models
        for field in model.model_fields.values()
        if field.alias
    }


def load_settings(**overrides: object) -> Settings:
    """Read the settings: ``overrides``, by lower-case name, else the environment, else ``.env``.

    An invalid value or a typo in a name raises `ConfigurationError`, which repeats no secret.
    """
    from_file, environment = _file_values(), _upper_names(os.environ)
    _check_names([*from_file, *(name for name in environment if name.startswith(_OWN_PREFIXES))])
    values = {name: value for name, value in (from_file | environment).items() if value}
    values |= _upper_names(overrides)
    try:
        return Settings.of(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(detail, values) for detail in error.errors())
        raise ConfigurationError("; ".join(lines)) from None


def _upper_names(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.upper(): value for name, value in values.items()}


def _file_values() -> dict[str, Any]:
    try:
        return _upper_names(dotenv_values(ENV_FILE) if Path(ENV_FILE).is_file() else {})
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{ENV_FILE} is not readable as UTF-8 text: {error}") from None


def _check_names(names: Iterable[str]) -> None:
    """Refuse a close misspelling of a setting; warn of an unknown name with one of our prefixes."""
    known = setting_fields()
    for name in names:
        if name in known or _KUBERNETES.search(name):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        is_own = name.startswith(_OWN_PREFIXES)
        # Names of others, such as WORKER_DIR, have more than one letter that is not in ours.
        if near and (is_own or (Counter(name) - Counter(*near)).total() <= 1):
            raise ConfigurationError(f"{name} is not a setting; did you mean {near[0]}?")
        if is_own:
            log.warning("%s is not a setting; docs/settings.md lists all of them", name)


def _explain(detail: Any, values: Mapping[str, object]) -> str:
    """Return one line about one invalid setting, without the value of a secret."""
    name = str(detail["loc"][-1]) if detail["loc"] else ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if name not in setting_fields():
        return message
    return f"{name}: {message}" if name in _SECRETS else f"{name}={values.get(name)!r}: {message}"
