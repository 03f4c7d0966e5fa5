"""Loads settings from a TOML file, the environment and command-line options; later sources override earlier ones."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
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
"""Variables that Kubernetes and Docker set for each service or linked container: names, and the value of NAME_PORT."""

_MISSPELT: Final = 0.9
"""A variable whose name is so similar to a setting's is a misspelt setting. A ratio, as `difflib` computes it."""

_Faults = list[SettingFault]


def _no_checks(values: Mapping[str, object]) -> Iterator[SettingFault]:
    return iter(())


def load_settings(
    config: Path | None = None,
    options: Mapping[str, Any] | None = None,
    further_checks: Callable[[Mapping[str, object]], Iterator[SettingFault]] = _no_checks,
) -> Settings:
    """Load settings from the file `config`, the environment (`ACTORCHAT_LIMITS_BURST`), and `options`.

    `options` maps a setting's name to its value; None means that it is not given. Raises InvalidSettings with the
    faults of all sources, misspelt names included. If there are any, `further_checks` is called with the raw values,
    and its faults are added.
    """
    known = _known_settings()
    names = {option.path: option for option in known}
    faults: _Faults = []
    environment = EnvLoader(prefix=_PREFIX)
    merged = _merge(config, options, known, faults)
    faults.extend(_misspelt_variables(environment, names))
    values: dict[str, Any] = {}
    for path, loaded in merged.items():
        set_path(values, path, loaded.value)
    try:
        settings = Settings(**values)
    except InvalidSettings as error:
        origins = {
            path: _origin(loaded.loader_meta, environment.get_envvar(names[path])) for path, loaded in merged.items()
        }
        with_origin = [attrs.evolve(fault, origin=origins.get(fault.name, "")) for fault in error.faults]
        raise InvalidSettings((*faults, *with_origin, *further_checks(values))) from None
    if faults:
        raise InvalidSettings((*faults, *further_checks(values)))
    return settings


def wanted_log_format(config: Path | None, options: Mapping[str, Any]) -> object:
    """Return the `log_format`, even if other settings are invalid; None if none is set. Never raises."""
    loaded = _merge(config, options, _known_settings(), []).get("log_format")
    return None if loaded is None else loaded.value


@cache
def _known_settings() -> OptionList:
    # Cached, because typed-settings parses the source of each class for its docstrings, which takes 0.1 s.
    return deep_options(Settings)


def _merge(
    config: Path | None, options: Mapping[str, Any] | None, known: OptionList, faults: _Faults
) -> MergedSettings:
    """Merge the three sources. Appends the faults of the file to `faults`."""
    names = {option.path: option for option in known}
    given = {name: value for name, value in (options or {}).items() if value is not None}
    return merge_settings(
        known,
        [
            LoadedSettings(_read_file(config, names, faults), LoaderMeta(str(config))),
            _without_service_port(EnvLoader(prefix=_PREFIX)(Settings, known)),
            LoadedSettings(given, LoaderMeta("the command line")),
        ],
    )


def _read_file(path: Path | None, names: Mapping[str, OptionInfo], faults: _Faults) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(SettingFault("config", f"{path} can't be read: {error.strerror}"))
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(SettingFault("config", f"{path} is not TOML: {error}"))
        return {}
    if "secret" in values and os.name == "posix" and path.stat().st_mode & stat.S_IROTH:
        detail = f"every user can read {path}: run chmod o-rwx {shlex.quote(str(path))}"
        faults.append(SettingFault("secret", detail))
    return _known_only(values, "", names, str(path), faults)


def _known_only(
    table: Mapping[str, Any], prefix: str, names: Mapping[str, OptionInfo], origin: str, faults: _Faults
) -> dict[str, Any]:
    """Return the table without unknown names, each of which is appended to `faults`."""
    sections = {path.partition(".")[0] for path in names if "." in path}
    kept: dict[str, Any] = {}
    for key, value in table.items():
        path = prefix + key
        if path in names:
            kept[key] = value
        elif path in sections and isinstance(value, dict):
            kept[key] = _known_only(value, f"{path}.", names, origin, faults)
        elif path in sections:
            faults.append(
                SettingFault(path, f"expected the table [{path}], got {without_secrets(repr(value))}", origin)
            )
        else:
            is_table = not prefix and isinstance(value, dict)
            faults.append(_unknown(path, sections if is_table else {*names, *sections}, origin))
    return kept


def _unknown(path: str, known: Collection[str], origin: str) -> SettingFault:
    close = get_close_matches(path, sorted(known), n=1, cutoff=0.5)
    # The others in the same table: all of them would be a page of names.
    table = path.rpartition(".")[0]
    beside = sorted(name for name in known if name.rpartition(".")[0] == table)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(beside)}"
    return SettingFault(path, f"there is no such setting: {hint}", origin)


def _without_service_port(loaded: LoadedSettings) -> LoadedSettings:
    """Drop the port if it is a URL: Kubernetes sets ACTORCHAT_PORT=tcp://10.0.0.1:8000 for a service `actorchat`."""
    settings = {
        name: value for name, value in loaded.settings.items() if not (name == "port" and _is_service_url(value))
    }
    return LoadedSettings(settings, loaded.meta)


def unknown_variables() -> tuple[str, ...]:
    """Return one line for each unknown variable with our prefix, and one for all variables of a container platform."""
    known = [EnvLoader(prefix=_PREFIX).get_envvar(option) for option in _known_settings()]
    service_variables = [name for name in sorted(os.environ) if name.startswith(_PREFIX) and _is_service_link(name)]
    lines = [
        f"{variable} is ignored: there is no such setting; the most similar is {_nearest(variable, known, 0)[0]}"
        for variable in _unknown_names(known)
        if not _nearest(variable, known, _MISSPELT)
    ]
    if service_variables:
        port = "ACTORCHAT_PORT" if "ACTORCHAT_PORT" in service_variables else service_variables[0]
        count = len(service_variables) - 1
        verb = f" and {count} more are" if count else " is"
        lines.append(
            f"{port}={without_secrets(os.environ[port])}{verb} ignored: set by Kubernetes or Docker for a service of"
            " that name; enableServiceLinks: false turns this off, --port and a settings file set the port"
        )
    return tuple(lines)


def _is_service_url(value: object) -> bool:
    return isinstance(value, str) and _LINK_VALUE.match(value) is not None


def _is_service_link(variable: str) -> bool:
    if _LINK_NAME.search(variable) is not None:
        return True
    return variable.endswith("_PORT") and _is_service_url(os.environ[variable])


def _misspelt_variables(environment: EnvLoader, names: Mapping[str, OptionInfo]) -> Iterator[SettingFault]:
    known = [environment.get_envvar(option) for option in names.values()]
    for variable in _unknown_names(known):
        if close := _nearest(variable, known, _MISSPELT):
            yield SettingFault(variable, f"there is no such setting: did you mean {close[0]}?")


def _unknown_names(known: Collection[str]) -> list[str]:
    return sorted(
        name for name in os.environ if name.startswith(_PREFIX) and name not in known and not _is_service_link(name)
    )


def _nearest(variable: str, known: Sequence[str], cutoff: float) -> list[str]:
    return get_close_matches(variable, known, n=1, cutoff=cutoff)


def _origin(meta: LoaderMeta, variable: str) -> str:
    return variable if meta.name == EnvLoader.__name__ else meta.name
