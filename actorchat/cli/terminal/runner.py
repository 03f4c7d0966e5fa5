"""Runs a terminal session with Trio and returns the error to show to the user, if there is one."""

from functools import partial
from typing import Final

import trio

from actorchat.cli.terminal.identity import IdentityError
from actorchat.cli.terminal.session import LinesFailed, NoSuchSource, SessionOptions, Unsent, run_session
from actorchat.cli.terminal.ui import UiClosed
from actorchat.client import ClientError

_EXPECTED: Final = (ClientError, IdentityError, UiClosed, NoSuchSource, LinesFailed, Unsent)


def run_terminal(options: SessionOptions, *, operator: bool) -> BaseException | None:
    """Run a session until it ends. Returns the error to show, or None after a normal end or Ctrl-C.

    An unexpected exception is raised, also if Ctrl-C was pressed at the same time.
    """
    try:
        trio.run(partial(run_session, options, operator=operator))
    except _EXPECTED as error:
        return error
    except KeyboardInterrupt:
        return None
    except BaseExceptionGroup as group:
        expected, rest = group.split(_EXPECTED)
        if rest is not None and rest.split(KeyboardInterrupt)[1] is not None:
            raise
        return None if expected is None else _first(expected)
    return None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
