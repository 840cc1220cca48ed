"""What the documents tell a reader to type exists, and what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.cli import build_parser
from sitectl.__main__ import parser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("roles/*/README.md"))]
TEXT = "\n".join(path.read_text() for path in DOCUMENTS)


def test_every_make_target_of_the_documents_exists():
    targets = set(re.findall(r"(?m)(?:^|`)make ([a-z][a-z-]*)\b", TEXT))
    assert {"demo", "test", "setup", "demo-ssh", "demo-down"} <= targets
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_every_playbook_of_the_documents_is_there_and_the_other_way_round():
    named = set(re.findall(r"\bplaybooks/[a-z-]+\.yml", TEXT))
    assert named == {f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*.yml")}


def test_every_subcommand_of_sitectl_in_the_documents_is_one():
    named = set(re.findall(r"\bsitectl (?:--site \S+ )?([a-z][a-z-]+)\b", TEXT)) - {"on", "which", "is", "says", "has"}
    shown = parser().format_help()
    assert named
    for command in named:
        assert re.search(rf"\b{command}\b", shown), command


def test_every_lab_command_of_the_documents_is_one():
    named = set(re.findall(r"(?:python -m |`)lab ([a-z][a-z-]+)\b", TEXT))
    shown = build_parser().format_help()
    assert {"up", "down"} <= named
    for command in named:
        assert re.search(rf"\b{command}\b", shown), command


def test_no_document_is_left_with_a_blank_to_fill_in():
    assert not re.search(r"@[A-Z0-9]+@", TEXT)
