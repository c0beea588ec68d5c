"""Spark: the Java it runs on, its one session, and ``Reviews`` as a data source.

In come settings; out go a session that leaves nothing behind, and ratings read by executors. Open
``session.py`` first.
"""
