"""Proves that a box of the lab is as it should be, and says what it found.

Usage: `python3 login.py BOX`: its holder gets in and can write, and nobody else gets in.
`python3 login.py BOX --closed`: nothing listens on its port.
"""

import base64
import http.client
import socket
import sys
from pathlib import Path

SECONDS = 5


def status(port: int, method: str, path: str, password: str | None, body: bytes = b"") -> int:
    """Makes one request as user "lab" with this password, or as nobody, and returns the answer's status."""
    headers = {}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"lab:{password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def closed(port: int) -> list[str]:
    with socket.socket() as probe:
        probe.settimeout(SECONDS)
        return ["something still listens"] if probe.connect_ex(("127.0.0.1", port)) == 0 else []


def serves(port: int, password: str) -> list[str]:
    checks = [
        ("the password is not accepted", status(port, "GET", "/", password), 200),
        ("a file cannot be written", status(port, "PUT", "/.validate", password, b"hello"), 204),
        ("a file cannot be read", status(port, "GET", "/.validate", password), 200),
        ("a file cannot be removed", status(port, "DELETE", "/.validate", password), 204),
        ("a wrong password is accepted", status(port, "GET", "/", password[::-1] + "x"), 401),
        ("no password is needed", status(port, "GET", "/", None), 401),
    ]
    return [f"{problem} (status {got})" for problem, got, wanted in checks if got != wanted]


def main() -> int:
    box = Path(sys.argv[1])
    port = 0
    try:
        port = int((box / "port").read_text())
        if "--closed" in sys.argv:
            good, problems = "nothing listens", closed(port)
        else:
            good, problems = "the login works, others are refused", serves(port, (box / "password").read_text())
    except OSError as error:
        problems = [f"no answer: {error}"]
    for line in problems or [good]:
        print(f"port {port}: {line}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
