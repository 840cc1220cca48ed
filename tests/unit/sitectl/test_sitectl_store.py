"""What the monitor remembers, while somebody reads it and when the disk is full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sitectl import store
from sitectl.decide import State


def test_a_reader_sees_the_old_memory_or_the_new_one_and_never_a_part(tmp_path):
    path = tmp_path / "currents" / "state.json"
    store.save_state(path, State(boot_id="a", failures=1))
    with path.open("rb", buffering=0) as reader:
        store.save_state(path, State(boot_id="b", failures=2))
        assert json.loads(reader.read())["boot_id"] == "a"
    assert store.load_state(path) == State(boot_id="b", failures=2)
    assert [one.name for one in path.parent.iterdir()] == ["state.json"]


def test_a_full_disk_leaves_the_old_memory(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    store.save_state(path, State(boot_id="a", failures=1))

    def half(self, text, **_):
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        store.save_state(path, State(boot_id="b", failures=2))
    assert store.load_state(path) == State(boot_id="a", failures=1)
