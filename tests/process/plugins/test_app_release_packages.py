"""Where a release's packages come from: a wheelhouse, hashes, a dead index. With the real uv, without a network."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.action import ActionBase

from plugins.action import app_release as action_plugin
from plugins.module_utils import wheelhouse
from plugins.module_utils.build_steps import advice, has_hashes
from plugins.module_utils.site_check import load_specs, problems_of
from plugins.module_utils.site_problem import Settings
from plugins.modules import app_release
from tests.unit.plugins.release_tree import ME

REPOSITORY = Path(__file__).resolve().parents[3]
UV = Path(sys.executable).with_name("uv")
#: A backend that needs nothing, to build the code itself without a network.
BACKEND = """
import zipfile

def build_wheel(directory, config=None, metadata=None):
    name = "shop-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as out:
        out.writestr("shop.py", "built = 1")
        out.writestr("shop-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: shop\\nVersion: 1.0\\n")
        out.writestr("shop-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        out.writestr("shop-1.0.dist-info/RECORD", "")
    return name
"""
PROJECT = """
[project]
name = "shop"
version = "1.0"
requires-python = ">=3.10"
dependencies = ["one==1.0"]
"""
BUILT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
LOCK = """
version = 1
revision = 3
requires-python = ">=3.10"

[[package]]
name = "one"
version = "1.0"
source = {{ registry = "https://index.invalid/simple" }}
wheels = [
    {{ url = "https://index.invalid/one-1.0-py3-none-any.whl", hash = "sha256:{digest}" }},
]

[[package]]
name = "shop"
version = "1.0"
source = {{ {kind} = "." }}
dependencies = [
    {{ name = "one" }},
]

[package.metadata]
requires-dist = [{{ name = "one", specifier = "==1.0" }}]
"""


def wheel(directory, name, version="1.0", needs=()):
    """Write a wheel of one module; return its SHA-256."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(f"{name}.py", f"version = {version!r}\n")
        out.writestr(f"{about}/METADATA", head + "".join(f"Requires-Dist: {one}\n" for one in needs))
        out.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheels(tmp_path):
    """A wheelhouse: Gunicorn, `one`, and `two`, which needs `one`."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    wheel(directory, "gunicorn", "27.0.1")
    wheel(directory, "one")
    wheel(directory, "two", needs=["one"])
    return directory


@pytest.fixture
def host(tmp_path, wheels, as_anybody, monkeypatch, capsys):
    """A host with uv on which whoever runs the tests builds releases of `code` from the wheelhouse."""
    monkeypatch.setattr(action_plugin, "CACHE", tmp_path / "archives")
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text("app = 1\n")
    args = {
        "root": str(tmp_path / "srv"),
        "user": ME.pw_name,
        "host_path": str(code),
        "uv": str(UV),
        "python": sys.executable,
        "gunicorn_version": "27.0.1",
        "data_dir": str(tmp_path / "data"),
    }

    def deploy(offline=True, **more):
        if offline:
            digest, archive = action_plugin.packed_wheels(str(wheels), "27.0.1")
            more |= {"wheelhouse": str(archive), "wheelhouse_digest": digest}
        with patch_module_args({**args, **more}), pytest.raises(SystemExit):
            app_release.main()
        return json.loads(capsys.readouterr().out)

    def write(name, text):
        (code / name).write_text(text)

    def installed():
        """Return name and version of what the current release has."""
        site = next((tmp_path / "srv" / "current" / "venv" / "lib").glob("python*/site-packages"))
        return sorted(path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info"))

    current = tmp_path / "srv" / "current"
    return SimpleNamespace(deploy=deploy, write=write, installed=installed, current=current, args=args)


# A wheelhouse


def test_requirements_come_from_the_wheelhouse_whatever_index_they_name(host):
    host.write("requirements.txt", "--index-url http://127.0.0.1:9/simple\ntwo\n")
    done = host.deploy()
    assert done["changed"], done
    assert host.installed() == ["gunicorn-27.0.1", "one-1.0", "two-1.0"]
    assert not (host.current / "wheelhouse").exists(), "not kept: they are installed"


@pytest.mark.parametrize(("kind", "built"), [("virtual", ""), ("editable", BUILT)])
def test_a_lock_file_is_followed_without_its_index(host, wheels, kind, built):
    digest = hashlib.sha256((wheels / "one-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    host.write("pyproject.toml", PROJECT + built)
    host.write("backend.py", BACKEND)
    host.write("uv.lock", LOCK.format(digest=digest, kind=kind))
    done = host.deploy()
    assert done["changed"], done
    assert host.installed() == ["gunicorn-27.0.1", "one-1.0", *(["shop-1.0"] if built else [])]


def test_a_wheel_that_is_not_the_locked_one_is_refused(host):
    host.write("pyproject.toml", PROJECT)
    host.write("uv.lock", LOCK.format(digest="0" * 64, kind="virtual"))
    said = host.deploy()
    assert said["failed"]
    assert "Hash mismatch for `one==1.0`" in said["msg"]


def test_a_project_comes_from_the_wheelhouse(host):
    host.write("pyproject.toml", PROJECT + BUILT)
    host.write("backend.py", BACKEND)
    host.deploy(requirements=["two"])
    assert host.installed() == ["gunicorn-27.0.1", "one-1.0", "shop-1.0", "two-1.0"]


def test_what_is_missing_in_the_wheelhouse_is_named_with_what_to_run(host):
    host.write("requirements.txt", "three\n")
    said = host.deploy()["msg"]
    assert "three was not found in the provided package locations" in said
    assert "pip download -d WHEELHOUSE -r requirements.txt gunicorn==27.0.1" in said


def test_what_uv_has_cached_is_no_substitute_for_the_wheelhouse(host, wheels):
    host.write("requirements.txt", "two\n")
    assert host.deploy()["changed"]
    (wheels / "one-1.0-py3-none-any.whl").unlink()
    assert "one was not found" in host.deploy()["msg"]


def test_a_requirement_with_an_address_of_its_own_is_not_fetched_beside_a_wheelhouse(host, wheels):
    asked = []

    class Index(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    with HTTPServer(("127.0.0.1", 0), partial(Index, directory=wheels)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/one-1.0-py3-none-any.whl"
        host.write("requirements.txt", f"one @ {address}\n")
        done = host.deploy()
        server.shutdown()
    assert (done.get("failed"), asked) == (True, [])
    assert "put what is missing there" in done["msg"]


def test_other_wheels_make_another_release_and_the_same_ones_none(host, wheels):
    first = host.deploy()["release"]
    (wheels / "one-1.0-py3-none-any.whl").touch()
    again = host.deploy()
    assert (again["release"], again["changed"]) == (first, False)
    wheel(wheels, "one", needs=["gunicorn"])
    assert host.deploy()["release"] != first


def test_a_site_without_a_wheelhouse_keeps_its_releases_names():
    assert app_release.release_id("v1", {"code": "a"}) == "v1-" + hashlib.sha256(b'{"code": "a"}').hexdigest()[:12]


# Its way to the host


@pytest.fixture
def action(host, wheels, monkeypatch):
    """The action with a host that lacks the release."""
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    made = object.__new__(action_plugin.ActionModule)
    made.asked, made.sent = [], []

    def on_host(options, task_vars):
        made.asked.append(dict(options))
        return {"changed": True, "need_archive": "wheelhouse" not in options}

    words = {"root": "/srv/app", "exclude": [], "gunicorn_version": "27.0.1", "wheelhouse": str(wheels)}
    args = {"source_type": "directory", "source": host.args["host_path"], **words}
    made._task = SimpleNamespace(check_mode=False, args=args)
    made._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/remote", join_path=os.path.join))
    made._on_host = on_host
    made._transfer_file = lambda source, target: made.sent.append(target)
    made._make_tmp_path = made._remove_tmp_path = lambda *_: None
    return made


@pytest.mark.parametrize("kind", ["directory", "host_path"])
def test_the_wheels_are_sent_to_a_host_that_lacks_the_release(action, kind):
    action._task.args["source_type"] = kind
    action.run()
    assert action.sent == ["/remote/wheelhouse.tar.gz"]
    assert ("archive_data" in action.asked[1]) is (kind == "directory"), "little code goes along"
    assert "wheelhouse" not in action.asked[0], "the host is asked first"
    assert action.asked[1]["wheelhouse"] == "/remote/wheelhouse.tar.gz"
    assert action.asked[1]["wheelhouse_digest"] == action.asked[0]["wheelhouse_digest"]


def test_a_wheelhouse_without_gunicorn_is_refused_with_what_to_run(action, wheels):
    (wheels / "gunicorn-27.0.1-py3-none-any.whl").unlink()
    words = r"app_wheelhouse: Gunicorn 27\.0\.1 is not in .*wheels; run: pip download -d .* gunicorn==27\.0\.1"
    with pytest.raises(AnsibleActionFail, match=words):
        action.run()
    assert action.asked == []


@pytest.mark.parametrize("name", ["gunicorn-27.0.1.tar.gz", "gunicorn-27.0.1-py3-none-any.whl"])
def test_gunicorn_counts_as_a_wheel_and_as_a_source_archive_of_just_that_version(tmp_path, name):
    (tmp_path / name).touch()
    assert wheelhouse.fault(tmp_path, "27.0.1") == ""
    assert "Gunicorn 27.0 is not in" in wheelhouse.fault(tmp_path, "27.0")


@pytest.mark.parametrize(("setting", "words"), [("no/such", "there is no directory"), ("roles", "holds no wheel")])
def test_a_wheelhouse_that_is_none_is_refused_before_a_host_is_touched(setting, words):
    mine = Settings("currents", "192.0.2.1:22", {"app_wheelhouse": setting})
    (problem,) = problems_of(mine, [], load_specs([REPOSITORY / "roles"]), REPOSITORY)[-1:]
    assert problem.name == "app_wheelhouse"
    assert words in problem.fault
    assert "pip download -d" in problem.fault


# Hashes


def test_right_hashes_are_accepted(host, wheels):
    one = hashlib.sha256((wheels / "one-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    host.write("requirements.txt", f"one==1.0 \\\n    --hash=sha256:{one}\n")
    assert host.deploy()["changed"]
    assert host.installed() == ["gunicorn-27.0.1", "one-1.0"]


def test_a_wrong_hash_is_refused_with_its_cause_and_the_old_release_stays(host):
    old = host.deploy()["release"]
    host.write("requirements.txt", f"one==1.0 --hash=sha256:{'0' * 64}\n")
    said = host.deploy()["msg"]
    assert f"{old} stays as it is" in said
    assert "Hash mismatch for `one==1.0`" in said
    assert "Where one requirement has a hash" in said
    assert host.current.resolve().name == old


def test_one_hash_asks_for_all(host, wheels):
    two = hashlib.sha256((wheels / "two-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    host.write("requirements.txt", f"two==1.0 --hash=sha256:{two}\n")
    assert "no trusted hash was provided for: `one`" in host.deploy()["msg"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flask==3\n", False),
        ("flask==3 # --hash=sha256:0\n", False),
        ("# what --hash=sha256:0 is for\nflask\n", False),
        ("flask==3 --hash=sha256:0\n", True),
        ("flask==3 \\\n    --hash=sha256:0\n", True),
        ("-r sub/more.txt\n", True),
        ("--requirement=sub/more.txt\n", True),
        ("-r none.txt\n-r requirements.txt\n", False),
    ],
)
def test_hashes_are_found_where_they_count(tmp_path, text, found):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.txt").write_text("-r last.txt\n")
    (tmp_path / "sub" / "last.txt").write_text("one==1 --hash=sha256:0\n")
    (tmp_path / "requirements.txt").write_text(text)
    assert has_hashes(tmp_path / "requirements.txt") is found


# A dead index


def dead_index(kind, listener):
    if kind == "refused":
        listener.close()
    else:
        listener.listen(64)


@pytest.mark.parametrize("kind", ["refused", "accepts and never answers"])
def test_a_dead_index_fails_soon_and_the_old_release_stays(host, monkeypatch, kind):
    monkeypatch.setattr(app_release, "INDEX_TIMEOUT_SECONDS", 1)
    old = host.deploy()["release"]
    host.write("requirements.txt", "one\n")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/simple"
        dead_index(kind, listener)
        start = time.monotonic()
        said = host.deploy(offline=False, index_url=url)["msg"]
        took = time.monotonic() - start
    assert "Request failed after 2 retries" in said
    assert f"{old} stays as it is" in said
    assert "set app_index_url to one that it can reach, or bring the packages along with app_wheelhouse" in said
    assert host.current.resolve().name == old
    # Three tries of a second each, uv's pauses, and whatever else a busy machine does.
    assert took < 30


def test_the_limits_leave_a_dead_index_less_than_a_minute():
    # Between three tries uv waits some 4.5 s in all.
    tries = app_release.INDEX_RETRIES + 1
    assert tries * app_release.INDEX_TIMEOUT_SECONDS + 10 < 60


def test_a_failure_of_another_kind_gets_no_advice():
    assert advice("error: Failed to build `one`: gcc: not found", offline=False, gunicorn_version="27.0.1") == ""
