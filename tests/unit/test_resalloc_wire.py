"""XML-RPC as bytes: what is read of a call and what is not, and that answers come out as the old client reads them."""

from __future__ import annotations

import re
import time
from typing import Any
from xmlrpc import client as xmlrpc

import pytest

from api.compat.resalloc import wire
from leasehold.errors import Malformed

CALL = "<methodCall><methodName>{}</methodName><params>{}</params></methodCall>"
_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
_BLOWUP = f'<!DOCTYPE x [<!ENTITY a "{"a" * 20_000}">]>'

HOSTILE = {
    name: text.encode()
    for name, text in {
        "billion laughs": f'<!DOCTYPE x [<!ENTITY l0 "ha">{_LAUGHS}]>' + CALL.format("a", "<param>&l9;</param>"),
        "quadratic blow-up": _BLOWUP + CALL.format("a", "&a;" * 5000),
        "a file": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + CALL.format("a", "&e;"),
        "an address": '<!DOCTYPE x SYSTEM "http://evil.example/x.dtd">' + CALL.format("a", ""),
        "a DTD alone": "<!DOCTYPE x>" + CALL.format("a", ""),
        "nothing": "",
        "no XML": "ticket 5 please",
        "no call": "<html><body/></html>",
        "broken off": CALL.format("closeTicket", "")[:40],
        "no method": CALL.format("", ""),
        "a response": "<methodResponse><params></params></methodResponse>",
        "a fault": "<methodResponse><fault><value><struct/></value></fault></methodResponse>",
        "half a member": CALL.format("a", "<param><value><struct><name>n</name></struct></value></param>"),
        "no number": CALL.format("a", "<param><value><int>five</int></value></param>"),
        "no base64": CALL.format("a", "<param><value><base64>\u00e9</base64></value></param>"),
        "no time": CALL.format("a", "<param><value><dateTime.iso8601>now</dateTime.iso8601></value></param>"),
        "an unknown type": CALL.format("a", "<param><value><ticket>5</ticket></value></param>"),
        "a key that is a list": CALL.format(
            "a", f"<value><struct>{'<array><data></data></array>' * 2}</struct></value>"
        ),
        "too deep": CALL.format("a", "<value><array><data>" * 100 + "</data></array></value>" * 100),
        "much too deep": CALL.format("a", "<a>" * 20_000),
        "a long number": CALL.format("a", f"<param><value><int>{'9' * 9000}</int></value></param>"),
        "an odd encoding": '<?xml version="1.0" encoding="utf-7"?>' + CALL.format("a", ""),
    }.items()
} | {"no text": bytes(range(256))}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_call_is_told_at_once(body: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(Malformed):
        wire.read(body)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("params", "read"),
    [
        ((), ()),
        ((["a", "b"],), (["a", "b"],)),
        ((["\u00e9 <&>"], "box"), (["\u00e9 <&>"], "box")),
        ((5,), (5,)),
        (("5",), ("5",)),
        ((None, True, xmlrpc.Binary(b"\xff")), (None, True, b"\xff")),
        (({"a": [1, {"b": 2.5}]},), ({"a": [1, {"b": 2.5}]},)),
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", repr(value)),
)
def test_what_the_old_client_sends_is_read(params: tuple[Any, ...], read: tuple[Any, ...]) -> None:
    called = wire.read(xmlrpc.dumps(params, "takeTicket", allow_none=True).encode())
    assert (called.method, called.params) == ("takeTicket", read)


@pytest.mark.parametrize("value", [5, None, "\u00e9", [], {"ready": None, "output": None}], ids=repr)
def test_what_is_answered_is_read_by_the_old_client(value: Any) -> None:
    (((read,)), method) = xmlrpc.loads(wire.answer(value))
    assert (read, method) == (value, None)


def test_bytes_are_answered_as_they_are() -> None:
    data = bytes(range(256)) * 300
    ((read,), _) = xmlrpc.loads(wire.answer(data))
    assert isinstance(read, xmlrpc.Binary)
    assert read.data == data


def test_a_fault_is_readable_whatever_it_quotes() -> None:
    with pytest.raises(xmlrpc.Fault) as raised:
        xmlrpc.loads(wire.fault(wire.FAILED, "no \0 such \x1b thing \ud800 as <this> & \u00e9\n"))
    assert raised.value.faultCode == 1
    assert "as <this> & \u00e9" in raised.value.faultString
