"""Simulates programs, the whole chat server included, in one process and in virtual time, repeatably from a seed.

`simulate(program, seed)` runs any Trio program in a `World`. `play(make_plan(seed))` runs the whole server, with
clients, people and faults; so does `python -m actorchat.testing.simulation --seed N`.
"""

from actorchat.testing.simulation.broker import Broker, BrokerUnavailable, Consumer, Published
from actorchat.testing.simulation.bus import Bus, BusMember
from actorchat.testing.simulation.chat_world import ChatVerdict, play
from actorchat.testing.simulation.interpreter import NotSimulated
from actorchat.testing.simulation.network import Network
from actorchat.testing.simulation.plan import Plan, Setup, Step, make_plan
from actorchat.testing.simulation.postgresql import (
    CommitLost,
    Database,
    DatabaseConnection,
    DatabaseUnavailable,
    DeadlockDetected,
    Row,
    Transaction,
    UniqueViolation,
)
from actorchat.testing.simulation.sockets import ClientStream, Listener, ServerStream
from actorchat.testing.simulation.world import Node, Program, Verdict, Violation, World, simulate

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "Bus",
    "BusMember",
    "ChatVerdict",
    "ClientStream",
    "CommitLost",
    "Consumer",
    "Database",
    "DatabaseConnection",
    "DatabaseUnavailable",
    "DeadlockDetected",
    "Listener",
    "Network",
    "Node",
    "NotSimulated",
    "Plan",
    "Program",
    "Published",
    "Row",
    "ServerStream",
    "Setup",
    "Step",
    "Transaction",
    "UniqueViolation",
    "Verdict",
    "Violation",
    "World",
    "make_plan",
    "play",
    "simulate",
]
