"""The driver `http`: a hook is a request to a server, and perhaps the wait for what it has set going."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

from activities.drivers.exchange import POLL_LIMIT, Exchange
from activities.drivers.remote import Remote
from leasehold.ports import HookCall, HookResult, LogSink


class HttpDriver:
    """Runs hooks as requests over HTTP (`leasehold.ports.Driver`), with locks and `kill_grace` as `Remote` has them.

    After `poll_limit` without an answer a poll is given up and the next one made.
    """

    def __init__(self, lock_folder: Path, kill_grace: timedelta, poll_limit: timedelta = POLL_LIMIT) -> None:
        self._remote, self._poll_limit = Remote(lock_folder, kill_grace), poll_limit
        for name in ("httpx", "httpcore"):
            # They would log whole URLs and headers, tokens among them.
            logging.getLogger(name).setLevel(logging.WARNING)

    async def run(self, call: HookCall, log: LogSink) -> HookResult | None:
        """Run a hook as `Remote.run` does. Cancelled, it closes its connection at once."""
        return await self._remote.run(call, log, lambda note: Exchange(call, note, self._poll_limit))
