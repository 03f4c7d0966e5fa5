"""Implements the terminal chat client on top of `actorchat.client`."""
