"""Sockets in and out: sessions with bounded outboxes over memory and websockets, behind one listener.

Refuses to know chats: an `Admission` tells what a socket is for, an `Application` where its input goes.
"""
