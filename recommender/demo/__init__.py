"""The commands of the Makefile: a generated city in a MongoDB of its own. Open ``commands.py``.

Input: the size of a city. Output: reviews of users in groups of like taste, and a running service.
"""
