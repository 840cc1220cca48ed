"""Where code may come from: a directory, an archive, an address, git; and what is said of a source that is none."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from plugins.action import app_release
from plugins.action.app_release import opened, unpack
from plugins.module_utils.code_git import commit_of, git
from plugins.module_utils.code_tree import tree


def taken(kind, source, version="", checksum=""):
    """What a source gives: its label, its commit and its files with their contents."""
    with opened(kind, str(source), version, checksum) as found:
        return found.label, found.commit, {name: path.read_text() for name, path in tree(found.root, [".git"])}


def refusal(kind, source, version="", checksum=""):
    with pytest.raises(ValueError) as error, opened(kind, str(source), version, checksum):
        pass
    return str(error.value)


# Archives, directories, addresses


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


# Git


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


def test_a_deploy_that_a_hook_starts_does_not_touch_the_hooks_repository(repository, tmp_path, monkeypatch):
    hooked = tmp_path / "hooked"
    git("init", "--quiet", str(hooked))
    (hooked / "app.py").write_text("another app")
    git("add", ".", cwd=hooked)
    git("commit", "--quiet", "-m", "x", cwd=hooked)
    head = (hooked / ".git/HEAD").read_bytes()
    monkeypatch.setenv("GIT_DIR", str(hooked / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(hooked / ".git/index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(hooked))
    commit = repository.commits["main"]
    assert taken("git", repository.root)[1:] == (commit, {"app.py": "three"})
    assert commit_of(repository.root, [".git"]) == commit
    assert (hooked / ".git/HEAD").read_bytes() == head


# From what commit the code in a directory is


def test_a_checkout_is_of_its_commit(repository):
    assert commit_of(repository.root, [".git"]) == repository.commits["main"]


def test_a_directory_below_the_top_of_a_checkout_is_of_its_commit(repository):
    (repository.root / "app").mkdir()
    (repository.root / "app/wsgi.py").write_text("1")
    assert commit_of(repository.root / "app", []) == "", "it lies there, and is in no commit"
    git("add", ".", cwd=repository.root)
    git("commit", "--quiet", "-m", "app", cwd=repository.root)
    (repository.root / "app.py").write_text("changed, and not of this app")
    assert commit_of(repository.root / "app", []) == git("rev-parse", "HEAD", cwd=repository.root)


@pytest.mark.parametrize("change", ["changed", "added", "deleted", "staged"])
def test_code_that_is_not_that_of_the_commit_is_marked(repository, change):
    if change == "deleted":
        (repository.root / "app.py").unlink()
    else:
        (repository.root / ("new.py" if change == "added" else "app.py")).write_text("other")
    if change == "staged":
        git("add", ".", cwd=repository.root)
    assert commit_of(repository.root, [".git"]) == f"{repository.commits['main']}-dirty"


@pytest.mark.parametrize("name", ["app.db", "static/build/a.js", "uploads/x/y"])
def test_what_is_no_code_does_not_mark_it(repository, name):
    path = repository.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("data")
    assert commit_of(repository.root, ["*.db", "static/build", "uploads"]) == repository.commits["main"]
    assert commit_of(repository.root, []).endswith("-dirty")


def test_what_git_ignores_does_not_mark_it(repository):
    (repository.root / ".git/info/exclude").write_text("local.py\n")
    (repository.root / "local.py").write_text("1")
    assert commit_of(repository.root, [".git"]) == repository.commits["main"]


def test_a_directory_without_git_has_no_commit(tmp_path, monkeypatch):
    assert commit_of(tmp_path, []) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path, []) == "", "git is not installed"


def test_a_look_at_a_checkout_leaves_it_alone(repository):
    index = repository.root / ".git/index"
    os.utime(repository.root / "app.py", (1, 1))
    before = index.read_bytes()
    commit_of(repository.root, [".git"])
    assert index.read_bytes() == before
