"""Accounts of operators on a server in its own process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import httpx

import actorchat
from tests.system.server_process import ServerProcess
from tests.web.browser import PATIENCE

__all__ = ["PASSWORD", "add_account", "as_administrator", "configure_widget", "console_code"]

PASSWORD: Final = "a-password-for-tests"


def add_account(server: ServerProcess, login: str, name: str = "", role: str = "admin") -> None:
    """Add an account with `PASSWORD`, by default with the login as its name. An account that exists stays."""
    first = name or login.capitalize()
    _operators(server, "add", login, "--firstname", first, "--role", role, "--password-stdin", text=PASSWORD)


def console_code(server: ServerProcess) -> str:
    """Return a code that signs an administrator in once."""
    found = re.search(r"[\w-]{40,}", _operators(server, "link"))
    assert found is not None
    return found[0]


def as_administrator(server: ServerProcess, method: str, path: str, **body: object) -> None:
    """Call the HTTP API as an administrator."""
    credentials = {"login": "chief", "password": PASSWORD}
    with httpx.Client(base_url=f"{server.url}/api", timeout=PATIENCE) as client:
        login = client.post("/login", json=credentials)
        if login.status_code == httpx.codes.UNAUTHORIZED:
            add_account(server, "chief", "Clara")
            login = client.post("/login", json=credentials).raise_for_status()
        headers = {"Authorization": f"Bearer {login.json()['token']}"}
        client.request(method, path, json=body, headers=headers).raise_for_status()


def configure_widget(server: ServerProcess, source: str, **config: object) -> None:
    """Store the configuration of a widget. A visitor writes before: that makes the source exist."""
    with httpx.Client(base_url=f"{server.url}/api", timeout=PATIENCE) as client:
        visit = client.post("/visitors", json={"source": source}).raise_for_status().json()
        headers = {"Authorization": f"Bearer {visit['token']}"}
        path = f"/chats/{visit['chat']['uuid']}/messages"
        client.post(path, json={"text": "Hello"}, headers=headers).raise_for_status()
    as_administrator(server, "PUT", f"/sources/{source}/widget", **config)


def _operators(server: ServerProcess, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "actorchat", "operators", *arguments, "--data", str(server.folder)],
        cwd=Path(actorchat.__file__).parents[1],
        env=dict(server.environment),
        input=text,
        capture_output=True,
        text=True,
    )
    known = "exists" in done.stderr or "already" in done.stderr
    assert done.returncode == 0 or known, done.stderr
    return done.stdout
