"""Owns the chat in the terminal: what is shown as values, how it is drawn, and who talks to the server.

Refuses to know sockets and the wire: that is the client's.
"""
