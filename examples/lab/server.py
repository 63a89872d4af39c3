"""A box of the lab: serves the files of a folder to whoever knows its password.

Usage: `python3 server.py BOX`, where BOX/files is served and BOX/password must be there; writes BOX/pid and BOX/port.
GET / lists the files; GET, PUT and DELETE /name reads, writes and removes one. HTTP basic authentication, user "lab".
"""

import base64
import fcntl
import hmac
import http.server
import os
import sys
import urllib.parse
from pathlib import Path

LARGEST = 16 * 1024 * 1024  # bytes in one file


def write(path: Path, text: str) -> None:
    """Writes a whole file at once: a reader sees all of it or none."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


class Handler(http.server.BaseHTTPRequestHandler):
    files: Path
    expected: bytes  # the whole Authorization header of the one holder

    def allowed(self) -> bool:
        given = self.headers.get("Authorization", "").encode()
        if hmac.compare_digest(given, self.expected):
            return True
        self.answer(401, b"the user or the password is wrong\n", {"WWW-Authenticate": 'Basic realm="lab"'})
        return False

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def file(self) -> Path | None:
        """The file that the request names: one name, no folders, so that nobody gets out of the box's folder."""
        name = urllib.parse.unquote(self.path.partition("?")[0])[1:]
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            self.answer(400, b"a file is one name, without slashes\n")
            return None
        return self.files / name

    def do_GET(self) -> None:
        if not self.allowed():
            return
        if self.path == "/":
            names = sorted(path.name for path in self.files.iterdir())
            self.answer(200, "".join(name + "\n" for name in names).encode())
        elif path := self.file():
            try:
                self.answer(200, path.read_bytes())
            except OSError:
                self.answer(404, b"no such file\n")

    def do_PUT(self) -> None:
        if not self.allowed() or not (path := self.file()):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.answer(411, b"the length is missing\n")
            return
        if int(length) > LARGEST:
            self.answer(413, b"the file is too large\n")
            return
        try:
            path.write_bytes(self.rfile.read(int(length)))
        except OSError as error:
            self.answer(400, f"{error.strerror}\n".encode())
            return
        self.answer(204)

    def do_DELETE(self) -> None:
        if self.allowed() and (path := self.file()):
            path.unlink(missing_ok=True)
            self.answer(204)


def main() -> None:
    box = Path(sys.argv[1])
    # One server for a box: the lock ends with the process, however that ends.
    lock = os.open(box, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    write(box / "pid", str(os.getpid()))
    Handler.files = box / "files"
    password = (box / "password").read_bytes()
    Handler.expected = b"Basic " + base64.b64encode(b"lab:" + password)
    # Port 0: the system picks one that is free.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    write(box / "port", str(server.server_port))
    server.serve_forever()


if __name__ == "__main__":
    main()
