"""The host's half of app_release as a whole: what a run changes, what a killed one leaves, and what is said.

Here uv is a small program written by the test that makes a virtual environment of one link and notes its calls.
"""

from __future__ import annotations

import base64
import contextlib
import json
import multiprocessing
import signal
import sqlite3
import sys
import tarfile
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.module_utils.code_tree import SQLITE_MAGIC
from plugins.modules import app_release
from plugins.modules.app_release import Releases
from tests.polling import PATIENCE_SECONDS
from tests.unit.plugins.release_tree import ME

pytestmark = pytest.mark.usefixtures("as_anybody")
STUB_UV = """#!/bin/sh
echo "$*" >>{notes}/calls
if [ "$(wc -l <{notes}/calls)" = "$(cat {notes}/kill_at 2>/dev/null)" ]; then kill -9 $PPID; exit 1; fi
if [ "$(wc -l <{notes}/calls)" = "$(cat {notes}/fail_at 2>/dev/null)" ]; then echo no such package; exit 1; fi
if [ "$1" = venv ]; then
  for last; do :; done
  mkdir -p "$last/bin"
  ln -s {python} "$last/bin/python"
fi
"""


@pytest.fixture
def site(tmp_path, code, capsys):
    """A host's directories, a stub of uv, and a way to run the module on them."""
    notes = tmp_path / "notes"
    notes.mkdir()
    uv = tmp_path / "uv"
    uv.write_text(STUB_UV.format(notes=notes, python=sys.executable))
    uv.chmod(0o755)
    args = {
        "root": str(tmp_path / "srv"),
        "user": ME.pw_name,
        "host_path": str(code),
        "uv": str(uv),
        "python": sys.executable,
        "gunicorn_version": "27.0.1",
        "data_dir": str(tmp_path / "data"),
        "exclude": ["__pycache__"],
    }

    def run(check=False, **more):
        with patch_module_args({**args, **more, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            app_release.main()
        return json.loads(capsys.readouterr().out)

    def run_until_killed(call):
        """Run in a process of its own; uv's call of this number kills it the hard way."""
        (notes / "kill_at").write_text(f"{call}\n")
        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join(PATIENCE_SECONDS)
        (notes / "kill_at").unlink()
        (notes / "calls").unlink()
        return process.exitcode

    return SimpleNamespace(
        run=run,
        run_until_killed=run_until_killed,
        args=args,
        code=code,
        data=tmp_path / "data",
        root=tmp_path / "srv",
        current=tmp_path / "srv" / "current",
        releases=lambda: sorted(p.name for p in (tmp_path / "srv" / "releases").iterdir()),
        calls=lambda: (notes / "calls").read_text().splitlines() if (notes / "calls").exists() else [],
        notes=notes,
    )


def test_a_first_run_builds_and_switches_and_a_second_changes_nothing(site):
    first = site.run()
    assert first["changed"] is True
    assert first["previous"] == ""
    assert site.current.resolve().name == first["release"]
    assert [call.split()[0] for call in site.calls()] == ["venv", "pip"]
    about = json.loads((site.current / "release.json").read_text())
    assert (about["id"], about["gunicorn"]) == (first["release"], "27.0.1")
    assert not (site.current / "UNFINISHED").exists()
    second = site.run()
    assert (second["changed"], second["release"], second["previous"]) == (False, first["release"], first["release"])
    assert len(site.calls()) == 2


def test_the_app_finds_its_code_compiled(site):
    (site.code / "template.py").write_text("{% not python %}")
    site.run()
    assert list((site.current / "code" / "__pycache__").glob("app.*.pyc"))


@pytest.mark.parametrize(
    "change",
    [{"gunicorn_version": "23.0.0"}, {"requirements": ["flask"]}, {"shared": ["app.db"]}],
    ids=["gunicorn", "requirements", "shared paths"],
)
def test_other_inputs_than_the_code_make_a_release_too(site, change):
    first = site.run()
    second = site.run(**change)
    assert second["changed"] is True
    assert second["release"] != first["release"]
    assert second["previous"] == first["release"]


def test_little_code_comes_with_the_question(site, tmp_path):
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as tar:
        tar.add(site.code / "app.py", "app.py")
    data = base64.b64encode((tmp_path / "code.tar.gz").read_bytes()).decode()
    done = site.run(host_path=None, digest="d" * 64, label="v1", archive_data=data)
    assert done["changed"] is True
    assert (site.current / "code" / "app.py").read_text() == "app = 1\n"
    again = site.run(host_path=None, digest="d" * 64, label="v1", archive_data=data)
    assert again["changed"] is False


def test_code_from_the_controller_is_asked_for_and_then_unpacked(site, tmp_path):
    asked = site.run(host_path=None, digest="d" * 64, label="v1")
    assert (asked["need_archive"], asked["changed"]) == (True, True)
    assert not site.root.exists()
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as tar:
        tar.add(site.code / "app.py", "app.py")
    done = site.run(host_path=None, digest="d" * 64, label="v1", archive=str(tmp_path / "code.tar.gz"))
    assert done["release"] == asked["release"]
    assert (site.current / "code" / "app.py").read_text() == "app = 1\n"
    again = site.run(host_path=None, digest="d" * 64, label="v1")
    assert (again["changed"], "need_archive" in again) == (False, False)


def test_check_mode_says_it_would_change_and_changes_nothing(site):
    assert site.run(check=True)["changed"] is True
    assert not site.root.exists()
    assert site.calls() == []


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_run_killed_at_any_step_leaves_current_alone_and_the_next_completes(site, call):
    (site.code / "requirements.txt").write_text("flask\n")
    before = site.run()["release"]
    (site.notes / "calls").unlink()
    (site.code / "app.py").write_text("app = 2\n")
    assert site.run_until_killed(call) == -signal.SIGKILL
    assert site.current.resolve().name == before
    (unfinished,) = set(site.releases()) - {before}
    assert (site.root / "releases" / unfinished / "UNFINISHED").exists()
    done = site.run()
    assert (done["release"], done["changed"], done["previous"]) == (unfinished, True, before)
    assert (site.current / "code" / "app.py").read_text() == "app = 2\n"
    assert not (site.current / "UNFINISHED").exists()


def test_a_release_that_somebody_else_will_prove_leaves_the_current_one_alone(site):
    first = site.run()["release"]
    (site.code / "new.py").write_text("")
    result = site.run(switch=False)
    assert site.current.readlink().name == first != result["release"]
    assert first != site.current.with_name("next").readlink().name
    assert site.current.with_name("next").readlink().name == result["release"]
    assert "pruned" not in result
    assert not site.run(switch=False)["changed"]


def test_a_release_is_on_the_disk_before_it_counts_as_finished(site, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(app_release.os, "sync", lambda: seen.extend(tmp_path.glob("srv/releases/*/*")))
    name = site.run()["release"]
    release = tmp_path / "srv/releases" / name
    assert {release / "UNFINISHED", release / "release.json", release / "code", release / "venv"} == set(seen)
    assert not (release / "UNFINISHED").exists()


def test_a_run_killed_between_build_and_switch_is_finished_by_the_next(site, monkeypatch):
    def die(self, link, name):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Releases, "point", die)
        site.run()
    assert not site.current.exists()
    calls = len(site.calls())
    assert site.run()["changed"] is True
    assert site.current.exists()
    assert len(site.calls()) == calls


def test_a_build_that_fails_says_why_and_what_still_runs(site):
    before = site.run()["release"]
    (site.code / "app.py").write_text("app = 2\n")
    (site.notes / "fail_at").write_text(f"{len(site.calls()) + 2}\n")
    failed = site.run()
    assert failed["failed"] is True
    assert f"{before} stays as it is" in failed["msg"]
    assert "no such package" in failed["msg"]
    assert site.current.resolve().name == before


def test_a_missing_uv_or_a_broken_database_is_a_message_and_not_a_traceback(site):
    failed = site.run(uv="/nowhere/uv")
    assert "there is no release yet" in failed["msg"]
    assert "/nowhere/uv" in failed["msg"]
    (site.code / "app.db").write_bytes(SQLITE_MAGIC + b"nonsense" * 500)
    assert "name it in app_exclude" in site.run()["msg"]


def test_wrong_paths_name_the_setting(site):
    assert site.run(host_path="/nowhere")["msg"] == "app_source: there is no directory /nowhere on the host"
    assert site.run(python="/nowhere/python")["failed"] is True


def test_old_releases_go_but_the_one_before_stays(site):
    made = []
    for number in range(4):
        (site.code / "app.py").write_text(f"app = {number}\n")
        made.append(site.run(keep=1)["release"])
    assert site.releases() == sorted(made[-2:])


def test_going_back_to_a_kept_release_builds_nothing(site):
    first = site.run()["release"]
    (site.code / "app.py").write_text("app = 2\n")
    site.run()
    calls = len(site.calls())
    (site.code / "app.py").write_text("app = 1\n")
    assert site.run()["release"] == first
    assert site.current.resolve().name == first
    assert len(site.calls()) == calls


def test_the_apps_group_reads_code_that_only_its_owner_could_read_and_cannot_write_it(site):
    for name, mode in (("settings.py", 0o600), ("shared.py", 0o666), ("run.sh", 0o700)):
        (site.code / name).write_text("")
        (site.code / name).chmod(mode)
    site.run()
    modes = [(site.current / "code" / name).stat().st_mode & 0o777 for name in ("settings.py", "shared.py", "run.sh")]
    assert modes == [0o640, 0o644, 0o750]


def test_a_finished_release_belongs_to_root_and_its_code_to_the_apps_group(site, monkeypatch):
    owners = {}
    monkeypatch.setattr(app_release.os, "chown", lambda path, uid, gid, **_: owners.update({str(path): (uid, gid)}))
    release = site.root / "releases" / site.run()["release"]
    assert owners[str(release)] == owners[str(release / "venv" / "bin" / "python")] == (0, 0)
    assert owners[str(release / "code" / "app.py")] == (0, ME.pw_gid)


def test_a_live_database_beside_the_code_becomes_the_apps_data(site):
    with contextlib.closing(sqlite3.connect(site.code / "app.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (7)")
        connection.commit()
    site.run(shared=["app.db"])
    assert (site.current / "code" / "app.db").readlink() == site.data / "app.db"
    with contextlib.closing(sqlite3.connect(site.data / "app.db")) as connection:
        assert connection.execute("SELECT x FROM t").fetchone() == (7,)
