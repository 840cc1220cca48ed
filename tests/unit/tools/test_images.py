"""The images of all scenarios are built beforehand, the one of each machine."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml

from tools import images
from tools.scenarios import BY_HAND, FIRST, LONGEST_FIRST

ROOT = images.ROOT


@pytest.fixture
def built(monkeypatch):
    names = []
    monkeypatch.setattr(images, "build", names.append)
    return names


def test_each_scenario_that_runs_without_being_named_gets_its_images(built):
    assert images.main() == 0
    assert built == [FIRST, *LONGEST_FIRST]
    assert {*built, *BY_HAND} == {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}


def test_an_image_that_cannot_be_built_ends_it_and_is_named(monkeypatch, capsys):
    def fail(scenario):
        raise subprocess.CalledProcessError(2, ["ansible-playbook"])

    monkeypatch.setattr(images, "build", fail)
    assert images.main() == 1
    assert f"those of {FIRST} could not be built" in capsys.readouterr().out


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """A lab that writes down how it is called."""
    (tmp_path / "lab").mkdir()
    calls = tmp_path / "calls"
    (tmp_path / "lab/__main__.py").write_text(
        f"import json, sys\nopen({str(calls)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')"
    )
    shared = tmp_path / "molecule/shared"
    shared.mkdir(parents=True)
    for name in ("image.yml", "vars"):
        (shared / name).symlink_to(ROOT / "molecule/shared" / name)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    return lambda: [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.fixture
def scenario(tmp_path):
    """Make a scenario with such hosts; return its name."""

    def make(hosts):
        inventory = tmp_path / "molecule/made-up/inventory"
        inventory.mkdir(parents=True)
        (inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        return "made-up"

    return make


def test_it_is_the_image_that_the_scenario_boots_from(lab, scenario):
    images.build(scenario({"one": {"lab_image": "debian12"}, "two": {"lab_image": "debian13", "lab_fresh": True}}))
    packages = ",".join(yaml.safe_load((ROOT / "molecule/shared/vars/lab.yml").read_text())["lab_packages"])
    assert sorted(lab()) == [
        ["image", "--image", "debian12", "--packages", packages],
        ["image", "--image", "debian13", "--seed-packages", packages],
    ]


def test_what_ansible_says_of_a_failure_is_shown(lab, scenario, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        images.build(scenario({"one": {}}))
    assert "lab_image" in capfd.readouterr().err
