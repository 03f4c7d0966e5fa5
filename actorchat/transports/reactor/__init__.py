"""The fast path for plain TCP: one task reads, writes and watches over every socket.

Refuses to know chats, as all transports do, and TLS.
"""
