"""What every other package builds on: settings, errors, MongoDB, logs, signals, plots.

Nothing here imports from the rest of the project. Open ``settings.py`` first.
"""
