"""A generated city in a MongoDB of its own: the commands of the Makefile.

In comes the size of a city; out go reviews with known tastes, and a running service. Open
``commands.py`` first.
"""
