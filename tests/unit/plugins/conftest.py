"""Modules import what they share as Ansible ships it to the host: from ``ansible.module_utils``."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[3] / "plugins" / "module_utils"))
