"""Owns how a sitting ends: by itself, by Ctrl-C, or for a reason that is told.

Refuses to know the command line and what happens while one sits.
"""

from functools import partial
from typing import Final

import trio

from actorchat.cli.terminal.identity import IdentityError
from actorchat.cli.terminal.session import NoSuchSource, Refused, SessionOptions, Unsent, run_session
from actorchat.cli.terminal.ui import UiClosed
from actorchat.client import ClientError

_EXPECTED: Final = (ClientError, IdentityError, UiClosed, NoSuchSource, Refused, Unsent)


def run_to_end(wishes: SessionOptions, *, operator: bool) -> BaseException | None:
    """Sit until it ends; None if it ended well or by Ctrl-C, else what a user is told. Raises what is a bug."""
    try:
        trio.run(partial(run_session, wishes, operator=operator))
    except _EXPECTED as error:
        return error
    except KeyboardInterrupt:
        return None
    except BaseExceptionGroup as group:
        expected, rest = group.split(_EXPECTED)
        # What is a bug stays one beside a Ctrl-C.
        if rest is not None and rest.split(KeyboardInterrupt)[1] is not None:
            raise
        return None if expected is None else _first(expected)
    return None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
