"""Writes the public names and their signatures as text. `python -m tests.public_api` updates the snapshot.

Review any diff in `public_api.txt`: it changes what users of the library see.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import attrs
import msgspec

__all__ = ["MODULES", "SNAPSHOT", "describe"]

MODULES = (
    *("actorchat", "actorchat.actors", "actorchat.client", "actorchat.protocol"),
    *("actorchat.testing", "actorchat.testing.simulation"),
)
SNAPSHOT = Path(__file__).with_name("public_api.txt")
DUNDERS = ("__aiter__", "__anext__", "__contains__", "__getitem__", "__iter__", "__len__")


class _Verbatim:
    """An annotation or a default whose `repr` is a given text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def describe() -> str:
    """All public names, module by module, one line each."""
    lines: list[str] = []
    for module in MODULES:
        lines.append(f"# {module}")
        home = import_module(module)
        for name in home.__all__:
            lines += _lines_of(name, getattr(home, name))
        lines.append("")
    return "\n".join(lines)


def _lines_of(name: str, value: object) -> Iterator[str]:
    if typing.is_typeddict(value):
        yield f"class {name}(TypedDict)"
        optional = getattr(value, "__optional_keys__", ())
        for key, kind in value.__annotations__.items():
            yield f"    {key}: {_type(kind)}{' = ...' if key in optional else ''}"
    elif isinstance(value, type):
        bases = ", ".join(
            _type(base)
            for base in getattr(value, "__orig_bases__", value.__bases__)
            if base not in (object, msgspec.Struct)
        )
        yield f"class {name}({bases})" if bases else f"class {name}"
        if _has_own_init(value):
            yield f"    def __init__{_signature(value)}"
        for member, item in sorted(vars(value).items()):
            if member in DUNDERS or not member.startswith("_"):
                yield from _member_lines(value, member, item)
    elif inspect.isfunction(value):
        yield f"{_kind(value)} {name}{_signature(value)}"
    else:
        yield f"{name} = {_value(value)}"


def _has_own_init(value: type) -> bool:
    """Whether its `__init__` is this project's, no protocol's or enum's, and for users to call."""
    if attrs.has(value) and any(field.name.startswith("_") for field in attrs.fields(value)):
        return False
    if issubclass(value, msgspec.Struct):
        return True
    ours = [base for base in value.__mro__ if base.__module__.startswith("actorchat")]
    return not getattr(value, "_is_protocol", False) and any("__init__" in vars(base) for base in ours)


def _member_lines(owner: type, name: str, item: object) -> Iterator[str]:
    if isinstance(item, (staticmethod, classmethod)):
        yield f"    {type(item).__name__} {name}{_signature(getattr(owner, name))}"
    elif inspect.isfunction(item):
        # An overloaded method has a line for each overload.
        for form in typing.get_overloads(item) or [item]:
            yield f"    {_kind(form)} {name}{_signature(form)}"
    elif isinstance(item, property):
        result = inspect.signature(item.fget).return_annotation if item.fget else inspect.Signature.empty
        yield f"    {name}: {_type(result)}"
    elif isinstance(item, enum.Enum):
        yield f"    {name} = {item.value!r}"
    elif not isinstance(item, (types.MemberDescriptorType, types.GetSetDescriptorType)):
        yield f"    {name} = {_value(item)}"


def _kind(function: object) -> str:
    function = inspect.unwrap(function) if callable(function) else function
    return "async def" if inspect.iscoroutinefunction(function) else "def"


def _signature(value: Callable[..., object]) -> str:
    if isinstance(value, type) and attrs.has(value):
        fields = [field for field in attrs.fields(value) if field.init]
        by_place = [_field(field) for field in fields if not field.kw_only]
        by_name = [_field(field) for field in fields if field.kw_only]
        return f"({', '.join([*by_place, *['*'][: len(by_name)], *by_name])})"
    signature = inspect.signature(value)
    parameters = [
        parameter.replace(
            annotation=_verbatim(parameter.annotation, _type), default=_verbatim(parameter.default, _value)
        )
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters, return_annotation=_verbatim(signature.return_annotation, _type)))


def _field(field: attrs.Attribute[object]) -> str:
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type] # typed as a function, is a class
        default = " = (made)"
    else:
        default = "" if field.default is attrs.NOTHING else f" = {_value(field.default)}"
    return f"{field.alias}: {_type(field.type)}{default}"


def _verbatim(value: object, write: Callable[[object], str]) -> object:
    return value if value is inspect.Signature.empty else _Verbatim(write(value))


def _type(value: object) -> str:
    """A type, or its source text, as one would write it."""
    if isinstance(value, str):
        return value
    if value is None or value is type(None):
        return "None"
    if value is ...:
        return "..."
    if isinstance(value, typing.TypeVar):
        return value.__name__
    if isinstance(value, typing.ForwardRef):
        return value.__forward_arg__
    if isinstance(value, list):
        return f"[{', '.join(map(_type, value))}]"
    arguments = typing.get_args(value)
    if arguments:
        origin = typing.get_origin(value)
        if origin is typing.Annotated:
            # The bounds are part of the AsyncAPI document, which has its own test.
            return _type(arguments[0])
        if origin in (typing.Union, types.UnionType):
            return " | ".join(map(_type, arguments))
        return f"{_type(origin)}[{', '.join(map(_type, arguments))}]"
    return value.__qualname__ if isinstance(value, type) else repr(value)


def _value(value: object) -> str:
    """The text of a default or a constant, the same in each run."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is ...:
        return "..."
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_value(key)}: {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_value, value)))}}}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, type) or inspect.isfunction(value) or typing.get_args(value):
        return _type(value) if not inspect.isfunction(value) else value.__qualname__
    text = repr(value)
    return f"<{type(value).__name__}>" if " at 0x" in text else text


if __name__ == "__main__":
    SNAPSHOT.write_text(describe())
