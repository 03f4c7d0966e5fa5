"""Simulate programs, and the whole server: one process, virtual time, one seed."""
