"""The demo does what an operator does with a real server; here the machine, the site and the run are stand-ins."""

from __future__ import annotations

import io
import json
import re
import subprocess
from types import SimpleNamespace

import pytest
import yaml

from tools import demo

MACHINE = {
    "ssh_host": "127.0.0.1",
    "ssh_port": 40022,
    "ssh_user": "ubuntu",
    "ssh_key": "/lab/key",
    "known_hosts": "/lab/known_hosts",
    "forwards": {"5555": 40055},
    "lan_address": "10.77.0.11",
    "kind": "vm",
    "accelerator": "tcg",
    "can": ["kernel", "memory", "power"],
    "image": "debian12",
}
CONTAINER = {**MACHINE, "kind": "container", "accelerator": "none", "can": []}
STATUS = {"memory_bytes": {"now": 120 * 1024**2, "high": 800 * 1024**2, "max": 1024**3}}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A lab that answers at once, a site that is healthy, and an ansible-playbook that ends with `playbook_ends`."""
    play = SimpleNamespace(
        machine=MACHINE, labs=[], runs=[], playbook_ends=0, status=STATUS, inventory=tmp_path / "demo.yml"
    )

    def lab(*words):
        play.labs.append(words)
        if words[0] == "list":
            return "NAME STATE\ndemo-web1 running\nother running\n"
        return json.dumps(play.status if words[0] == "ssh" else play.machine)

    def run(argv, **_):
        play.runs.append([str(word) for word in argv])
        return SimpleNamespace(returncode=play.playbook_ends)

    def urlopen(url, timeout):
        assert url == "http://127.0.0.1:40055/health"
        return io.BytesIO(json.dumps({"status": "ok", "release": "code-1"}).encode())

    monkeypatch.setattr(demo, "lab", lab)
    monkeypatch.setattr(demo, "INVENTORY", play.inventory)
    monkeypatch.setattr(demo.subprocess, "run", run)
    monkeypatch.setattr(demo.urllib.request, "urlopen", urlopen)
    return play


def test_the_inventory_is_one_entry_with_its_own_list_of_known_hosts():
    (entry,) = demo.inventory(MACHINE)["all"]["hosts"].items()
    assert entry[0] == "currents"
    assert entry[1] == {
        "ansible_host": "127.0.0.1",
        "ansible_port": 40022,
        "ansible_user": "ubuntu",
        "ansible_ssh_private_key_file": "/lab/key",
        "ansible_ssh_common_args": "-o UserKnownHostsFile=/lab/known_hosts",
        "ansible_ssh_timeout": 60,
        "app_source": "examples/currents",
    }
    assert (demo.ROOT / entry[1]["app_source"] / "app.py").is_file()


def test_the_table_shows_what_the_running_site_says(stage):
    rows = dict(demo.summary(MACHINE, "http://127.0.0.1:40055", 61.4))
    assert rows["Health"] == "http://127.0.0.1:40055/health says ok, release code-1"
    assert rows["Memory"] == "120 MiB in use, slowed down at 800 MiB, a worker killed at 1024 MiB"
    assert rows["Took"] == "61 s"


def test_the_table_does_without_a_limit(stage):
    stage.status = {"memory_bytes": {"now": 1024**2, "high": None}}
    rows = dict(demo.summary(MACHINE, "http://127.0.0.1:40055", 1))
    assert rows["Memory"] == "1 MiB in use, slowed down at none, a worker killed at none"


def test_up_boots_runs_the_site_and_closes_with_the_url(stage, capsys):
    assert demo.up("") == 0
    assert stage.labs[0][:4] == ("up", "demo", "--needs", "memory")
    assert stage.runs[0][1:] == ["-i", str(stage.inventory), "site.yml"]
    assert yaml.safe_load(stage.inventory.read_text()) == demo.inventory(MACHINE)
    out = capsys.readouterr().out
    assert "  URL       http://127.0.0.1:40055\n" in out
    assert "make demo-down" in out


def test_a_container_is_taken_when_asked_for_and_the_table_says_what_does_not_hold(stage, capsys):
    stage.machine = CONTAINER
    assert demo.main(["up", "HOSTS=", "KIND=container"]) == 0
    assert stage.labs[0][:4] == ("up", "demo", "--kind", "container")
    (host,) = yaml.safe_load(stage.inventory.read_text())["all"]["hosts"].values()
    assert host["service_memory_limits"] == "best_effort"
    assert "a container, debian12: no memory limit holds in it on this computer" in capsys.readouterr().out
    assert "memory limits hold" in demo.described({**CONTAINER, "can": ["memory"]})


def test_wrong_kind_and_wrong_number_are_refused_together(stage, capsys):
    assert demo.main(["up", "HOSTS=1", "KIND=docker"]) == 2
    out = capsys.readouterr().out
    assert "KIND is docker: must be container or vm" in out
    assert "HOSTS is 1" in out
    assert stage.labs == []


def test_a_run_that_fails_says_how_to_go_on_and_keeps_the_inventory_for_it(stage, capsys):
    stage.playbook_ends = 2
    assert demo.up("") == 2
    assert "run `make demo` again" in capsys.readouterr().out
    assert stage.inventory.exists()


def test_down_removes_the_machine_and_the_inventory_and_may_be_repeated(stage, capsys):
    demo.up("")
    capsys.readouterr()
    assert demo.down() == 0
    assert stage.labs[-1] == ("down", "demo", "demo-web1")
    assert not stage.inventory.exists()
    assert demo.down() == 0
    assert capsys.readouterr().out == "The demo machine is gone.\n" * 2


def test_a_lab_that_fails_ends_the_demo_with_its_status(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=3, stdout=""))
    with pytest.raises(SystemExit) as end:
        demo.lab("up", "demo")
    assert end.value.code == 3


def test_the_stubbed_status_has_the_keys_of_the_real_one():
    # The stub once had others than sitectl, and the demo ended in a traceback.
    source = "".join(path.read_text() for path in sorted((demo.ROOT / "sitectl").glob("*.py")))
    assert '"memory_bytes"' in source
    assert {f'"{key}"' for key in STATUS["memory_bytes"]} <= set(re.findall(r'"\w+"', source))


def test_several_hosts_are_on_one_network_behind_a_balancer_that_has_the_url(stage, capsys):
    assert demo.main(["up", "HOSTS=3", "KIND="]) == 0
    booted = [words for words in stage.labs if words[0] == "up"]
    assert sorted(words[1] for words in booted) == ["demo-balancer", "demo-web1", "demo-web2", "demo-web3"]
    assert all(words[words.index("--network") + 1] == "demo" for words in booted)
    assert all(words[words.index("--cores") + 1] == "1" for words in booted)
    everything = yaml.safe_load(stage.inventory.read_text())["all"]
    assert list(everything["hosts"]) == ["web1", "web2", "web3"]
    assert everything["hosts"]["web1"]["balancer_target"] == "10.77.0.11"
    assert everything["children"]["balancers"]["hosts"]["balancer"]["balancer_backends"] == ["web1", "web2", "web3"]
    out = capsys.readouterr().out
    assert "  URL       http://127.0.0.1:40055, the balancer\n" in out
    assert "playbooks/deploy.yml" in out


def test_the_command_that_the_table_gives_for_visitors_is_one_of_the_load_generator(stage):
    rows = dict(demo.balanced_summary(MACHINE, "http://127.0.0.1:40055", ["web1", "web2"], 1))
    words = rows["Visitors"].partition(",")[0].split()
    assert (demo.ROOT / words[1]).exists()
    known = set(re.findall(r'"(--[a-z]+)"', (demo.ROOT / words[1]).read_text()))
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("hosts", ["1", "0", "10", "three", "-2"])
def test_a_number_of_hosts_that_cannot_be_is_refused_with_an_example(stage, capsys, hosts):
    assert demo.main(["up", f"HOSTS={hosts}", "KIND="]) == 2
    assert "make demo HOSTS=3" in capsys.readouterr().out
    assert stage.labs == []


def test_several_hosts_that_fail_say_how_to_go_on(stage, capsys):
    stage.playbook_ends = 2
    assert demo.main(["up", "HOSTS=2"]) == 2
    assert "run `make demo HOSTS=2` again" in capsys.readouterr().out
