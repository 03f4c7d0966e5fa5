"""Owns where settings come from: a TOML file, then the environment, then options; the later wins.

Refuses to know what is legal: `actorchat.server.settings` judges every value.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import attrs
from typed_settings.cls_utils import deep_options
from typed_settings.dict_utils import merge_settings, set_path
from typed_settings.loaders import EnvLoader
from typed_settings.types import LoadedSettings, LoaderMeta, MergedSettings, OptionInfo, OptionList

from actorchat.server.settings import InvalidSettings, SettingFault, Settings
from actorchat.urls import without_secrets

__all__ = ["load_settings", "unknown_variables", "wanted_log_format"]

_PREFIX: Final = "ACTORCHAT_"
_LINK_NAME: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)$")
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")
"""Variables that Kubernetes and Docker make up for each service or linked container, and the value of NAME_PORT."""

_MISSPELT: Final = 0.9
"""So close to a known name, a variable can only be meant to be it."""


@attrs.define
class _Collected:
    faults: list[SettingFault] = attrs.field(factory=list)


def _no_look(values: Mapping[str, object]) -> Iterator[SettingFault]:
    return iter(())


def load_settings(
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    look: Callable[[Mapping[str, object]], Iterator[SettingFault]] = _no_look,
) -> Settings:
    """Settings from the file `config`, the environment (`ACTORCHAT_LIMITS_BURST`), and then `options`.

    `options` maps a setting's name to its value; None is as if it were not there. Raises InvalidSettings
    with every fault of every place, misspelt names included, and those that `look` sees in the values.
    """
    known = deep_options(Settings)
    names = {option.path: option for option in known}
    collected = _Collected()
    environment = EnvLoader(prefix=_PREFIX)
    merged = _merge(config, options, known, collected)
    collected.faults.extend(_misspelt_variables(environment, names))
    values: dict[str, Any] = {}
    for path, loaded in merged.items():
        set_path(values, path, loaded.value)
    try:
        settings = Settings(**values)
    except InvalidSettings as error:
        origins = {
            path: _origin(loaded.loader_meta, environment.get_envvar(names[path])) for path, loaded in merged.items()
        }
        told = [attrs.evolve(fault, origin=origins.get(fault.name, "")) for fault in error.faults]
        raise InvalidSettings((*collected.faults, *told, *look(values))) from None
    if collected.faults:
        raise InvalidSettings((*collected.faults, *look(values)))
    return settings


def wanted_log_format(config: Path | None, options: Mapping[str, Any]) -> object:
    """The `log_format` of settings that may be invalid otherwise; None if there is none. Never raises."""
    loaded = _merge(config, options, deep_options(Settings), _Collected()).get("log_format")
    return None if loaded is None else loaded.value


def _merge(
    config: Path | None, options: Mapping[str, Any] | None, known: OptionList, collected: _Collected
) -> MergedSettings:
    names = {option.path: option for option in known}
    given = {name: value for name, value in (options or {}).items() if value is not None}
    return merge_settings(
        known,
        [
            LoadedSettings(_read_file(config, names, collected), LoaderMeta(str(config))),
            _without_links(EnvLoader(prefix=_PREFIX)(Settings, known)),
            LoadedSettings(given, LoaderMeta("the command line")),
        ],
    )


def _read_file(path: Path | None, names: Mapping[str, OptionInfo], collected: _Collected) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        collected.faults.append(SettingFault("config", f"{path} can't be read: {error.strerror}"))
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        collected.faults.append(SettingFault("config", f"{path} is not TOML: {error}"))
        return {}
    if "secret" in values and os.name == "posix" and path.stat().st_mode & stat.S_IROTH:
        detail = f"{path} may be read by everybody: type chmod o-rwx {shlex.quote(str(path))}"
        collected.faults.append(SettingFault("secret", detail))
    return _known_only(values, "", names, str(path), collected)


def _known_only(
    table: Mapping[str, Any], prefix: str, names: Mapping[str, OptionInfo], origin: str, collected: _Collected
) -> dict[str, Any]:
    sections = {path.partition(".")[0] for path in names if "." in path}
    kept: dict[str, Any] = {}
    for key, value in table.items():
        path = prefix + key
        if path in names:
            kept[key] = value
        elif path in sections and isinstance(value, dict):
            kept[key] = _known_only(value, f"{path}.", names, origin, collected)
        elif path in sections:
            collected.faults.append(
                SettingFault(path, f"expected the table [{path}], got {without_secrets(repr(value))}", origin)
            )
        else:
            collected.faults.append(_unknown(path, [*names, *sections], origin))
    return kept


def _unknown(path: str, known: list[str], origin: str) -> SettingFault:
    close = get_close_matches(path, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return SettingFault(path, f"there is no such setting: {hint}", origin)


def _without_links(loaded: LoadedSettings) -> LoadedSettings:
    """Kubernetes tells each container of a service `actorchat` where that is: ACTORCHAT_PORT=tcp://10.0.0.1:8000."""
    settings = {name: value for name, value in loaded.settings.items() if not (name == "port" and _is_link(value))}
    return LoadedSettings(settings, loaded.meta)


def unknown_variables() -> tuple[str, ...]:
    """A line for each variable with our prefix that is ignored, and one for all that a container platform made up."""
    known = [EnvLoader(prefix=_PREFIX).get_envvar(option) for option in deep_options(Settings)]
    links = [name for name in sorted(os.environ) if name.startswith(_PREFIX) and _is_made_up(name)]
    lines = [
        f"{variable} is ignored, there is no such setting: the nearest is {_nearest(variable, known, 0)[0]}"
        for variable in _unknown_names(known)
        if not _nearest(variable, known, _MISSPELT)
    ]
    if links:
        port = "ACTORCHAT_PORT" if "ACTORCHAT_PORT" in links else links[0]
        others = f" and {len(links) - 1} more" if len(links) > 1 else ""
        lines.append(
            f"{port}={without_secrets(os.environ[port])}{others} are ignored: Kubernetes or Docker made them up for a"
            " service of that name; enableServiceLinks: false stops that, --port and a settings file set the port"
        )
    return tuple(lines)


def _is_link(value: object) -> bool:
    return isinstance(value, str) and _LINK_VALUE.match(value) is not None


def _is_made_up(variable: str) -> bool:
    return _LINK_NAME.search(variable) is not None or (variable.endswith("_PORT") and _is_link(os.environ[variable]))


def _misspelt_variables(environment: EnvLoader, names: Mapping[str, OptionInfo]) -> Iterator[SettingFault]:
    known = [environment.get_envvar(option) for option in names.values()]
    for variable in _unknown_names(known):
        if close := _nearest(variable, known, _MISSPELT):
            yield SettingFault(variable, f"there is no such setting: did you mean {close[0]}?")


def _unknown_names(known: Collection[str]) -> list[str]:
    return sorted(
        name for name in os.environ if name.startswith(_PREFIX) and name not in known and not _is_made_up(name)
    )


def _nearest(variable: str, known: Sequence[str], cutoff: float) -> list[str]:
    return get_close_matches(variable, known, n=1, cutoff=cutoff)


def _origin(meta: LoaderMeta, variable: str) -> str:
    return variable if meta.name == EnvLoader.__name__ else meta.name
