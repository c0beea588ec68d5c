"""The base of all packages: settings, errors, MongoDB, logs, signals, the entry of scripts.

Input: environment variables and ``.env``. Output: a frozen ``Settings``, a database, and one exit
code for each kind of failure. Open ``settings.py`` first, then ``script.py``.
"""
