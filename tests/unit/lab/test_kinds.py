"""Which kind of machine is taken for what is needed."""

from __future__ import annotations

from argparse import Namespace

import pytest

from lab import cli, kinds
from lab.errors import HostError, UsageError
from lab.kinds import Computer

#: As continuous integration has it: no KVM, control groups without the memory controller.
PLAIN = Computer(kvm=False, memory_controller=False)
V2 = Computer(kvm=False, memory_controller=True)
KVM = Computer(kvm=True, memory_controller=True)
NO_ROOT = Computer(kvm=False, memory_controller=True, no_container="it takes root")


@pytest.mark.parametrize(
    ("computer", "needs", "kind"),
    [
        (PLAIN, "none", "container"),
        (PLAIN, "memory", "vm"),
        (PLAIN, "kernel", "vm"),
        (V2, "memory", "container"),
        (V2, "memory,kernel", "vm"),
        (V2, "power", "vm"),
        (KVM, "none", "vm"),
        (NO_ROOT, "none", "vm"),
    ],
)
def test_the_fastest_machine_that_has_what_is_needed_is_taken(computer: Computer, needs: str, kind: str):
    assert kinds.choose(kinds.parse_needs(needs), computer) == kind


def test_a_need_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match=r"speed is no need.*memory, kernel, power; or none"):
        kinds.parse_needs("memory,speed")


def asked(kind: str | None, needs: str | None = None) -> Namespace:
    words = ["up", "one", *(["--kind", kind] if kind else []), *(["--needs", needs] if needs else [])]
    return cli.build_parser().parse_args(words)


def test_who_says_nothing_gets_a_machine_that_can_everything():
    assert cli.kind_from(asked(None), PLAIN) == cli.kind_from(asked(None), V2) == "vm"


def test_who_names_the_kind_gets_it():
    assert cli.kind_from(asked("container"), PLAIN) == "container"
    assert cli.kind_from(asked("vm"), PLAIN) == "vm"


def test_a_container_that_lacks_what_is_needed_is_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"(?s)lacks memory on this computer.*limits hold"):
        cli.kind_from(asked("container", "memory"), PLAIN)
    assert cli.kind_from(asked("container", "memory"), V2) == "container"


def test_a_container_without_root_is_refused_and_is_not_taken_instead_of_a_vm(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(HostError, match="it takes root"):
        cli.kind_from(asked("container"), NO_ROOT)
    assert cli.kind_from(asked(None, "none"), NO_ROOT) == "vm"
    assert "it takes root" in capsys.readouterr().err


def test_the_memory_controller_is_looked_for_where_version_2_has_it(tmp_path):
    controllers = tmp_path / "sys/fs/cgroup/cgroup.controllers"
    controllers.parent.mkdir(parents=True)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert not kinds.memory_controller(tmp_path)
    controllers.write_text("cpuset cpu io pids\n")
    assert not kinds.memory_controller(tmp_path)
    controllers.write_text("cpuset cpu io memory pids\n")
    assert kinds.memory_controller(tmp_path)
    (tmp_path / "run/systemd/system").rmdir()
    assert not kinds.memory_controller(tmp_path), "nobody hands it on"
