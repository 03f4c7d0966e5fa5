"""Validates JSON commands, broker bodies and HTTP bodies, and reports all faults with their paths."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Final, NoReturn, TypeVar, get_args, get_origin
from uuid import UUID

import attrs
import cattrs
from cattrs.errors import ClassValidationError, IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn
from msgspec import Meta

from actorchat.protocol.limits import MAX_FAULTS, MAX_SAFE_INTEGER

T = TypeVar("T")

# A cattrs hook: it receives a decoded value and the annotation that it is converted to.
_Hook = Callable[[Any, Any], Any]

_UUID: Final = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_DIGITS: Final = 64
_MAX_QUOTED_CHARS: Final = 40


@attrs.frozen
class Fault:
    """One fault of a value. ``path`` is like ``data.attachments[2]``, or ``""`` for the whole value."""

    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}" if self.path else self.detail


class Malformed(Exception):  # noqa: N818 - named by the contract's code
    """A value that the contract does not allow.

    ``faults`` has one to ``MAX_FAULTS`` faults. ``path`` is the path of the first, ``detail`` describes all of them.
    ``type``, ``text`` and ``client_id`` are the valid parts of a command, so that a refused message can be returned to
    its sender.
    """

    code: Final = "malformed"

    def __init__(
        self,
        faults: tuple[Fault, ...],
        *,
        type: str | None = None,
        text: str | None = None,
        client_id: str | None = None,
    ) -> None:
        super().__init__(faults)
        self.faults = faults
        self.path: str = faults[0].path
        self.detail: str = "; ".join(map(str, faults))
        self.type = type
        self.text = text
        self.client_id = client_id

    def __str__(self) -> str:
        return self.detail


class NotUtf8(Malformed):
    """The bytes are not valid UTF-8. A socket that sends them is closed with 1007."""


class _Wrong(ValueError):  # noqa: N818 - never leaves this module
    """A value does not match its annotation."""


def parse_json(payload: bytes | str) -> object:
    """Parse one JSON value. Unlike msgspec, this accepts lone surrogates and huge numbers.

    Raises NotUtf8 for bytes that are not UTF-8, and Malformed for text that is not JSON.
    """
    if isinstance(payload, bytes):
        try:
            payload = payload.decode()
        except UnicodeDecodeError as error:
            raise NotUtf8((Fault("", f"not UTF-8 at byte {error.start}"),)) from None
    try:
        try:
            return json.loads(payload, parse_constant=_refuse_constant)
        except json.JSONDecodeError:
            raise
        except ValueError:
            return json.loads(payload, parse_constant=_refuse_constant, parse_int=_parse_int)
    except RecursionError:
        raise Malformed((Fault("", "nested too deeply"),)) from None
    except json.JSONDecodeError as error:
        raise Malformed((Fault("", f"not JSON: {error.msg} at character {error.pos}"),)) from None


def structure(value: object, cls: type[T], *, path: str = "") -> T:
    """Convert parsed JSON to ``cls``: an attrs class with fields of the protocol's types, or a list or tuple of one.

    No value is coerced, and unknown fields are ignored. ``path`` prefixes the paths of the faults.
    Raises Malformed with all faults.
    """
    try:
        return _converter.structure(value, cls)
    except (ClassValidationError, IterableValidationError, _Wrong) as error:
        faults = tuple(_faults(error, path))
        raise Malformed(faults[:MAX_FAULTS]) from None


def _quote(value: object) -> str:
    """Describe a wrong value briefly for an error message; containers without their contents."""
    match value:
        case None | bool():
            return json.dumps(value)
        case dict():
            return "an object"
        case list():
            return "an array"
        case _:
            text = json.dumps(value)
            return text if len(text) <= _MAX_QUOTED_CHARS else text[:_MAX_QUOTED_CHARS] + "…"


def _faults(error: BaseException, path: str) -> Iterator[Fault]:
    match error:
        case ClassValidationError():
            for inner, note in error.group_exceptions()[0]:
                field = f"{path}.{note.name}" if path else note.name
                if isinstance(inner, KeyError):
                    yield Fault(field, "missing")
                else:
                    yield from _faults(inner, field)
        case IterableValidationError():
            for inner, item_note in error.group_exceptions()[0]:
                yield from _faults(inner, f"{path}[{item_note.index}]")
        case _:
            yield Fault(path, str(error))


def _parse_int(digits: str) -> int:
    # int() raises ValueError for thousands of digits. The first 64 make a number that is out of range as well.
    return int(digits[:_MAX_DIGITS])


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not a JSON value", name, 0)


def _text_fault(value: str) -> str | None:
    if "\0" in value:
        return "NUL is not allowed in text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a lone surrogate is not a character"
    return None


def _wrong(expected: str, value: object) -> _Wrong:
    return _Wrong(f"expected {expected}, got {_quote(value)}")


def _structure_str(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise _wrong("a string", value)
    fault = _text_fault(value)
    if fault is not None:
        raise _Wrong(fault)
    return value


def _structure_int(value: object, _: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong("an integer", value)
    if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        raise _Wrong(f"outside ±{MAX_SAFE_INTEGER}")
    return value


def _structure_float(value: object, _: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong("a number", value)
    return float(value)


def _structure_bool(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong("true or false", value)
    return value


def _structure_uuid(value: object, _: object) -> UUID:
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise _wrong("a UUID", value)
    return UUID(value)


def _structure_enum(value: object, enum: type[StrEnum]) -> StrEnum:
    if isinstance(value, str):
        with suppress(ValueError):
            return enum(value)
    raise _wrong(f"one of {', '.join(enum)}", value)


def _is_sequence(annotation: object) -> bool:
    return get_origin(annotation) in (tuple, list)


def _sequence_hook(annotation: Any, converter: cattrs.BaseConverter) -> _Hook:
    item_type = get_args(annotation)[0]
    build = get_origin(annotation)
    item_hook = converter.get_structure_hook(item_type)

    def hook(value: object, _: object) -> object:
        if not isinstance(value, list):
            raise _wrong("an array", value)
        items = []
        errors: list[Exception] = []
        for index, item in enumerate(value):
            try:
                items.append(item_hook(item, item_type))
            except Exception as error:
                error.__notes__ = [IterableValidationNote("", index, item_type)]
                errors.append(error)
                if len(errors) == MAX_FAULTS:
                    break
        if errors:
            raise IterableValidationError("", errors, annotation)
        return build(items)

    return hook


def _is_nullable(annotation: object) -> bool:
    return get_origin(annotation) is UnionType and type(None) in get_args(annotation)


def _nullable_hook(annotation: Any, converter: cattrs.BaseConverter) -> _Hook:
    (inner,) = (arg for arg in get_args(annotation) if arg is not type(None))
    inner_hook = converter.get_structure_hook(inner)

    def hook(value: object, _: object) -> object:
        return None if value is None else inner_hook(value, inner)

    return hook


def _is_bounded(annotation: object) -> bool:
    return get_origin(annotation) is Annotated


def _bounded_hook(annotation: Any, converter: cattrs.BaseConverter) -> _Hook:
    base, *notes = get_args(annotation)
    (meta,) = (note for note in notes if isinstance(note, Meta))
    base_hook = converter.get_structure_hook(base)
    pattern = None if meta.pattern is None else re.compile(meta.pattern)

    def hook(value: object, _: object) -> object:
        result: Any = base_hook(value, base)
        if meta.ge is not None and result < meta.ge:
            raise _Wrong(f"smaller than {meta.ge}")
        if meta.le is not None and result > meta.le:
            raise _Wrong(f"larger than {meta.le}")
        if meta.min_length is not None and len(result) < meta.min_length:
            raise _Wrong(f"shorter than {meta.min_length}")
        if meta.max_length is not None and len(result) > meta.max_length:
            raise _Wrong(f"longer than {meta.max_length}")
        if pattern is not None and pattern.search(result) is None:
            raise _Wrong(f"expected a string like {meta.pattern}, got {_quote(result)}")
        return result

    return hook


def _object_hook(cls: type[Any], converter: cattrs.BaseConverter) -> _Hook:
    inner = make_dict_structure_fn(cls, converter)

    def hook(value: object, annotation: Any) -> object:
        if not isinstance(value, dict):
            raise _wrong("an object", value)
        return inner(value, annotation)

    return hook


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook(str, _structure_str)
    converter.register_structure_hook(int, _structure_int)
    converter.register_structure_hook(float, _structure_float)
    converter.register_structure_hook(bool, _structure_bool)
    converter.register_structure_hook(UUID, _structure_uuid)
    # Registered by class like str, because cattrs would try predicates and factories after its own hook for enums.
    converter.register_structure_hook(StrEnum, _structure_enum)
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    converter.register_structure_hook_factory(_is_sequence, _sequence_hook)
    converter.register_structure_hook_factory(_is_nullable, _nullable_hook)
    converter.register_structure_hook_factory(_is_bounded, _bounded_hook)
    return converter


_converter: Final = _make_converter()
