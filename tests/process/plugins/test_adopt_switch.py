"""The change-over and the way back, with a real server, a real database and a systemd that only starts a process."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils import adopt_switch
from ansible.module_utils.adopt_database import DatabaseError
from ansible.module_utils.adopt_host import Host
from ansible.module_utils.adopt_wanted import AdoptError, Wanted

from tests.unit.plugins.adopt_machine import LINE, agent_by_hand, agents_named, ask, old_process, votes
from tests.unit.plugins.adopt_tree import hanging_is_a_failure

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process back to its user")


def test_change_over_keeps_all_rows_and_retires_the_line(machine):
    (machine.app / "files").mkdir()
    (machine.app / "files/photo.jpg").write_text("photo")
    adoption = machine.adoption()
    assert adoption.save().state == "foreign"
    machine.install()
    assert ask(machine.port, "/while-it-is-built") == "old"
    done = adoption.switch(machine.answered)
    assert ask(machine.port) == "new"
    assert votes(machine.data / "site.db") >= {"/first", "/while-it-is-built"}
    assert done["rows"][str(machine.app / "site.db")]["votes"] >= 2
    assert (machine.data / "files/photo.jpg").read_text() == "photo"
    kept = machine.table.read_text().split("\n")
    assert [line for line in kept if not line.startswith("# Retired")] == [
        "# mine", f"#sitekeeper-site# {LINE}", "0 * * * * true", "",
    ]  # fmt: skip
    assert "systemctl enable site.socket site.service" in machine.calls
    assert adoption.recalled()["status"] == "done"
    assert (adoption.kept / "units/site.service").read_text() == "[Service]\n# somebody's\n"
    assert adoption.kept.stat().st_mode & 0o777 == 0o700
    assert (adoption.kept / "plan.json").stat().st_mode & 0o777 == 0o600
    assert adoption.save().state == "adopted"
    assert adoption.switch(machine.answered) == {}


@pytest.mark.parametrize("fault", ["never well", "crashes"])
def test_what_does_not_answer_gives_the_old_one_back_with_its_rows(machine, fault):
    before, table = old_process(machine), machine.table.read_bytes()
    adoption = machine.adoption(seconds=2)
    adoption.save()
    machine.install()
    machine.crashes = "3" if fault == "crashes" else "0"

    with pytest.raises(AdoptError, match="the old app was put back as it was") as failed:
        adoption.switch(machine.never_well())
    assert ("crashes again and again" if fault == "crashes" else "gives no good answer") in str(failed.value)
    assert "canary" not in str(failed.value)
    machine.wait(lambda: ask(machine.port, "/after") == "old")
    assert old_process(machine) == before
    assert machine.table.read_bytes() == table
    assert machine.unit.read_text() == "[Service]\n# somebody's\n"
    assert "systemctl enable site.service" in machine.calls
    assert votes(machine.app / "site.db") >= {"/first", "/after"}
    adoption.remember(status="switching")
    machine.adoption().put_back()
    assert "/after" in votes(machine.app / "site.db"), "a way back that was itself broken off takes no row away"
    if fault == "never well":
        assert "/told-by-the-new-one" in votes(machine.app / "site.db"), "a row that the new site took is kept"
    assert "seen" in machine.log.read_text()
    assert adoption.recalled()["status"] == "put back"


def test_new_release_that_does_not_load_stops_nothing(machine):
    before = Host().listeners(machine.port)
    adoption = machine.adoption()
    adoption.save()
    machine.install()
    machine.trial = 1
    with pytest.raises(AdoptError, match="nothing was stopped:\nModuleNotFoundError: nowhere"):
        adoption.switch(machine.answered)
    assert Host().listeners(machine.port) == before
    assert machine.unit.read_text() == "[Service]\n# somebody's\n"


def test_damaged_database_is_refused_while_the_app_goes_on(machine):
    content = bytearray((machine.app / "site.db").read_bytes())
    copy = machine.app / "other.db"
    copy.write_bytes(content[:4096] + b"\xff" * 4096)
    adoption = machine.adoption()
    adoption.wanted = Wanted(**{**vars(adoption.wanted), "shared": ["site.db", "other.db"]})
    with pytest.raises(DatabaseError, match=r"other\.db"):
        adoption.save()
    assert ask(machine.port) == "old"


def test_databases_that_take_too_long_are_refused_with_the_setting(machine):
    with pytest.raises(AdoptError, match=r"nothing was stopped\. .* -e adopt_outage_seconds=\d+"):
        machine.adoption(outage=0.0).save()
    assert ask(machine.port) == "old"


def test_broken_off_change_over_is_healed_by_the_next_run(machine):
    before, table = old_process(machine), machine.table.read_bytes()
    adoption = machine.adoption()
    adoption.save()

    class Killed(BaseException):
        """The module is killed: nothing of it runs any more."""

    def killed():
        raise Killed

    adoption.put_back = killed
    with pytest.raises(Killed):
        adoption.switch(killed)
    assert machine.table.read_bytes() != table
    fresh = machine.adoption()
    assert fresh.save().state == "foreign"
    machine.wait(lambda: ask(machine.port, "/again") == "old")
    assert old_process(machine) == before
    assert machine.table.read_bytes() == table
    assert fresh.recalled()["status"] == "saved"


def test_originals_of_a_run_that_ended_early_are_not_overwritten(machine):
    machine.adoption().save()
    machine.install()
    adoption = machine.adoption()
    adoption.save()
    assert (adoption.kept / "units/site.service").read_text() == "[Service]\n# somebody's\n"
    assert json.loads((adoption.kept / "plan.json").read_text())["units"] == {"site.service": "enabled"}


def test_pipe_among_the_shared_files_is_left_behind(machine):
    files = machine.app / "files"
    files.mkdir()
    (files / "photo.jpg").touch()
    os.mkfifo(files / "control")
    with hanging_is_a_failure():
        assert list(machine.adoption().shared_files(str(machine.app))) == [files / "photo.jpg"]


def test_link_in_the_data_leads_root_nowhere(machine, tmp_path):
    adoption = machine.adoption()
    (tmp_path / "elsewhere").mkdir()
    (machine.data / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdoptError, match="is a link"), adoption.placed(machine.data / "sub/site.db") as fresh:
        fresh.write_text("")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_agent_started_by_hand_ends_and_comes_back_as_it_was(machine, tmp_path):
    line = f"* * * * * pgrep ngrok || ngrok http {machine.port}"
    machine.table.write_text(f"{LINE}\n{line}\n0 * * * * true\n")
    with agent_by_hand(machine, tmp_path / "ngrok.log") as before:
        adoption = machine.adoption()
        adoption.save()
        adoption.switch(machine.answered)
        assert agents_named(machine.port) == [before], "the change-over leaves it alone"
        assert f"\n{line}\n" in machine.table.read_text()
        # Our child would stay as a zombie, which no agent of a real host is to this process.
        told = adoption.release_tunnel()
        assert told == ["ngrok -q -f", line]
        assert agents_named(machine.port) == []
        assert f"#sitekeeper-site-ngrok# {line}\n" in machine.table.read_text()
        assert adoption.restore_tunnel() == ["ngrok -q -f"]
        machine.wait(lambda: agents_named(machine.port))
        (after,) = agents_named(machine.port)
        assert (after.argv, after.cwd, after.outputs) == (before.argv, before.cwd, before.outputs)
        assert f"\n{line}\n" in machine.table.read_text()
        assert f"#sitekeeper-site# {LINE}" in machine.table.read_text()


def test_agents_of_an_earlier_adoption_are_not_started_beside_the_service(machine, tmp_path):
    line = f"* * * * * pgrep ngrok || ngrok http {machine.port}"
    machine.table.write_text(f"{LINE}\n{line}\n")
    with agent_by_hand(machine, tmp_path / "ngrok.log"):
        adoption = machine.adoption()
        adoption.save()
        adoption.switch(machine.answered)
        assert adoption.release_tunnel() == ["ngrok -q -f", line]
        table, weeks_later = machine.table.read_bytes(), machine.adoption()
        assert weeks_later.release_tunnel() == []
        assert weeks_later.restore_tunnel() == []
        assert agents_named(machine.port) == []
        assert machine.table.read_bytes() == table, "nor do the lines that start one return"


def test_tunnel_of_a_site_that_was_never_adopted_hides_no_other_error(machine):
    adoption = machine.adoption()
    assert adoption.release_tunnel() == []
    assert adoption.restore_tunnel() == []
    assert not adoption.kept.exists()


def test_agent_that_cannot_be_started_again_is_told_and_its_lines_return(machine, tmp_path, monkeypatch):
    line = f"* * * * * pgrep ngrok || ngrok http {machine.port}"
    machine.table.write_text(f"{line}\n")

    def fails(_process):
        raise FileNotFoundError("ngrok")

    with agent_by_hand(machine, tmp_path / "ngrok.log"):
        adoption = machine.adoption()
        adoption.save()
        adoption.release_tunnel()
        monkeypatch.setattr(adopt_switch, "start_again", fails)
        assert adoption.restore_tunnel() == ["starting ngrok -q -f failed: ngrok"]
        assert machine.table.read_text() == f"{line}\n"
