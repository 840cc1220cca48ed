"""The change-over and the way back, with a real server, a real database and a systemd that only starts a process."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path

import pytest
from ansible.module_utils.adopt_database import DatabaseError
from ansible.module_utils.adopt_host import Host
from ansible.module_utils.adopt_switch import Adoption, Site
from ansible.module_utils.adopt_wanted import AdoptError, Wanted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a process back to its user")

#: Votes for each request; says who it is.
SERVER = """
import http.server, os, sqlite3, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with sqlite3.connect(sys.argv[2]) as opened:
            opened.execute("INSERT INTO votes VALUES (?)", (self.path,))
        self.send_response(int(os.environ.get("STATUS", "200")))
        self.end_headers()
        self.wfile.write(os.environ.get("WHO", "").encode())
    def log_message(self, *words):
        print("seen", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
LINE = "*/90 * * * * pkill -f app.py; nohup python3 app.py &"


def ask(port, path="/"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def votes(path):
    with closing(sqlite3.connect(path)) as opened:
        return {row[0] for row in opened.execute("SELECT voter FROM votes")}


class Machine:
    """A host of its own below a directory, with the real processes of this one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app, self.data = root / "app", root / "data"
        self.log = root / "app.log"
        self.table = root / "var/spool/cron/crontabs/ubuntu"
        self.unit = root / "etc/systemd/system/site.service"
        for path in (self.app, self.data, self.table.parent, self.unit.parent, root / "srv"):
            path.mkdir(parents=True)
        (root / "proc").symlink_to("/proc")
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with closing(sqlite3.connect(self.app / "site.db")) as made:
            made.execute("PRAGMA journal_mode = WAL")
            made.execute("CREATE TABLE votes (voter TEXT)")
            made.commit()
        (self.app / "app.py").write_text(SERVER)
        self.table.write_text(f"# mine\n{LINE}\n0 * * * * true\n")
        self.unit.write_text("[Service]\n# somebody's\n")
        self.calls: list[str] = []
        self.service: subprocess.Popen | None = None
        self.new = {"WHO": "new"}
        self.trial = 0
        self.crashes = "0"

    def start_by_hand(self):
        environ = {"PATH": os.environ["PATH"], "WHO": "old", "API_KEY": "canary-0123456789abcdef"}
        with self.log.open("a") as log:
            subprocess.Popen(
                ["nohup", sys.executable, "app.py", str(self.port), "site.db"],
                cwd=self.app, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.wait(lambda: ask(self.port, "/first") == "old")

    @staticmethod
    def wait(true, seconds=20):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError):
                if true():
                    return
            time.sleep(0.05)
        pytest.fail("it took too long")

    def run(self, words):
        """Be systemctl, journalctl and systemd-run."""
        self.calls.append(" ".join(words))
        if words[0] == "systemd-run":
            return self.trial, "", "ModuleNotFoundError: nowhere" if self.trial else ""
        if words[1:3] == ("start", "--no-block"):
            argv = [sys.executable, str(self.app / "app.py"), str(self.port), str(self.data / "site.db")]
            self.service = subprocess.Popen(argv, cwd=self.root / "srv", env=self.new)
        if words[1:3] == ("disable", "--now") and self.service:
            self.service.kill()
            self.service.wait()
        if words[1] == "show":
            return 0, {"NRestarts": self.crashes, "UnitFileState": "enabled"}.get(words[4], "inactive") + "\n", ""
        return 0, "", ""

    def adoption(self, seconds=20.0, outage=10.0):
        user = pwd.getpwuid(os.geteuid()).pw_name
        wanted = Wanted(
            "site", self.port, str(self.root / "srv"), str(self.data), source=str(self.app), shared=["site.db", "files"]
        )
        return Adoption(wanted, Site(user, "app:app", "/etc/site", seconds, outage), self.run, Host(self.root))

    def answered(self):
        with suppress(OSError):
            return ask(self.port, "/watch") == "new"
        return False

    def end(self):
        host = Host()
        for pid in host.listeners(self.port):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    made.start_by_hand()
    yield made
    made.end()


def test_change_over_keeps_all_rows_and_retires_the_line(machine):
    (machine.app / "files").mkdir()
    (machine.app / "files/photo.jpg").write_text("photo")
    adoption = machine.adoption()
    assert adoption.save().state == "foreign"
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


def old_process(machine):
    host = Host()
    (pid,) = host.listeners(machine.port)
    one = host.process(pid)
    return one.argv, one.cwd, one.uid, one.gid, dict(one.environ), one.outputs, one.ignores


@pytest.mark.parametrize("fault", ["never well", "crashes"])
def test_what_does_not_answer_gives_the_old_one_back_with_its_rows(machine, fault):
    before, table = old_process(machine), machine.table.read_bytes()
    adoption = machine.adoption(seconds=2)
    adoption.save()
    machine.unit.write_text("[Service]\n# ours, /usr/local/lib/sitekeeper/\n")
    machine.crashes = "3" if fault == "crashes" else "0"

    def answered():
        with suppress(OSError):
            ask(machine.port, "/told-by-the-new-one")
        return False

    with pytest.raises(AdoptError, match="the old app was put back as it was") as failed:
        adoption.switch(answered)
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
    machine.unit.write_text("[Service]\n# ours, /usr/local/lib/sitekeeper/\n")
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
    machine.unit.write_text("[Service]\n# ours, /usr/local/lib/sitekeeper/\n")
    adoption = machine.adoption()
    adoption.save()
    assert (adoption.kept / "units/site.service").read_text() == "[Service]\n# somebody's\n"
    assert json.loads((adoption.kept / "plan.json").read_text())["units"] == {"site.service": "enabled"}


def test_link_in_the_data_leads_root_nowhere(machine, tmp_path):
    adoption = machine.adoption()
    (tmp_path / "elsewhere").mkdir()
    (machine.data / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdoptError, match="is a link"), adoption.placed(machine.data / "sub/site.db") as fresh:
        fresh.write_text("")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def agents_named(port):
    host = Host()
    return [one for one in host.processes().values() if one.argv[0] == "ngrok" and str(port) in one.argv]


def test_agent_started_by_hand_ends_and_comes_back_as_it_was(machine, tmp_path):
    log = tmp_path / "ngrok.log"
    line = f"* * * * * pgrep ngrok || ngrok http {machine.port}"
    machine.table.write_text(f"{LINE}\n{line}\n0 * * * * true\n")
    with log.open("w") as out:
        words = ["ngrok", "-q", "-f", "/dev/null", "http", str(machine.port)]
        started = subprocess.Popen(words, executable="/usr/bin/tail", stdout=out, stderr=out, start_new_session=True)
    try:
        machine.wait(lambda: agents_named(machine.port))
        (before,) = agents_named(machine.port)
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
    finally:
        for one in agents_named(machine.port):
            os.kill(one.pid, 9)
        started.wait()
