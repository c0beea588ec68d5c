"""The commands of the Makefile: a generated city in a MongoDB of its own. Open ``commands.py``.

In comes the size of a city; out go reviews of users in groups of like taste, and a running service.
"""
