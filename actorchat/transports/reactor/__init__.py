"""The fast path for plain TCP: one task reads, writes and watches over every socket.

Refuses to know chats, as all transports do, and TLS.
"""

from actorchat.transports.reactor.loop import Budget, ReactorStatistics
from actorchat.transports.reactor.transport import ReactorTransport, open_reactor_transport

__all__ = ["Budget", "ReactorStatistics", "ReactorTransport", "open_reactor_transport"]
