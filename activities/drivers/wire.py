"""What a worker and its supervisor say to each other, over a socket pair of type SOCK_SEQPACKET.

Each message is one small packet of JSON. What is large or secret about a hook (environment, arguments, lease) travels
beside it in an anonymous file whose descriptor goes along, so no packet is ever cut, nothing shows on a command line,
and one big request does not hold up the others. Standard library only, and light: the supervisor imports this.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

PACKET_LIMIT = 64 * 1024
"""No packet is larger, in bytes."""

DETAIL_LIMIT = 4096
"""No text inside a packet is longer, in characters."""

EXITED, SIGNALLED, TIMED_OUT, NOT_STARTED = "exited", "signalled", "timed_out", "not_started"
"""How a hook ended, with the values of `leasehold.ports.Ending`."""

CANCELLED = "cancelled"
"""It was stopped because somebody asked for that, or never started for the same reason."""

UNABLE = "unable"
"""The supervisor could not do its part (no lock file, no process); not the hook's fault."""

_TRY_LATER = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})
"""The receiver is behind: packets, memory or descriptors in flight are at their limit."""


class Start(NamedTuple):
    """One hook to start: `timeout` in seconds, `locks` safe file names in their order, `folder` absolute.

    With an empty `lease_file` it has none. `account` is as whom it runs, None as the worker. A `thorough` one ends with
    all that has its mark, also in other sessions. `grace` are seconds from SIGTERM to SIGKILL, None as usual.
    """

    run: str
    argv: list[str]
    env: dict[str, str]
    folder: str
    timeout: float
    locks: list[str]
    lease_file: bytes
    account: str | None = None
    thorough: bool = False
    grace: float | None = None


class Ended(NamedTuple):
    """How a run ended: `code` is the exit status or the signal's number, `detail` says why it did not start."""

    how: str
    code: int | None = None
    detail: str = ""


def pack(start: Start) -> int:
    """Return the descriptor of an anonymous file that holds `start`; raise OSError if there can be none."""
    fields = start._asdict()
    lease_file = fields.pop("lease_file")
    fd = os.memfd_create("hook", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(json.dumps(fields).encode() + b"\n" + lease_file)
    return fd


def unpack(fd: int) -> Start:
    """Return what `pack` wrote, and close the descriptor."""
    with open(fd, "rb") as file:
        # The sender's position came along with the descriptor.
        file.seek(0)
        return Start(**json.loads(file.readline()), lease_file=file.read())


class Outbox:
    """Packets on their way into a non-blocking socket, in order. It owns the descriptors that go with them."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: deque[tuple[bytes, Sequence[int]]] = deque()

    def put(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Take a message in; `flush` sends it."""
        self._waiting.append((json.dumps(message).encode(), descriptors))

    def flush(self) -> bool:
        """Send what the socket takes; return whether all is out. What a closed socket refuses is dropped."""
        while self._waiting:
            data, descriptors = self._waiting[0]
            try:
                socket.send_fds(self._channel, [data], descriptors)
            except OSError as error:
                if error.errno in _TRY_LATER:
                    return False
                # The reading side will see the end of the connection; what matters is to leak nothing.
            self._waiting.popleft()
            close_all(descriptors)
        return True


def close_all(descriptors: Sequence[int]) -> None:
    """Close these descriptors."""
    for fd in descriptors:
        os.close(fd)
