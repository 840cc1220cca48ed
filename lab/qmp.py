"""The few words of QEMU's machine protocol (QMP) the lab speaks."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from lab.errors import GuestLostError


def command(machine: Path, execute: str, arguments: dict[str, Any] | None = None, timeout: float = 30) -> Any:
    """Run one QMP command on the machine whose state directory is `machine` and return its result.

    Raises GuestLostError when QEMU does not answer within `timeout` seconds or refuses the command.
    """
    directory = os.open(machine, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            # A socket's path may have 107 bytes at most; through the directory's descriptor it is short
            # wherever the lab lives.
            connection.connect(f"/proc/self/fd/{directory}/qmp.sock")
            with connection.makefile("rw", encoding="utf-8") as stream:
                _read(stream)
                _call(stream, "qmp_capabilities", None)
                return _call(stream, execute, arguments)
    except (OSError, ValueError) as error:
        raise GuestLostError(f"QEMU of {machine.name} does not answer on its control socket: {error}") from error
    finally:
        os.close(directory)


def monitor(machine: Path, line: str) -> str:
    """Run one line of the human monitor (`info usernet`) and return what it prints."""
    return str(command(machine, "human-monitor-command", {"command-line": line}))


def _call(stream: Any, execute: str, arguments: dict[str, Any] | None) -> Any:
    request: dict[str, Any] = {"execute": execute}
    if arguments is not None:
        request["arguments"] = arguments
    stream.write(json.dumps(request) + "\n")
    stream.flush()
    while True:
        answer = _read(stream)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            raise GuestLostError(f"QEMU refused {execute}: {answer['error'].get('desc', answer['error'])}")


def _read(stream: Any) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise ConnectionError("the connection was closed")
    return dict(json.loads(line))
