"""Modules import what they share as Ansible ships it to the host; and a balanced site."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
import pytest

ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))

from ansible.module_utils.haproxy_admin import Admin  # noqa: E402

from tests.unit.roles.front_site import eventually  # noqa: E402
from tests.unit.rolling.balanced import NAMES, Balanced  # noqa: E402


@pytest.fixture
def site(tmp_path):
    balanced = Balanced(tmp_path)
    yield balanced
    balanced.close()


@pytest.fixture
def admin(site):
    """The admin socket of a site of which both apps were found to be well."""
    site.start()
    admin = Admin(site.socket)
    eventually(lambda: all(admin.servers("currents")[name].check.startswith("L7OK") for name in NAMES), "checked")
    return admin
