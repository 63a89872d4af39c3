"""Machines behind BMCs that speak Redfish: sushy-tools' emulator as a process of its own, with the time it takes set.

`python -m tests.bmcs CONFIG DELAY` is that process; a change of power takes it up to DELAY seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bcrypt
import httpx

from tests.servers import Server, free_port, running

USER, PASSWORD = "leasehold", "correct:horse-bättery"
READY_S = 30.0
ROOT = Path(__file__).resolve().parent.parent


def machine_id(name: str) -> str:
    """The id of a machine with a name like host7."""
    return f"00000000-0000-4000-8000-{int(re.sub(r'[^0-9]', '', name)):012}"


class Bmcs:
    """A running emulator; `folder` has its log, and the state of its machines, which outlives it."""

    def __init__(self, server: Server, folder: Path, url: str, password: str) -> None:
        self.url = url
        self.host = url.partition("://")[2]
        self.password = password
        self._server, self._folder = server, folder

    def send(self, number: signal.Signals) -> None:
        """Send the emulator itself a signal: SIGSTOP makes it silent, SIGCONT lets it go on, SIGKILL is its death."""
        os.kill(int((self._folder / "pid").read_text()), number)

    def machine(self, name: str) -> dict[str, Any]:
        """What the BMC tells of a machine."""
        return dict(self._get(f"/redfish/v1/Systems/{machine_id(name)}").json())

    def power(self, name: str) -> str:
        """On or Off."""
        return str(self.machine(name)["PowerState"])

    def boots_from(self, name: str) -> str:
        """In Redfish's words."""
        return str(self.machine(name)["Boot"]["BootSourceOverrideTarget"])

    def asked(self, name: str) -> list[str]:
        """The resets and patches of a machine that were asked for, in their order."""
        found = re.findall(rf"(POST|PATCH) /redfish/v1/Systems/{machine_id(name)}(\S*)", self.log)
        return [f"{method} {path.rpartition('/')[2]}".strip() for method, path in found]

    @property
    def log(self) -> str:
        """What the emulator wrote."""
        return (self._folder / "server.log").read_text()

    def wait(self) -> None:
        """Return once it answers."""
        end = time.monotonic() + READY_S
        while True:
            self._server.check()
            with contextlib.suppress(httpx.TransportError):
                self._get("/redfish/v1/")
                return
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def _get(self, path: str) -> httpx.Response:
        login = (USER.encode(), self.password.encode())
        return httpx.get(f"{self.url}{path}", auth=login, verify=False, trust_env=False, timeout=READY_S)


@contextlib.contextmanager
def emulated(
    folder: Path,
    names: Sequence[str],
    *,
    on: Sequence[str] = (),
    delay: int = 1,
    password: str = PASSWORD,
    port: int | None = None,
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[Bmcs]:
    """An emulator with these machines until the block ends; those of `on` are on unless the folder knows better."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    settings: dict[str, Any] = {
        "SUSHY_EMULATOR_LISTEN_IP": "127.0.0.1",
        "SUSHY_EMULATOR_LISTEN_PORT": port,
        "SUSHY_EMULATOR_FAKE_DRIVER": True,
        "SUSHY_EMULATOR_FAKE_SYSTEMS": [_machine(name, "On" if name in on else "Off") for name in names],
        "SUSHY_EMULATOR_STATE_DIR": str(folder / "state"),
        "SUSHY_EMULATOR_AUTH_FILE": str(folder / "users"),
    }
    if certificate is not None:
        settings |= dict(zip(("SUSHY_EMULATOR_SSL_CERT", "SUSHY_EMULATOR_SSL_KEY"), map(str, certificate), strict=True))
    (folder / "config").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    (folder / "users").write_text(f"{USER}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n")
    log = folder / "log"
    log.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.bmcs", str(folder / "config"), str(delay), str(log / "pid")]
    with running(["env", f"PYTHONPATH={ROOT}", *command], folder=log, stop="KILL") as server:
        bmcs = Bmcs(server, log, f"{'https' if certificate else 'http'}://127.0.0.1:{port}", password)
        bmcs.wait()
        yield bmcs


def _machine(name: str, power: str) -> Mapping[str, Any]:
    nics = [{"mac": "00:5c:52:31:3a:9c", "ip": "172.22.0.100"}]
    return {"uuid": machine_id(name), "name": name, "power_state": power, "external_notifier": False, "nics": nics}


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=lab", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "ca.pem", folder / "key.pem"


def _serve(config: str, delay: int, pid: Path) -> None:
    from sushy_tools.emulator import main
    from sushy_tools.emulator.resources.systems import fakedriver

    # It draws how long a change takes from 1 to 11 seconds.
    fakedriver.random = SimpleNamespace(randint=lambda shortest, longest: delay)
    # Where it keeps its machines it fails now and then when two requests write at once.
    main.app.run = partial(main.app.run, threaded=False)
    pid.write_text(str(os.getpid()))
    sys.argv = ["sushy-emulator", "--config", config]
    main.main()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
