"""What the role refuses by itself, also without the playbooks; judged by the engine of Ansible."""

from __future__ import annotations

import pytest
from ansible.template import trust_as_template

from tests.unit.rendering import role_file, templar

GOOD = {"ngrok_authtoken": "2abcDEF_ghi-0123456789", "ngrok_domain": "site.ngrok-free.app"}
(CHECKS,) = [task["loop"] for task in role_file("ngrok", "tasks/validate.yml") if "loop" in task]


def refused(**settings):
    """Return the first word of each message that would be shown."""
    engine = templar("ngrok", wired=True, app_source="examples/currents", **{**GOOD, **settings})
    return [
        check["message"].split()[0] for check in CHECKS if engine.template(trust_as_template(check["that"])) is not True
    ]


def test_good_settings_are_accepted():
    assert refused() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ngrok_authtoken", "with blanks in it and long enough"),
        ("ngrok_authtoken", "short"),
        ("ngrok_domain", "https://site.ngrok-free.app"),
        ("ngrok_domain", "site.ngrok-free.app/path"),
        ("ngrok_domain", "localhost"),
        ("ngrok_upstream_url", "127.0.0.1:5555"),
        ("ngrok_upstream_url", "http://127.0.0.1"),
        # Its page has no password and shows every request: never where the network can reach it.
        ("ngrok_web_address", "0.0.0.0:4040"),
        ("ngrok_web_address", "192.0.2.7:4040"),
        ("ngrok_web_address", "host.example.org:4040"),
        ("ngrok_web_address", ":4040"),
        ("ngrok_connect_url", "https://edge.example.org:443"),
        ("ngrok_connect_cas", "edge.pem"),
        ("ngrok_endpoint_name", "two words"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(name, value):
    assert refused(**{name: value}) == [name]


@pytest.mark.parametrize("value", ["127.0.0.1:4041", "localhost:4040"])
def test_the_agent_s_page_may_have_any_port_of_the_loopback(value):
    assert refused(ngrok_web_address=value) == []


@pytest.mark.parametrize(
    ("seen", "accepted"),
    [
        ({"exists": True, "checksum": "a" * 64}, True),
        ({"exists": True, "checksum": "b" * 64}, False),
        ({"exists": True}, False),
        ({"exists": False}, False),
    ],
)
def test_a_program_is_installed_only_with_the_checksum_that_is_named(seen, accepted):
    tasks = role_file("ngrok", "tasks/install_file.yml")
    (position,) = [number for number, task in enumerate(tasks) if "ansible.builtin.assert" in task]
    assert [number for number, task in enumerate(tasks) if "ansible.builtin.copy" in task] > [position]
    engine = templar("ngrok", ngrok_agent_checksum="a" * 64, __ngrok_agent_file={"stat": seen})
    conditions = tasks[position]["ansible.builtin.assert"]["that"]
    assert all(engine.template(trust_as_template(f"{{{{ {one} }}}}")) for one in conditions) is accepted
