"""Hooks and commands that write down when they ran, and whether anything else touched their resource meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_HOOK = """
cd {folder}
who="$LEASEHOLD_STAGE $LEASEHOLD_POOL/$LEASEHOLD_RESOURCE ${{LEASEHOLD_LEASE:--}} $LEASEHOLD_EPOCH $LEASEHOLD_ATTEMPT"
touched="$LEASEHOLD_RESOURCE"
# For a whole lease, all that it has.
[ "$touched" ] || touched=$(grep -o '"name": "[^"]*"' "$LEASEHOLD_LEASE_FILE" | cut -d'"' -f4)
lock=9
for one in $touched; do
  mine="$LEASEHOLD_POOL.$one"
  eval "exec $lock>>\"$mine.held\""
  flock -n $lock || echo "$who began while processes of an earlier hook lived" >>faults
  newest=$(cat "$mine.epoch" 2>/dev/null || echo 0)
  [ "$LEASEHOLD_EPOCH" -ge "$newest" ] || echo "$who began after one of epoch $newest" >>faults
  # One for a whole lease goes by the newest epoch of all that the lease has.
  [ -z "$LEASEHOLD_RESOURCE" ] || {{ echo "$LEASEHOLD_EPOCH" >"$mine.epoch.$$" && mv "$mine.epoch.$$" "$mine.epoch"; }}
  lock=$((lock - 1))
done
echo "start $who" >>ledger
sleep 1000 &
{body}
echo "end $who" >>ledger
"""

_COMMAND = """
who="command $LEASEHOLD_POOL/$LEASEHOLD_RESOURCE $LEASEHOLD_LEASE 0 $LEASEHOLD_ATTEMPT"
exec 9>>"$LEASEHOLD_POOL.$LEASEHOLD_RESOURCE.held"
flock -n 9 || echo "$who began while processes of an earlier hook or command lived" >>faults
grep -qsx "start $who" ledger && echo "$who ran twice" >>faults
echo "start $who" >>ledger
sleep 1000 &
setsid sleep 1000 &
{body}
echo "end $who" >>ledger
exit {status}
"""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger: a hook that started or came to its end; `lease` is "-" where there was none.

    A command's stage is "command", and its epoch 0.
    """

    what: str
    stage: str
    resource: str
    lease: str
    epoch: int
    attempt: int


class HookLog:
    """A folder in which the hooks of pools, and the commands on what is leased, keep their ledger.

    Each holds a lock that its children inherit, and leaves a child behind that would live for a quarter of an hour: who
    finds the lock taken runs beside what an earlier hook left. The kernel lets go of it only with the last of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hook(self, body: str = ":") -> str:
        """A hook for the pools file that does `body`."""
        return _HOOK.format(folder=self.folder, body=body)

    def command(self, body: str, status: int) -> str:
        """A command for this folder that does `body`, and ends with a status."""
        return _COMMAND.format(body=body, status=status)

    @property
    def entries(self) -> list[Entry]:
        """What the hooks have written, in order."""
        lines = (line.split() for line in self._lines("ledger"))
        return [Entry(w, s, r, lease, int(epoch), int(attempt)) for w, s, r, lease, epoch, attempt in lines]

    @property
    def faults(self) -> list[str]:
        """What the hooks have seen that must not be."""
        return self._lines("faults")

    def started(self, stage: str, lease: str) -> bool:
        """Whether a stage of a lease has begun."""
        return any((e.what, e.stage, e.lease) == ("start", stage, lease) for e in self.entries)

    def attempts(self, what: str, lease: str) -> list[int]:
        """The attempts of a lease's command that have begun ("start"), or come to their end ("end"), in order."""
        return [e.attempt for e in self.entries if (e.what, e.stage, e.lease) == (what, "command", lease)]

    def _lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []
