"""The test kit: conformance checks for stores and transports, fault injection, and a client for wrong frames.

It works with any test runner: a check is a plain function that raises AssertionError.
"""

from actorchat.testing._blob_checks import OpenBlobStore, check_blob_store
from actorchat.testing._broker_checks import BrokerReader, check_broker
from actorchat.testing._bus_checks import check_bus
from actorchat.testing._crash_injection import InjectedCrash, crash
from actorchat.testing._doubt_checks import CommitCut, CommitLine, check_doubt
from actorchat.testing._probe import Probe
from actorchat.testing._raw_peer import RawPeer
from actorchat.testing._settle import settle
from actorchat.testing._store_checks import check_store
from actorchat.testing._store_faults import CommitFault, DelayedRunner, FaultyStore
from actorchat.testing._store_writer import OpenStore, random_operations
from actorchat.testing._transport_checks import (
    TIMED_TRANSPORT_CHECKS,
    TRANSPORT_CHECKS,
    check_transport,
)
from actorchat.testing._transport_harness import (
    Dialer,
    OpenTransport,
    Peer,
    RecordingApplication,
    admission_of,
)
from actorchat.testing._writer_checks import check_many_writers

__all__ = [
    "TIMED_TRANSPORT_CHECKS",
    "TRANSPORT_CHECKS",
    "BrokerReader",
    "CommitCut",
    "CommitFault",
    "CommitLine",
    "DelayedRunner",
    "Dialer",
    "FaultyStore",
    "InjectedCrash",
    "OpenBlobStore",
    "OpenStore",
    "OpenTransport",
    "Peer",
    "Probe",
    "RawPeer",
    "RecordingApplication",
    "admission_of",
    "check_blob_store",
    "check_broker",
    "check_bus",
    "check_doubt",
    "check_many_writers",
    "check_store",
    "check_transport",
    "crash",
    "random_operations",
    "settle",
]
