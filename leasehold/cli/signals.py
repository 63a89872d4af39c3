"""What happens when somebody stops a command: nothing may be left behind that nobody holds."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
FORWARDED = (*STOPPING, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """A signal asks this process to stop. Not an `Exception`, as `KeyboardInterrupt` is none."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Signals:
    """While entered, decides where signals go: they raise `Interrupted` once, are held back, or are forwarded.

    Signals that the caller had ignored (`nohup`, `cmd &` in a script) stay ignored.
    """

    def __init__(self) -> None:
        self._deliver: Callable[[int], None] = self._interrupt
        self._held: list[int] = []
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for signum in FORWARDED:
            before = signal.getsignal(signum)
            if before is not signal.SIG_IGN:
                self._before[signum] = before
                signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def hold(self) -> None:
        """From now on, keep signals back: what is being done must be finished."""
        self._deliver = self._held.append

    def forward(self, to: Callable[[int], None]) -> None:
        """From now on, and with those held back, hand signals to `to`."""
        self._deliver = to
        while self._held:
            to(self._held.pop(0))

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        self._deliver(signum)

    def _interrupt(self, signum: int) -> None:
        # The second one must not break into what the first one made us clean up.
        if signum in STOPPING:
            self.hold()
            raise Interrupted(signum)
