"""What the settings say of an app that is to be adopted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: The options that both modules have; see `Wanted`.
OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "root": {"type": "path", "required": True},
    "data_dir": {"type": "path", "required": True},
    "source_type": {"type": "str", "required": True},
    "source": {"type": "str", "default": ""},
    "shared": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "environment": {"type": "list", "elements": "str", "default": []},
    "placed": {"type": "dict", "default": {}},
    "front": {"type": "bool", "default": False},
    "tunnel": {"type": "bool", "default": False},
}


class AdoptError(Exception):
    """The app cannot be adopted; the text is for the operator."""


@dataclass(frozen=True)
class Wanted:
    """What the settings say.

    Attributes:
        name, port, root, data_dir, source_type, source, shared, exclude: the settings ``app_...`` of these names.
        environment: the names in app_environment and app_secrets.
        placed: ``adopt_databases``, where databases outside of the app's directory go.
        front: whether a front holds the port.
        tunnel: whether the role ngrok will run a tunnel.
    """

    name: str
    port: int
    root: str
    data_dir: str
    source_type: str = "host_path"
    source: str = ""
    shared: Sequence[str] = ()
    exclude: Sequence[str] = ()
    environment: Sequence[str] = ()
    placed: Mapping[str, str] = field(default_factory=dict)
    front: bool = False
    tunnel: bool = False
