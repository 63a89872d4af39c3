"""What a server answers, and how it is got: bounded, byte for byte, and never followed elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx

from activities.drivers.request import Request
from leasehold import templates

BODY_LIMIT = 1024 * 1024
"""In bytes; no more of an answer is read."""

CONNECT_S = 30.0
"""So long may it take to connect. An answer may take as long as the hook has."""


class NoAnswer(Exception):
    """No answer came; says why, without quoting anything that was sent or received."""


class _Headers(dict[str, str]):
    """Headers, found by their names in any case."""

    def __init__(self, headers: httpx.Headers) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer; `whole` unless its body is longer than `BODY_LIMIT`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    def values(self) -> dict[str, Any]:
        """What templates see of it."""
        return {
            "status": self.status,
            "headers": self.headers,
            "json": self._json(),
            "text": self.body.decode(errors="replace"),
        }

    def _json(self) -> Any:
        if not self.whole:
            return templates.missing(f"the answer is longer than {BODY_LIMIT // 1024} KiB, and not read as JSON")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return templates.missing("the answer is no JSON")


def client(tls: ssl.SSLContext | None) -> httpx.AsyncClient:
    """A client that does what the hook says and nothing else: no redirects, no proxies or passwords of the worker's."""
    return httpx.AsyncClient(
        verify=False if tls is None else tls,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(None, connect=CONNECT_S),
    )


async def get_answer(client: httpx.AsyncClient, request: Request) -> Answer:
    """Send a request, and return its answer. Raises `NoAnswer`."""
    headers = {name.encode(): value for name, value in request.headers.items()}
    body = bytearray()
    try:
        async with (
            client.stream(request.method, request.url, headers=headers, content=request.content) as response,
            contextlib.aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as chunks,
        ):
            async for chunk in chunks:
                # One byte too many tells that there was more.
                body += chunk[: BODY_LIMIT + 1 - len(body)]
                if len(body) > BODY_LIMIT:
                    break
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
        raise NoAnswer(_why(error)) from None
    return Answer(
        status=response.status_code,
        headers=_Headers(response.headers),
        body=bytes(body[:BODY_LIMIT]),
        whole=len(body) <= BODY_LIMIT,
    )


def _why(error: Exception) -> str:
    """An error in words of our own: the libraries' can quote what was sent and received."""
    cause = _first_cause(error)
    match error:
        case httpx.ConnectTimeout():
            return f"no connection within {CONNECT_S:.0f}s"
        case httpx.ConnectError() if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted: {cause.verify_message}"
        case httpx.ConnectError() if isinstance(cause, ssl.SSLError):
            return f"no TLS with this server: {cause.reason or 'it was cut off'}"
        case httpx.ConnectError() if isinstance(cause, socket.gaierror):
            return f"no address: {cause.strerror}"
        case httpx.ConnectError():
            number = cause.errno if isinstance(cause, OSError) else None
            return f"no connection: {os.strerror(number) if number else 'all attempts failed'}"
        case httpx.RemoteProtocolError():
            return "the answer ended too early, or is not HTTP"
        case httpx.NetworkError():
            return "the connection broke"
        case httpx.UnsupportedProtocol() | httpx.InvalidURL() | httpx.LocalProtocolError():
            return "this request cannot be sent"
        case _:
            return f"no answer ({type(error).__name__})"


def _first_cause(error: BaseException) -> BaseException:
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error
