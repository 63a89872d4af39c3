"""The pulse of a lease: heartbeats, sent beside whatever else a command does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from leasehold import durations
from leasehold.answers import Lease
from leasehold.cli.connect import connect
from leasehold.cli.output import note, one_line
from leasehold.cli.words import name_of, standing
from leasehold.errors import Conflict, LeaseholdError
from leasehold.model import OVER

if TYPE_CHECKING:
    from leasehold.client import Client

_SLOWEST_ANSWER_S = 30.0

Tell = Callable[[str], None]


class Pulse:
    """Sends a heartbeat at once and then each third of `every`, in one thread, until stopped or the lease is over.

    One that fails is sent again soon, for as long as it takes: only the service knows whether the lease is lost.
    """

    def __init__(self, lease: Lease, every: timedelta) -> None:
        self._lease = lease
        self._every = every
        self._third_s = every.total_seconds() / 3
        self._heard = time.monotonic()
        self._silence_told = False
        self._stopped = threading.Event()
        self._meeting = threading.Lock()
        self._tell: Tell | None = None
        self._over: str | None = None
        threading.Thread(target=self._run, name="heartbeats", daemon=True).start()

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()

    def when_over(self, tell: Tell) -> None:
        """Have `tell` called with why the lease is over, once, as soon as a heartbeat has learned it."""
        with self._meeting:
            self._tell, over = tell, self._over
        if over is not None:
            tell(over)

    def _run(self) -> None:
        timeout = timedelta(seconds=min(self._third_s, _SLOWEST_ANSWER_S))
        # That of an earlier request with the same key may be due soon.
        pause = 0.0
        with connect(patience=timedelta(0), timeout=timeout) as client:
            while not self._stopped.wait(pause):
                pause = self._beat(client)

    def _beat(self, client: Client) -> float:
        """Send a heartbeat, and return in how many seconds the next one is due."""
        sent = time.monotonic()
        try:
            self._lease = client.heartbeat(self._lease["id"])
        except Conflict as error:
            self._end(self._why_over(client, error))
            return 0.0
        except LeaseholdError as error:
            self._missed(error)
            return self._third_s / 4
        if self._lease["state"] in OVER:
            self._end(f"Lease {name_of(self._lease)} is {standing(self._lease)}")
            return 0.0
        self._heard, self._silence_told = sent, False
        return self._third_s

    def _missed(self, error: LeaseholdError) -> None:
        """Say so, once, when the service has heard nothing for so long that the lease may be lost."""
        if not self._silence_told and time.monotonic() - self._heard > self._every.total_seconds():
            self._silence_told = True
            silence = f"no heartbeat has come through for {durations.render(self._every)} ({error.detail})"
            note(one_line(f"Lease {name_of(self._lease)} may be lost: {silence}"))

    def _why_over(self, client: Client, refusal: Conflict) -> str:
        try:
            found = client.lease(self._lease["id"])
        except LeaseholdError:
            found = self._lease
        # A lease that is lost may show it only a moment later.
        why = f" is {standing(found)}" if found["state"] in OVER else f": {refusal.detail}"
        return f"Lease {name_of(found)}{why}"

    def _end(self, why: str) -> None:
        self.stop()
        with self._meeting:
            self._over, tell = why, self._tell
        if tell is not None:
            tell(why)
