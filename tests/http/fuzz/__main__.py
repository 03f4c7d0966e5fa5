"""Sends requests that Schemathesis makes from the OpenAPI document to a server process: `python -m tests.http.fuzz`.

There are rounds as an operator and as a visitor with chats that exist, and rounds with random ids, with and without a
token. No answer may have a status of 500 or more, and each must be as documented. `--examples` is how many requests of
each kind every endpoint gets; with 60 they are more than 5,000 in all.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import httpx

from actorchat.protocol import Role
from tests.system.server_process import ServerProcess, server_process, token

__all__ = ["RoundFailed", "fuzz"]

ROOT: Final = Path(__file__).parents[3]
ROUND_SECONDS: Final = 1_800.0

# Valid data may be refused for what it names, such as a chat that does not exist, or for the state of a chat. Invalid
# data may be too large as well, and is then not looked at.
_CONFIG: Final = """
hooks = "tests.http.fuzz.hooks"
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", "400", "401", "403", "404", "409", "422", "429"]
negative_data_rejection.expected-statuses = ["4xx"]
"""


class RoundFailed(AssertionError):  # noqa: N818 - says what happened
    """An answer was not as documented. The text is the report of Schemathesis."""


@attrs.frozen
class _Round:
    name: str
    headers: Sequence[str] = ()
    parameters: Mapping[str, str | int] = attrs.field(factory=dict)
    phases: str = "coverage,fuzzing"


def fuzz(server: ServerProcess, folder: Path, examples: int, seed: int | None = None) -> int:
    """Run all rounds against `server`, with files in `folder`. Returns the number of requests. Raises RoundFailed."""
    return sum(_run(server, folder, each, examples, seed) for each in _rounds(server))


def _rounds(server: ServerProcess) -> Sequence[_Round]:
    operator = token(Role.OPERATOR, 7)
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        visit = http.post("/api/visitors", json={"source": "lk"}).raise_for_status().json()
        as_visitor = {"Authorization": f"Bearer {visit['token']}"}
        chat = visit["chat"]["uuid"]
        written = http.post(f"/api/chats/{chat}/messages", json={"text": "hello"}, headers=as_visitor)
        ids = {"path.chat": chat, "path.message": written.raise_for_status().json()["id"]}
    return (
        _Round("an operator", (f"Authorization: Bearer {operator}",), ids),
        _Round("a visitor", (f"Authorization: Bearer {visit['token']}",), ids),
        _Round("random ids", (f"Authorization: Bearer {operator}",), phases="fuzzing,stateful"),
        _Round("no token", phases="coverage,fuzzing"),
    )


def _run(server: ServerProcess, folder: Path, which: _Round, examples: int, seed: int | None) -> int:
    lines = [f'"{name}" = {value!r}'.replace("'", '"') for name, value in which.parameters.items()]
    config = folder / "schemathesis.toml"
    config.write_text(_CONFIG + "\n".join(["[parameters]", *lines, ""]))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{server.url}/openapi.json", "--phases", which.phases, "--max-examples", str(examples)]
    command += ["--continue-on-failure", "--no-color", "--exclude-path", "/metrics"]
    for header in which.headers:
        # Signing out would make the token worthless for the other requests.
        command += ["--header", header, "--exclude-path", "/api/sign-out"]
    if seed is not None:
        command += ["--seed", str(seed)]
    ran = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ROUND_SECONDS,
        check=False,
    )
    generated = re.search(r"([\d,]+) generated", ran.stdout)
    if ran.returncode or generated is None:
        raise RoundFailed(f"as {which.name}:\n{ran.stdout}\n{server.log[-4_000:]}")
    return int(generated[1].replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the HTTP API of a server process from its OpenAPI document.")
    parser.add_argument("--examples", type=int, default=60, help="requests of each kind for every endpoint")
    parser.add_argument("--seed", type=int, help="the seed of an earlier run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with server_process(folder / "data") as server:
            try:
                requests = fuzz(server, folder, options.examples, options.seed)
            except RoundFailed as failure:
                sys.exit(str(failure))
    sys.stdout.write(f"{requests:,} requests: no 5xx, and every answer is as documented\n")


if __name__ == "__main__":
    main()
