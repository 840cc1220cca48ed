"""The checks of settings as functions: forms, types, relations, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.action.site_validate import names_in
from plugins.module_utils.site_check import (
    load_specs,
    problems_of,
    report,
    spec_defaults,
    type_fault,
    unknown_problems,
    value_problems,
)
from plugins.module_utils.site_forms import parse_size
from plugins.module_utils.site_problem import Problem, Settings, is_secret, shown
from plugins.module_utils.site_rules import RULES, SITE_SWITCHES

REPOSITORY = Path(__file__).resolve().parents[3]
SPECS = load_specs([REPOSITORY / "roles"])
HOSTILE = ["\n", "a\nb", "%n", "$HOME", "`id`", "';--", "../..", "é", "\u202e", "a" * 10_000, "{{ 1 }}", " "]


def faults(values, others=(), specs=SPECS, **more):
    """Return name -> fault of a host with these settings."""
    mine = Settings("currents", "192.0.2.1:22", values, **more)
    return {problem.name: problem.fault for problem in problems_of(mine, others, specs, REPOSITORY)}


def test_every_default_of_the_roles_is_accepted():
    defaults = spec_defaults(SPECS)
    assert defaults, "no role has argument specifications"
    assert [one for name in defaults for one in value_problems(name, defaults[name], SPECS)] == []


def test_every_rule_is_for_a_variable_that_a_role_knows():
    assert set(RULES) - set(SPECS) == SITE_SWITCHES


@pytest.mark.parametrize("name", sorted(name for name, rule in RULES.items() if rule.accepts("") is False))
@pytest.mark.parametrize("text", HOSTILE)
def test_no_rule_lets_hostile_text_through(name, text):
    assert value_problems(name, text, SPECS), f"{name} accepts {text!r}"


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("value", [True, {"a": 1}, "x\n"])
def test_no_rule_takes_booleans_mappings_or_a_trailing_newline(name, value):
    assert value_problems(name, value, SPECS)


@pytest.mark.parametrize(
    ("text", "number"),
    [("64M", 64 * 2**20), ("1G", 2**30), (512, 512), ("1.5G", None), ("0", None), ("512 M", None), (True, None)],
)
def test_sizes_are_powers_of_1024(text, number):
    assert parse_size(text) == number


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app_port", "5556"),
        ("host_swap_size", 0),
        ("app_module", "shop.web:create_app()"),
        ("app_module", 'shop.web:create_app(["/var/lib/shop"], debug=False)'),
        ("app_version", "release/2.1"),
        ("ngrok_domain", "currents.ngrok-free.app"),
        ("app_bind_address", "10.0.0.5"),
        ("monitor_timeout_seconds", 2.5),
        ("app_environment", {"LOG_LEVEL": "info", "WORKERS": 3}),
        ("app_index_url", "http://10.0.2.2:8080/simple"),
    ],
)
def test_good_values_pass(name, value):
    assert value_problems(name, value, SPECS) == []


@pytest.mark.parametrize(
    ("value", "option"),
    [
        (True, {"type": "int"}),
        ("0x10", {"type": "int"}),
        (1.5, {"type": "int"}),
        ("true", {"type": "bool"}),
        (5, {"type": "str"}),
        (["a"], {"type": "str"}),
        (None, {"type": "str"}),
        ("a,b", {"type": "list"}),
        ([], {"type": "dict"}),
        (True, {"type": "float"}),
        ("c", {"type": "str", "choices": ["a", "b"]}),
    ],
)
def test_types_are_not_converted(value, option):
    assert type_fault(value, option)


def test_null_is_allowed_where_it_is_the_default():
    assert type_fault(None, {"type": "str", "default": None}) is None


def test_unknown_keys_and_elements_are_found_inside_of_options():
    inner = {"cidr": {"type": "str", "required": True}}
    specs = {"host_rules": {"type": "list", "elements": "dict", "options": inner}}
    problems = value_problems("host_rules", [{"cdir": "a"}, "b", {"cidr": 1}], specs)
    assert [one.name for one in problems] == [
        "host_rules[0].cdir",
        "host_rules[0].cidr",
        "host_rules[1]",
        "host_rules[2].cidr",
    ]


def test_a_required_variable_is_missed_only_for_the_roles_in_use():
    specs = {"host_need": {"type": "str", "required": True, "role": "host"}}
    mine = Settings("a", "a", {})
    assert problems_of(mine, [], specs, REPOSITORY, ["host"]) == [
        Problem("host_need", "is not set: role host needs it")
    ]
    assert problems_of(mine, [], specs, REPOSITORY, ["app"]) == []


def test_a_typing_error_in_a_name_is_matched_with_what_was_meant():
    assert unknown_problems(["app_prot", "their_own"], RULES) == [
        Problem("app_prot", "unknown variable app_prot, did you mean app_port?")
    ]
    assert "no role reads it" in unknown_problems(["host_qqqqqqqqqqqq"], RULES)[0].fault


def test_secrets_are_recognised_by_name_and_by_specification():
    assert is_secret("ngrok_authtoken", {})
    assert is_secret("app_thing", {"app_thing": {"no_log": True}})
    assert not is_secret("app_port", {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("app_token", "canary"), ("app_source", "https://me:canary@example.org/x"), ("x_url", "http://h/?token=canary")],
)
def test_secret_values_are_not_shown(name, value):
    assert "canary" not in shown(name, value, {})


def test_shown_values_are_one_short_line_of_ascii():
    text = shown("app_name", "a\n\u202e" + "b" * 500, {})
    assert text.isascii()
    assert "\n" not in text
    assert len(text) < 120


def test_a_mistake_is_told_at_its_origin_only():
    values = {"app_port": 70000, "service_port": 70000}
    found = faults(values, made_from={"service_port": frozenset({"app_port"})})
    assert "app_port" in found
    assert "service_port" not in found


def test_templates_in_a_circle_are_all_told():
    circle = {"app_name": frozenset({"app_user"}), "app_user": frozenset({"app_name"})}
    found = faults({}, failures={"app_name": "cannot", "app_user": "cannot"}, made_from=circle)
    assert {"app_name", "app_user"} <= set(found)


def test_relations_are_checked_against_the_defaults_of_the_roles():
    assert "more than service_memory_max 1G" in faults({"service_memory_high": "2G"})["service_memory_high"]


def test_relations_are_silent_about_values_that_are_wrong_themselves():
    found = faults({"service_memory_max": "banana", "service_memory_high": "2G"})
    assert "service_memory_high" not in found


def test_a_variable_set_as_plain_and_as_secret_is_named_without_its_value():
    found = faults({"app_environment": {"A": "canary"}, "app_secrets": {"A": "canary"}})
    assert found["app_environment"] == "sets A, which app_secrets sets too"


@pytest.mark.parametrize(
    ("kind", "source", "good"),
    [
        ("directory", "roles", True),
        ("directory", "no-such", False),
        ("git", "git@example.org:me/app.git", True),
        ("git", "ssh://git@example.org/me/app.git", True),
        ("git", "file:///etc", False),
        ("git", "-oProxyCommand=id", False),
        ("git", "https://user:pass@example.org/a.git", False),
        ("archive", "https://example.org/a.tar.gz", True),
        ("archive", "ftp://example.org/a.tar.gz", False),
        ("host_path", "/home/ubuntu/.openclaw/workspace/currents-full-local", True),
        ("host_path", "/etc/x", False),
        ("host_path", "/home/me/../../etc", False),
    ],
)
def test_a_source_must_fit_its_type(kind, source, good):
    found = faults({"app_source_type": kind, "app_source": source, "app_version": "v1"})
    assert ("app_source" not in found) is good


def test_one_address_with_two_names_needs_two_ports():
    other = Settings("second", "192.0.2.1:22", {"app_name": "second", "app_port": 5555})
    found = faults({"app_name": "first", "app_port": "5555", "app_source": "roles"}, [other])
    assert set(found) == {"app_port"}
    assert "second" in found["app_port"]
    elsewhere = Settings("second", "192.0.2.2:22", other.values)
    assert faults({"app_name": "first", "app_port": 5555, "app_source": "roles"}, [elsewhere]) == {}


def test_one_machine_has_one_tunnel():
    tunnel = {"ngrok_authtoken": "a" * 40, "ngrok_domain": "one.example.org"}
    mine = {"app_name": "first", "app_port": 5556, "app_source": "roles", **tunnel}
    other = Settings("second", "192.0.2.1:22", {"app_name": "second", "ngrok_domain": "two.example.org"})
    found = faults(mine, [other])
    assert set(found) == {"ngrok_domain"}
    assert "two.example.org on second" in found["ngrok_domain"]
    assert 'all but one must have ngrok_authtoken: ""' in found["ngrok_domain"]
    assert faults(mine, [Settings("second", "192.0.2.2:22", other.values)]) == {}
    assert faults(mine, [Settings("second", other.address, {**other.values, "ngrok_domain": ""})]) == {}


def test_the_report_is_aligned_and_counts():
    text = report("currents", [Problem("app_port", "is 1"), Problem("service_memory_max", "is 2")])
    assert text.splitlines() == [
        "2 problems in the settings of currents; nothing was touched:",
        "  app_port            is 1",
        "  service_memory_max  is 2",
    ]


def test_names_are_found_in_templates_only():
    assert names_in(["{{ app_name }}/x", {"a": "{% if app_port %}"}]) >= {"app_name", "app_port"}
    assert names_in("app_name") == frozenset()


def test_a_broken_specification_is_named(tmp_path):
    meta = tmp_path / "some" / "meta"
    meta.mkdir(parents=True)
    (meta / "argument_specs.yml").write_text("- a list", encoding="utf-8")
    with pytest.raises(ValueError, match=r"argument_specs\.yml"):
        load_specs([tmp_path])
