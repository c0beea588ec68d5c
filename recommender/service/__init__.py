"""The service: its routes, its schedule, and the trainings that it starts as child processes.

In come requests and slots of the schedule; out go trainings and answers. Open ``launcher.py``
first, then ``scheduler.py``.
"""
