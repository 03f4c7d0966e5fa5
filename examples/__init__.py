"""Small programs that use actorchat. Each runs on its own, for example `python -m examples.ping_pong`, and ends."""
