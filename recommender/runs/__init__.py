"""The life of a training: lease, ledger, heartbeat, log, and the noted switch.

Input: the database. Output: one document a run in ``TrainingRuns``, and the right to publish.
Open ``run.py`` first, then ``lease.py``.
"""
