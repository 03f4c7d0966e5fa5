"""Carries chat sessions over websockets and in memory, with bounded outboxes, behind one listener.

`Admission` and `Application` in `actorchat.transports.ports` connect a transport to the rest of the server.
"""
