"""Implements `actorchat conformance`: tries out the rules of the contract on a deployment."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import trio

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.output import echo, echo_json
from actorchat.cli.text import one_line
from actorchat.http.source_names import is_source_name
from actorchat.protocol import Role
from actorchat.server.auth import SECRET_FILE, local_token
from actorchat.server.settings import InvalidSettings
from actorchat.server.settings_loader import load_settings
from actorchat.storage.error_messages import describe_os_error

if TYPE_CHECKING:
    from actorchat.testing.conformance import Result

__all__ = ["conformance"]

_MARKS: Final = {"kept": "ok  ", "broken": "FAIL", "skipped": "skip"}
_OPERATORS: Final = (4_000_000_001, 4_000_000_002)
"""The ids of the operators that are made with --data."""


@click.command(short_help="Judge a deployment against the contract.")
@click.argument("url")
@click.option("--token", "tokens", multiple=True, metavar="T", help="An operator's token; two are best.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="The data folder of a server on this machine; its secret signs the tokens of two operators.",
)
@click.option("--source", default="lk", show_default=True, metavar="S", help="The widget source to use.")
@click.option("--rule", "only", multiple=True, metavar="NAME", help="Only this rule. May repeat.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def conformance(
    url: str, tokens: tuple[str, ...], data: Path | None, source: str, only: tuple[str, ...], as_json: bool
) -> None:
    """Judge the deployment at URL: does it keep the rules of the contract, over HTTP and websockets?

    It makes visitors and chats of its own, about 50, so use a source for tests. Rules about operators need tokens, or
    --data DIR with the data folder of a server on this machine. Exits with 1 if a rule is broken, and says which and
    how; with 2 if nothing was judged, for example because the server can't be reached.

    \b
    Examples:
      actorchat conformance http://127.0.0.1:8000 --data ./actorchat-data
      actorchat conformance https://chat.example --source test --token "$FIRST" --token "$SECOND"
    """
    from actorchat.testing.conformance import RULES, Broken

    if not is_source_name(source):
        raise click.BadParameter(f"{source!r} is not the name of a source", param_hint="--source")
    for name in only:
        if name not in {rule.name for rule in RULES}:
            raise click.BadParameter(f"there is no rule {name!r}", param_hint="--rule")
    if data is not None:
        tokens = (*tokens, *_own_tokens(data, source))
    try:
        results = trio.run(_judge, url, source, tokens, only, as_json)
    except (ValueError, ssl.SSLError, Broken) as error:
        fail((error,), BAD_SETTINGS)
    broken = sum(result.outcome == "broken" for result in results)
    skipped = sum(result.outcome == "skipped" for result in results)
    if not as_json:
        rest = f", {skipped} skipped" if skipped else ""
        echo(f"{len(results) - broken - skipped} rules kept, {broken} broken{rest}")
    if broken:
        raise SystemExit(FAILED)


def _own_tokens(data: Path, source: str) -> tuple[str, ...]:
    try:
        secret = load_settings(None, {"data": data}).secret
        return tuple(
            local_token(data, role=Role.OPERATOR, user_id=id_, sources=(source,), secret=secret) for id_ in _OPERATORS
        )
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    except FileNotFoundError:
        fail(
            (f"{data} has no secret: the server creates it when it first starts. Is --data the right folder?",), FAILED
        )
    except OSError as error:
        fail((f"the secret can't be read: {describe_os_error(data / SECRET_FILE, error)}",), FAILED)


async def _judge(url: str, source: str, tokens: tuple[str, ...], only: tuple[str, ...], as_json: bool) -> list[Result]:
    from actorchat.testing.conformance import judge, open_deployment

    results = []
    async with open_deployment(url, source, tokens) as deployment:
        # Otherwise every rule would be broken for the same reason.
        async with deployment.connection():
            pass
        async for result in judge(deployment, only):
            results.append(result)
            _print(result, as_json)
    return results


def _print(result: Result, as_json: bool) -> None:
    rule = result.rule
    if as_json:
        fields = {"rule": rule.name, "sentence": rule.sentence, "outcome": result.outcome, "detail": result.detail}
        echo_json(fields)
        return
    echo(f"{_MARKS[result.outcome]} {rule.name}: {rule.sentence}")
    if result.outcome == "broken":
        echo(f"     {one_line(result.detail)}")
