"""Bad settings of a balancer stop the real playbook before a connection is opened; sound ones do not."""

from __future__ import annotations

import pytest
import yaml

from tests.support.ansible_run import REPOSITORY, ansible


@pytest.fixture
def validate(tmp_path):
    """Run the checks of settings; nobody answers at the hosts' addresses, and connecting fails at once."""
    (tmp_path / "group_vars").symlink_to(REPOSITORY / "group_vars")
    web = {"app_source": "examples/currents"}
    hosts = {f"web{number}": {**web, "ansible_host": f"192.0.2.{number}"} for number in (1, 2)}
    lb = {"ansible_host": "192.0.2.9", "balancer_backends": ["web1", "web2"]}
    content = {"all": {"hosts": hosts, "children": {"balancers": {"hosts": {"lb": lb}}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(content))
    words = ["-i", tmp_path, "-e", "ansible_port=1", "-e", "ansible_ssh_common_args='-o ConnectTimeout=1'"]
    return lambda *arguments: ansible("ansible-playbook", "playbooks/validate.yml", *words, *arguments)[1]


def test_a_bad_setting_of_the_command_line_is_named_before_a_host_is_touched(validate):
    said = validate("-e", "rolling_batch=2")
    assert "rolling_batch  is 2, but lb has 2 hosts" in said, said
    assert said.count("1 problem in the settings of") == 1, said
    assert "UNREACHABLE" not in said


def test_sound_settings_are_accepted_and_those_of_the_app_mean_nothing_on_the_balancer(validate):
    said = validate()
    assert "problem" not in said, said
    assert said.count("UNREACHABLE!") == 3, "the run went on to connect"
