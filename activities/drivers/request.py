"""The request that a hook of the driver `http` makes: its templates, filled with what the hook is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from leasehold import templates
from leasehold.http_hook import VARIABLES, HttpFile
from leasehold.ports import HookCall

T = TypeVar("T")

FILE_LIMIT = 64 * 1024
"""No file whose content templates see is longer, in bytes."""

_SHOWN = 300
"""So many characters of a URL are shown."""

_SECRET = re.compile(r"\{[{%].*\b(files|secrets)\b", re.DOTALL)
"""In a template: something that nobody is shown, or looks like it."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class CannotStart(Exception):
    """There is no request to send; says why, without quoting a value."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent."""

    method: str
    url: str
    headers: Mapping[str, bytes]
    content: bytes | None
    label: str = ""
    """How the URL is shown; of one that nobody is shown, nothing."""


def values_of(call: HookCall) -> dict[str, Any]:
    """What every template sees, but for `files` and `secrets`.

    `lease` is null where the resource has not been lent yet, `resource` where the hook is for a whole lease.
    """
    lease = json.loads(call.lease_file) or None
    return {
        "lease": lease,
        "resource": _resource(call.env, lease) if call.env.get("LEASEHOLD_RESOURCE") else None,
        "stage": call.env["LEASEHOLD_STAGE"],
        "attempt": int(call.env["LEASEHOLD_ATTEMPT"]),
    }


def _resource(env: Mapping[str, str], lease: Mapping[str, Any] | None) -> dict[str, Any]:
    here = {"pool": env["LEASEHOLD_POOL"], "name": env["LEASEHOLD_RESOURCE"]}
    held = lease["resources"] if lease else ()
    # As the lease has it now: it can have had it before.
    mine: list[dict[str, Any]] = [one for one in held if (one["pool"], one["name"]) == (here["pool"], here["name"])]
    return {
        **here,
        "role": None,
        "properties": json.loads(env["LEASEHOLD_PROPERTIES"]),
        "data": env["LEASEHOLD_RESOURCE_DATA"],
        **(mine[-1] if mine else {}),
        # That of the hook: a recycling has one of its own.
        "epoch": int(env["LEASEHOLD_EPOCH"]),
        "params": json.loads(env["LEASEHOLD_PARAMS"]),
    }


def read_files(files: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The files' content, without the line break that ends it. Raises `CannotStart`."""
    return {name: read_text(f"files.{name}", path, folder) for name, path in files.items()}


def read_text(place: str, path: str, folder: Path) -> str:
    """A file's content, without the line break that ends it. Raises `CannotStart`."""
    try:
        with open(folder / path, "rb") as file:
            content = file.read(FILE_LIMIT + 1)
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise CannotStart(f"{place}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CannotStart(f"{place}: {path}: this is no text") from None
    if len(content) > FILE_LIMIT:
        raise CannotStart(f"{place}: {path}: this is longer than {FILE_LIMIT // 1024} KiB")
    return text


def request(wanted: HttpFile, values: Mapping[str, Any]) -> Request:
    """Fill a request in. Raises `CannotStart`."""
    with templates.metered():
        headers = {"Accept-Encoding": b"identity", "User-Agent": b"leasehold"}
        content, kind = _body(wanted, values)
        if kind is not None:
            headers["Content-Type"] = kind
        for name, source in wanted.headers.items():
            headers = {known: value for known, value in headers.items() if known.lower() != name.lower()}
            headers[name] = _header(f"headers.{name}", source, values)
        filled_in = url("url", wanted.url, values)
        return Request(
            method=wanted.verb, url=filled_in, headers=headers, content=content, label=label(wanted.url, filled_in)
        )


def url(place: str, source: str, values: Mapping[str, Any], names: frozenset[str] = VARIABLES) -> str:
    """Fill a URL in. Raises `CannotStart`."""
    found = filled(place, templates.url_template(source, names).render, values)
    try:
        httpx.URL(found)
    except (httpx.InvalidURL, UnicodeError):
        raise CannotStart(f"{place}: this is no URL once it is filled in") from None
    return found


def filled(place: str, render: Callable[[Mapping[str, Any]], T], values: Mapping[str, Any]) -> T:
    """What a template makes of these values. Raises `CannotStart`."""
    try:
        return render(values)
    except templates.NotRendered as error:
        raise CannotStart(f"{place}: {error}") from None


def label(source: str, url: str) -> str:
    """How a URL is shown in a log or an error: not filled in where something secret is, and without its query."""
    return (source if _SECRET.search(source) else url).partition("?")[0]


def shown(request: Request) -> str:
    """A request in a log or an error."""
    plain = request.label
    return f"{request.method} {plain if len(plain) <= _SHOWN else plain[:_SHOWN] + '…'}"


def hide(text: bytes, secrets: Iterable[str]) -> bytes:
    """What a server answered, without the secrets that it repeats, also as JSON or in a URL writes them."""
    for secret in sorted(secrets, key=len, reverse=True):
        as_json = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
        for written in {secret, quote(secret, safe=""), *as_json} - {""}:
            text = text.replace(written.encode(errors="replace"), "…".encode())
    return text


def _header(place: str, source: str, values: Mapping[str, Any]) -> bytes:
    value = filled(place, templates.text_template(source, VARIABLES).render, values).strip(" \t\r\n")
    if _CONTROL.search(value):
        raise CannotStart(f"{place}: a header has no line breaks and no other control characters")
    return _encoded(place, value)


def _body(wanted: HttpFile, values: Mapping[str, Any]) -> tuple[bytes | None, bytes | None]:
    """The body, and what kind of content it is."""
    if wanted.has_json:
        return json.dumps(_json("json", wanted.json_, values)).encode(), b"application/json"
    if wanted.body is not None:
        text = filled("body", templates.text_template(wanted.body, VARIABLES).render, values)
        return _encoded("body", text), b"text/plain; charset=utf-8"
    return None, None


def _json(place: str, value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return filled(place, templates.text_template(value, VARIABLES).render, values)
    if isinstance(value, list):
        return [_json(f"{place}[{number}]", part, values) for number, part in enumerate(value)]
    if isinstance(value, dict):
        return {key: _json(f"{place}.{key}", part, values) for key, part in value.items()}
    return value


def _encoded(place: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CannotStart(f"{place}: a value is no text that can be sent") from None
