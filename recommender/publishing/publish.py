"""Publishes staged collections: all of the old documents are live, then all of the new.

A stage is renamed over its target. ``Clusters`` and ``Metadata``, which belong together, are
replaced in a transaction where MongoDB has them. What was live before is kept as one previous
generation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial

from recommender.core.errors import PublishError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import (
    CLUSTERS,
    METADATA,
    copy_indexes,
    copy_validator,
    create_like,
)
from recommender.core.signals import signals_deferred
from recommender.publishing.staging import Stage, staged
from recommender.publishing.transaction import has_transactions, replace_in_transaction
from recommender.runs.late_writes import Polling, stream_position
from recommender.runs.lease import Lease
from recommender.runs.switch import PREVIOUS, finish_with_retries, switch_of


def publish(db: MongoDatabase, *stages: Stage, lease: Lease) -> None:
    """Rename sealed stages over their targets, one right after the other.

    The switch is noted first: if this process or its connection dies on the way,
    :func:`~recommender.runs.switch.finish_switch` does the rest. The targets are copied before: as
    the previous generation, and to be put back if the server refuses a later rename.

    Raises
    ------
    LeaseLostError
        If another run holds the lease when the switch begins.
    PublishError
        If the live collections are not this run's after the switch.
    """
    with _publishing(stages):
        _copy_previous(db, stages)
    with _publishing(stages), signals_deferred():
        position = stream_position(db)
        for stage in stages:
            stage.carry_over()
        # Only under the lease: a run that took it over has dropped the stages, and the carried
        # documents alone would pass for one.
        lease.begin_switch(_switch_of(stages, position))
        with ExitStack() as polls:
            for stage in stages:
                if stage.keep_others and position is None:
                    live = db[stage.target]
                    polls.enter_context(Polling(live, stage.unique, stage.carried))
            finish_with_retries(db)
        _check_live(db, stages)


def publish_clusters(
    db: MongoDatabase,
    run_id: str,
    clusters: Sequence[Document],
    metadata: Sequence[Document],
    *,
    lease: Lease,
) -> None:
    """Publish ``Clusters`` and ``Metadata``, in one transaction where MongoDB has them.

    The errors are those of :func:`publish`.
    """
    with (
        staged(db, CLUSTERS, run_id, "cluster_id") as new_clusters,
        staged(db, METADATA, run_id, "_id", keep_others=True) as new_metadata,
    ):
        for stage, documents in ((new_clusters, clusters), (new_metadata, metadata)):
            with mongo_errors("staging the clusters"):
                stage.insert(documents)
            stage.seal(len(documents))
        stages = (new_metadata, new_clusters)
        if not _publish_in_transaction(db, stages, lease):
            publish(db, *stages, lease=lease)


def _publish_in_transaction(db: MongoDatabase, stages: Sequence[Stage], lease: Lease) -> bool:
    """Publish stages at one moment; return false, and change nothing, if MongoDB cannot."""
    with _publishing(stages), signals_deferred():
        if not has_transactions(db):
            return False
        _copy_previous(db, stages)
        lease.renew()  # before indexes are created on the live collections
        begin = partial(lease.begin_switch, _switch_of(stages, None, in_place=True))
        if not replace_in_transaction(db, stages, begin):
            return False
        finish_with_retries(db)
        _check_live(db, stages)
        return True


def _publishing(stages: Iterable[Stage]) -> AbstractContextManager[None]:
    return mongo_errors(f"publishing {' and '.join(stage.target for stage in stages)}")


def _switch_of(
    stages: Sequence[Stage], position: Document | None, *, in_place: bool = False
) -> Document:
    targets = {stage.name: stage.target for stage in stages}
    kept = {stage.target: stage.unique for stage in stages if stage.keep_others}
    return switch_of(targets, kept, position, in_place=in_place)


def _copy_previous(db: MongoDatabase, stages: Iterable[Stage]) -> None:
    """Copy the stages' targets beside, to become the previous generation in the switch."""
    for stage in stages:
        live, previous = db[stage.target], db[stage.name + PREVIOUS]
        previous.drop()
        create_like(live, previous)
        live.aggregate([{"$out": previous.name}])
        copy_indexes(live, previous)
        copy_validator(live, previous)


def _check_live(db: MongoDatabase, stages: Iterable[Stage]) -> None:
    for stage in stages:
        if db[stage.target].find_one({"run_id": stage.run_id}, {"_id": 1}) is None:
            raise PublishError(
                f"{stage.target} has no document of this run after the switch; another process may "
                "have replaced it; train again"
            )
