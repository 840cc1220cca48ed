"""What a machine shall be, and what was decided for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Definition:
    """What the user asked for. Two equal definitions mean the same machine."""

    image: str = "debian12"
    memory_mib: int = 2048
    disk_bytes: int = 8 << 30
    cores: int = 2
    forwards: tuple[int, ...] = ()
    network: str | None = None
    packages: tuple[str, ...] = ()
    seed_packages: tuple[str, ...] = ()
    kind: str = "vm"


@dataclass(frozen=True)
class Record:
    """What `up` decided for a machine, kept in machine.json so that a later command finds it."""

    definition: Definition
    image_identity: str
    lan_address: str | None
    accelerator: str
    #: guest port -> port on 127.0.0.1, as last seen; asked for again at the next start
    ports: dict[int, int]

    def to_json(self) -> str:
        """Return the record as text."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what `to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
        data = json.loads(text)
        definition = data["definition"]
        # A machine that was made before there was this option still runs, and has to be found.
        definition.setdefault("packages", [])
        definition.setdefault("kind", "vm")
        for key in ("forwards", "packages", "seed_packages"):
            definition[key] = tuple(definition[key])
        ports = {int(guest): int(host) for guest, host in data["ports"].items()}
        return cls(**{**data, "definition": Definition(**definition), "ports": ports})


def differences(old: Definition, new: Definition) -> str:
    """Say in words where two definitions differ."""
    before, after = asdict(old), asdict(new)
    return ", ".join(f"{key} is {before[key]}, not {after[key]}" for key in before if before[key] != after[key])
