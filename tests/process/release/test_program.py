"""The command line, the lock, the databases, and what the controller makes of it."""

from __future__ import annotations

import fcntl
import json
import socketserver
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from plugins.module_utils.switch_report import summary_of
from plugins.modules import site_release
from plugins.modules.site_release import command
from siterelease import __main__ as program
from siterelease import database, host
from siterelease.host import ReleaseError
from siterelease.settings import load
from tests.unit.rendering import value_of

ROLE = Path(__file__).resolve().parents[3] / "roles/release"
ASKED = {
    "name": "currents",
    "action": "switch",
    "to": "",
    "database": False,
    "retry_bad": False,
    "who": "",
    "hold": False,
    "turn": False,
}


def test_what_the_role_writes_is_what_the_program_reads(tmp_path):
    written = value_of("release", "__release_settings", wired=True, app_name="currents", release_trial_growth_max="2M")
    path = tmp_path / "release.json"
    path.write_text(json.dumps(written))
    settings = load(path)
    assert settings.trial_growth_bytes == 2 * 1024**2
    assert settings.inputs[0] == Path("/etc/systemd/system/currents.service")
    assert settings.inputs[1] == Path("/etc/systemd/system/currents.socket")
    record = value_of("service", "__service_socket_record", wired=True, app_name="currents")
    assert str(settings.socket_record) == record
    assert (settings.unit, settings.user, settings.keep) == ("currents.service", "currents", 5)
    assert settings.operations == "/run/currents/operations.sock"


def test_the_program_starts_with_the_oldest_promised_syntax_and_lists_nothing(tmp_path, settings):
    config = tmp_path / "release.json"
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    plain["inputs"] = []
    config.write_text(json.dumps({key: value for key, value in plain.items() if key not in ("run", "state")}))
    done = subprocess.run(
        [sys.executable, "-m", "siterelease", "--config", str(config), "currents", "list", "--json"],
        cwd=ROLE / "files",
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["releases"] == []


@pytest.mark.parametrize(
    ("commit", "shown"), [("", ""), ("a" * 40, "a" * 12), ("a" * 40 + "-dirty", "a" * 12 + "-dirty")]
)
def test_the_table_shows_what_is_needed_of_a_commit(settings, releases, build, systemd, commit, shown):
    build("one")
    releases.write("one", "release.json", {"id": "one", "commit": commit, "created": "2026-01-01"})
    head, row, *_ = program.listed(settings, releases).text.splitlines()
    assert row[head.index("commit") : head.index("why")].strip() == shown


def test_a_refusal_says_why_and_ends_with_1(tmp_path, capsys):
    assert program.main(["--config", str(tmp_path / "none.json"), "currents", "switch", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["failed"]
    assert "none.json" in said["msg"]


def test_a_lock_that_somebody_holds_is_refused_with_who_and_ends_with_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "LOCK_SECONDS", 0.1)
    path = tmp_path / "lock"
    with path.open("w") as other:
        json.dump({"who": "ann@desk", "from": "192.0.2.7", "since": "12:00", "what": "deploy.yml"}, other)
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(ReleaseError, match=r"ann@desk from 192\.0\.2\.7 is at work since 12:00: deploy\.yml"),
            host.lock(path),
        ):
            pass
    with host.lock(path, "bob"):
        assert json.loads(path.read_text())["who"] == "bob"


def test_a_lock_without_a_word_in_it_still_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "LOCK_SECONDS", 0.1)
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ReleaseError, match="somebody else is at work"), host.lock(tmp_path / "lock"):
            pass


@pytest.mark.parametrize("words", [["switch"], ["rollback"]])
def test_a_change_by_hand_waits_for_no_deploy_that_is_at_work(settings, tmp_path, monkeypatch, words):
    monkeypatch.setattr(host, "LOCK_SECONDS", 0.1)
    arguments = program.parser().parse_args(["currents", *words])
    with (settings.run / "sitekeeper/currents.deploy.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ReleaseError, match="is at work"):
            program.run(settings, arguments)
        arguments.locked = True
        with pytest.raises(ReleaseError, match="deploy"):
            program.run(settings, arguments)


def test_a_dry_run_speaks_of_what_would_be_built_and_not_of_what_was_tried_before(settings, releases, build):
    (build("bad") / "BAD").write_text("{}")
    dry = ["currents", "switch", "--locked", "--check"]
    with pytest.raises(ReleaseError, match="bad was marked bad"):
        program.run(settings, program.parser().parse_args(dry))
    outcome = program.run(settings, program.parser().parse_args([*dry, "--asked", "mended"]))
    assert (outcome.changed, outcome.text) == (True, "mended would be proven, and become current")
    with pytest.raises(ReleaseError, match="bad was marked bad"):
        program.run(settings, program.parser().parse_args(["currents", "switch", "--locked", "--asked", "mended"]))


@pytest.mark.parametrize(
    ("words", "waits"), [(["--locked"], True), (["--locked", "--check"], False), (["--check"], False)]
)
def test_a_run_waits_for_the_switch_that_a_killed_run_has_left_behind(settings, monkeypatch, words, waits):
    monkeypatch.setattr(host, "LOCK_SECONDS", 0.1)
    arguments = program.parser().parse_args(["currents", "switch", *words])
    with (settings.run / "sitekeeper/currents.switch.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        timer = threading.Timer(1, fcntl.flock, (other, fcntl.LOCK_UN))
        timer.start()
        with pytest.raises(ReleaseError) as refusal:
            program.run(settings, arguments)
        timer.cancel()
        timer.join()
    # Then it goes on, to find that there is nothing to switch to.
    assert ("is at work" not in str(refusal.value)) is waits


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({}, False, "switch --json --locked"),
        ({"who": "me@here", "retry_bad": True}, True, "switch --json --who me@here --locked --check --retry-bad"),
        ({"hold": True}, False, "switch --json --locked --hold"),
        ({"turn": True}, False, "switch --json --locked --turn"),
        ({"to": "a"}, False, "switch --json --locked"),
        ({"to": "a"}, True, "switch --json --locked --check --asked a"),
        ({"action": "rollback", "database": True, "to": "a"}, False, "rollback --json --locked --database a"),
        ({"action": "list", "who": "me"}, True, "list --json"),
    ],
)
def test_the_module_asks_the_program(change, check, words):
    assert " ".join(command({**ASKED, **change}, check)).endswith(f"release currents {words}")


def test_the_end_of_a_run_says_what_became_of_the_release():
    said = {"changed": True, "text": "b is current", "seconds": 12.5, "watched_seconds": 60}
    assert summary_of("switch", said) == [
        ("Release", "b is current (12.5 s)"),
        ("Watch", "for 60 s; taken back by itself if it goes bad"),
    ]
    assert summary_of("switch", {"changed": False, "text": "b is current"}) == []


def test_the_program_asks_over_a_unix_socket_and_no_answer_is_no_exception(tmp_path):
    path = str(tmp_path / "http.sock")
    assert host.ask(path, "/health", 1).problem
    with socketserver.UnixStreamServer(path, Answering) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answer = host.ask(path, "/health", 10)
        thread.join()
    assert (answer.status, answer.well, answer.field("problem")) == (503, False, "ill")


class Answering(socketserver.StreamRequestHandler):
    def handle(self):
        assert self.rfile.readline().startswith(b"GET /health ")
        body = b'{"problem": "ill"}'
        self.wfile.write(b"HTTP/1.0 503 Ill\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.fixture
def filled(settings):
    with sqlite3.connect(settings.data_dir / "a.db") as live:
        live.execute("PRAGMA journal_mode=WAL")
        live.execute("CREATE TABLE t (x)")
        live.execute("INSERT INTO t VALUES (1)")
    return live


def test_a_database_is_saved_while_it_is_open_with_what_stands_only_in_its_log(settings, filled):
    name = database.save(settings, "first", "")
    assert (settings.data_dir / "a.db-wal").exists(), "the app still has it open"
    saved = sqlite3.connect(settings.backups / name / "a.db")
    assert saved.execute("SELECT x FROM t").fetchall() == [(1,)]
    saved.close()
    assert (settings.backups / name).stat().st_mode & 0o777 == 0o700
    assert not list((settings.backups / name).glob("*-wal"))


def test_files_that_are_no_databases_and_links_are_left_alone(settings):
    (settings.data_dir / "notes.db").write_text("no database")
    (settings.data_dir / "link.db").symlink_to("/etc/passwd")
    assert database.save(settings, "none", "") == ""


def test_a_database_outside_of_the_data_directory_is_refused(settings):
    with pytest.raises(ReleaseError, match="leads out"):
        database.found(replace(settings, databases=("../etc/app.db",)))


def test_a_damaged_database_stops_the_deploy_before_anything_changed(settings, filled):
    (settings.data_dir / "b.db").write_bytes(database.MAGIC + b"\xff" * 5000)
    with pytest.raises(ReleaseError, match="cannot be copied"):
        database.save(settings, "x", "")


def test_five_backups_stay(settings, filled, monkeypatch):
    for number in range(7):
        monkeypatch.setattr(database, "now", lambda number=number: f"2026-01-01T00:00:0{number}+00:00")
        database.save(settings, "x", "")
    assert len([path for path in settings.backups.iterdir() if path.is_dir()]) == 5
    assert len(list(settings.backups.glob("*.json"))) == 5


def test_the_backup_that_a_rollback_would_restore_is_never_pushed_out(settings, filled, monkeypatch):
    """Each deploy that is refused after its backup leaves one; the live release's own is the one that matters."""
    kept = database.save(settings, "live", "")
    for number in range(7):
        monkeypatch.setattr(database, "now", lambda number=number: f"2099-01-01T00:00:0{number}+00:00")
        database.save(settings, "refused", kept)
    assert (settings.backups / kept / "a.db").is_file()
    assert database.about_backup(settings, kept)["rows"]
    assert len([path for path in settings.backups.iterdir() if path.is_dir()]) == 6


def test_no_room_is_said_before_a_copy_is_begun(settings, filled, monkeypatch):
    monkeypatch.setattr(database.shutil, "disk_usage", lambda path: type("U", (), {"free": 10}))
    with pytest.raises(ReleaseError, match="no room to save"):
        database.save(settings, "x", "")
    assert not [path for path in settings.backups.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("restarts", "dry", "looked"),
    [([{"unit": "app.service"}], False, True), ([], False, False), ([{"unit": "app.service"}], True, False)],
)
def test_after_a_restart_the_answer_tells_how_the_app_runs(monkeypatch, tmp_path, restarts, dry, looked):
    said, answers = {"changed": True, "restarts": restarts, "current": "one"}, []

    about = {"units": ["app.service"]}

    class Module:
        def __init__(self, **named):
            self.check_mode, self.params = dry, {**ASKED, "look_app": about}

        def run_command(self, argv):
            return 0, json.dumps(said), ""

        def exit_json(self, **result):
            answers.append(result)

    monkeypatch.setattr(site_release, "AnsibleModule", Module)
    monkeypatch.setattr(site_release, "PROGRAM", str(tmp_path))
    monkeypatch.setattr(site_release, "app_again", lambda about: {"seen": about})
    site_release.main()
    assert answers[0].get("seen") == (about if looked else None)
