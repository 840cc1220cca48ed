"""One look at a host spares the calls for what is right; never for what is not, or was not looked at."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.action.converged_unit import settled
from plugins.module_utils.host_look import OPTIONS, Seen, covers, everything, installed, look, looked_up, machine, seal

REPOSITORY = Path(__file__).resolve().parents[3]
OWNER = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
STATUS = """Package: cron
Status: install ok installed
Version: 3

Package: exim
Status: deinstall ok config-files

Package: tzdata
Status: hold ok installed
"""


@pytest.mark.parametrize(
    ("pattern", "path", "yes"),
    [
        ("/etc/app/**", "/etc/app", True),
        ("/etc/app/**", "/etc/app/a/b", True),
        ("/etc/app/**", "/etc/apple", False),
        ("/etc/*.swap", "/etc/a.swap", True),
        ("/etc/*.swap", "/etc/a/b.swap", False),
        ("/etc/app", "/etc/app", True),
        ("/etc/app", "/etc/app/a", False),
    ],
)
def test_what_a_pattern_covers(pattern, path, yes):
    assert covers(pattern, path) is yes


@pytest.fixture
def host(tmp_path):
    """A directory with a file, a link and a large file, as a host has them."""
    top = tmp_path / "host"
    (top / "sub").mkdir(parents=True)
    top.chmod(0o755)
    (top / "sub/file").write_text("text")
    (top / "sub/file").chmod(0o640)
    (top / "link").symlink_to("sub/file")
    with (top / "large").open("wb") as out:
        out.truncate(2 * 1024**2)
    return top


@pytest.fixture
def seen(host, tmp_path):
    """What a run knows after a look at it."""
    (tmp_path / "run").mkdir()
    patterns = [f"{host}/**"]
    found = {
        "seen": {
            "machine": "this",
            "paths": look(patterns, "key"),
            "packages": ["cron", "tzdata"],
            "units": {},
            "app": {"links": {}},
        },
        "changed": False,
    }
    assert Seen(str(tmp_path / "run"), "one").keep({"look": patterns}, "key", found) == {"changed": False}
    return Seen(str(tmp_path / "run"), "one")


def options(**given):
    return {**{name: about["default"] for name, about in OPTIONS.items()}, "name": "app", **given}


def entry(path, **changes):
    return {"path": str(path), "mode": "0640", "content": "text", **OWNER, **changes}


def test_a_look_and_the_patterns_agree(host):
    for pattern in (f"{host}/**", f"{host}/*", str(host / "sub"), f"{host}/none/**", f"{host}/none"):
        assert all(covers(pattern, path) for path in look([pattern], "key"))
    assert set(look([f"{host}/**"], "key")) == {str(host), *map(str, host.rglob("*"))}


def test_a_file_that_is_as_it_should_be_is_known(seen, host):
    assert seen.holds(entry(host / "sub/file"))
    assert seen.holds({"path": str(host), "mode": "0755", **OWNER})


@pytest.mark.parametrize(
    "change", [{"content": "other"}, {"mode": "0644"}, {"owner": "nobody"}, {"group": "nogroup"}, {"mode": 416}]
)
def test_any_difference_is_left_to_the_module(seen, host, change):
    assert not seen.holds(entry(host / "sub/file", **change))


def test_what_is_no_plain_file_is_left_to_the_module(seen, host):
    assert not seen.holds(entry(host / "link", mode="0777"))
    assert not seen.holds(entry(host / "large", content="\0" * 2 * 1024**2))
    assert not seen.holds(entry(host / "sub"))
    assert not seen.holds({"path": str(host / "sub/file"), "mode": "0640", **OWNER})


def test_what_was_not_looked_at_is_not_known(seen, host, tmp_path):
    assert seen.exists(str(host / "sub/file")) is True
    assert seen.exists(str(host / "sub/none")) is False
    assert seen.exists("/elsewhere") is None
    assert not seen.holds(entry(tmp_path / "other"))
    other = Seen(str(tmp_path / "run"), "two")
    assert other.exists(str(host / "sub/file")) is None, "of another host nothing is known"
    assert not other.has_packages(["cron"])


def test_what_a_run_writes_is_forgotten(seen, host, tmp_path):
    assert seen.app
    seen.forget([str(host / "sub/file")])
    for known in (seen, Seen(str(tmp_path / "run"), "one")):
        assert not known.app, "it may have been changed by what was written"
        assert known.exists(str(host / "sub/file")) is None
        assert not known.holds(entry(host / "sub/file"))


@pytest.mark.parametrize(("name", "known"), [("this", False), ("another", True)])
def test_what_a_run_writes_for_one_app_is_forgotten_of_all_apps_on_that_machine(seen, host, tmp_path, name, known):
    run = str(tmp_path / "run")
    found = {"paths": look([f"{host}/**"], "key"), "packages": ["cron"], "units": {}, "app": {"links": {}}}
    Seen(run, "two").keep({"look": [f"{host}/**"]}, "key", {"seen": {**found, "machine": name}})
    assert Seen(run, "two").holds(entry(host / "sub/file"))
    Seen(run, "two").plan(["/etc/b", "/etc/a"])
    seen.forget(["/elsewhere"])
    two = Seen(run, "two")
    assert two.would_write == ["/etc/a", "/etc/b"], "the rest of its dry run goes by that"
    assert (two.holds(entry(host / "sub/file")), bool(two.app)) == (known,) * 2
    assert two.has_packages(["cron"]), "nothing takes them away"
    assert Seen(run, "one").holds(entry(host / "sub/file")), "of its own only what it writes"
    # Nothing is known of it, but still where it is: what it writes is forgotten of the first too.
    two.forget()
    assert Seen(run, "one").holds(entry(host / "sub/file")) is known


def test_a_machine_is_told_by_what_no_other_shares(tmp_path):
    boot, identity = tmp_path / "boot_id", tmp_path / "machine-id"
    boot.write_text("b\n")
    assert machine([boot, identity]) == "b", "a container may have no machine-id"
    identity.write_text("m\n")
    assert machine([boot, identity]) == "b m"
    assert everything(options(look=["/none"], look_key="key"))["seen"]["machine"] == machine() != ""


def test_a_second_look_replaces_the_first(seen, host, tmp_path):
    (host / "sub/file").write_text("new")
    again = options(look=[f"{host}/**"], look_key="key2")
    seen.keep(again, "key2", everything(again))
    assert not Seen(str(tmp_path / "run"), "one").holds(entry(host / "sub/file"))
    assert Seen(str(tmp_path / "run"), "one").holds(entry(host / "sub/file", content="new"))


def test_a_run_knows_what_it_has_asked_of_the_app_and_can_ask_it_again(seen, tmp_path):
    found = {"machine": "this", "paths": {}, "packages": [], "units": {}, "app": {"links": {}}}
    seen.keep({"look": ["/none"], "look_app": {"root": "/srv/app"}}, "key", {"seen": found})
    seen.forget()
    known = Seen(str(tmp_path / "run"), "one")
    assert (known.app, known.about) == ({}, {"root": "/srv/app"})


def test_nobody_else_reads_what_a_run_knows_and_no_content_is_in_it(seen, tmp_path):
    (file,) = (tmp_path / "run").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert seal("key", b"text") in file.read_text()
    assert seal("key", b"text") != seal("another", b"text")
    assert "text" not in json.loads(file.read_text())["paths"].values()


def test_without_a_pattern_nothing_is_looked_at():
    assert everything(options()) == {}


def test_packages_are_there_when_dpkg_has_installed_them(tmp_path, seen):
    status = tmp_path / "status"
    status.write_text(STATUS)
    assert installed(status) == ["cron", "tzdata"]
    assert installed(tmp_path / "none") == []
    assert seen.has_packages(["cron", "tzdata"])
    for names in (["cron", "exim"], ["cron=3"], ["cr*"]):
        assert not seen.has_packages(names)


PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - deploy_lock: {name: currents, directory: "{{ place }}", look: "{{ look }}"}
    - name: Write
      config_files:
        files: [{path: "{{ place }}/file", content: one, mode: "0644", owner: "{{ me }}", group: "{{ us }}"}]
    - name: Write again
      config_files:
        files: [{path: "{{ place }}/file", content: two, mode: "0644", owner: "{{ me }}", group: "{{ us }}"}]
    - name: Stat
      site_stat: {path: "{{ place }}/file"}
      register: found
    - assert: {that: found.stat.exists}
"""


def run(tmp_path, look_at):
    """Run the play here; return its output, and how many calls of modules it made."""
    (tmp_path / "play.yml").write_text(PLAY)
    variables = {"place": str(tmp_path), "look": look_at, "me": OWNER["owner"], "us": OWNER["group"]}
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("ansible-playbook"), "-i", "one,", "-c", "local", tmp_path / "play.yml"),
            *("-vvv", "-e", json.dumps(variables), "-e", f"ansible_python_interpreter={sys.executable}"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_writes_each_wish_whatever_was_seen_before(tmp_path):
    """The first task finds nothing, the second must not believe what was seen before the first."""
    for look_at in ([f"{tmp_path}/*"], []):
        (tmp_path / "file").unlink(missing_ok=True)
        run(tmp_path, look_at)
        assert (tmp_path / "file").read_text() == "two"


def test_what_is_right_already_costs_no_call_and_what_was_seen_is_not_shown(tmp_path):
    (tmp_path / "file").write_text("one")
    (tmp_path / "file").chmod(0o644)
    with_look, without = run(tmp_path, [f"{tmp_path}/*"]), (tmp_path / "file").write_text("one") and run(tmp_path, [])
    calls = "Using module file"
    assert with_look.count(calls) == without.count(calls) - 1, "the first write; the second forgets what was seen"
    assert '"look_key": "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"' in with_look


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """A systemctl that knows one unit, started and read after it was written."""
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


SYSTEMCTL = """#!/bin/sh
case "$*" in
*UnitsLoad*) echo UnitsLoadTimestampMonotonic=2000000 ;;
*) printf '%s\\n' Id=one.timer LoadState=loaded ActiveState=active UnitFileState=enabled NeedDaemonReload=no \
    ActiveEnterTimestampMonotonic=3000000 '' Id=two.swap LoadState=loaded ActiveState=inactive ;;
esac
"""


def test_units_come_with_the_times_at_which_they_started_and_were_read(systemd):
    found = looked_up(["one.timer", "*.swap"])
    assert set(found) == {"one.timer", "two.swap"}
    assert found["one.timer"]["active_since"] - found["one.timer"]["loaded_at"] == pytest.approx(1)
    assert found["one.timer"]["state"]["UnitFileState"] == "enabled"


def test_where_there_is_no_systemd_nothing_is_known_of_units(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert looked_up(["one.timer"]) == {}
    assert looked_up([]) == {}


RUNS = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "UnitFileState": "enabled",
    "NeedDaemonReload": "no",
}


def unit(tmp_path, *, file_changed=50.0, patterns=("/etc/systemd/system/*", "/etc/conf"), **state):
    seen = Seen(str(tmp_path), "one")
    seen.patterns, seen.key = list(patterns), "key"
    seen.paths = {"/etc/conf": {"kind": "file", "changed": file_changed}}
    seen.units = {"one.timer": {"active_since": 200.0, "loaded_at": 100.0, "state": {**RUNS, **state}}}
    return seen


def test_a_unit_that_runs_with_what_is_on_disk_is_settled(tmp_path):
    assert settled(unit(tmp_path), {"name": "one.timer", "newer_files": ["/etc/conf"]})
    assert settled(unit(tmp_path, UnitFileState="static"), {"name": "one.timer", "newer_files": []})


@pytest.mark.parametrize(
    "difference",
    [
        {"file_changed": 250.0},
        {"file_changed": 150.0},
        {"ActiveState": "failed"},
        {"UnitFileState": "disabled"},
        {"LoadState": "not-found"},
        {"NeedDaemonReload": "yes"},
        {"patterns": ("/etc/systemd/system/*",)},
        {"patterns": ("/etc/conf",)},
    ],
    ids=str,
)
def test_any_doubt_about_a_unit_is_left_to_the_module(tmp_path, difference):
    assert not settled(unit(tmp_path, **difference), {"name": "one.timer", "newer_files": ["/etc/conf"]})


def test_an_unknown_unit_is_left_to_the_module(tmp_path):
    assert not settled(unit(tmp_path), {"name": "two.timer", "newer_files": []})


COPY = """
- hosts: all
  gather_facts: false
  tasks:
    - deploy_lock: {name: currents, directory: "{{ place }}", look: "{{ look }}"}
    - name: Copy
      site_copy:
        src: "{{ place }}/source"
        dest: "{{ place }}/file"
        mode: "0644"
        owner: "{{ me }}"
        group: "{{ us }}"
"""


def test_a_file_is_copied_unless_the_host_has_it(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PLAY", COPY)
    (tmp_path / "source").write_bytes(b"\0program\xff")
    assert "changed=1" in run(tmp_path, [f"{tmp_path}/*"])
    assert (tmp_path / "file").read_bytes() == b"\0program\xff"
    assert "changed=0" in (second := run(tmp_path, [f"{tmp_path}/*"]))
    assert "ansible.legacy.copy" not in second
    (tmp_path / "source").write_bytes(b"other")
    assert "changed=1" in run(tmp_path, [f"{tmp_path}/*"])
    assert (tmp_path / "file").read_bytes() == b"other"
