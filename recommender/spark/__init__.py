"""Spark: the Java it runs on, its one session, and the reading of ``Reviews``.

Input: settings. Output: a session that cleans up, and ratings. Open ``session.py`` first.
"""
