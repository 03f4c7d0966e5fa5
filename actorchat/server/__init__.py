"""Assembles a server from its parts, and adds settings, tokens and access control.

`actorchat.server.serving` opens a server. The package re-exports nothing, so that a command loads only what it uses.
"""
