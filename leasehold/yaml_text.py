"""Values as YAML for people to go on with, written without a YAML library."""

from __future__ import annotations

import json
import re

# JSON is YAML, but for these characters.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")

_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./ -]*[A-Za-z0-9_./-])?|[0-9]{1,9}[smhd]")
_NO_TEXTS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""What would be read as something else without quotes, by one version of YAML or another."""


def quoted(value: object) -> str:
    """Any JSON in one line, each text in quotes."""
    written = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def plain(value: object) -> str:
    """Any JSON in one line, a text without quotes where it needs none, or in those that hide less of it."""
    if not isinstance(value, str):
        return quoted(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXTS:
        return value
    if value.isprintable() and ('"' in value or "\\" in value):
        return "'" + value.replace("'", "''") + "'"
    return quoted(value)


def below(value: object, column: int) -> str:
    """Any JSON as the value of a key in this column: a text of several lines is a block below it."""
    return (_block(value, column + 2) if isinstance(value, str) else None) or plain(value)


def _block(text: str, column: int) -> str | None:
    """A text of several lines as they are; None where that would not be read as the same text."""
    lines = text.removesuffix("\n").split("\n")
    if len(lines) == 1 or not lines[0] or not all(line.isprintable() and (not line or line.strip()) for line in lines):
        return None
    end = "-" if not text.endswith("\n") else "" if lines[-1] else "+"
    # Without a number the first line would say how far all are to the right.
    head = f"|{2 if lines[0].startswith(' ') else ''}{end}"
    return "\n".join([head, *(f"{'':{column}}{line}" if line else "" for line in lines)])
