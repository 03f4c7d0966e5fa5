"""The HTTP side: the API beside the sockets, on the same port.

Refuses to know sockets, tokens and storage: `actorchat.http.ports` is what it needs of others.
"""
