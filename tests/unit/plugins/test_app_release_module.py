"""The host's half of app_release: ids, pruning, live databases, shared paths, and runs that are cut short.

Here uv is a small program written by the test that makes a virtual environment of one link and notes its calls. The
change to the app's user is left out, so that anybody can run these tests; one sentence looks at that alone.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import getpass
import json
import multiprocessing
import os
import pwd
import random
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args

from plugins.module_utils.code_tree import SQLITE_MAGIC, copy_file, digest, tree
from plugins.modules import app_release
from plugins.modules.app_release import (
    BuildError,
    Releases,
    install_steps,
    release_id,
    to_prune,
)

ME = pwd.getpwuid(os.geteuid())
REAL_RUN = subprocess.run
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


@pytest.fixture(autouse=True)
def as_anybody(tmp_path, monkeypatch):
    """Build steps run as whoever runs the tests, with a cache of their own."""

    def run(argv, **words):
        return REAL_RUN(argv, **{k: v for k, v in words.items() if k not in ("user", "group", "extra_groups")})

    monkeypatch.setattr(app_release.subprocess, "run", run)
    monkeypatch.setattr(app_release.os, "chown", lambda *_, **__: None)
    monkeypatch.setattr(Releases, "cache", lambda self, user: tmp_path / "cache")
    mask = os.umask(0o022)
    yield
    os.umask(mask)


@pytest.fixture
def code(tmp_path):
    root = tmp_path / "code"
    root.mkdir()
    (root / "app.py").write_text("app = 1\n")
    return root


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
        process.join(60)
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


def releases_with(tmp_path, **options):
    defaults = {"root": str(tmp_path / "srv"), "data_dir": str(tmp_path / "data"), "index_url": "", "shared": []}
    defaults["switch"] = True
    (tmp_path / "srv" / "releases").mkdir(parents=True, exist_ok=True)
    return Releases(SimpleNamespace(params={**defaults, **options}))


def finished(releases, name, age=0):
    release = releases.directory / name
    (release / "venv" / "bin").mkdir(parents=True)
    (release / "venv" / "bin" / "python").symlink_to(sys.executable)
    (release / "release.json").write_text("{}")
    os.utime(release, (1_700_000_000 - age, 1_700_000_000 - age))
    return release


# Ids


def test_an_id_is_made_of_its_inputs_only():
    assert release_id("v1", {"a": 1, "b": [2]}) == release_id("v1", {"b": [2], "a": 1})
    assert release_id("v1", {"a": 1}) != release_id("v1", {"a": 2})


@pytest.mark.parametrize(
    ("label", "start"),
    [
        ("v1.4.0", "v1.4.0-"),
        ("feature/login", "feature-login-"),
        ("../../etc", "etc-"),
        ("--rf", "rf-"),
        ("", "code-"),
        ("...", "code-"),
        ("x" * 200, "x" * 40 + "-"),
    ],
)
def test_an_id_is_a_plain_file_name_whatever_the_label(label, start):
    name = release_id(label, {})
    assert name.startswith(start)
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert len(name) <= 53


# Pruning


def test_pruning_leaves_the_newest_and_whatever_must_stay():
    rng = random.Random(20)
    for _ in range(500):
        made = {f"r{n}": rng.choice([rng.random(), 0.5]) for n in range(rng.randrange(12))}
        keep, never = rng.randrange(-1, 8), rng.sample([*made, "absent"], k=min(2, len(made)))
        gone = to_prune(made, keep, never)
        left = set(made) - set(gone)
        assert len(set(gone)) == len(gone)
        assert set(gone) <= set(made)
        assert not set(gone) & set(never)
        assert len(left) >= min(max(keep, 1), len(made))
        assert len(left - set(never)) <= max(keep, 1)
        if gone and left - set(never):
            assert min(made[name] for name in left - set(never)) >= max(made[name] for name in gone)


def test_unfinished_releases_are_pruned_and_strange_files_left_alone(tmp_path):
    releases = releases_with(tmp_path, keep=2)
    for age, name in enumerate(["new", "old", "older", "oldest"]):
        finished(releases, name, age)
    (finished(releases, "broken") / "UNFINISHED").write_text("")
    (releases.directory / "note.txt").write_text("mine")
    (releases.directory / "link").symlink_to("new")
    assert sorted(releases.prune(["new", "oldest"])) == ["broken", "older"]
    assert {p.name for p in releases.directory.iterdir()} == {"new", "old", "oldest", "note.txt", "link"}


@pytest.mark.parametrize("harm", ["UNFINISHED", "release.json", "venv/bin/python"])
def test_a_release_is_complete_only_with_all_its_marks(tmp_path, harm):
    releases = releases_with(tmp_path)
    release = finished(releases, "r")
    assert releases.complete("r")
    (release / harm).write_text("") if harm == "UNFINISHED" else (release / harm).unlink()
    assert not releases.complete("r")


def test_a_release_whose_interpreter_went_with_an_upgrade_is_not_complete(tmp_path):
    releases = releases_with(tmp_path)
    python = finished(releases, "r") / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.0")
    assert not releases.complete("r")


def test_a_build_that_a_killed_run_has_left_behind_is_waited_for_and_taken(tmp_path):
    releases = releases_with(tmp_path, user=getpass.getuser())
    releases.directory.mkdir(exist_ok=True)
    other = os.open(releases.directory, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    build = threading.Thread(target=releases.build, args=("r", {}))
    build.start()
    build.join(0.3)
    assert build.is_alive()
    assert not (releases.directory / "r").exists(), "nothing of the other's is touched"
    built = finished(releases, "r") / "code"
    built.mkdir(exist_ok=True)
    (built / "by-the-other").touch()
    os.close(other)
    build.join(10)
    assert (built / "by-the-other").exists()


# Installing


@pytest.mark.parametrize(
    ("files", "further", "steps"),
    [
        ([], [], ["gunicorn==27.0.1"]),
        (["requirements.txt"], [], ["-r requirements.txt", "gunicorn==27.0.1"]),
        (["pyproject.toml"], [], [".", "gunicorn==27.0.1"]),
        (["setup.py"], [], [".", "gunicorn==27.0.1"]),
        (["requirements.txt", "pyproject.toml"], [], ["-r requirements.txt", "gunicorn==27.0.1"]),
        (["pyproject.toml"], [".[server]", "gevent"], [".", ".[server] gevent", "gunicorn==27.0.1"]),
        ([], ["flask"], ["flask", "gunicorn==27.0.1"]),
    ],
)
def test_what_the_code_brings_decides_how_it_is_installed(tmp_path, files, further, steps):
    for name in files:
        (tmp_path / name).write_text("")
    made = install_steps(tmp_path, "/opt/uv", Path("/r/venv"), "27.0.1", further)
    pip = "/opt/uv pip install --python /r/venv/bin/python --compile-bytecode "
    assert [" ".join(step) for step in made] == [pip + step for step in steps]


def test_a_lock_file_wins_and_is_never_rewritten(tmp_path):
    for name in ("uv.lock", "pyproject.toml", "requirements.txt"):
        (tmp_path / name).write_text("")
    first, last = install_steps(tmp_path, "uv", Path("/r/venv"), "27.0.1")
    assert first[:3] == ["uv", "sync", "--frozen"]
    assert last[-1] == "gunicorn==27.0.1"


def test_a_build_step_gives_up_root_and_every_further_group(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        app_release.subprocess,
        "run",
        lambda argv, **words: seen.append(words) or SimpleNamespace(returncode=0, stdout="done"),
    )
    user = pwd.struct_passwd(("currents", "x", 990, 991, "", "/", "/bin/false"))
    assert releases_with(tmp_path).run(["uv", "venv"], tmp_path, user) == "done"
    assert (seen[0]["user"], seen[0]["group"], seen[0]["extra_groups"]) == (990, 991, [])
    assert set(seen[0]["env"]) & set(os.environ) <= {"PATH", "HOME", "LANG"}
    assert seen[0]["env"]["UV_PYTHON_DOWNLOADS"] == "never"


def test_a_failing_step_shows_the_end_of_what_it_printed(tmp_path):
    with pytest.raises(BuildError) as error:
        releases_with(tmp_path).run(["sh", "-c", "seq 100; printf '\\377bad\\n'; exit 3"], tmp_path, ME)
    assert "failed with 3" in str(error.value)
    assert "\n100\n" in str(error.value)
    assert "\n50\n" not in str(error.value)


def test_a_step_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(app_release, "BUILD_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(BuildError, match=r"sleep did not finish within 0\.2 s"):
        releases_with(tmp_path).run(["sleep", "20"], tmp_path, ME)


# Code that lies on the host


def test_the_host_digest_ignores_shared_paths_and_what_is_excluded(code):
    (code / "data").mkdir()
    (code / "__pycache__").mkdir()
    before = digest(code, ["__pycache__"], ["data", "app.db"])
    (code / "data" / "rows").write_text("1")
    (code / "app.db").write_text("1")
    (code / "__pycache__" / "app.pyc").write_text("1")
    assert digest(code, ["__pycache__"], ["data", "app.db"]) == before
    (code / "data.py").write_text("")
    assert digest(code, ["__pycache__"], ["data", "app.db"]) != before


@pytest.mark.parametrize(
    "change",
    [lambda p: p.write_text("app = 2\n"), lambda p: p.chmod(0o755), lambda p: p.rename(p.with_name("b.py"))],
    ids=["content", "executable bit", "name"],
)
def test_the_host_digest_sees_what_the_app_would(code, change):
    before = digest(code, [], [])
    os.utime(code / "app.py", (1, 1))
    assert digest(code, [], []) == before
    change(code / "app.py")
    assert digest(code, [], []) != before


def test_host_patterns_hold_for_whole_paths_as_those_of_the_controller_do(code):
    (code / "docs" / "internal").mkdir(parents=True)
    (code / "docs" / "internal" / "plan.md").write_text("")
    (code / "docs" / "index.md").write_text("")
    (code / "docs" / "latest").symlink_to("internal")
    assert [name for name, _ in tree(code, ["docs/internal"])] == ["app.py", "docs/index.md", "docs/latest"]


def test_a_database_in_use_is_copied_whole(tmp_path):
    live = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(live)) as first:
        first.execute("PRAGMA journal_mode=WAL")
        first.executescript("CREATE TABLE a (x); CREATE TABLE b (x);")
    live.chmod(0o640)
    stop, started = threading.Event(), threading.Event()

    def write():
        with contextlib.closing(sqlite3.connect(live)) as connection:
            while not stop.is_set():
                with connection:
                    connection.execute("INSERT INTO a VALUES (randomblob(4000))")
                    connection.execute("INSERT INTO b VALUES (1)")
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert started.wait(10)
        for number in range(5):
            copy_file(live, tmp_path / f"copy{number}.db")
    finally:
        stop.set()
        writer.join(10)
    for number in range(5):
        copy = tmp_path / f"copy{number}.db"
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (a,), (b,) = (connection.execute(f"SELECT count(*) FROM {t}").fetchone() for t in "ab")
        assert a == b > 0
        assert copy.stat().st_mode & 0o777 == 0o640


def test_rows_that_are_only_in_the_write_ahead_log_are_copied(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (7)")
        connection.commit()
        assert (tmp_path / "app.db-wal").stat().st_size > 0
        copy_file(tmp_path / "app.db", tmp_path / "copy.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT x FROM t").fetchone() == (7,)


def test_a_file_that_only_claims_to_be_a_database_is_named(tmp_path):
    (tmp_path / "broken.db").write_bytes(SQLITE_MAGIC + b"nonsense" * 500)
    with pytest.raises(ValueError, match=r"broken\.db is no usable database .*; name it in app_exclude"):
        copy_file(tmp_path / "broken.db", tmp_path / "copy.db")


def test_other_files_keep_time_and_mode_and_links_stay_links(tmp_path):
    (tmp_path / "run.sh").write_text("x")
    (tmp_path / "run.sh").chmod(0o755)
    os.utime(tmp_path / "run.sh", (5, 5))
    (tmp_path / "link").symlink_to("nowhere")
    copy_file(tmp_path / "run.sh", tmp_path / "copy")
    copy_file(tmp_path / "link", tmp_path / "link2")
    assert ((tmp_path / "copy").stat().st_mtime, (tmp_path / "copy").stat().st_mode & 0o777) == (5, 0o755)
    assert (tmp_path / "link2").readlink() == Path("nowhere")


# Shared paths


def fresh_code(tmp_path, number, **files):
    code = tmp_path / f"release{number}" / "code"
    code.mkdir(parents=True)
    for name, text in files.items():
        path = code / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return code


@pytest.mark.parametrize(("shared", "file"), [("rows", "rows"), ("instance", "instance__rows"), ("a/b", "a__b")])
def test_data_is_seeded_once_and_outlives_the_next_release(tmp_path, shared, file):
    releases = releases_with(tmp_path, shared=[shared])
    first, second = fresh_code(tmp_path, 1, **{file: "seed"}), fresh_code(tmp_path, 2, **{file: "seed of 2"})
    releases.link_shared(first, ME)
    rows = file.replace("__", "/")
    assert (first / shared).readlink() == tmp_path / "data" / shared
    assert (tmp_path / "data" / rows).read_text() == "seed"
    (first / rows).write_text("a visitor's")
    releases.link_shared(second, ME)
    assert (second / shared).readlink() == tmp_path / "data" / shared
    assert (second / rows).read_text() == "a visitor's"


def test_a_shared_path_that_the_code_does_not_bring_is_a_link_for_the_app_to_fill(tmp_path):
    code = fresh_code(tmp_path, 1)
    releases_with(tmp_path, shared=["var/app.db"]).link_shared(code, ME)
    (code / "var" / "app.db").write_text("made by the app")
    assert (tmp_path / "data" / "var" / "app.db").read_text() == "made by the app"


def test_half_a_seed_of_an_interrupted_run_is_not_taken_for_data(tmp_path):
    (tmp_path / "data" / ".instance.seed").mkdir(parents=True)
    (tmp_path / "data" / ".instance.seed" / "half").write_text("")
    releases_with(tmp_path, shared=["instance"]).link_shared(fresh_code(tmp_path, 1, instance__rows="x"), ME)
    assert [p.name for p in (tmp_path / "data" / "instance").iterdir()] == ["rows"]
    assert not (tmp_path / "data" / ".instance.seed").exists()


def test_a_link_in_the_place_of_data_is_refused_and_what_it_leads_to_untouched(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "rows").write_text("x")
    code = fresh_code(tmp_path, 1)
    (code / "instance").symlink_to(precious)
    releases = releases_with(tmp_path, shared=["instance"])
    with pytest.raises(BuildError, match=f"is a link in the code; put what it leads to at {tmp_path}/data/instance"):
        releases.link_shared(code, ME)
    (tmp_path / "data" / "instance").mkdir()
    releases.link_shared(code, ME)
    assert (code / "instance").readlink() == tmp_path / "data" / "instance"
    assert (precious / "rows").read_text() == "x"


# Switching


def test_current_is_replaced_in_one_step_and_is_there_all_the_time(tmp_path):
    releases = releases_with(tmp_path)
    for name in ("a", "b"):
        finished(releases, name)
    releases.point(releases.link, "a")
    stop, missing = threading.Event(), []

    def watch():
        while not stop.is_set():
            if not (releases.link / "release.json").exists():
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(200):
        releases.point(releases.link, "ab"[number % 2])
    stop.set()
    watcher.join(10)
    assert missing == []
    assert releases.current() == "b"
    assert releases.link.readlink() == Path("releases/b")


def test_a_switch_that_fails_at_its_last_step_leaves_current_as_it_was(tmp_path, monkeypatch):
    releases = releases_with(tmp_path)
    for name in ("a", "b"):
        finished(releases, name)
    releases.point(releases.link, "a")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        releases.point(releases.link, "b")
    assert releases.current() == "a", "whoever comes between two steps would find nothing"


def test_a_switch_passes_over_what_an_interrupted_one_left(tmp_path):
    releases = releases_with(tmp_path)
    (releases.root / ".current.new").symlink_to("releases/lost")
    finished(releases, "a")
    releases.point(releases.link, "a")
    assert releases.current() == "a"
    assert not (releases.root / ".current.new").is_symlink()


def test_without_a_link_nothing_is_current(tmp_path):
    assert releases_with(tmp_path).current() == ""


# The whole module


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
