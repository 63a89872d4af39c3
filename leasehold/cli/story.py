"""What happened, told in order: pure words, made of what the API answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from leasehold.answers import Event, Lease, Run
from leasehold.cli.commandwords import ended
from leasehold.cli.output import written
from leasehold.cli.words import exact, span, wanted


class Mood(StrEnum):
    """What a line is to whoever looks for trouble."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    BUSY = "busy"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that happened; `output` are the last lines that a failed hook printed."""

    at: str
    text: str
    mood: Mood = Mood.PLAIN
    output: Sequence[str] = ()


Outputs = Mapping[int, Sequence[str]]
"""The last lines that a run printed, by its id."""


def of_lease(lease: Lease, events: Iterable[Event], runs: Iterable[Run], outputs: Outputs) -> list[Line]:
    """The story of a lease, each run of a hook told where it began."""
    return _Teller(runs, outputs, lease=lease).tell(events)


def of_resource(events: Iterable[Event], runs: Iterable[Run], outputs: Outputs, names: Mapping[str, str]) -> list[Line]:
    """The story of a resource, without the runs that went well; `names` are what people call the leases."""
    troubled = [run for run in runs if not run["ok"]]
    return _Teller(troubled, outputs, names=names).tell(events)


def failed(run: Run) -> bool:
    """Whether a hook ended without success; one that went with its worker is no result of the hook."""
    return run["ok"] is False and run["ending"] != "lost"


class _Teller:
    """Goes through the events and remembers when things began, to say how long they took."""

    def __init__(
        self,
        runs: Iterable[Run],
        outputs: Outputs,
        *,
        lease: Lease | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._runs = {run["id"]: run for run in runs}
        self._outputs = outputs
        self._lease = lease
        self._names = names
        self._since: dict[str, datetime] = {}

    def tell(self, events: Iterable[Event]) -> list[Line]:
        """A line for each event that is worth one."""
        told = []
        for event in events:
            how: Callable[[Event], Line | None] = getattr(self, f"tell_{event['kind']}", self._other)
            line = how(event)
            if line is not None:
                told.append(line)
        return told

    # What happens to a lease

    def tell_lease_queued(self, event: Event) -> Line:
        self._note(event, "queued")
        why = f": {event['reason']}" if event["reason"] else ""
        return Line(at=event["at"], text=f"{self._requested(event)}; queued{why}", mood=Mood.BUSY)

    def tell_lease_reserved(self, event: Event) -> Line:
        self._note(event, "queued")
        promised = f", promised {_resources(event)}" if _resources(event) else ""
        return Line(at=event["at"], text=f"{self._requested(event)}; {event['reason']}{promised}", mood=Mood.BUSY)

    def tell_lease_promised(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"promised {_resources(event)} instead{_why(event)}")

    def tell_lease_preparing(self, event: Event) -> Line:
        self._note(event, "granted")
        what = f"granted {_resources(event)}"
        if "number" in event["data"]:
            return Line(at=event["at"], text=f"{self._requested(event)}; {what}")
        return Line(at=event["at"], text=f"{what}{self._after(event, 'queued', ' in the queue')}")

    def tell_lease_refused(self, event: Event) -> Line:
        text = f"{self._requested(event)}; refused: {event['reason']} ({event['data'].get('code')})"
        return Line(at=event["at"], text=text, mood=Mood.BAD)

    def _requested(self, event: Event) -> str:
        what = f": {wanted(self._lease['items'])}" if self._lease else ""
        return f"requested{_by(event)}{what}"

    def tell_lease_active(self, event: Event) -> Line:
        self._note(event, "active")
        until = exact(event["data"].get("expires_at"))
        text = f"delivered{self._after(event, 'granted', ' of preparation')}; lent until {until}"
        return Line(at=event["at"], text=text, mood=Mood.GOOD)

    def tell_lease_replaced(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"granted {_resources(event)} in the stead of what failed")

    def tell_lease_blocked(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"waits{_why(event)}", mood=Mood.BUSY)

    def tell_lease_grown(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"given {_resources(event)} more{_by(event)}")

    def tell_lease_shrunk(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}given back{_by(event)}{_why(event)}")

    def tell_lease_resource_ready(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}delivered", mood=Mood.GOOD)

    def tell_lease_expiring(self, event: Event) -> Line:
        left = span(event["data"].get("left_s", 0))
        text = f"warned: it ends at {exact(event['data'].get('expires_at'))}, in {left}"
        return Line(at=event["at"], text=text, mood=Mood.BUSY)

    def tell_lease_grace(self, event: Event) -> Line:
        text = f"expired, and can be extended until {exact(event['data'].get('until'))}"
        return Line(at=event["at"], text=text, mood=Mood.BUSY)

    def tell_lease_extended(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"extended{_by(event)} until {exact(event['data'].get('expires_at'))}")

    def tell_lease_releasing(self, event: Event) -> Line:
        self._note(event, "releasing")
        return self._end(event)

    def tell_lease_ended(self, event: Event) -> Line:
        if "releasing" not in self._since:
            return self._end(event)
        took = self._took(event, "releasing") or 0
        return Line(
            at=event["at"], text=f"ended, {span(took)} later, when its hooks had stopped" if took >= 1 else "ended"
        )

    def _end(self, event: Event) -> Line:
        outcome, error = event["data"].get("outcome"), event["data"].get("error")
        why = f": {error['detail']} ({error['code']})" if error else _why(event)
        held = self._after(event, "active", "")
        return Line(
            at=event["at"],
            text=f"{outcome}{held}{_by(event)}{why}",
            mood=Mood.BAD if outcome in ("failed", "lost") else Mood.PLAIN,
        )

    # What happens to a resource

    def tell_resource_leased(self, event: Event) -> Line | None:
        if self._names is None:
            # The grant has told it.
            return None
        return Line(at=event["at"], text=f"leased to {self._name(event)}")

    def tell_resource_recycling(self, event: Event) -> Line:
        self._note(event, _where(event))
        after = f" after {self._name(event)}" if self._names is not None else ""
        return Line(at=event["at"], text=f"{self._place(event)}recycling{after}", mood=Mood.BUSY)

    def tell_resource_creating(self, event: Event) -> Line:
        self._note(event, f"{_where(event)} made")
        return Line(at=event["at"], text=f"{self._place(event)}being created", mood=Mood.BUSY)

    def tell_creation_failed(self, event: Event) -> Line:
        self._took(event, f"{_where(event)} made")
        return Line(at=event["at"], text=f"{self._place(event)}not created{_why(event)}", mood=Mood.BAD)

    def tell_resource_free(self, event: Event) -> Line:
        if made := self._after(event, f"{_where(event)} made", ""):
            return Line(at=event["at"], text=f"{self._place(event)}created{made}", mood=Mood.GOOD)
        return Line(
            at=event["at"], text=f"{self._place(event)}free again{self._after(event, _where(event), ' of recycling')}"
        )

    def tell_resource_deleting(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}being deleted{_why(event)}", mood=Mood.BUSY)

    def tell_deletion_failed(self, event: Event) -> Line:
        text = f"{self._place(event)}not deleted, which is tried again{_why(event)}"
        return Line(at=event["at"], text=text, mood=Mood.BAD)

    def tell_livecheck_failed(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}its livecheck failed{_why(event)}", mood=Mood.BAD)

    def tell_resource_alive(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}alive again", mood=Mood.GOOD)

    def tell_lease_degraded(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}dead{_why(event)}", mood=Mood.BAD)

    def tell_not_replaced(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}not replaced yet{_why(event)}", mood=Mood.BUSY)

    def tell_resource_broken(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}broken{_why(event)}", mood=Mood.BAD)

    def tell_resource_offline(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}marked offline{_by(event)}{_why(event)}", mood=Mood.BAD)

    def tell_resource_online(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}marked online{_by(event)}")

    def tell_resource_repaired(self, event: Event) -> Line:
        return Line(at=event["at"], text=f"{self._place(event)}sent to repair{_by(event)}")

    # Runs of hooks

    def tell_command_started(self, event: Event) -> Line:
        self._note(event, "command")
        attempt = event["data"].get("attempt", 1)
        again = f", attempt {attempt}" if attempt > 1 else ""
        return Line(at=event["at"], text=f"command started on {event['data'].get('runner')}{again}", mood=Mood.BUSY)

    def tell_command_lost(self, event: Event) -> Line:
        after = self._after(event, "command", "")
        return Line(at=event["at"], text=f"command lost{after}{_why(event)}; it is run again", mood=Mood.BAD)

    def tell_command_ended(self, event: Event) -> Line:
        said = event["data"]
        code = said.get("code")
        how = ended(said.get("result"), code, started=said.get("started", False), detail=event["reason"])
        mood = Mood.GOOD if said.get("result") == "exited" and code == 0 else Mood.BAD
        return Line(at=event["at"], text=f"command ended{self._after(event, 'command', '')}: {how}", mood=mood)

    def tell_stage_started(self, event: Event) -> Line | None:
        run = self._runs.get(event["data"].get("run", 0))
        if run is None:
            return self._other(event) if self._names is None else None
        text, mood = _run(run)
        return Line(
            at=run["started_at"],
            text=f"{self._place(event)}{text}",
            mood=mood,
            output=self._outputs.get(run["id"], ()),
        )

    def tell_stage_ended(self, event: Event) -> None:
        """Told where it began."""

    def tell_stage_lost(self, event: Event) -> None:
        """Told where it began."""

    def _other(self, event: Event) -> Line:
        """What has no words of its own yet."""
        data = " ".join(f"{key}={written(value)}" for key, value in event["data"].items())
        what = event["kind"].removeprefix("lease_").removeprefix("resource_").replace("_", " ")
        text = f"{self._place(event)}{what}{_by(event)}{_why(event)}"
        return Line(at=event["at"], text=f"{text} ({data})" if data else text)

    # Words

    def _place(self, event: Event) -> str:
        """Where something happened, as far as that needs saying."""
        return f"{_where(event)}: " if self._names is None and event["resource"] else ""

    def _name(self, event: Event) -> str:
        lease = event["lease"] or "nobody"
        return (self._names or {}).get(lease, f"lease {lease}")

    def _note(self, event: Event, what: str) -> None:
        self._since[what] = datetime.fromisoformat(event["at"])

    def _after(self, event: Event, what: str, doing: str) -> str:
        """How long after the beginning of something its end came, in words; none where that is not known."""
        took = self._took(event, what)
        return "" if took is None else f" after {span(took)}{doing}"

    def _took(self, event: Event, what: str) -> float | None:
        since = self._since.pop(what, None)
        return None if since is None else (datetime.fromisoformat(event["at"]) - since).total_seconds()


def _run(run: Run) -> tuple[str, Mood]:
    """A run of a hook in words: `provision, attempt 1 failed after 2m 1s: exited with status 3 (run 17)`."""
    what = run["stage"] if run["hook"] == 0 else f"{run['stage']}, hook {run['hook'] + 1}"
    if run["seconds"] is None:
        return f"{what}, attempt {run['attempt']} is running on {run['host']} (run {run['id']})", Mood.BUSY
    if run["ok"]:
        again = f", attempt {run['attempt']}" if run["attempt"] > 1 else ""
        return f"{what}{again} ok, took {span(run['seconds'])}", Mood.GOOD
    how = f"lost on {run['host']}" if run["ending"] == "lost" else "failed"
    text = f"{what}, attempt {run['attempt']} {how} after {span(run['seconds'])}: {run['detail']} (run {run['id']})"
    return text, Mood.BAD


def _where(event: Event) -> str:
    return "/".join(filter(None, (event["pool"], event["resource"])))


def _resources(event: Event) -> str:
    return ", ".join(event["data"].get("resources", ()))


def _by(event: Event) -> str:
    return f" by {event['actor']}" if event["actor"] else ""


def _why(event: Event) -> str:
    return f": {event['reason']}" if event["reason"] else ""


def leases_by_id(leases: Iterable[Any]) -> dict[str, str]:
    """What people call each lease: `lease 41 of alice`."""
    return {lease["id"]: f"lease {lease['number']} of {lease['owner']}" for lease in leases}
