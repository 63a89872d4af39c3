"""A small server that behaves like Foreman's API as far as installing machines goes.

Its answers have the shape of Foreman's: https://apidocs.theforeman.org, `hosts`. A machine is installed once it was
told to build and has then been started from the network.
"""

from __future__ import annotations

import contextlib
import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INSTALLED, PENDING, FAILED = 0, 1, 3
LABELS = {INSTALLED: "Installed", PENDING: "Pending installation", FAILED: "Installation error"}


@dataclass
class Host:
    """One machine that Foreman knows; `starts` tells whether it is on, and was started from the network."""

    starts: Callable[[], bool]
    works: bool = True
    build: bool = False
    installed: bool = False
    failed: bool = False
    comment: str | None = None
    builds: int = 0

    def tell(self, wanted: Mapping[str, Any]) -> None:
        """Change it as a PUT says."""
        if wanted.get("build"):
            self.build, self.failed = True, False
            self.builds += 1
        self.comment = wanted.get("comment", self.comment)

    def look(self) -> int:
        """The status of its build; an installation goes on meanwhile."""
        if self.build and self.starts():
            self.build, self.installed, self.failed = False, self.works, not self.works
            return PENDING
        return PENDING if self.build else FAILED if self.failed else INSTALLED


@dataclass
class Foreman:
    """The server's state; `login` is `user:token`."""

    login: str
    hosts: dict[str, Host] = field(default_factory=dict)
    url: str = ""

    def answer(self, method: str, path: str, login: str | None, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the body of an answer."""
        if login != f"Basic {b64encode(self.login.encode()).decode()}":
            return 401, {"error": {"message": "Unable to authenticate user"}}
        name, _, rest = path.removeprefix("/api/hosts/").partition("/")
        host = self.hosts.get(name)
        if host is None or rest not in ("", "status/build"):
            return 404, {"error": {"message": f"Resource host not found by id '{name}'"}}
        if method == "PUT":
            host.tell(json.loads(body)["host"])
        elif rest:
            status = host.look()
            return 200, {"status": status, "status_label": LABELS[status]}
        return 200, {"name": name, "build": host.build, "comment": host.comment}


@contextlib.contextmanager
def serving(foreman: Foreman) -> Iterator[Foreman]:
    """Have it answer on a port of its own until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, found = foreman.answer(self.command, self.path, self.headers.get("Authorization"), body)
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        foreman.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield foreman
        finally:
            server.shutdown()
            thread.join()
