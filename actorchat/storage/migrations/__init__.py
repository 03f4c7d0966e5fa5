"""Owns the way from any older schema to `actorchat.storage.schema`. Run by `actorchat.storage.schema_upgrade`."""
