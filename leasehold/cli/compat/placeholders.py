"""Placeholders in a command for a shell, which is never shown what stands for them.

It finds each value in a variable. So, short of an `eval`, no name and no delivered data is taken for a command,
whatever quotes the placeholder stands in; these only decide how the variable is written, so that its value stays one
word.
"""

from __future__ import annotations

import string

_VARIABLES = {"name": "FOREACH_NAME", "state": "FOREACH_STATE", "data_utf8": "FOREACH_DATA"}
DATA = _VARIABLES["data_utf8"]
"""What a script has where it wants data."""


def script(command: str) -> str:
    """The script that a command with placeholders stands for; raise `ValueError` where it has others than these."""
    written, quote = "", ""
    for literal, field, spec, conversion in string.Formatter().parse(command):
        written += literal
        quote = _quote(literal, quote)
        if field is None:
            continue
        if field not in _VARIABLES or spec or conversion:
            known = ", ".join(f"{{{name}}}" for name in _VARIABLES)
            raise ValueError(f"has {{{field}}}: there are only {known}; write {{{{ and }}}} for braces")
        variable = f"${{{_VARIABLES[field]}}}"
        written += {"": f'"{variable}"', '"': variable, "'": f"'\"{variable}\"'"}[quote]
    return written


def values(**found: str) -> dict[str, str]:
    """The environment in which a script finds what stands for its placeholders."""
    # No variable can carry NUL.
    return {_VARIABLES[name]: value.replace("\0", "\ufffd") for name, value in found.items()}


def _quote(text: str, quote: str) -> str:
    """In which quotes the shell is after a text that it began in these."""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            quote = char
    return quote
