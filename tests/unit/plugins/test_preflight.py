"""What stops a host from carrying the site, decided from observations; and the readers of /proc."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.module_utils.host_listeners import Listener, listeners_on, listening_inodes
from plugins.modules import preflight
from plugins.modules.preflight import (
    Observed,
    Wanted,
    belongs_to_site,
    parse_os_release,
    parse_size,
    problems_of,
    report,
    systemd_version,
)

GIB = 2**30
WANTED = Wanted(name="currents", user="currents", port=5555, memory_max=GIB, disk_free_min=GIB)
GOOD = Observed(
    init="systemd",
    controllers=frozenset({"cpu", "memory", "pids"}),
    os_id="ubuntu",
    os_version="24.04",
    machine="x86_64",
    uid=0,
    mem_total=2 * GIB,
    disk_free={"/srv": 9 * GIB, "/var": 9 * GIB},
    listeners=(),
    logins={},
)
STRANGER = Listener(812, "ubuntu", "python3 app.py", "/user.slice/user-1000.slice/session-3.scope")


def test_a_good_host_has_no_problem():
    assert problems_of(WANTED, GOOD) == []


@pytest.mark.parametrize(
    ("change", "about", "words"),
    [
        ({"uid": 1000}, "sudo", "--ask-become-pass"),
        ({"os_id": "centos", "os_version": "9"}, "system", "is centos 9: supported are ubuntu 22.04"),
        ({"os_id": "debian", "os_version": "10"}, "system", "debian 12, 13"),
        ({"os_id": "", "os_version": ""}, "system", "is unknown"),
        ({"machine": "armv7l"}, "machine", "64-bit"),
        ({"init": "bash"}, "init", "process 1 is bash"),
        ({"controllers": None}, "cgroups", "not unified"),
        ({"controllers": frozenset({"cpu"})}, "cgroups", "cgroup_disable=memory"),
        ({"mem_total": GIB}, "service_memory_max", "is 1024M, but the host has 1024M"),
        ({"disk_free": {"/srv": GIB // 2}}, "/srv", "has 512M free, 1024M are needed"),
        ({"logins": {"currents": (1000, "/bin/bash")}}, "app_name", "a person's login"),
        ({"listeners": (STRANGER,)}, "app_port", "process 812 of user ubuntu (python3 app.py)"),
        ({"listeners": (Listener(0, "", "", ""),)}, "app_port", "an unknown process"),
    ],
)
def test_each_obstacle_is_named_with_a_remedy(change, about, words):
    problems = problems_of(WANTED, replace(GOOD, **change))
    assert [name for name, _ in problems] == [about]
    assert words in problems[0][1]


def test_without_the_memory_controller_the_way_out_is_named():
    ((_, fault),) = problems_of(WANTED, replace(GOOD, controllers=frozenset({"pids"})))
    assert fault.endswith("or set service_memory_limits: best_effort, and no memory limit of the kernel holds")


def test_best_effort_goes_on_without_the_memory_controller_but_not_with_version_1():
    wanted = replace(WANTED, limits_required=False)
    assert problems_of(wanted, replace(GOOD, controllers=frozenset({"pids"}))) == []
    ((about, fault),) = problems_of(wanted, replace(GOOD, controllers=None))
    assert (about, "not unified" in fault) == ("cgroups", True)


def test_all_obstacles_are_told_at_once():
    bad = replace(GOOD, uid=1, init="sh", machine="i686", listeners=(STRANGER,))
    text = report("web1", problems_of(WANTED, bad))
    assert text.startswith("4 problems on the host web1; nothing was changed:\n")


@pytest.mark.parametrize("login", [(998, "/usr/sbin/nologin"), (1001, "/usr/sbin/nologin"), (998, "/bin/sh")])
def test_a_system_user_of_that_name_is_the_sites_own(login):
    assert problems_of(WANTED, replace(GOOD, logins={"currents": login})) == []
    assert problems_of(replace(WANTED, user="runner"), replace(GOOD, logins={"runner": login})) == []


def test_a_person_s_login_does_not_become_the_user_of_the_app():
    wanted, ann = replace(WANTED, user="ann"), (1001, "/bin/bash")
    ((about, fault),) = problems_of(wanted, replace(GOOD, logins={"ann": ann, "currents": (998, "/usr/sbin/nologin")}))
    assert about == "app_user"
    assert fault == (
        "ann is a person's login (uid 1001, /bin/bash), which would lose its shell and its home: "
        "must be a name that nobody logs in with, for example ann-app"
    )
    both = problems_of(wanted, replace(GOOD, logins={"ann": ann, "currents": (1000, "/bin/zsh")}))
    assert sorted(name for name, _ in both) == ["app_name", "app_user"]


def test_nor_does_it_become_the_user_of_the_tunnel():
    wanted, host = replace(WANTED, tunnel_user="ann"), replace(GOOD, logins={"ann": (1001, "/bin/bash")})
    ((about, fault),) = problems_of(wanted, host)
    assert about == "ngrok_user"
    assert fault.endswith("must be a name that nobody logs in with, for example ann-ngrok")
    assert problems_of(WANTED, host) == []


def test_all_names_are_looked_up_on_the_host():
    here = pwd.getpwuid(os.geteuid())
    observed, facts = preflight.observe(replace(WANTED, name="nobody-of-that-name", user=here.pw_name))
    assert observed.logins == {here.pw_name: (here.pw_uid, here.pw_shell)}
    assert facts["user"] == {"name": here.pw_name, "home": here.pw_dir, "shell": here.pw_shell}
    observed, facts = preflight.observe(replace(WANTED, name=here.pw_name, user="nobody-of-that-name"))
    assert observed.logins == {here.pw_name: (here.pw_uid, here.pw_shell)}
    assert facts["user"] == {}
    observed, _ = preflight.observe(replace(WANTED, name="nobody-of-that-name", tunnel_user=here.pw_name))
    assert observed.logins == {here.pw_name: (here.pw_uid, here.pw_shell)}


@pytest.mark.parametrize(
    ("listener", "own"),
    [
        (Listener(1, "root", "/sbin/init", "/init.scope"), True),
        (Listener(900, "currents", "gunicorn", "/system.slice/currents.service"), True),
        (Listener(900, "currents", "gunicorn", "/system.slice/currents.service/worker"), True),
        (Listener(900, "x", "gunicorn", "/system.slice/currents.service-old"), False),
        (Listener(900, "haproxy", "haproxy", "/system.slice/currents-front.service"), True),
        (Listener(900, "haproxy", "haproxy", "/system.slice/haproxy.service"), False),
        (STRANGER, False),
    ],
)
def test_the_sites_own_socket_is_no_stranger(listener, own):
    assert belongs_to_site(listener, "currents") is own


def test_a_service_on_the_port_comes_with_the_command_that_stops_it():
    other = Listener(70, "www-data", "nginx", "/system.slice/nginx.service")
    fault = problems_of(WANTED, replace(GOOD, listeners=(other,)))[0][1]
    assert "sudo systemctl disable --now nginx.service" in fault


def test_listening_sockets_are_read_from_the_kernels_tables():
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 00000000:15B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        "   1: 0100007F:15B3 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
        "   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n"
    )
    assert listening_inodes(table, 5555) == {"4711"}
    assert listening_inodes("", 5555) == set()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_real_listener_is_found_with_its_process(family):
    with socket.socket(family) as server:
        server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        server.listen()
        found = listeners_on(server.getsockname()[1])
    assert os.getpid() in {one.pid for one in found}
    assert all(one.command for one in found)


def test_a_free_port_has_no_listener():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        assert listeners_on(server.getsockname()[1]) == ()


def test_the_system_is_read_from_os_release():
    text = 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n# note\n'
    release = parse_os_release(text)
    assert (release["ID"], release["VERSION_ID"]) == ("ubuntu", "24.04")


def test_the_version_of_systemd_is_a_number():
    assert systemd_version("systemd 255 (255.4-1ubuntu8)\n+PAM") == 255
    assert systemd_version("") == 0


def test_a_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="banana"):
        parse_size("banana")


# What it tells the roles, and the lock


def test_the_time_zone_is_where_the_link_leads(tmp_path):
    link = tmp_path / "localtime"
    assert preflight.timezone(link) == ""
    link.symlink_to("/usr/share/zoneinfo/Europe/Vienna")
    assert preflight.timezone(link) == "Europe/Vienna"
    link.unlink()
    link.touch()
    assert preflight.timezone(link) == ""


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, ""),
        ({"run/systemd/container": "lxc\n"}, "lxc"),
        ({"proc/vz/version": ""}, "openvz"),
        ({"proc/vz/version": "", "proc/bc/0": ""}, ""),
    ],
)
def test_a_container_is_told_from_a_machine(tmp_path, files, kind):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert preflight.container(tmp_path) == kind


def test_the_roles_are_told_of_the_container(monkeypatch):
    monkeypatch.setattr(preflight, "container", lambda: "lxc")
    assert preflight.observe(WANTED)[1]["container"] == "lxc"


def test_the_user_of_the_app_is_told():
    root = preflight.about_user("root")
    assert (root["name"], root["home"], root["shell"][:1]) == ("root", "/root", "/")
    assert preflight.about_user("nobody-of-that-name") == {}


@pytest.fixture
def looks(tmp_path, monkeypatch, capsys):
    """Run the module on a host that can carry the site; return what it says."""
    monkeypatch.setattr(preflight, "observe", lambda wanted: (GOOD, {"hostname": "one", "asked": vars(wanted)}))
    monkeypatch.setattr(preflight, "DIRECTORY", str(tmp_path))

    def run(**options):
        words = {"name": "currents", "port": 5555, "memory_max": "1G", **options}
        with patch_module_args(words), pytest.raises(SystemExit):
            preflight.main()
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(("words", "user"), [({}, "currents"), ({"user": "runner"}, "runner")])
def test_the_user_of_the_app_has_its_name_unless_another_one_is_named(looks, words, user):
    assert looks(**words)["ansible_facts"]["site_host"]["asked"]["user"] == user


def test_a_host_without_the_memory_controller_is_refused_or_warned_of(looks, monkeypatch):
    assert "summary" not in looks(memory_limits="best_effort"), "its kernel holds them"
    bare = replace(GOOD, controllers=frozenset({"pids"}))
    monkeypatch.setattr(preflight, "observe", lambda wanted: (bare, {"hostname": "one"}))
    assert "lack the memory controller" in looks()["msg"], "by default"
    result = looks(memory_limits="best_effort")
    ((label, warning),) = result["summary"]
    assert (label, "failed" in result, warning.startswith("warning: ")) == ("memory limits", False, True)
    assert looks(memory_limits="some")["failed"] is True


LOCK = {"token": "one", "who": "ann", "from": "-", "what": "deploy.yml", "patience_seconds": 1}


def test_with_a_lock_it_looks_at_the_host_as_the_only_one(looks, tmp_path):
    anchor = subprocess.Popen(["sleep", "60"])
    start = Path(f"/proc/{anchor.pid}/stat").read_text().rpartition(")")[2].split()[19]
    lock = {**LOCK, "anchor": {"pid": anchor.pid, "start": start}}
    assert "anchor_gone" not in looks(lock=lock)
    assert looks(lock={**lock, "token": "two"})["msg"].startswith("Another deploy of currents is at work: ann, since")
    assert "failed" not in looks(), "a look takes no lock"
    anchor.kill()
    anchor.wait()


def test_a_lock_without_its_channel_is_none(looks, tmp_path):
    assert looks(lock={**LOCK, "anchor": {"pid": 1, "start": "none"}}, look=["/etc/hostname"])["anchor_gone"] is True


def test_on_a_host_that_cannot_carry_the_site_no_lock_is_taken(looks, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "problems_of", lambda *words: [("what", "why", "advice")])
    monkeypatch.setattr(preflight, "report", lambda *words: "no")
    assert looks(lock={**LOCK, "anchor": {"pid": 1, "start": "none"}})["failed"] is True
    assert not list(tmp_path.iterdir())
