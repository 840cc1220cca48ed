from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.unit.ngrok.rendering import DOMAIN, ROLE, TOKEN, render
from tests.unit.rendering import parse_unit, unit_root

SCHEMA = json.loads((Path(__file__).parent / "ngrok-v3.schema.json").read_text(encoding="utf-8"))
POLICY = {"on_http_request": [{"actions": [{"type": "basic-auth", "config": {"credentials": ["a:pass:\"'#"]}}]}]}
VARIANTS = [
    {},
    {"ngrok_connect_url": "connect.example.com:443", "ngrok_connect_cas": "/etc/ssl/edge.pem"},
    {"ngrok_pooling_enabled": True, "ngrok_traffic_policy": POLICY},
    {"ngrok_endpoint_name": "on", "ngrok_log_level": "debug"},
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_version_3_file_is_what_ngroks_documentation_allows(settings):
    jsonschema.validate(yaml.safe_load(render("ngrok.yml.j2", **settings)), SCHEMA)


def test_schema_refuses_an_option_of_version_2():
    document = yaml.safe_load(render("ngrok.yml.j2"))
    document["agent"]["server_addr"] = "connect.example.com:443"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_version_3_file_forwards_the_domain_to_the_app():
    document = yaml.safe_load(render("ngrok.yml.j2", ngrok_upstream_url="http://127.0.0.1:6000"))
    assert document["agent"]["authtoken"] == TOKEN
    assert document["endpoints"] == [
        {"name": "site", "url": f"https://{DOMAIN}", "upstream": {"url": "http://127.0.0.1:6000"}}
    ]


def test_version_3_file_carries_policy_and_pooling():
    document = yaml.safe_load(render("ngrok.yml.j2", **VARIANTS[2]))
    assert document["endpoints"][0]["traffic_policy"] == POLICY
    assert document["endpoints"][0]["pooling_enabled"] is True


@pytest.mark.parametrize(
    ("version", "prefix", "url", "cas"),
    [(3, "agent", "connect_url", "connect_cas"), (2, None, "server_addr", "root_cas")],
)
def test_own_edge_is_named_in_the_words_of_the_version(version, prefix, url, cas):
    settings = {"ngrok_connect_url": "10.0.2.2:4443", "ngrok_connect_cas": "/etc/ssl/edge.pem"}
    document = yaml.safe_load(render("ngrok.yml.j2", ngrok_config_version=version, **settings))
    section = document[prefix] if prefix else document
    assert (section[url], section[cas]) == ("10.0.2.2:4443", "/etc/ssl/edge.pem")


@pytest.mark.parametrize("version", [2, 3])
def test_agent_keeps_no_requests_and_obeys_no_dashboard(version):
    document = yaml.safe_load(render("ngrok.yml.j2", ngrok_config_version=version))
    agent = document["agent"] if version == 3 else document
    assert agent["inspect_db_size"] == -1
    assert agent["remote_management"] is False
    assert agent["update_check"] is False
    assert agent["web_addr"].startswith("127.")


@pytest.mark.parametrize("template", ["ngrok.service.j2", "ngrok.sources.j2"])
def test_token_is_only_in_the_configuration(template):
    assert TOKEN not in render(template)


def test_archive_is_trusted_by_its_own_key_only():
    assert "Signed-By: /etc/apt/keyrings/ngrok.asc" in render("ngrok.sources.j2").splitlines()


@pytest.fixture
def root(tmp_path):
    """A root with the unit and with stand-ins for the programs it starts."""
    units = {"ngrok.service": render("ngrok.service.j2", ngrok_connect_cas="/etc/ssl/edge.pem")}
    return unit_root(tmp_path, units, ("/usr/bin/python3", "/bin/sh"))


def test_systemd_finds_no_fault_in_the_unit(root, verify):
    assert verify(root, "ngrok.service") == ""


def test_systemd_would_find_a_misspelt_directive(root, verify):
    unit = root / "etc/systemd/system/ngrok.service"
    unit.write_text(unit.read_text().replace("Restart=always", "Restrt=always"))
    assert "Restrt" in verify(root, "ngrok.service")


def test_unit_is_as_tight_as_it_can_be(root, analyze):
    result = analyze(root, "security", "--offline=true", "--threshold=20", "ngrok.service")
    assert result.returncode == 0, result.stdout


def test_unit_never_gives_up_and_leaves_no_agent_behind():
    unit = parse_unit(render("ngrok.service.j2"))
    assert unit["Unit.StartLimitIntervalSec"] == ["0"]
    assert "Unit.Requires" not in unit
    assert unit["Service.Restart"] == ["always"]
    assert unit["Service.KillMode"] == ["control-group"]
    assert unit["Install.WantedBy"] == ["multi-user.target"]


def test_start_is_recorded_with_every_file_that_the_agent_reads():
    line = next(
        x for x in render("ngrok.service.j2", ngrok_connect_cas="/etc/ssl/edge.pem").splitlines() if "Pre=" in x
    )
    unit, *read = (
        "/etc/systemd/system/ngrok.service",
        "/etc/ngrok/ngrok.yml",
        "/usr/local/lib/ngrok/run_agent.py",
        "$$(command -v ngrok)",
        "/etc/ssl/edge.pem",
    )
    assert line.startswith("ExecStartPre=+/bin/sh -c 'sha256sum " + unit)
    assert all(name in line for name in read)
    assert line.endswith("> /run/ngrok/started-with'")


def test_only_known_secrets_are_marked_secret_and_their_tasks_are_silent():
    specification = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]
    assert [key for key, item in specification["options"].items() if item.get("no_log")] == ["ngrok_authtoken"]
    tasks = yaml.safe_load((ROLE / "tasks/service.yml").read_text())
    (written,) = [
        (task, file)
        for task in tasks
        for file in task.get("config_files", {}).get("files", [])
        if isinstance(file, dict) and "ngrok.yml.j2" in file["content"]
    ]
    task, file = written
    assert (task["no_log"], task["diff"], file["mode"]) == (True, False, "0600")
