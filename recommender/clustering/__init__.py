"""Clusters of users: found on an embedding or on ratings, scored, and published for any reader.

In come ratings; out go the documents of ``Clusters`` and ``Metadata``. Open ``fit.py`` first, then
``scoring.py``.
"""
