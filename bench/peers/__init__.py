"""Owns the peers: small servers that all do the same relay job, each in the best idiom of its library.

A `send_message` comes in on a path; everybody on that path gets a whole `message_added` of about 670 bytes. They check
no token, keep no order across sockets, store nothing.
"""
