"""Credentials of MUNGE: what each says of the request that it is for, and how a client makes one for each.

MUNGE (https://dun.github.io/munge/) vouches for the account of a process, among machines that share its key.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Generator
from os import PathLike, fspath

import httpx

LONGEST_S = 15
"""The program itself tries for ten seconds to reach a `munged` that does not answer."""


class MungeFailed(Exception):
    """No credential was made, so that nothing was sent; the message says why."""


class MungeMissing(MungeFailed):
    """It cannot be made here, however often it is tried."""


def bound(method: str, target: bytes, body: bytes) -> str:
    """What the credential for a request carries, so that it is good for no other one: a SHA-256, in hexadecimal.

    It is over three lines without a newline at the end: the method, the path with its query as they are sent, and the
    SHA-256 of the body.
    """
    lines = (method.encode(), target, hashlib.sha256(body).hexdigest().encode())
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


class MungeAuth(httpx.Auth):
    """Has every request carry a credential of its own, a repeated one too: each is good once.

    `url` is the API's; `socket` is that of `munged`, if not the usual one. Raises `MungeFailed`.
    """

    requires_request_body = True

    def __init__(self, url: str, socket: str | PathLike[str] | None = None) -> None:
        self._url = url
        self._options = [] if socket is None else [f"--socket={fspath(socket)}"]

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put a new credential into a request that is about to be sent."""
        said = bound(request.method, self._target(request), request.content)
        request.headers["Authorization"] = f"Munge {self._credential(said)}"
        yield request

    def _target(self, request: httpx.Request) -> bytes:
        """Path and query as the API sees them, which knows nothing of the path that a proxy has for it."""
        before = httpx.URL(self._url).raw_path.partition(b"?")[0].rstrip(b"/")
        return request.url.raw_path.removeprefix(before)

    def _credential(self, payload: str) -> str:
        try:
            done = subprocess.run(
                ["munge", *self._options], input=payload.encode(), capture_output=True, timeout=LONGEST_S
            )
        except FileNotFoundError:
            raise MungeMissing("MUNGE's credentials are asked for, and its program munge is not installed") from None
        except OSError as error:
            raise MungeMissing(f"munge cannot be run: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise MungeFailed(f"munge made no credential within {LONGEST_S} s") from None
        if done.returncode != 0:
            raise MungeFailed(f"munge made no credential: {reason(done.stderr)}")
        return done.stdout.decode("ascii").strip()


def reason(said: bytes) -> str:
    """The last line of what one of MUNGE's programs said on standard error, without what comes before the reason."""
    *_, line = said.decode(errors="replace").strip().splitlines() or ["it did not say why"]
    return line.rpartition("Error: ")[2]
