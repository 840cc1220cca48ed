"""Git on the controller: it fetches code, and tells from what commit the code in a directory is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from plugins.module_utils.code_tree import excluded

GIT_TIMEOUT_SECONDS = 300
ERROR_LINES = 4
#: What git sets for its hooks (git rev-parse --local-env-vars): a run that a hook starts would read, and check out, the
#: hook's repository in place of the one that it means. Configuration by GIT_CONFIG_* stays.
OF_ANOTHER_REPOSITORY = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
#: What `git describe --dirty` says of a checkout that differs from its commit.
DIRTY = "-dirty"


def git(*words: str, cwd: Path | None = None) -> str:
    """Run git without prompts and within a time limit; return what it prints.

    Raises:
        ValueError: with git's last words; several lines of them, since ssh's advice follows the reason.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if name not in OF_ANOTHER_REPOSITORY},
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "https:ssh:file:git",
        # A look at somebody's checkout takes no lock there.
        "GIT_OPTIONAL_LOCKS": "0",
    }
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_SECONDS,
            check=True,
        )
    except FileNotFoundError as error:
        raise ValueError("git is not installed on the controller: apt-get install git") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"git did not finish within {GIT_TIMEOUT_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        said = [line.strip() for line in (error.stderr or "").splitlines() if line.strip()]
        raise ValueError("; ".join(said[-ERROR_LINES:]) or f"git ended with {error.returncode}") from error
    return done.stdout.rstrip()


def commit_of(root: Path, leave_out: Sequence[str]) -> str:
    """Return from what commit the code in a directory is, for the record of a deploy.

    Args:
        root: the directory; it may lie below the top of a checkout.
        leave_out: shell patterns of what is no code there, and is not looked at.

    Returns:
        The full hash, with ``-dirty`` behind it when some of the code is not that of the commit; empty when the
        directory is in no commit, or git cannot be asked.
    """
    try:
        # The second name is the directory itself: one that only lies in somebody's checkout is not of that commit.
        commit, _, *prefix = git("rev-parse", "HEAD", "HEAD:./", "--show-prefix", cwd=root).splitlines()
        # Not `git diff`, which writes to the index whatever it is told of locks.
        said = git("status", "-z", "--no-renames", "--untracked-files=all", "--", ".", cwd=root)
    except ValueError:
        return ""
    # Two letters and a blank, then the path from the top of the checkout.
    names = [PurePosixPath(line[3:]).relative_to("".join(prefix)) for line in said.split("\0") if line]
    code = (name for name in names if not any(excluded(str(part), leave_out) for part in (name, *name.parents[:-1])))
    return commit + DIRTY if any(code) else commit
