"""Exit codes of every subcommand. Scripts rely on them: add, never renumber."""

from __future__ import annotations

HEALTHY = 0
"""The app answers, or the command did what it was asked. Also: another check is already running."""

UNHEALTHY = 1
"""The app does not answer as it should, or is stopped."""

USAGE = 2
"""The command line or a settings file is wrong."""

RESTARTED = 3
"""The check found the app down, restarted it, and it answers again."""

BUSY = 75
"""A check held the lock for longer than this command could wait (EX_TEMPFAIL of sysexits.h)."""

NOT_PERMITTED = 77
"""The command needs root (EX_NOPERM of sysexits.h)."""
