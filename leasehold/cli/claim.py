"""A lease on its way from the request to its holder, which can be given back at every moment of that way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from leasehold import durations
from leasehold.answers import Lease, reached
from leasehold.cli.connect import connect
from leasehold.cli.pulse import Pulse
from leasehold.cli.request import LeaseRequest
from leasehold.cli.words import name_of
from leasehold.errors import Unavailable

if TYPE_CHECKING:
    from leasehold.client import Client

_FIRST_WAIT = timedelta(seconds=1)
_LAST_PATIENCE = timedelta(seconds=30)


class Claim:
    """One request's lease. `lease` is None until the API has answered, though it may have been made already.

    Where the request asks for heartbeats they are sent from then on, until the block that it is entered for ends.
    """

    def __init__(self, client: Client, request: LeaseRequest) -> None:
        self._client = client
        self._request = request
        self._may_exist = False
        self._pulse: Pulse | None = None
        self.lease: Lease | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_pulse()

    def submit(self, wait: bool) -> Lease:
        """Ask for the lease; with `wait` for a moment, because a free resource without stages comes at once."""
        self._may_exist = True
        try:
            self.lease = self._submit(self._client, wait)
        except Unavailable as error:
            from leasehold.wire import never_sent

            self._may_exist = not never_sent(error)
            raise
        except Exception:
            self._may_exist = False
            raise
        if self._request.heartbeat is not None and not reached(self.lease, "ended"):
            self._pulse = Pulse(self.lease, durations.parse(self._request.heartbeat))
        return self.lease

    def when_over(self, tell: Callable[[str], None]) -> None:
        """Have `tell` called with why the lease is over, should a heartbeat learn that it is."""
        if self._pulse is not None:
            self._pulse.when_over(tell)

    def wait(self, timeout: timedelta | None, show: Callable[[Lease], None]) -> Lease:
        """Wait until the lease is active, has ended, or `timeout`; tell `show` how it stands meanwhile."""
        first = self.submit(wait=True)
        show(first)
        if reached(first, "active"):
            return first
        for lease in self._client.watch(first["id"], "active", timeout=timeout, tick=_FIRST_WAIT):
            self.lease = lease
            show(lease)
        if "token" in first:
            lease["token"] = first["token"]
        return lease

    def give_back(self) -> Lease | None:
        """Release the lease, or cancel it where it is not active yet; raise `Unavailable` if that cannot be done.

        Uses a connection of its own: a signal may have broken into anything.
        """
        self._stop_pulse()
        if not self._may_exist:
            return None
        # Where no answer came, the same key names the lease that was made, if one was.
        patience = _LAST_PATIENCE if self.lease else timedelta(seconds=1)
        with connect(patience) as client:
            lease = self.lease or self._submit(client, wait=False)
            return client.release(lease["id"]) if lease["state"] == "active" else client.cancel(lease["id"])

    def what_is_left(self) -> str | None:
        """Say what there may be of the lease after an error that ends the waiting, but not the lease."""
        if self.lease is not None:
            return f"Lease {name_of(self.lease)} stays as it is: leasehold show {name_of(self.lease)}"
        if self._may_exist:
            return f"The lease may have been made all the same: the same command with --key {self._request.key} tells"
        return None

    def _stop_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.stop()

    def _submit(self, client: Client, wait: bool) -> Lease:
        return client.submit(
            **self._request.asked,
            idempotency_key=self._request.key,
            wait="active" if wait else None,
            timeout=_FIRST_WAIT,
        )
