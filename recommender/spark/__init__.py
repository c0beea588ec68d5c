"""Spark: the Java it runs on, its one session, and ``Reviews`` as a data source.

Input: settings. Output: a session that removes its files and its JVM, and ratings read by
executors. Open ``session.py`` first.
"""
