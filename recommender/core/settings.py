"""Every setting of the service: typed, documented, read from the environment or a ``.env`` file."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from bson import json_util
from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recommender.core.errors import ConfigurationError

ENV_FILE = ".env"

# Other programs own names that start with SPARK_, MONGO_ or LOG_; these prefixes are ours alone, so
# an unknown name that starts with one of them is a slip of the pen.
_RESEMBLANCE = 0.75
_LIKED = 0.75
_OWN_PREFIXES = ("ALS_", "CLUSTERS_", "RATING_", "REVIEWS_", "TRAIN_", "LEASE_", "GATE_")


def _plain_field_name(name: str) -> str:
    if not name or name.startswith("$") or "." in name or "\0" in name:
        raise ValueError("a field name is not empty, starts with no '$' and holds no '.' or NUL")
    return name


def _json_filter(text: str) -> str:
    if not isinstance(json_util.loads(text), dict):
        raise ValueError('a MongoDB filter is a JSON object, such as {"closed": true}')
    return text


JsonFilter = Annotated[str, AfterValidator(_json_filter)]
FieldName = Annotated[str, AfterValidator(_plain_field_name)]
Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmgt]$")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """The settings and their defaults; each is an environment variable, its name in capitals.

    Build it with :func:`load_settings`, which turns a bad value into one clear error.
    """

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    mongo_uri: SecretStr = Field(
        SecretStr("mongodb://localhost:27017/"),
        description="where MongoDB is, credentials and options included",
    )
    mongo_db: str = Field(
        "Google-Maps-Restaurant",
        max_length=63,
        pattern=r'^[^/\\. "$\x00]+$',
        description="the database's name",
    )
    reviews_user_field: FieldName = Field("user_id", description="field of Reviews: the user's id")
    reviews_restaurant_field: FieldName = Field(
        "gmap_id", description="field of Reviews: the restaurant's id"
    )
    reviews_rating_field: FieldName = Field("rating", description="field of Reviews: the rating")
    reviews_time_field: FieldName = Field(
        "time", description="field of Reviews: when the rating was given, where known"
    )
    restaurants_exclude: JsonFilter | None = Field(
        None,
        description="restaurants that are trained on but not recommended: a MongoDB filter of "
        """`Restaurants`, as JSON, such as `{"closed": true}`""",
    )
    rating_min: float = Field(1.0, description="lowest valid rating")
    rating_max: float = Field(5.0, description="highest valid rating")

    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8080, ge=1, le=65535, description="port that the API listens on")
    api_key: SecretStr | None = Field(
        None,
        description="if set, all calls but /next-training and the health checks need it (X-API-Key "
        "or bearer)",
    )
    train_interval_hours: float = Field(
        3.0, ge=1 / 3600, le=8760, description="hours from one scheduled training to the next"
    )
    train_timeout_minutes: float = Field(
        170.0, gt=0, le=525_600, description="a training that takes longer is ended, minutes"
    )
    stop_grace_seconds: float = Field(
        7.0, ge=0, le=600, description="how long a stopped training may clean up, seconds"
    )
    lease_seconds: float = Field(
        60.0,
        ge=10,
        le=3600,
        description="a lease that is not renewed for this long is lost, seconds",
    )
    gate: bool = Field(
        True, description="whether a model that is worse than the live one is rejected"
    )
    gate_min_users_share: float = Field(
        0.5, ge=0, le=1, description="share of the live model's users that the next must serve"
    )
    runs_kept: Count = Field(200, description="ended runs, with their logs, kept in the ledger")
    work_dir: Path = Field(
        Path("var"), description="the one folder written to: logs, Spark's files, demo database"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least severe log line that is shown"
    )
    seed: int = Field(42, ge=0, lt=2**31, description="seed of the split, of ALS and of K-Means")

    spark_master: str = Field("local[*]", min_length=1, description="Spark master, or cluster URL")
    spark_driver_memory: Memory = Field(
        "8g",
        description="heap of the Spark driver; unless set, less on a machine without room for it",
    )
    spark_executor_memory: Memory = Field("8g", description="heap of one Spark executor")
    spark_executor_cores: Count = Field(4, description="cores of one Spark executor")
    spark_shuffle_partitions: Count = Field(400, description="partitions of a Spark shuffle")
    spark_checkpoint_dir: str | None = Field(
        None, description="where ALS checkpoints; on a cluster, a folder that its machines share"
    )

    als_objective: Literal["preference", "rating"] = Field(
        "preference",
        description="what ranks a user's restaurants: the `preference` that implicit-feedback ALS "
        "finds, or the `rating` predicted by ALS on the ratings alone",
    )
    als_max_iter: Count = Field(10, description="ALS iterations")
    als_rank: Count = Field(10, description="number of latent factors of the rating")
    als_reg_param: float = Field(0.1, ge=0, description="ALS regularisation of the rating")
    als_user_weight: float | None = Field(
        None,
        gt=0,
        description="damping of the user bias, in ratings equal to the mean; unset: chosen by each "
        "training on held-out ratings",
    )
    als_restaurant_weight: float | None = Field(
        None, gt=0, description="damping of the restaurant bias, likewise"
    )
    als_preference_rank: Count | None = Field(
        None,
        description="number of latent factors of the preference; unset: 32, or 64 if that ranks "
        "held-out ratings better",
    )
    als_preference_reg_param: float | None = Field(
        None,
        gt=0,
        description="ALS regularisation of the preference; unset: a fifth of `ALS_ALPHA`",
    )
    als_preference_users: Count = Field(
        20_000,
        description="users of two ratings and more that MLlib fits, at most, the active ones more "
        "often; exact ALS half-steps then extend the fit to all",
    )
    als_alpha: float | None = Field(
        None,
        gt=0,
        description="how much more a restaurant rated with the mean counts than one unrated; "
        "unset: as much as ranks held-out ratings best",
    )
    als_cold_start_strategy: Literal["drop", "nan"] = Field(
        "drop",
        description="held-out ratings of unknown users or restaurants: left out, or RMSE is null",
    )
    als_test_fraction: Fraction = Field(
        0.2, description="share of each user's ratings held out to evaluate the model"
    )
    als_test_split: Literal["random", "time"] = Field(
        "random", description="which are held out: `random` ones, or by `time` the latest"
    )
    als_top_n: int = Field(13, ge=1, le=1000, description="restaurants recommended to each user")

    clusters_k: Count = Field(50, description="number of clusters")
    clusters_space: Literal["tastes", "ratings"] = Field(
        "tastes",
        description="what is clustered: users in the spectral embedding of who rates what "
        "(`tastes`), or raw `ratings`",
    )
    clusters_top_n: int = Field(40, ge=1, le=1000, description="restaurants kept for each cluster")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.rating_min >= self.rating_max:
            raise ValueError(
                f"RATING_MIN={self.rating_min:g} is not below RATING_MAX={self.rating_max:g}"
            )
        fields = self.review_fields
        if len(set(fields)) < len(fields):
            raise ValueError(f"the four REVIEWS_*_FIELD settings must differ, found {fields}")
        return self

    @property
    def review_fields(self) -> tuple[str, str, str, str]:
        """Fields of Reviews that hold user, restaurant, rating and time."""
        return (
            self.reviews_user_field,
            self.reviews_restaurant_field,
            self.reviews_rating_field,
            self.reviews_time_field,
        )

    @property
    def restaurants_filter(self) -> dict[str, Any]:
        """The MongoDB filter of ``restaurants_exclude``."""
        found: dict[str, Any] = json_util.loads(self.restaurants_exclude or "{}")
        return found

    @property
    def liked(self) -> float:
        """The least rating of a restaurant that is liked: three quarters up the scale."""
        return self.rating_min + _LIKED * (self.rating_max - self.rating_min)

    @property
    def log_dir(self) -> Path:
        """Folder of the trainings' logs."""
        return self.work_dir / "logs"

    def make_folder(self, folder: Path) -> None:
        """Make ``work_dir`` or a folder below it, if it is not there.

        Raises
        ------
        ConfigurationError
            If it cannot be made or written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise ConfigurationError(f"WORK_DIR={self.work_dir}: {error}; set another") from None
        if not writable:
            raise ConfigurationError(f"WORK_DIR={self.work_dir}: {folder} may not be written to")

    def public(self) -> dict[str, Any]:
        """Return the settings that may be shown, by name: all but the secrets."""
        return self.model_dump(mode="json", exclude={"mongo_uri", "api_key"})


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment and ``.env``; the environment wins.

    Parameters
    ----------
    overrides
        Settings given by hand, such as from a command line; they win over both.

    Raises
    ------
    ConfigurationError
        If a value cannot be, or a name is unknown. Values of secrets are not repeated.
    """
    _refuse_unknown_names()
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = "; ".join(_explain(detail) for detail in error.errors())
        raise ConfigurationError(lines) from None


def _refuse_unknown_names() -> None:
    """Refuse what is meant as a setting and is none.

    In the environment, where other programs have their names, that is what starts as only settings
    of ours do; in ``.env``, what resembles a setting, too.
    """
    known = [name.upper() for name in Settings.model_fields]
    names = [*_names_in_file(), *(n for n in os.environ if n.upper().startswith(_OWN_PREFIXES))]
    for name in names:
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_RESEMBLANCE)
        if name.upper() in known or not (near or name.upper().startswith(_OWN_PREFIXES)):
            continue
        hint = f"; did you mean {near[0]}?" if near else "; docs/settings.md lists them all"
        raise ConfigurationError(f"{name} is no setting{hint}")


def _names_in_file() -> list[str]:
    try:
        return list(dotenv_values(ENV_FILE)) if Path(ENV_FILE).is_file() else []
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{ENV_FILE} cannot be read as UTF-8 text: {error}") from None


def _explain(detail: Any) -> str:
    """Say in one line what is wrong with one setting, without the value of a secret."""
    if not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    name = str(detail["loc"][0])
    value = "" if name in {"mongo_uri", "api_key"} else f"={detail['input']!r}"
    return f"{name.upper()}{value}: {detail['msg']}"
