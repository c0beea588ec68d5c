"""The expected failures, each with the exit code of the script."""


class RecommenderError(Exception):
    """Base of all expected failures; one line says what was found, expected and to do."""

    exit_code = 1


class DataError(RecommenderError):
    """The data is unusable, for instance because no review is valid."""

    exit_code = 65


class NoPreviousError(RecommenderError):
    """There is no previous generation, or an ``incomplete`` one, so nothing was rolled back."""

    exit_code = 66

    def __init__(self, message: str, *, incomplete: bool = False) -> None:
        self.incomplete = incomplete
        super().__init__(message)


class DatabaseUnavailableError(RecommenderError):
    """MongoDB does not answer, or refuses a command."""

    exit_code = 69


class PublishError(RecommenderError):
    """The staged collections differ from the computed model, so they were not published."""

    exit_code = 70


class SparkError(RecommenderError):
    """Spark failed, for instance for lack of memory."""

    exit_code = 70


class ModelRejectedError(RecommenderError):
    """The gate rejected the new model, so the live one stays."""

    exit_code = 76


class LeaseHeldError(RecommenderError):
    """Another training is in progress; ``holder`` is its document of the lease."""

    exit_code = 75

    def __init__(self, holder: dict[str, object]) -> None:
        self.holder = holder
        super().__init__(
            f"training {holder.get('run_id')} is in progress on {holder.get('host')} "
            f"since {holder.get('started_at')}; wait until it has ended (if it has died, the lease "
            f"frees itself at {holder.get('expires_at')})"
        )


class LeaseLostError(RecommenderError):
    """The training lost its lease, so it may no longer publish."""

    exit_code = 75


class ConfigurationError(RecommenderError):
    """A setting is invalid, or the machine lacks a requirement such as Java."""

    exit_code = 78
