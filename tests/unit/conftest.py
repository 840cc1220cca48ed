"""Unit tests take seconds: none starts a program of ours. Those that do are in tests/process."""

import os
import sys

import pytest

from tests.support.programs import is_ours

at_work: list[str] = []


def refuse(event, arguments):
    if event == "subprocess.Popen" and at_work:
        words = arguments[1]
        command = words.split() if isinstance(words, str) else list(map(os.fsdecode, words))
        if is_ours(command):
            raise AssertionError(f"{at_work[-1]} starts {command[0]}: its place is tests/process")


# There is no way to take an audit hook out again: it looks whether one of these tests is at work.
sys.addaudithook(refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    at_work.append(item.nodeid)
    try:
        return (yield)
    finally:
        at_work.pop()
