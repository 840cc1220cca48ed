"""The words of the deploy lock: whose it is, and since when."""

from __future__ import annotations

import json

import pytest

from plugins.module_utils import host_lock, lock_keeper

GARBAGE = ("", "not json", "[1, 2]", '{"who": "a"}', '{"who": 1, "from": 2, "since": 3, "what": 4}', "\0" * 100)


def test_a_greeting_is_found_among_what_login_scripts_print():
    assert lock_keeper.parse_greeting("Welcome to Debian\n") is None
    fields = " ".join(str(number) for number in range(4, 53))
    line = f"{lock_keeper.GREETING} 192.0.2.7 4711 (ba) sh x) S {fields}\n"
    assert lock_keeper.parse_greeting(line) == (4711, "22", "192.0.2.7")


def test_the_refusal_names_who_from_where_since_when_and_what():
    holder = {"who": "ann@desk", "from": "192.0.2.7", "since": "2026-11-24T10:00:00Z", "what": "deploy.yml"}
    now = host_lock.datetime.datetime(2026, 11, 24, 10, 3, 30, tzinfo=host_lock.datetime.timezone.utc).timestamp()
    said = host_lock.described("currents", json.dumps(holder), "/run/x", now)
    assert said == (
        "Another deploy of currents is at work: ann@desk from 192.0.2.7, since 2026-11-24T10:00:00Z (3 min ago), "
        "playbook deploy.yml.\nWait for it to end."
    )


@pytest.mark.parametrize("text", GARBAGE)
def test_a_lock_that_does_not_say_whose_it_is_refuses_too(text):
    said = host_lock.described("currents", text, "/run/x.deploy.lock", 0)
    assert "Another deploy of currents is at work; its lock does not say whose" in said
    assert "/run/x.deploy.lock" in said
    assert host_lock.token_in(text) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s ago"), (59.9, "59 s ago"), (60, "1 min ago"), (7300, "2 h ago")]
)
def test_ages(seconds, text):
    assert host_lock.age(seconds) == text
