"""The fast transport for plain TCP: one task reads from and writes to all sockets, and keeps their deadlines.

It does not support TLS and, like all transports, does not depend on the chat.
"""

from actorchat.transports.reactor.loop import Budget, ReactorStatistics
from actorchat.transports.reactor.transport import ReactorTransport, open_reactor_transport

__all__ = ["Budget", "ReactorStatistics", "ReactorTransport", "open_reactor_transport"]
