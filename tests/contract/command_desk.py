"""A service for runners in memory, for tests: it has commands, takes their output, and can be away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from leasehold.commands import BATCH_LIMIT, FRAME_LIMIT, Begun, Frame, RunnerHost, Stream, frames
from leasehold.errors import CommandOver, LeaseholdError, LeaseUnknown, Malformed, Unavailable

OUTPUT_LIMIT = 64 * 1024 * 1024


def command(lease: str = "lease-1", *argv: str, **more: Any) -> Begun:
    """A command as the service tells it; `more` are other fields than usual."""
    usual: dict[str, Any] = {
        "number": 1,
        "owner": "joe",
        "pool": "r640",
        "shell": len(argv) == 1,
        "env": {},
        "folder": None,
        "account": None,
        "timeout_s": None,
        "grace_s": 1.0,
        "output_limit": OUTPUT_LIMIT,
    }
    return Begun(**usual | more, lease=lease, argv=argv or ("true",))


@dataclass
class Desk:
    """The service (`leasehold.ports.CommandDesk`). `trouble` is raised instead of an answer while it is set."""

    commands: dict[str, Begun] = field(default_factory=dict)
    trouble: LeaseholdError | None = None
    pause_s: float = 0.0
    packed: dict[tuple[str, int], bytearray] = field(default_factory=dict)
    begun: list[tuple[str, str, int]] = field(default_factory=list)
    hosts: list[RunnerHost] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    calls: int = 0

    def with_command(self, begun: Begun) -> Desk:
        """The same with one more command."""
        self.commands[begun.lease] = begun
        return self

    async def register(self, runner: str, host: RunnerHost) -> None:
        self._check()
        self.hosts.append(host)

    async def leave(self, runner: str, instance: str) -> None:
        self._check()
        self.left.append(instance)

    async def begin(self, runner: str, lease: str, instance: str, attempt: int) -> Begun:
        self._check()
        if lease not in self.commands:
            raise CommandOver(f"the command of lease {lease} has ended")
        self.begun.append((lease, instance, attempt))
        return self.commands[lease]

    async def put_output(self, runner: str, lease: str, attempt: int, offset: int, packed: bytes) -> int:
        await asyncio.sleep(self.pause_s)
        return self.take(lease, attempt, offset, packed)

    def take(self, lease: str, attempt: int, offset: int, packed: bytes) -> int:
        """Take output, which has to be whole frames."""
        self.calls += 1
        self._check()
        if lease not in self.commands:
            raise CommandOver("this runner never had that command")
        if len(packed) > BATCH_LIMIT:
            raise Malformed("too much at once")
        found = frames(packed)
        if sum(frame.size for frame in found) != len(packed) or any(len(f.data) > FRAME_LIMIT for f in found):
            raise Malformed("no whole frames")
        known = self.packed.setdefault((lease, attempt), bytearray())
        if offset == len(known):
            known += packed
        return len(known)

    def frames(self, lease: str = "lease-1", attempt: int = 1) -> list[Frame]:
        """What it has of a command's output."""
        return frames(bytes(self.packed.get((lease, attempt), b"")))

    def text(self, stream: int = Stream.STDOUT, lease: str = "lease-1", attempt: int = 1) -> bytes:
        """What it has of one stream."""
        return b"".join(frame.data for frame in self.frames(lease, attempt) if frame.stream == stream)

    def has_all(self, lease: str = "lease-1", attempt: int = 1) -> bool:
        """Whether the output has come to its end, and to nothing after it."""
        ends = [frame.stream == Stream.END for frame in self.frames(lease, attempt)]
        return sum(ends) == 1 and ends[-1]

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble


AWAY = Unavailable("the service is away")


@contextmanager
def serving(desk: Desk, port: int = 0) -> Iterator[str]:
    """Serve a desk over HTTP, as the API does; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                answer, status = self._do(url.path.split("/")[3:], parse_qs(url.query), body), 200
            except LeaseholdError as error:
                answer, status = {"code": error.code, "detail": error.detail}, error.status
            sent = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def _do(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Any:
            said = json.loads(body) if self.headers.get("Content-Type") == "application/json" else {}
            match self.command, path:
                case "PUT", [runner]:
                    said["labels"] = tuple(said["labels"])
                    asyncio.run(desk.register(runner, RunnerHost(**said)))
                    return {"name": runner, "every_s": 5.0, "silence_s": 20.0}
                case "DELETE", [runner, instance]:
                    asyncio.run(desk.leave(runner, instance))
                    return None
                case "POST", [runner, "commands", lease, "begin"]:
                    begun = asyncio.run(desk.begin(runner, lease, said["instance"], said["attempt"]))
                    return asdict(begun) | {"env": dict(begun.env)}
                case "POST", [_, "commands", lease, "output"]:
                    assert self.headers["Content-Type"] == "application/octet-stream"
                    assert int(query["now"][0]) > 10**15
                    attempt, offset = int(query["attempt"][0]), int(query["offset"][0])
                    return {"offset": desk.take(lease, attempt, offset, body)}
            raise LeaseUnknown(self.path)

        do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
