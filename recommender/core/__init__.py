"""The base of all packages: settings, errors, MongoDB, logs, signals, the entry of scripts.

In come environment variables and ``.env``; out go a frozen ``Settings``, a database, and one exit
code for each kind of failure. Open ``settings.py`` first, then ``script.py``.
"""
