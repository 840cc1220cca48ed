#!/usr/bin/python
"""Ansible module: fetch an apt archive's signing key and accept only the one that is expected."""

# ruff: noqa: E402 - Ansible's own order: a module's documentation stands before its imports.
from __future__ import annotations

DOCUMENTATION = r"""
module: ngrok_archive_key
short_description: Keeps an archive's signing key on the host, if its fingerprint is the expected one
description:
  - Fetches the key when it is not there or is another one, and refuses a file that holds any other primary key.
options:
  url: {description: Where the key is published., type: str, required: true}
  path: {description: Where to keep it., type: path, required: true}
  fingerprint: {description: Fingerprint of the only key it may hold., type: str, required: true}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Fetch the archive's key
  ngrok_archive_key:
    url: https://archive.example.com/key.asc
    path: /etc/apt/keyrings/example.asc
    fingerprint: F0271FCF712CF2E39901F1A30E61D3BBAAEE37FE
"""

RETURN = r"""
fingerprints: {description: Fingerprints of the primary keys found., type: list, returned: always}
"""

import base64
import binascii
import hashlib
import os
import tempfile
import urllib.error
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

PUBLIC_KEY = 6
FETCH_SECONDS = 30


def dearmor(text: bytes) -> bytes:
    """Return the binary form of an ASCII-armoured key (RFC 9580, section 6.2); binary input is returned as it is.

    Raises ValueError when the armour is broken.
    """
    if not text.lstrip().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        return text
    lines = [line.strip() for line in text.strip().splitlines()]
    if b"" not in lines or lines[-1] != b"-----END PGP PUBLIC KEY BLOCK-----":
        raise ValueError("the key's armour is incomplete")
    body = [line for line in lines[lines.index(b"") + 1 : -1] if not line.startswith(b"=")]
    try:
        return base64.b64decode(b"".join(body), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the key's armour is broken: {error}") from error


def packets(data: bytes) -> list[tuple[int, bytes]]:
    """Split OpenPGP data into packets, as pairs of type and body (RFC 9580, section 4.2). Raises ValueError."""
    found = []
    while data:
        tag = data[0]
        if not tag & 0x80:
            raise ValueError("this is no OpenPGP key")
        if tag & 0x40:
            kind, first = tag & 0x3F, (data[1] if len(data) > 1 else 255)
            if first < 192:
                start, length = 2, first
            elif first < 224:
                start, length = 3, ((first - 192) << 8) + int.from_bytes(data[2:3], "big") + 192
            elif first == 255:
                start, length = 6, int.from_bytes(data[2:6], "big")
            else:
                raise ValueError("a key has no packet of unknown length")
        else:
            if tag & 3 == 3:
                raise ValueError("a key has no packet of unknown length")
            kind, size = tag >> 2 & 0x0F, 1 << (tag & 3)
            start, length = 1 + size, int.from_bytes(data[1 : 1 + size], "big")
        if len(data) < start + length:
            raise ValueError("the key is cut off")
        found.append((kind, data[start : start + length]))
        data = data[start + length :]
    return found


def fingerprints(text: bytes) -> list[str]:
    """Return the fingerprints of the primary keys in a key file (RFC 9580, section 5.5.4, version 4 keys).

    Subkeys do not count: apt takes them only with the primary key's signature. Raises ValueError.
    """
    keys = [body for kind, body in packets(dearmor(text)) if kind == PUBLIC_KEY]
    if any(body[:1] != b"\x04" for body in keys):
        raise ValueError("only version 4 keys are understood")
    return [
        hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
        for body in keys
    ]


def refusal(text: bytes, wanted: str) -> str:
    """Say why a key file is not the expected one; empty when it is."""
    try:
        found = fingerprints(text)
    except ValueError as error:
        return str(error)
    return "" if found == [wanted] else f"it holds {', '.join(found) or 'no key'}"


def write(path: Path, text: bytes) -> None:
    """Put `text` at `path` in one step, readable by all: apt reads it as its own user."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(path)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "fingerprint": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    path, url = Path(module.params["path"]), module.params["url"]
    wanted = module.params["fingerprint"].replace(" ", "").upper()
    if path.exists() and not refusal(path.read_bytes(), wanted):
        module.exit_json(changed=False, fingerprints=[wanted])
    try:
        text = open_url(url, timeout=FETCH_SECONDS).read()
    except (urllib.error.URLError, OSError) as error:
        module.fail_json(msg=f"{url} cannot be fetched: {error}. Is the host online?")
    reason = refusal(text, wanted)
    if reason:
        module.fail_json(
            msg=f"The key of {url} is refused: {reason}, expected {wanted}. Nothing was installed. If the archive has "
            "announced a new key, set ngrok_apt_key_fingerprint to its fingerprint."
        )
    if not module.check_mode:
        write(path, text)
    module.exit_json(changed=True, fingerprints=[wanted])


if __name__ == "__main__":
    main()
