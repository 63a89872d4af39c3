"""Processes beside those of the stack."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress

import httpx

from tests.e2e.lab import until
from tests.stack import ROOT, STOPPED_WITHIN_S, Stack, free_ports


class Api:
    """One more process of the API on the same data: any number of them may run."""

    def __init__(self, stack: Stack) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**stack.environment, "LEASEHOLD_API_PORT": str(port)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "api"], cwd=ROOT, env=self._environment, stderr=subprocess.DEVNULL
        )
        until(self._answers, "the other API answers")

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(STOPPED_WITHIN_S)
