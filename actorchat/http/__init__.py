"""Serves the HTTP API on the same port as the websockets.

`actorchat.http.ports` has the interfaces through which it uses access control.
"""
