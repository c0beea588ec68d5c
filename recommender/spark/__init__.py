"""Spark: the Java it runs on, its one session, and ``Reviews`` as a data source.

Input: settings. Output: a session that cleans up, and ratings. Open ``session.py`` first.
"""
