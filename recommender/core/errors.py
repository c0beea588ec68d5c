"""What can go wrong, each with the exit code that a script ends with."""

from __future__ import annotations


class RecommenderError(Exception):
    """Base of every expected failure: one clear line, one exit code.

    The message says what was found, what was expected and what to do about it.
    """

    exit_code = 1


class DataError(RecommenderError):
    """The reviews cannot be trained on, such as none that is valid."""

    exit_code = 65


class DatabaseUnavailableError(RecommenderError):
    """MongoDB does not answer, or refuses what was asked of it."""

    exit_code = 69


class PublishError(RecommenderError):
    """What was staged is not what was computed, so it was not published."""

    exit_code = 70


class SparkError(RecommenderError):
    """Spark could not do what was asked of it, such as for lack of memory."""

    exit_code = 70


class ModelRejectedError(RecommenderError):
    """The gate found what was trained unfit to take the place of what is live."""

    exit_code = 76


class LeaseHeldError(RecommenderError):
    """Another training is in progress.

    Parameters
    ----------
    holder
        The lease's document: ``run_id``, ``host``, ``pid`` and ``started_at`` of that training.
    """

    exit_code = 75

    def __init__(self, holder: dict[str, object]) -> None:
        self.holder = holder
        super().__init__(
            f"training {holder.get('run_id')} is in progress on {holder.get('host')} "
            f"since {holder.get('started_at')}; wait until it has ended (if it has died, the lease "
            f"frees itself at {holder.get('expires_at')})"
        )


class LeaseLostError(RecommenderError):
    """The lease ran out while this training held it, so it may no longer publish."""

    exit_code = 75


class ConfigurationError(RecommenderError):
    """A setting has a value that cannot be, or the machine lacks what the service needs."""

    exit_code = 78
