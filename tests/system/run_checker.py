"""Runs the checker of several servers on PostgreSQL and Valkey from wheels; takes the options of the checker.

python -m tests.system.run_checker --seconds 3600
python -m tests.system.run_checker --bus redis
python -m tests.system.run_checker --standby --faults failover,kill
"""

import sys
import tempfile
from pathlib import Path

from actorchat.testing.checker.__main__ import Machines, main
from tests.brokers.servers import Valkey
from tests.postgres_pair import PostgresPair
from tests.postgres_server import PostgresServer


def run(arguments: list[str]) -> None:
    """Run the checker with these options. `redis` is the URL of the Valkey; `--standby` is for a standby."""
    with tempfile.TemporaryDirectory(prefix="actorchat-valkey-") as folder:
        server = PostgresPair() if "--standby" in arguments else PostgresServer()
        arguments = [each for each in arguments if each != "--standby"]
        valkey = Valkey(Path(folder)) if "redis" in arguments else None
        try:
            server.create()
            if isinstance(server, PostgresServer):
                server.start()
            if valkey is not None:
                valkey.start()
                arguments = [valkey.url if each == "redis" else each for each in arguments]
            main.main([server.new_database(), *arguments], obj=Machines(server, valkey))
        finally:
            server.close()
            if valkey is not None:
                valkey.kill()


if __name__ == "__main__":
    run(sys.argv[1:])
