"""The settings of a host, what can be wrong with one, and how a value is shown that may be a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_SECRET_NAME = re.compile(r"token|secret|passw|authtoken|credential|api_?key|private_key|auth_url|webhook", re.I)
_CREDENTIALS_IN_URL = re.compile(r"://[^/\s]*@|[?&][A-Za-z_]*(token|key|secret|pass)[A-Za-z_]*=", re.I)
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Problem:
    """One thing that has to be put right: the setting's name and what is wrong, as the end of a sentence."""

    name: str
    fault: str


@dataclass(frozen=True)
class Settings:
    """The settings of one host.

    Attributes:
        host: the inventory's name of it.
        address: where it is reached, to see that two names are one machine.
        values: variable -> evaluated value.
        failures: variable -> why it could not be evaluated (undefined, vault, template).
        made_from: variable -> the settings in its template, so that one mistake is told once, at its origin.
    """

    host: str
    address: str
    values: Mapping[str, object]
    failures: Mapping[str, str] = field(default_factory=dict)
    made_from: Mapping[str, frozenset[str]] = field(default_factory=dict)


Spec = Mapping[str, Mapping[str, object]]


def is_secret(name: str, specs: Spec) -> bool:
    """Tell whether a value must never be shown: by its name, or because its specification says no_log."""
    return bool(_SECRET_NAME.search(name)) or specs.get(name, {}).get("no_log") is True


def shown(name: str, value: object, specs: Spec) -> str:
    """Describe a value in one short line of ASCII, without giving a secret away."""
    if is_secret(name, specs) or (isinstance(value, str) and _CREDENTIALS_IN_URL.search(value)):
        return "is not usable (its value is a secret and is not shown)"
    if isinstance(value, str):
        quoted = json.dumps(value[:_LONGEST_SHOWN])
        return f"is {quoted}" + (f"... ({len(value)} characters)" if len(value) > _LONGEST_SHOWN else "")
    if isinstance(value, (Mapping, list, tuple)):
        return "is a mapping" if isinstance(value, Mapping) else f"is a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return "is null" if value is None else f"is {str(value).lower()} (a boolean)"
    return f"is {value!s:.{_LONGEST_SHOWN}}"
