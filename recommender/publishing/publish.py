"""Publishing: the collections' names, staging, and the switch to what is staged.

Documents are written to a stage beside their target, indexed, checked, and renamed over the target:
a reader sees all of the old or all of the new. A stage that is not renamed is dropped. Clusters and
Metadata, which belong together, are replaced in a transaction where MongoDB has them. What was live
before is kept as one previous generation.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from operator import attrgetter

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
from recommender.runs.late_writes import (
    polled,
    stream_position,
)
from recommender.runs.lease import Lease
from recommender.runs.switch import (
    PREVIOUS,
    finish_with_retries,
    switch_of,
)

_INT32 = struct.Struct("<i")
_SCORE_TAIL = b"\0" * 9  # a double and the document's end

log = logging.getLogger(__name__)


def publish(db: MongoDatabase, *stages: Stage, lease: Lease) -> None:
    """Put sealed stages in their targets' places, one right after the other.

    The switch is noted first: if this process or its connection dies on the way,
    :func:`~recommender.runs.switch.finish_switch` does the rest. The targets are copied before: as
    the previous generation, and to be put back if the server refuses a later one.

    Raises
    ------
    LeaseLostError
        If another run holds the lease when the switch is to begin: the live collections stay.
    PublishError
        If the live collections are not this run's after the switch.
    """
    targets = " and ".join(stage.target for stage in stages)
    with mongo_errors(f"publishing {targets}"):
        _copy_previous(db, stages)
    with mongo_errors(f"publishing {targets}"), signals_deferred():
        position = stream_position(db)
        for stage in stages:
            stage.carry_over()
        # Only under the lease: a run that took it over has dropped the stages, and the carried
        # documents alone would pass for one.
        lease.begin_switch(_switch_of(stages, position))
        with ExitStack() as polls:
            if position is None:
                for stage in filter(attrgetter("keep_others"), stages):
                    live = db[stage.target]
                    polls.enter_context(polled(live, stage.unique, stage.carried))
            finish_with_retries(db)
        _check_live(db, stages)


def _switch_of(
    stages: Sequence[Stage], position: Document | None = None, *, in_place: bool = False
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


def publish_clusters(
    db: MongoDatabase,
    run_id: str,
    clusters: Sequence[Document],
    metadata: Sequence[Document],
    *,
    lease: Lease,
) -> None:
    """Publish ``Clusters`` and ``Metadata``.

    In one transaction where MongoDB has them, else one right after the other.

    Parameters
    ----------
    clusters
        One document for each cluster, ``cluster_id`` 0 to k-1.
    metadata
        The documents of ``Metadata``, by their fixed ``_id``.
    lease
        Renewed when both are staged and checked, and in each try of the transaction.

    Raises
    ------
    LeaseLostError
        If another run holds it by then: the live collections stay.
    """
    with (
        staged(db, CLUSTERS, run_id, "cluster_id") as new_clusters,
        staged(db, METADATA, run_id, "_id", keep_others=True) as new_metadata,
    ):
        with mongo_errors("staging the clusters"):
            new_clusters.insert(clusters)
            new_metadata.insert(metadata)
        new_clusters.seal(len(clusters))
        new_metadata.seal(len(metadata))
        _publish_together(db, new_metadata, new_clusters, lease=lease)


def _publish_together(db: MongoDatabase, *stages: Stage, lease: Lease) -> None:
    targets = " and ".join(stage.target for stage in stages)
    replacements = [stage.replacement for stage in stages]
    with mongo_errors(f"publishing {targets}"), signals_deferred():
        if has_transactions(db):
            _copy_previous(db, stages)
            lease.renew()
            begin = partial(lease.begin_switch, _switch_of(stages, in_place=True))
            if replace_in_transaction(db, replacements, begin):
                finish_with_retries(db)
                _check_live(db, stages)
                return
    publish(db, *stages, lease=lease)
