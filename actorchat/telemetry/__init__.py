"""Makes OpenTelemetry spans of requests, sockets, commits and what is published to brokers.

Only `log_fields` may be imported without the extra `otel`.
"""
