"""The expected failures, each with the exit code of the script."""


class RecommenderError(Exception):
    """Base of all expected failures; one line says what was found, expected and to do."""

    exit_code = 1

    def __init_subclass__(cls, exit_code: int) -> None:
        cls.exit_code = exit_code


class DataError(RecommenderError, exit_code=65):
    """The data is unusable, for instance because no review is valid."""


class NoPreviousError(RecommenderError, exit_code=66):
    """There is no previous generation, or an ``incomplete`` one, so nothing was rolled back."""

    def __init__(self, message: str, *, incomplete: bool = False) -> None:
        self.incomplete = incomplete
        super().__init__(message)


class DatabaseUnavailableError(RecommenderError, exit_code=69):
    """MongoDB does not answer, or refuses a command."""


class PublishError(RecommenderError, exit_code=70):
    """The staged collections differ from the computed model, so they were not published."""


class SparkError(RecommenderError, exit_code=70):
    """Spark failed, for instance for lack of memory."""


class ModelRejectedError(RecommenderError, exit_code=76):
    """The gate rejected the new model, so the live one stays."""


class LeaseHeldError(RecommenderError, exit_code=75):
    """Another training is in progress; ``holder`` is its document of the lease."""

    def __init__(self, holder: dict[str, object]) -> None:
        self.holder = holder
        super().__init__(
            f"training {holder.get('run_id')} is in progress on {holder.get('host')} "
            f"since {holder.get('started_at')}; wait until it has ended (if it has died, the lease "
            f"frees itself at {holder.get('expires_at')})"
        )


class LeaseLostError(RecommenderError, exit_code=75):
    """The training lost its lease, so it may no longer publish."""


class ConfigurationError(RecommenderError, exit_code=78):
    """A setting is invalid, or the machine lacks a requirement such as Java."""
