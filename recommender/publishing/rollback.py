"""Brings back what the latest run to publish has replaced."""

from contextlib import ExitStack

from recommender.core.errors import NoPreviousError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import PUBLISHED
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs.run import TrainingRun
from recommender.runs.switch import PREVIOUS, generation_of, replaced_generations


def previous_generation(db: MongoDatabase) -> dict[str, Document]:
    """Return the generations to publish, by target; NoPreviousError if there is no whole one."""
    with mongo_errors("reading the previous generation"):
        generations = replaced_generations(db)
        kept = {target: generation_of(db, target + PREVIOUS) for target in generations}
    if not generations or any(each["run_id"] is None for each in generations.values()):
        raise NoPreviousError(
            "there is nothing to roll back to: the latest run to publish replaced no documents of "
            "an earlier one, or its version did not record them"
        )
    for target, generation in generations.items():
        if kept[target] != generation:
            raise NoPreviousError(
                f"{target}{PREVIOUS} has {kept[target]['documents']:,} documents of run "
                f"{kept[target]['run_id']} where {generation['documents']:,} of run "
                f"{generation['run_id']} were kept; nothing was published; train instead",
                incomplete=True,
            )
    return generations


def rollback(run: TrainingRun) -> None:
    """Publish the previous generation, in one switch; the live one becomes the previous.

    Documents of others are kept as in a publish. The errors are those of
    :func:`previous_generation` and :func:`~recommender.publishing.publish.publish`.
    """
    db = run.db
    with run.phase("roll back"), ExitStack() as stages:
        generations = previous_generation(db)
        run.record(rollback={name: each["run_id"] for name, each in generations.items()})
        sealed = []
        for target in reversed(PUBLISHED):
            if generation := generations.get(target):
                written_by = generation["run_id"]
                new = staged(db, target, run.run_id, old=set(), written_by=written_by)
                stage = stages.enter_context(new)
                with mongo_errors(f"staging {target}"):
                    kept = {"$match": {"run_id": written_by}}
                    db[target + PREVIOUS].aggregate([kept, {"$out": stage.name}])
                stage.seal(generation["documents"])
                sealed.append(stage)
        publish(db, *sealed, lease=run.lease)
