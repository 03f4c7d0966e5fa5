"""Adapts what Schemathesis generates: JSON Schema counts 1.0 as an integer, and the API does not."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:  # Any: JSON of every shape
    return _whole(body)


def _whole(value: Any) -> Any:  # Any: as above
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
