from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys

import pytest

from tests.unit.ngrok.rendering import ROLE

# A key made for this test with `gpg --quick-gen-key`; the fingerprint is gpg's.
FINGERPRINT = "A934486015C4F3BAD247B7A5BB33DD9A40DBC591"
KEY = b"""-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawSxnBYJKwYBBAHaRw8BAQdAxWdWCRXqZT+a3Apzz5YEZYSQ4wH+dPbCb7pf
wqNP1Ji0H1Rlc3QgYXJjaGl2ZSA8dGVzdEBleGFtcGxlLmNvbT6IkAQTFggAOBYh
BKk0SGAVxPO60ke3pbsz3ZpA28WRBQJrBLGcAhsDBQsJCAcCBhUKCQgLAgQWAgMB
Ah4BAheAAAoJELsz3ZpA28WRCV0BALuA+egEgRDN7jWXlcB3rfKnu42EvbEYZlg8
twfLb6U2AQDoLGyzACOpC2r/CLJwrh4jhf4KKZZnGNNX2t6PUT1bAw==
=Rwq2
-----END PGP PUBLIC KEY BLOCK-----
"""
PROGRAM = ROLE / "library" / "ngrok_archive_key.py"


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("ngrok_archive_key", PROGRAM)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def run(tmp_path):
    """Run the module as Ansible does, with a key that is published at a file: URL."""

    def call(published: bytes, *, fingerprint: str = FINGERPRINT, check: bool = False) -> dict:
        (tmp_path / "published.asc").write_bytes(published)
        options = {
            "url": (tmp_path / "published.asc").as_uri(),
            "path": str(tmp_path / "kept.asc"),
            "fingerprint": fingerprint,
            "_ansible_check_mode": check,
        }
        text = json.dumps({"ANSIBLE_MODULE_ARGS": options})
        done = subprocess.run([sys.executable, PROGRAM], input=text, capture_output=True, text=True, check=False)
        return json.loads(done.stdout)

    return call


def test_fingerprint_is_the_one_gpg_shows(module):
    assert module.fingerprints(KEY) == [FINGERPRINT]


def test_binary_key_is_read_too(module):
    assert module.fingerprints(module.dearmor(KEY)) == [FINGERPRINT]


@pytest.mark.parametrize(
    "text",
    [b"", b"<html>404</html>", KEY[:200], KEY.replace(b"mDME", b"!!!!"), base64.b64decode("mDMEawSxnBYJ"), b"\xff"],
)
def test_what_is_no_whole_key_is_refused(module, text):
    assert module.refusal(text, FINGERPRINT) != ""


def test_second_key_in_the_file_is_refused(module):
    assert "it holds" in module.refusal(module.dearmor(KEY) * 2, FINGERPRINT)


def test_expected_key_is_kept_and_the_second_run_changes_nothing(run, tmp_path):
    assert run(KEY)["changed"] is True
    assert (tmp_path / "kept.asc").read_bytes() == KEY
    assert (tmp_path / "kept.asc").stat().st_mode & 0o777 == 0o644
    assert run(b"nothing is fetched any more")["changed"] is False


def test_other_key_is_refused_and_not_kept(run, tmp_path):
    result = run(KEY, fingerprint="0" * 40)
    assert result["failed"] is True
    assert "ngrok_apt_key_fingerprint" in result["msg"]
    assert not (tmp_path / "kept.asc").exists()


def test_check_mode_keeps_nothing(run, tmp_path):
    assert run(KEY, check=True)["changed"] is True
    assert not (tmp_path / "kept.asc").exists()
