"""Settings are accepted only when they are exactly right."""

from __future__ import annotations

import json

import pytest

from sitectl.settings import SettingsError, load, parse


def test_a_complete_file_is_accepted(site):
    settings = load(site.root / "etc/sitectl", None)
    assert settings.unit == "currents.service"
    assert settings.identifier == "sitectl-currents"
    assert settings.host_header is None
    assert settings.operations_socket is None
    site.configure(operations_socket="/run/currents/operations.sock")
    assert str(load(site.root / "etc/sitectl", None).operations_socket) == "/run/currents/operations.sock"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown key colour"),
        ({"name": "a.b"}, "name must be"),
        ({"name": "currents\n"}, "name must be"),
        ({"service": "--now"}, "service must be"),
        ({"url": "https://127.0.0.1/"}, "url must be like http://"),
        ({"url": "http://127.0.0.1:99999/"}, "url must be"),
        ({"url": "http://127.0.0.1/a b"}, "url must be"),
        ({"url": "http://127.0.0.1/\r\nX: y"}, "url must be"),
        ({"url": 5}, "url must be"),
        ({"timeout_seconds": True}, "timeout_seconds must be a number from 0.1 to 20, not true"),
        ({"timeout_seconds": "10"}, "timeout_seconds must be"),
        ({"timeout_seconds": 60}, "timeout_seconds must be"),
        ({"failures_before_restart": 1.5}, "whole number"),
        ({"failures_before_restart": 0}, "whole number"),
        ({"release_dir": "srv"}, "absolute path"),
        ({"operations_socket": "run/x.sock"}, "absolute path of at most 107 characters"),
        ({"operations_socket": "/" + "x" * 107}, "at most 107 characters"),
        ({"operations_socket": ""}, "absolute path"),
        ({"host_header": "a\r\nb"}, "host name"),
        ({"host_header": None}, "host name"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(site, change, message):
    with pytest.raises(SettingsError, match="the file") as refusal:
        parse(json.dumps(site.settings | change), "the file")
    assert message in str(refusal.value)


@pytest.mark.parametrize("key", ["name", "url", "timeout_seconds", "data_dir"])
def test_a_missing_key_is_named(site, key):
    del site.settings[key]
    with pytest.raises(SettingsError, match=f"missing key {key}"):
        parse(json.dumps(site.settings), "the file")


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "one JSON object")])
def test_text_that_is_no_object_is_refused(text, message):
    with pytest.raises(SettingsError, match=message):
        parse(text, "the file")


def test_a_host_without_sites_says_what_to_do(tmp_path):
    with pytest.raises(SettingsError, match="run the monitor playbook"):
        load(tmp_path, None)


def test_with_two_sites_the_choices_are_listed(site, capsys):
    (site.root / "etc/sitectl/other.json").write_text(json.dumps(site.settings | {"name": "other"}))
    assert site.run("status") == 2
    assert "--site currents | other" in capsys.readouterr().err
    assert site.run("--site", "third", "status") == 2
    assert "there is: currents, other" in capsys.readouterr().err
    assert site.run("--site", "currents", "status") == 0


def test_a_file_named_for_another_site_is_refused(site):
    site.configure(name="other")
    with pytest.raises(SettingsError, match="name must be 'currents'"):
        load(site.root / "etc/sitectl", None)


def test_validate_checks_a_file_before_it_is_installed(site, tmp_path, capsys):
    candidate = tmp_path / "source"
    candidate.write_text(json.dumps(site.settings))
    assert site.run("validate", str(candidate)) == 0
    candidate.write_text(json.dumps(site.settings | {"timeout": 5}))
    assert site.run("validate", str(candidate)) == 2
    assert "unknown key timeout" in capsys.readouterr().err
