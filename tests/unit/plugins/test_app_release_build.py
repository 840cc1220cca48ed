"""How the host builds a release: what is installed, as whom, for how long, and never two builds side by side."""

from __future__ import annotations

import fcntl
import getpass
import os
import pwd
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from plugins.modules import app_release
from plugins.modules.app_release import BuildError, install_steps
from tests.polling import PATIENCE_SECONDS
from tests.unit.plugins.release_tree import ME, finished, releases_with

pytestmark = pytest.mark.usefixtures("as_anybody")


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
    build.join(PATIENCE_SECONDS)
    assert (built / "by-the-other").exists()
