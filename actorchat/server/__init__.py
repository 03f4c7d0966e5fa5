"""The whole server: settings, tokens, rights, and the composition of everything else.

`actorchat.server.serving` opens one; names are imported from their modules, so that a command loads what it needs.
"""
