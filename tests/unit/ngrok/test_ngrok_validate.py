"""What the role refuses by itself, also without the playbooks; judged by the engine of Ansible."""

from __future__ import annotations

import re

import pytest
from ansible.template import trust_as_template

from plugins.module_utils.site_check import load_specs, problems_of
from plugins.module_utils.site_problem import Settings
from tests.unit.rendering import REPOSITORY, ROLES, role_file, templar

GOOD = {"ngrok_authtoken": "2abcDEF_ghi-0123456789", "ngrok_domain": "site.ngrok-free.app"}
(CHECKS,) = [task["loop"] for task in role_file("ngrok", "tasks/validate.yml") if "loop" in task]


def refused(**settings):
    """Return the first word of each message that would be shown."""
    engine = templar("ngrok", wired=True, app_source="examples/currents", **{**GOOD, **settings})
    return [
        check["message"].split()[0] for check in CHECKS if engine.template(trust_as_template(check["that"])) is not True
    ]


SPECS = load_specs([ROLES])
SUM = "0123456789abcdef" * 4
POLICY = {"on_http_request": []}
FILE = {"ngrok_install_method": "file", "ngrok_agent_file": "/opt/agents/ngrok", "ngrok_agent_checksum": SUM}
# setting -> values that are accepted, values that are refused
VALUES = {
    "ngrok_authtoken": (
        ["a" * 20, "2abcDEF_ghi-0123456789", "9" * 200],
        ["12345678", "a" * 19, "a" * 201, "changeme", "2abcDEF.ghi-0123456789", "2abcDEF ghi-0123456789", "ü" * 20],
    ),
    "ngrok_domain": (
        ["site.ngrok-free.app", "a.de", "a-b.c.example.org", f"{'a' * 63}.example.org", "1.example.org"],
        [
            *(
                "Site.ngrok-free.app",
                "site.ngrok-free.APP",
                "https://site.ngrok-free.app",
                "site.ngrok-free.app/",
                "localhost",
            ),
            *("site", "-a.example.org", "a-.example.org", "a..org", ".org", "a.b", "192.0.2.7", "a_b.example.org"),
            *("site.ngrok-free.app:443", f"{'a' * 64}.example.org", f"{'a.' * 126}org", "site.example.org."),
        ],
    ),
    "ngrok_endpoint_name": (
        ["site", "S", "a.b_c-d", "a" * 64],
        ["", "-a", ".a", "two words", "a/b", "a" * 65],
    ),
    "ngrok_upstream_url": (
        ["http://127.0.0.1:5555", "https://app_1.example.org:8443", "http://localhost:80"],
        [
            *("http://127.0.0.1:5555/x", "http://127.0.0.1:5555/", "http://127.0.0.1", "127.0.0.1:5555", "5555", ""),
            *("ftp://127.0.0.1:21", "http://[::1]:5555", "http://me@localhost:80", "http://a b:80", "http://$(id):80"),
            *("http://localhost:", "http://localhost:123456", "http://:80", "HTTP://localhost:80"),
        ],
    ),
    "ngrok_web_address": (
        ["127.0.0.1:4040", "localhost:4041", "127.0.0.2:80"],
        ["", ":4040", "0.0.0.0:4040", "[::1]:4040", "127.0.0.1", "127.1:4040", "127...1:4040", "host.example.org:4040"],
    ),
    "ngrok_connect_url": (
        ["", "connect.example.com:443", "10.0.2.2:35443"],
        ["connect.example.com", "https://connect.example.com:443", "connect.example.com:443/x", "a b:443", "[::1]:443"],
    ),
    "ngrok_connect_cas": (["", "trusted", "host", "/etc/ssl/edge.pem"], ["edge.pem", "Trusted", "/a b.pem", "/"]),
}
TABLE = [
    *(({name: value}, True) for name, (good, _) in VALUES.items() for value in good),
    *(({name: value}, False) for name, (_, bad) in VALUES.items() for value in bad),
    ({"ngrok_traffic_policy": POLICY, "ngrok_pooling_enabled": True}, True),
    ({"ngrok_config_version": 2}, True),
    ({"ngrok_config_version": 2, "ngrok_traffic_policy": POLICY}, False),
    ({"ngrok_config_version": 2, "ngrok_pooling_enabled": True}, False),
    (FILE, True),
    ({**FILE, "ngrok_agent_file": ""}, False),
    ({**FILE, "ngrok_agent_checksum": ""}, False),
    ({**FILE, "ngrok_agent_checksum": SUM.upper()}, False),
    ({**FILE, "ngrok_agent_checksum": f"sha256:{SUM}"}, False),
    ({**FILE, "ngrok_agent_checksum": SUM[1:]}, False),
    ({"ngrok_install_method": "file"}, False),
]


def refused_before_the_run(**settings):
    """Return the settings that playbooks/validate.yml would name, on the controller."""
    found = problems_of(Settings("probe", "probe", {**GOOD, **settings}), [], SPECS, REPOSITORY)
    # The other settings of a site are no part of this one.
    return sorted({problem.name for problem in found if problem.name.startswith("ngrok_")})


@pytest.mark.parametrize(
    ("settings", "accepted"), TABLE, ids=lambda one: "-".join(one) if isinstance(one, dict) else str(one)
)
def test_what_the_role_would_refuse_after_the_deploy_is_refused_before_it(settings, accepted):
    assert (refused(**settings) == []) is accepted
    before = refused_before_the_run(**settings)
    assert (before == []) is accepted
    assert set(before) <= set(settings) | set(FILE)


def test_every_setting_that_the_role_looks_at_is_in_that_table():
    looked_at = {name for check in CHECKS for name in re.findall(r"ngrok_[a-z_]+", check["that"])}
    assert len(looked_at) >= 12
    assert looked_at - {name for settings, accepted in TABLE for name in settings if not accepted} == set()


def test_what_is_missing_for_the_tunnel_is_named_at_once():
    assert refused_before_the_run(ngrok_install_method="file") == ["ngrok_agent_checksum", "ngrok_agent_file"]
    two = {"ngrok_config_version": 2, "ngrok_traffic_policy": POLICY, "ngrok_pooling_enabled": True}
    assert refused_before_the_run(**two) == ["ngrok_pooling_enabled", "ngrok_traffic_policy"]
    assert refused_before_the_run(ngrok_install_method="file", ngrok_authtoken="short") == [
        "ngrok_agent_checksum",
        "ngrok_agent_file",
        "ngrok_authtoken",
    ]


def test_without_a_token_there_is_no_tunnel_that_could_lack_something():
    assert refused_before_the_run(ngrok_authtoken="", ngrok_domain="", ngrok_install_method="file") == []


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
