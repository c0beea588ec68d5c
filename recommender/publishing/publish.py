"""Publishes staged collections: all of the old documents are live, then all of the new.

A stage is renamed over its target. ``Clusters`` and ``Metadata``, which belong together, are
replaced in a transaction where MongoDB has them. What was live before is kept.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from recommender.core import mongo_collections as names
from recommender.core.errors import PublishError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import copy_indexes, copy_validator, create_like
from recommender.core.signals import signals_deferred
from recommender.publishing.staging import Stage, staged
from recommender.publishing.transaction import has_transactions, replace_in_transaction
from recommender.runs.late_writes import Polling, stream_position
from recommender.runs.lease import Lease
from recommender.runs.switch import PREVIOUS, REPLACED, finish_with_retries, generation_of

Documents = Sequence[Document]
Stages = Sequence[Stage]


def publish(db: MongoDatabase, *stages: Stage, lease: Lease) -> None:
    """Replace the targets of sealed stages; after a crash, all of them or none.

    The switch is noted first: if this process or its connection dies on the way,
    :func:`~recommender.runs.switch.finish_switch` does the rest. The targets are copied before: as
    the previous generation, and to be put back if the server refuses a later rename. LeaseLostError
    if another run holds the lease, PublishError if the live collections are not this run's after.
    """
    pair = [stage for stage in stages if stage.target in (names.METADATA, names.CLUSTERS)]
    renamed = [stage for stage in stages if stage not in pair]
    with mongo_errors(f"publishing {' and '.join(stage.target for stage in stages)}"):
        replaced = {"by": stages[0].run_id, "generations": _copy_previous(db, stages)}
        with signals_deferred():
            position = stream_position(db)
            for stage in renamed:
                stage.carry_over()
            # Only under the lease: a run that took it over has dropped our stages; carry_over then
            # recreates one with the backend's documents alone.
            if not _replace_pair(db, pair, lease, _switch_of(stages, position, replaced, pair)):
                for stage in pair:
                    stage.carry_over()
                renamed = [*stages]
                lease.begin_switch(_switch_of(stages, position, replaced))
            with ExitStack() as polls:
                for stage in renamed:
                    if stage.keep_others and position is None:
                        live = db[stage.target]
                        polls.enter_context(Polling(live, stage.unique, stage.carried))
                finish_with_retries(db)
            _check_live(db, stages)


def publish_clusters(
    db: MongoDatabase, run_id: str, clusters: Documents, metadata: Documents, *, lease: Lease
) -> None:
    """Stage and publish ``Clusters`` and ``Metadata``; the errors are those of :func:`publish`."""
    with (
        staged(db, names.CLUSTERS, run_id) as new_clusters,
        staged(db, names.METADATA, run_id) as new_metadata,
    ):
        for stage, documents in ((new_clusters, clusters), (new_metadata, metadata)):
            with mongo_errors("staging the clusters"):
                stage.insert(documents)
            stage.seal(len(documents))
        publish(db, new_metadata, new_clusters, lease=lease)


def _replace_pair(db: MongoDatabase, pair: Stages, lease: Lease, switch: Document) -> bool:
    """Replace stages and note the switch at one moment; return false if MongoDB cannot."""
    if not pair or not has_transactions(db):
        return False
    lease.renew()  # before indexes are created on the live collections
    return replace_in_transaction(db, pair, partial(lease.begin_switch, switch))


def _switch_of(
    stages: Stages, position: Document | None, replaced: Document, in_place: Stages = ()
) -> Document:
    """Return the note of a switch, as `recommender.runs.switch` describes it."""
    noted = [
        {"stage": stage.name, "target": stage.target, "in_place": stage in in_place}
        for stage in stages
    ]
    renamed = (stage for stage in stages if stage not in in_place)
    kept = {stage.target: stage.unique for stage in renamed if stage.keep_others}
    return {"stages": noted, "kept": kept, "position": position, REPLACED: replaced}


def _copy_previous(db: MongoDatabase, stages: Stages) -> dict[str, Document]:
    """Copy the targets, to be the previous generation; return the `generation_of` each."""
    generations = {}
    for stage in stages:
        live, previous = db[stage.target], db[stage.name + PREVIOUS]
        previous.drop()
        create_like(live, previous)
        live.aggregate([{"$out": previous.name}])
        copy_indexes(live, previous)
        copy_validator(live, previous)
        generations[stage.target] = generation_of(db, previous.name)
    return generations


def _check_live(db: MongoDatabase, stages: Stages) -> None:
    for stage in stages:
        if db[stage.target].find_one({"run_id": stage.written_by}, {"_id": 1}) is None:
            raise PublishError(
                f"{stage.target} has no document of this run after the switch; another process may "
                "have replaced it; train again"
            )
