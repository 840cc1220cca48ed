"""What Python imports from a zip file in a guest is compiled once."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lab import guestfiles, zipcache

PROBE = """
import sys
sys.path.insert(0, {here!r})
import lab_zipcache
compiled = []
original = lab_zipcache._compile
lab_zipcache._compile = lambda *what: compiled.append(what[0]) or original(*what)
sys.path.insert(0, {zip!r})
import module
print(module.ANSWER, len(compiled))
"""


@pytest.fixture
def ask(tmp_path: Path):
    """Import a module of such a source from a zip file, anew; return its answer and how often it was compiled."""
    here, cache, archive = tmp_path / "here", tmp_path / "cache", tmp_path / "modules.zip"
    here.mkdir()
    cache.mkdir()
    files = guestfiles.image_files("key", {})
    program = here / "lab_zipcache.py"
    text = files["usr/lib/python3/dist-packages/lab_zipcache.py"]
    program.write_text(text.replace(zipcache.CACHE, str(cache)))

    def run(source: str) -> list[str]:
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr("module.py", source)
        code = PROBE.format(here=str(here), zip=str(archive))
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.split()

    def ahead(directory: Path) -> None:
        subprocess.run([sys.executable, program, directory], check=True)

    run.cache, run.ahead = cache, ahead
    return run


def test_the_same_source_is_compiled_once_and_another_one_anew(ask):
    assert ask("ANSWER = 1") == ["1", "1"]
    assert ask("ANSWER = 1") == ["1", "0"]
    assert ask("ANSWER = 2") == ["2", "1"]


def test_what_was_compiled_ahead_is_not_compiled_again(ask, tmp_path):
    (tmp_path / "ahead" / "modules").mkdir(parents=True)
    (tmp_path / "ahead" / "modules" / "module.py").write_text("ANSWER = 1")
    ask.ahead(tmp_path / "ahead")
    assert ask("ANSWER = 1") == ["1", "0"]


@pytest.mark.parametrize(
    "left",
    [b"", b"\xe3\x00", b"\xff\xff", b"0", b"i\x01\x00\x00\x00"],
    ids=["empty", "half", "rubbish", "nothing at all", "something else"],
)
def test_what_a_power_cut_left_is_compiled_again(ask, left):
    ask("ANSWER = 1")
    (kept,) = ask.cache.iterdir()
    kept.write_bytes(left)
    assert ask("ANSWER = 1") == ["1", "1"]
    assert ask("ANSWER = 1") == ["1", "0"]


def test_a_cache_that_cannot_be_written_is_none(ask):
    ask.cache.rmdir()
    answer, compiled = ask("ANSWER = 1")
    assert (answer, compiled != "0") == ("1", True)


def test_python_reads_it_whenever_it_starts():
    files = guestfiles.image_files("key", {})
    assert files["usr/lib/python3/dist-packages/lab_zipcache.pth"] == "import lab_zipcache\n"
