"""Every error the lab raises on purpose, each with the exit status of the command line."""

from __future__ import annotations


class LabError(Exception):
    """Something the lab could not do; the text says what to do next."""

    exit_status = 1


class UsageError(LabError):
    """A name, image or option that makes no sense."""

    exit_status = 2


class HostError(LabError):
    """The computer the lab runs on is not ready: a program is missing, or there is no room."""

    exit_status = 3


class GuestLostError(LabError):
    """The machine itself is gone or does not answer, as opposed to a command that failed inside it."""

    exit_status = 4
