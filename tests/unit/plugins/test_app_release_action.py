"""The controller's half of app_release: what counts as a change, what is packed, and where code may come from."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import socket
import stat
import subprocess
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from plugins.action import app_release
from plugins.action.app_release import ActionModule, git, opened, pack, unpack
from plugins.module_utils.code_tree import digest, excluded, tree


@pytest.fixture
def code(tmp_path):
    root = tmp_path / "code"
    (root / "static").mkdir(parents=True)
    (root / "app.py").write_text("app = 1\n")
    (root / "static" / "style.css").write_text("body {}\n")
    return root


def names(root, patterns=()):
    return [name for name, _ in tree(root, patterns)]


def taken(kind, source, version="", checksum=""):
    """What a source gives: its label, its commit and its files with their contents."""
    with opened(kind, str(source), version, checksum) as found:
        return found.label, found.commit, {name: path.read_text() for name, path in tree(found.root, [".git"])}


def refusal(kind, source, version="", checksum=""):
    with pytest.raises(ValueError) as error, opened(kind, str(source), version, checksum):
        pass
    return str(error.value)


def test_times_and_owners_do_not_change_the_digest(code):
    before = digest(code)
    os.utime(code / "app.py", (1, 1))
    (code / "app.py").chmod(0o600)
    if os.geteuid() == 0:
        os.chown(code / "app.py", 65534, 65534)
    assert digest(code) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "app.py").write_text("app = 2\n"),
        lambda root: (root / "app.py").chmod(0o755),
        lambda root: (root / "app.py").rename(root / "main.py"),
        lambda root: (root / "new.py").write_text(""),
        lambda root: (root / "link").symlink_to("app.py"),
        lambda root: (root / "app.py").unlink(),
    ],
    ids=["content", "executable bit", "name", "new file", "new link", "removed file"],
)
def test_what_the_app_would_notice_changes_the_digest(code, change):
    before = digest(code)
    change(code)
    assert digest(code) != before


def test_a_link_counts_by_where_it_leads(code):
    (code / "link").symlink_to("app.py")
    before = digest(code)
    (code / "link").unlink()
    (code / "link").symlink_to("static")
    assert digest(code) != before


def test_names_and_contents_cannot_be_shifted_into_each_other(tmp_path):
    for directory, name, content in (("one", "a", "bc"), ("two", "ab", "c")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / name).write_text(content)
    assert digest(tmp_path / "one") != digest(tmp_path / "two")


def test_a_socket_that_a_running_app_left_is_no_code(code, monkeypatch):
    before = digest(code)
    monkeypatch.chdir(code)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("app.sock")
        assert digest(code) == before


def test_shared_paths_do_not_count_but_their_namesakes_elsewhere_do(code):
    (code / "data").mkdir()
    (code / "data" / "app.db").write_text("1")
    before = digest(code, [], ["data"])
    (code / "data" / "app.db").write_text("2")
    assert digest(code, [], ["data"]) == before
    (code / "lib" / "data").mkdir(parents=True)
    (code / "lib" / "data" / "load.py").write_text("")
    assert digest(code, [], ["data"]) != before


@pytest.mark.parametrize(
    ("relative", "patterns", "answer"),
    [
        ("app.pyc", ["*.pyc"], True),
        ("a/__pycache__/b.py", ["__pycache__"], True),
        ("docs/internal/plan.md", ["docs/internal/*"], True),
        (".env", [".env"], True),
        ("environment.py", [".env"], False),
        ("app.py", [], False),
    ],
)
def test_patterns_hold_for_names_at_any_depth_and_for_whole_paths(relative, patterns, answer):
    assert excluded(relative, patterns) is answer


def test_excluded_directories_are_not_entered(code):
    (code / ".venv" / "lib").mkdir(parents=True)
    (code / ".venv" / "lib" / "x.py").write_text("")
    assert names(code, [".venv"]) == ["app.py", "static/style.css"]
    assert digest(code, [".venv"]) != digest(code)


def test_a_link_to_a_directory_stays_a_link(code):
    (code / "assets").symlink_to("static")
    assert "assets" in names(code)
    assert "assets/style.css" not in names(code)


def test_a_packed_file_keeps_its_time_and_gets_root_and_plain_modes(code, tmp_path):
    (code / "app.py").chmod(0o600)
    os.utime(code / "app.py", (1_600_000_000, 1_600_000_000))
    (code / "run.sh").write_text("#!/bin/sh\n")
    (code / "run.sh").chmod(0o4711)
    pack(code, [], tmp_path / "cache" / "code.tar.gz")
    with tarfile.open(tmp_path / "cache" / "code.tar.gz") as tar:
        members = {member.name: member for member in tar}
    assert members["app.py"].mtime == 1_600_000_000
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members.values()} == {(0, 0, "root", "root")}
    assert (members["app.py"].mode, members["run.sh"].mode) == (0o644, 0o755)
    assert set(members) == {"app.py", "run.sh", "static/style.css"}


def test_a_packed_file_has_its_name_only_when_all_of_it_is_on_disk(code, tmp_path, monkeypatch):
    seen, real = [], Path.rename

    def rename(path, target):
        seen.append(gzip.decompress(path.read_bytes()))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    pack(code, [], tmp_path / "code.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(seen[0])) as tar:
        assert len(tar.getnames()) == 2


def test_a_failed_packing_leaves_nothing_behind(code, tmp_path):
    with pytest.raises(OSError, match="too long"):
        pack(code, [], tmp_path / "cache" / ("x" * 300))
    assert list((tmp_path / "cache").iterdir()) == []


def write_tar(path, entries):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path, entries):
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in entries.items():
            zipped.writestr(name, content)
    return path


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_with_one_directory_at_its_top_stands_for_that_directory(tmp_path, write):
    archive = write(tmp_path / "app-1.0", {"app-1.0/app.py": b"1", "app-1.0/static/a.css": b"2"})
    assert taken("archive", archive, "1.0") == ("1.0", "", {"app.py": "1", "static/a.css": "2"})


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_without_a_top_directory_is_taken_as_it_is(tmp_path, write):
    archive = write(tmp_path / "a", {"app.py": b"1", "lib/b.py": b"2"})
    assert taken("archive", archive) == ("archive", "", {"app.py": "1", "lib/b.py": "2"})


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil/abs"])
def test_an_entry_never_lands_outside(tmp_path, write, name):
    archive = write(tmp_path / "a", {name: b"x", "app.py": b"1"})
    (tmp_path / "deep" / "into").mkdir(parents=True)
    with suppress(ValueError):
        unpack(archive, tmp_path / "deep" / "into")
    assert not (tmp_path / "deep" / "evil").exists()
    assert not (tmp_path / "evil").exists()
    assert not Path("/evil").exists()


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_that_climbs_is_refused(tmp_path, write):
    assert "outside" in refusal("archive", write(tmp_path / "a", {"../evil": b"x"}))


def test_a_link_that_leads_out_of_the_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("out")
        info.type, info.linkname = tarfile.SYMTYPE, "../../etc"
        tar.addfile(info)
    assert "cannot be unpacked" in refusal("archive", tmp_path / "a.tar")


def test_what_is_no_archive_or_a_damaged_one_is_said(tmp_path):
    (tmp_path / "text").write_text("hello")
    assert "neither a tar nor a zip archive" in refusal("archive", tmp_path / "text")
    whole = write_tar(tmp_path / "a.tgz", {"app.py": os.urandom(50_000)}).read_bytes()
    (tmp_path / "half.tgz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be unpacked" in refusal("archive", tmp_path / "half.tgz")
    damaged = bytearray(write_zip(tmp_path / "a.zip", {"app.py": b"x" * 500}).read_bytes())
    damaged[60] ^= 1
    (tmp_path / "bad.zip").write_bytes(damaged)
    assert "cannot be unpacked" in refusal("archive", tmp_path / "bad.zip")


def test_a_tar_that_holds_a_zip_archive_is_a_tar(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", {"x": b"1"}).read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in (("app.py", b"1"), ("fixture.zip", inner)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "into").mkdir()
    assert (unpack(tmp_path / "a.tar", tmp_path / "into") / "app.py").read_text() == "1"


def test_a_checksum_is_held_against_the_archive(tmp_path):
    archive = write_tar(tmp_path / "a.tgz", {"app.py": b"1"})
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    for form in (right, f"sha256:{right}", right.upper()):
        assert taken("archive", archive, "", form)[2] == {"app.py": "1"}
    wrong = refusal("archive", archive, "", "0" * 64)
    assert right in wrong
    assert "get the archive anew" in wrong


def test_a_missing_source_says_what_to_set(tmp_path):
    for kind, noun in (("directory", "directory"), ("archive", "file")):
        said = refusal(kind, tmp_path / "none")
        assert f"there is no {noun} {tmp_path / 'none'} on the controller; set app_source" in said


def test_a_relative_source_starts_at_the_repository_wherever_the_command_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened("directory", "examples/currents", "", "") as found:
        assert found.root == app_release.REPOSITORY / "examples/currents"
        assert found.label == "code"


def test_an_archive_behind_an_address_is_downloaded_and_a_dead_address_is_named(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "a.tgz", {"app.py": b"1"})
    monkeypatch.setattr(app_release.urllib.request, "urlopen", lambda url, timeout: archive.open("rb"))
    assert taken("archive", "https://example.org/a.tgz", "v1") == ("v1", "", {"app.py": "1"})

    def dead(url, timeout):
        raise OSError("timed out")

    monkeypatch.setattr(app_release.urllib.request, "urlopen", dead)
    said = refusal("archive", "https://example.org/a.tgz")
    assert said == "https://example.org/a.tgz cannot be downloaded: timed out"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a tag v1, a branch topic and a newer commit on main."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "T")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "t@example.org")
    root = tmp_path / "repository"
    git("init", "--quiet", "--initial-branch", "main", str(root))

    def commit(text):
        (root / "app.py").write_text(text)
        git("add", "app.py", cwd=root)
        git("commit", "--quiet", "-m", text, cwd=root)
        return git("rev-parse", "HEAD", cwd=root)

    commits = {"v1": commit("one")}
    git("tag", "-a", "v1", "-m", "v1", cwd=root)
    git("checkout", "--quiet", "-b", "topic", cwd=root)
    commits["topic"] = commit("two")
    git("checkout", "--quiet", "main", cwd=root)
    commits["main"] = commit("three")
    return SimpleNamespace(root=root, commits=commits)


@pytest.mark.parametrize(("version", "text"), [("v1", "one"), ("topic", "two"), ("main", "three")])
def test_git_gives_a_branch_or_a_tag(repository, version, text):
    commit = repository.commits[version]
    assert taken("git", repository.root, version) == (commit[:12], commit, {"app.py": text})


def test_git_gives_a_commit_and_without_a_version_the_head(repository):
    commit = repository.commits["topic"]
    for form in (commit, commit[:10]):
        assert taken("git", repository.root, form)[1:] == (commit, {"app.py": "two"})
    assert taken("git", repository.root)[2] == {"app.py": "three"}


def test_a_branch_that_moved_gives_its_newest_commit(repository):
    (repository.root / "app.py").write_text("four")
    git("commit", "--quiet", "-am", "four", cwd=repository.root)
    assert taken("git", repository.root, "main")[2] == {"app.py": "four"}


def test_git_brings_no_history_along(repository):
    with opened("git", str(repository.root), "v1", "") as found:
        assert not (found.root / ".git").exists()


def test_git_brings_submodules_along(repository, tmp_path):
    outer = tmp_path / "outer"
    git("init", "--quiet", str(outer))
    git("submodule", "--quiet", "add", str(repository.root), "lib", cwd=outer)
    git("commit", "--quiet", "-m", "x", cwd=outer)
    assert taken("git", outer)[2]["lib/app.py"] == "three"


def test_an_unknown_version_is_named_with_advice(repository):
    said = refusal("git", repository.root, "v9")
    assert said == "the repository has no branch, tag or commit named v9; correct app_version or push it"


def test_a_repository_without_commits_is_said(tmp_path):
    git("init", "--quiet", str(tmp_path / "empty"))
    assert refusal("git", tmp_path / "empty") == "the repository has no commits; push one"


def test_words_like_options_reach_git_as_names_only(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = f"--upload-pack=touch {tmp_path / 'trap'}"
    assert "has no branch, tag or commit" in refusal("git", repository.root, trap)
    assert "does not exist" in refusal("git", trap, "v1")
    assert not (tmp_path / "trap").exists()


def test_a_source_that_is_a_command_is_refused(tmp_path):
    said = refusal("git", f"ext::touch {tmp_path / 'trap'}", "v1")
    assert "not allowed" in said
    assert not (tmp_path / "trap").exists()


def test_git_missing_or_hanging_is_said(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    def slow(argv, **words):
        raise subprocess.TimeoutExpired(argv, words["timeout"])

    monkeypatch.setattr(subprocess, "run", absent)
    assert "apt-get install git" in refusal("git", "https://example.org/a.git")
    monkeypatch.setattr(subprocess, "run", slow)
    assert "did not finish within 300 s" in refusal("git", "https://example.org/a.git")


def test_the_reason_stands_before_the_advice_that_ssh_puts_last(monkeypatch):
    words = "Host key verification failed.\nfatal: Could not read from remote repository.\n\nPlease make sure.\n"

    def fail(argv, **_):
        raise subprocess.CalledProcessError(128, argv, stderr=words)

    monkeypatch.setattr(subprocess, "run", fail)
    assert refusal("git", "git@example.org:a.git").startswith("Host key verification failed.")


@pytest.fixture
def action(code, tmp_path, monkeypatch):
    """The action with a host that is asked, and told, but not there."""
    monkeypatch.setattr(app_release, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(app_release, "INLINE_BYTES", 0)
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    made = object.__new__(ActionModule)
    asked, sent = [], []

    def on_host(options, task_vars):
        asked.append(options)
        return {"changed": True, "need_archive": made.host_lacks_it and not {"archive", "archive_data"} & {*options}}

    made.host_lacks_it, made.asked, made.sent = True, asked, sent
    made._task = SimpleNamespace(
        check_mode=False, args={"source_type": "directory", "source": str(code), "root": "/srv/app", "exclude": []}
    )
    shell = SimpleNamespace(tmpdir="/remote", join_path=os.path.join)
    made._connection = SimpleNamespace(_shell=shell)
    made._on_host = on_host
    made._transfer_file = lambda source, target: sent.append((source, target))
    made._make_tmp_path = made._remove_tmp_path = lambda *_: None
    return made


def test_code_is_sent_only_to_a_host_that_lacks_it(action):
    action.run()
    assert [target for _, target in action.sent] == ["/remote/archive.tar.gz"]
    assert action.asked[-1]["archive"] == "/remote/archive.tar.gz"
    action.host_lacks_it = False
    action.run()
    assert len(action.sent) == 1
    assert action.asked[-1]["digest"] == action.asked[0]["digest"]


def test_little_code_goes_along_with_the_question(action, monkeypatch):
    monkeypatch.setattr(app_release, "INLINE_BYTES", 100_000)
    action.run()
    (asked,) = action.asked
    assert action.sent == []
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(asked["archive_data"]))) as tar:
        assert tar.extractfile("app.py").read() == b"app = 1\n"


def test_every_directory_made_on_the_host_is_removed(action, monkeypatch):
    made, removed = [], []

    def make():
        made.append(f"/remote/{len(made)}")
        action._connection._shell.tmpdir = made[-1]

    action._make_tmp_path, action._remove_tmp_path = make, removed.append
    # What Ansible's own class does first.
    monkeypatch.setattr(ActionBase, "run", lambda self, *_: make() if self._early_needs_tmp_path() else None)
    action.run()
    assert made == removed == ["/remote/0"]


def test_check_mode_sends_nothing(action):
    action._task.check_mode = True
    assert action.run()["changed"] is True
    assert action.sent == []


def test_code_on_the_host_needs_nothing_of_the_controller(action):
    action._task.args.update(source_type="host_path", source="/home/me/app")
    action.run()
    assert action.asked == [{"root": "/srv/app", "exclude": [], "host_path": "/home/me/app", "label": "code"}]


def test_a_new_host_gets_the_data_of_today_although_the_code_is_unchanged(action, code):
    action._task.args["shared"] = ["app.db"]
    contents = []
    for text in ("old", "new"):
        (code / "app.db").write_text(text)
        action.run()
        with tarfile.open(action.sent[-1][0]) as tar:
            contents.append(tar.extractfile("app.db").read().decode())
    assert contents == ["old", "new"]
    assert len({options["digest"] for options in action.asked}) == 1


def test_the_cached_archive_is_for_its_owner_alone(action):
    action.run()
    assert stat.S_IMODE(Path(action.sent[0][0]).stat().st_mode) == 0o600


def test_a_source_that_cannot_be_had_fails_the_task_with_its_reason(action, tmp_path):
    action._task.args["source"] = str(tmp_path / "none")
    with pytest.raises(AnsibleActionFail, match=r"cannot be had from app_source \(directory\): there is no directory"):
        action.run()
