"""XML-RPC as bytes: calls that strangers send are read, values and faults are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xmlrpc import client as xmlrpc

from defusedxml.xmlrpc import DefusedExpatParser

from leasehold.errors import Malformed

MOST_BYTES = 64 * 1024
"""Far more than fifty tags, a sandbox and a key can take."""

_DEEPEST = 24
"""Elements within each other: an array of texts is eight deep."""

NO_SUCH_METHOD, BAD_PARAMS, FAILED, UNREADABLE = -32601, -32602, 1, -32700
"""Codes of faults: those that XML-RPC servers agree on, and the one that Python's gives to all else."""


@dataclass(frozen=True)
class Called:
    """A method that is called, with what it is given."""

    method: str
    params: tuple[Any, ...]


class _Shallow(xmlrpc.Unmarshaller):
    """Reads values, and no further than `_DEEPEST`."""

    def __init__(self) -> None:
        super().__init__(use_builtin_types=True)
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Malformed("the call is nested too deep")
        super().start(tag, attrs)

    def end(self, tag: str) -> None:
        self._depth -= 1
        super().end(tag)


def read(body: bytes) -> Called:
    """Read a call; raise `Malformed` for anything else, a document with a DTD among it."""
    target = _Shallow()
    parser = DefusedExpatParser(target, forbid_dtd=True)
    try:
        parser.feed(body)
        parser.close()
        params, method = target.close(), target.getmethodname()
    except Malformed:
        raise
    except Exception as error:
        # What the library raises for what is no XML-RPC is anything from IndexError to its own.
        raise Malformed(f"the body is no call of XML-RPC ({type(error).__name__})") from error
    if not method:
        raise Malformed("the body calls no method")
    return Called(method, params)


def answer(value: object) -> bytes:
    """A method's answer; None is written as such, and bytes as they are."""
    return _encoded(xmlrpc.dumps((value,), methodresponse=True, allow_none=True))  # type: ignore[arg-type]


def fault(code: int, text: str) -> bytes:
    """The answer of a call that failed."""
    # A character that XML does not know would be all that the client finds wrong.
    readable = "".join(char if char.isprintable() else " " for char in text)
    return _encoded(xmlrpc.dumps(xmlrpc.Fault(code, readable), allow_none=True))


def _encoded(document: str) -> bytes:
    return document.encode("utf-8", "replace")
