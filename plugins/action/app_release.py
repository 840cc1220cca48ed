"""Controller half of ``app_release``: pack the code, send it only when the host does not have it yet."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

#: Where relative paths of the controller start, wherever the command was typed; and where our own modules are.
REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:
    sys.path.append(str(REPOSITORY))

from plugins.module_utils import wheelhouse
from plugins.module_utils.app_look import release_id, release_parts
from plugins.module_utils.code_git import commit_of, git
from plugins.module_utils.code_tree import digest, tree
from plugins.module_utils.host_look import Seen

#: Without a single byte.
DOWNLOAD_TIMEOUT_SECONDS = 60
#: Code up to this size goes along with the question whether the host has it. A file to send takes three calls more.
INLINE_BYTES = 128 * 1024
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sitekeeper" / "sources"


@dataclass(frozen=True)
class Source:
    """A tree of code on the controller, ready to be packed."""

    root: Path
    label: str
    commit: str = ""


def pack(root: Path, patterns: Sequence[str], target: Path) -> None:
    """Write a .tar.gz of the tree.

    Modification times are kept: Flask builds the ETag of a static file from time and size, and a time that were
    the same in every release would let browsers keep an old file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as out:
        try:
            with (
                gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6, mtime=0) as zipped,
                tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                for name, path in tree(root, patterns):
                    info = tar.gettarinfo(str(path), arcname=name)
                    info.uid = info.gid = 0
                    info.uname = info.gname = "root"
                    info.mode = 0o755 if info.mode & 0o100 else 0o644
                    if info.isreg():
                        with path.open("rb") as content:
                            tar.addfile(info, content)
                    else:
                        tar.addfile(info)
            # Another host's run may send the file from the moment it has its name.
            out.flush()
            Path(out.name).rename(target)
        except BaseException:
            Path(out.name).unlink(missing_ok=True)
            raise


def packed(root: Path, patterns: Sequence[str]) -> Path:
    """Return the tree's archive in the cache, made when it is not there yet; its name is made of all that is in it."""
    archive = CACHE / f"{digest(root, patterns)}.tar.gz"
    if not archive.exists():
        pack(root, patterns, archive)
    return archive


def packed_wheels(directory: str, gunicorn_version: str) -> tuple[str, Path]:
    """Return the digest and the archive of a wheelhouse on the controller.

    Raises:
        wheelhouse.Fault: it is none, or cannot be read; says what to do.
    """
    root = REPOSITORY / Path(directory).expanduser()
    if fault := wheelhouse.fault(root, gunicorn_version):
        raise wheelhouse.Fault(fault)
    try:
        return digest(root), packed(root, [])
    except OSError as error:
        raise wheelhouse.Fault(str(error)) from error


def unpack(archive: Path, into: Path) -> Path:
    """Unpack a .tar.* or .zip archive and return the directory that holds the code.

    An archive with a single directory at its top, as release archives have, stands for that directory.

    Raises:
        ValueError: it is no archive or a damaged one, or an entry would land outside.
    """
    try:
        # A tar first: one that holds a zip archive at its end is taken for a zip archive.
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(into, filter="data")
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for name in zipped.namelist():
                    if Path(name).is_absolute() or ".." in Path(name).parts:
                        raise ValueError(f"entry {name!r} would land outside the archive's directory")
                zipped.extractall(into)
        else:
            raise ValueError("it is neither a tar nor a zip archive")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    top = list(into.iterdir())
    return top[0] if len(top) == 1 and top[0].is_dir() else into


def download(url: str, target: Path) -> None:
    """Fetch an archive.

    Raises:
        ValueError: it cannot be had; names the address.
    """
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer, target.open("wb") as out:
            shutil.copyfileobj(answer, out)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{url} cannot be downloaded: {error}") from error


@contextlib.contextmanager
def opened(kind: str, source: str, version: str, checksum: str) -> Iterator[Source]:
    """Give the code of a source as a directory on the controller, for as long as the block runs.

    Args:
        kind: ``directory``, ``git`` or ``archive``.
        source: path, or URL for git; for an archive either.
        version: git branch, tag or commit; a label for the others.
        checksum: SHA-256 that an archive must have; empty for any.

    Raises:
        ValueError: it cannot be had; the message says what to do.
    """
    path = REPOSITORY / Path(source).expanduser()
    with tempfile.TemporaryDirectory(prefix="sitekeeper-") as scratch:
        if kind == "directory":
            if not path.is_dir():
                raise ValueError(f"there is no directory {path} on the controller; set app_source to one")
            yield Source(path, version or "code")
        elif kind == "archive":
            if source.startswith("https://"):
                path = Path(scratch, "archive")
                download(source, path)
            elif not path.is_file():
                raise ValueError(f"there is no file {path} on the controller; set app_source to an archive")
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if checksum and found != checksum.removeprefix("sha256:").lower():
                raise ValueError(
                    f"{source} has the SHA-256 {found}, not that of app_source_checksum; "
                    "get the archive anew, or put this one there if you trust it"
                )
            inside = Path(scratch, "code")
            inside.mkdir()
            yield Source(unpack(path, inside), version or "archive")
        else:
            clone = Path(scratch, "clone")
            git("clone", "--quiet", "--no-checkout", "--", source, str(clone))
            commit = ""
            for name in (f"origin/{version}", version) if version else ("HEAD",):
                with contextlib.suppress(ValueError):
                    commit = git(
                        "rev-parse",
                        "--verify",
                        "--quiet",
                        "--end-of-options",
                        f"{name}^{{commit}}",
                        cwd=clone,
                    )
                    break
            if not commit:
                raise ValueError(
                    f"the repository has no branch, tag or commit named {version}; correct app_version or push it"
                    if version
                    else "the repository has no commits; push one"
                )
            git("checkout", "--quiet", "--detach", commit, cwd=clone)
            git("submodule", "--quiet", "update", "--init", "--recursive", cwd=clone)
            shutil.rmtree(clone / ".git")
            yield Source(clone, commit[:12], commit)


class ActionModule(ActionBase):
    """Pack the code, ask the host whether it has it, send it if not; little code goes along with the question.

    Nobody is asked when the run has seen that the host has it.
    """

    #: True would make a directory on the host before every run, and leave it there when an archive is sent.
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action; see the module ``app_release`` for its options."""
        super().run(tmp, task_vars)
        options = dict(self._task.args)
        kind, where = options.pop("source_type"), options.pop("source")
        version, checksum = options.pop("version", "") or "", options.pop("checksum", "") or ""
        files: dict[str, Path] = {}
        try:
            if wheels := options.pop("wheelhouse", "") or "":
                options["wheelhouse_digest"], files["wheelhouse"] = packed_wheels(wheels, options["gunicorn_version"])
            if kind == "host_path":
                options |= {"host_path": where, "label": version or "code"}
            else:
                with opened(kind, where, version, checksum) as source:
                    leave_out = options.get("exclude") or []
                    # Shared paths are data: they may seed the host once, but their changes make no new release.
                    sum_of_code = digest(source.root, leave_out, options.get("shared") or [])
                    # The archive brings the shared paths along.
                    archive = packed(source.root, leave_out)
                if archive.stat().st_size <= INLINE_BYTES:
                    options["archive_data"] = base64.b64encode(archive.read_bytes()).decode()
                else:
                    files["archive"] = archive
                options |= {"digest": sum_of_code, "label": source.label, "commit": source.commit}
        except wheelhouse.Fault as error:
            raise AnsibleActionFail(f"app_wheelhouse: {error}") from error
        except (ValueError, OSError, tarfile.TarError) as error:
            raise AnsibleActionFail(f"the code cannot be had from app_source ({kind}): {error}") from error
        seen = Seen.of(task_vars)
        if name := there(seen, options):
            return {"changed": False, "release": name, "previous": name}
        if kind == "directory":
            ours = [*(options.get("exclude") or []), *(options.get("shared") or [])]
            options["commit"] = commit_of(REPOSITORY / Path(where).expanduser(), ours)
        seen.forget()
        result = self._on_host(options, task_vars)
        if not files or not result.get("need_archive") or self._task.check_mode:
            return result
        # Only now a directory on the host: most runs deploy nothing.
        self._make_tmp_path()
        try:
            for name, path in files.items():
                options[name] = self._connection._shell.join_path(self._connection._shell.tmpdir, f"{name}.tar.gz")
                self._transfer_file(str(path), options[name])
            return self._on_host(options, task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _on_host(self, options: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return self._execute_module(module_name="app_release", module_args=options, task_vars=task_vars)


def there(seen: Seen, options: Mapping[str, Any]) -> str:
    """Return the release that these options of the module ask for, when the host has it where it is to be; else "".

    Args:
        seen: what the run knows of the host.
        options: with the digest of the code; code that lies on the host is looked at there.
    """
    python = str(options.get("python") or "python3")
    version = seen.app.get("python", {}).get(python)
    if not version or not options.get("digest"):
        return ""
    name = release_id(options["label"], release_parts(options, options["digest"], version))
    link = "current" if options.get("switch", True) else "next"
    return name if seen.app["links"].get(link) == name else ""
