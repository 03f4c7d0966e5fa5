"""Checks several real servers on one PostgreSQL database under faults: every client sees each chat whole and once."""

from actorchat.testing.checker.faults import FAULTS, Fault, all_pairs, possible_faults
from actorchat.testing.checker.healings import HEALINGS, Healing
from actorchat.testing.checker.machines import FailsOver, Machine
from actorchat.testing.checker.run import CheckFailed, CheckOptions, CheckReport, Progress, check_cluster

__all__ = [
    "FAULTS",
    "HEALINGS",
    "CheckFailed",
    "CheckOptions",
    "CheckReport",
    "FailsOver",
    "Fault",
    "Healing",
    "Machine",
    "Progress",
    "all_pairs",
    "check_cluster",
    "possible_faults",
]
