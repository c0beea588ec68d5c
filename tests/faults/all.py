"""Every fault that is declared, in the table's order."""

from tests.faults import databases, machines, reviews, rollbacks, services, trainings
from tests.faults.catalogue import Fault

FAULTS: list[Fault] = [
    *trainings.FAULTS,
    *rollbacks.FAULTS,
    *databases.FAULTS,
    *services.FAULTS,
    *machines.FAULTS,
    *reviews.FAULTS,
]
