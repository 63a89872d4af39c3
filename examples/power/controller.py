"""The power controller of this example: switches outlets, which takes a second, for whoever has its token.

Usage: `python3 controller.py STATE`, where STATE/token must be there; writes STATE/pid and STATE/port.
PUT /outlets/N {"power": "on"|"off"} answers 202 with a task; GET /tasks/N, /outlets/N and /outlets/N/console.
"""

import hmac
import http.server
import json
import os
import re
import sys
import time
from pathlib import Path

SWITCHING_S = 1.0
LONGEST = 64 * 1024  # bytes in one request's body


def write(path: Path, text: str) -> None:
    """Writes a whole file at once: a reader sees all of it or none."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


class Handler(http.server.BaseHTTPRequestHandler):
    token: bytes
    # One task for each switching: which outlet, to what, and when it will be done.
    tasks: list[tuple[str, str, float]] = []  # noqa: RUF012

    def answer(self, status: int, content: object) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self) -> bool:
        given = self.headers.get("Authorization", "").encode()
        if hmac.compare_digest(given, b"Bearer " + self.token):
            return True
        self.answer(401, {"error": "the token is wrong"})
        return False

    def power(self, outlet: str) -> str:
        """What the outlet's last switching has come to."""
        now = time.monotonic()
        return next((power for name, power, done in reversed(self.tasks) if name == outlet and done <= now), "off")

    def do_PUT(self) -> None:
        path = re.fullmatch(r"/outlets/(\d{1,3})", self.path)
        if not self.allowed():
            return
        length = self.headers.get("Content-Length", "")
        if path is None or not length.isdecimal() or int(length) > LONGEST:
            self.answer(404 if path is None else 413, {"error": "there is no such outlet, or too much to read"})
            return
        try:
            power = json.loads(self.rfile.read(int(length)))["power"]
        except (ValueError, KeyError, TypeError):
            power = None
        if power not in ("on", "off"):
            self.answer(422, {"error": "power is on or off"})
            return
        self.tasks.append((path[1], power, time.monotonic() + SWITCHING_S))
        self.answer(202, {"task": len(self.tasks) - 1})

    def do_GET(self) -> None:
        if not self.allowed():
            return
        if (task := re.fullmatch(r"/tasks/(\d{1,9})", self.path)) and int(task[1]) < len(self.tasks):
            done = self.tasks[int(task[1])][2] <= time.monotonic()
            self.answer(200, {"state": "done" if done else "running"})
        elif outlet := re.fullmatch(r"/outlets/(\d{1,3})", self.path):
            self.answer(200, {"outlet": int(outlet[1]), "power": self.power(outlet[1])})
        elif outlet := re.fullmatch(r"/outlets/(\d{1,3})/console", self.path):
            self.answer(200, f"CONSOLE=telnet 127.0.0.1 {7000 + int(outlet[1])}\n")
        else:
            self.answer(404, {"error": "there is no such thing"})


def main() -> None:
    state = Path(sys.argv[1])
    write(state / "pid", str(os.getpid()))
    Handler.token = (state / "token").read_bytes()
    # Port 0: the system picks one that is free.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    write(state / "port", str(server.server_port))
    server.serve_forever()


if __name__ == "__main__":
    main()
