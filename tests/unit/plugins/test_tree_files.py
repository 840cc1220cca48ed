"""The files of a package, as config_files wants them."""

from __future__ import annotations

import pytest

from plugins.lookup.tree_files import files_of


def test_each_python_file_comes_with_where_it_goes(tmp_path):
    (tmp_path / "b.py").write_text("two\n")
    (tmp_path / "a.py").write_text("one\n")
    (tmp_path / "notes.txt").write_text("no")
    assert files_of(tmp_path, "/etc/x/package", "x", "0640") == [
        {"path": "/etc/x/package/a.py", "content": "one\n", "group": "x", "mode": "0640"},
        {"path": "/etc/x/package/b.py", "content": "two\n", "group": "x", "mode": "0640"},
    ]


def test_a_directory_without_a_package_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Python file"):
        files_of(tmp_path, "/etc/x", "root", "0644")
