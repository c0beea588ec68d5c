"""The service: its routes, its schedule, and the trainings that it starts as child processes.

Input: requests and slots of the schedule. Output: trainings and answers. Open ``launcher.py``
first, then ``training_clock.py``.
"""
