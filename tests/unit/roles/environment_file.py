"""Reads an EnvironmentFile= as systemd does."""

from __future__ import annotations

#: What a backslash protects between double quotes; before anything else it stands for itself.
PROTECTED = '"\\`$'


def read_environment(text: str) -> dict[str, str]:
    """Return the variables of the file.

    The rules are those of systemd.exec(5), EnvironmentFile=, and of systemd's src/basic/env-file.c: lines that begin
    with # or ; are comments; a value between double quotes may hold line breaks; a value without quotes ends with its
    line, without blanks around it. Single quotes are not read: the role does not write them.

    Raises:
        ValueError: a line is none of these.
    """
    found: dict[str, str] = {}
    rest = text
    while rest:
        line, _, following = rest.partition("\n")
        if not line.strip() or line.lstrip()[0] in "#;":
            rest = following
            continue
        name, equals, value = rest.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"no variable: {line!r}")
        if value.startswith('"'):
            found[name.strip()], rest = _quoted(value[1:])
            continue
        plain = value.partition("\n")[0]
        if set(plain) & set("'\"\\"):
            raise ValueError(f"a value that this reader does not read: {line!r}")
        found[name.strip()], rest = plain.strip(), following
    return found


def _quoted(text: str) -> tuple[str, str]:
    """Return the value up to its closing quote, and what follows its line."""
    value, position = "", 0
    while position < len(text):
        here, following = text[position], text[position + 1 : position + 2]
        if here == '"':
            rest = text[position + 1 :]
            line, _, after = rest.partition("\n")
            if line.strip():
                raise ValueError(f"text after the closing quote: {line!r}")
            return value, after
        if here == "\\" and following == "\n":
            position += 2
        elif here == "\\" and following and following in PROTECTED:
            value, position = value + following, position + 2
        else:
            value, position = value + here, position + 1
    raise ValueError("a quote that is never closed")
