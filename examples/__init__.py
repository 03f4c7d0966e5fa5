"""Programs to read from top to bottom. Each runs by itself, `python -m examples.ping_pong`, and ends by itself."""
