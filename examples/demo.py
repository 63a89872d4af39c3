"""`make demo`: one lease after another on three real resources, in less than a minute, leaving nothing running.

It starts a stack of its own beside whatever runs here, does what a user would do, and checks every claim that it
makes. The exit status is 0 only if all of them were true. With `--pause` it waits before it cleans up, so that the
links into Temporal's UI can be followed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import httpx
from narrator import STAGES, Narrator, Untrue
from rich.markup import escape

from leasehold.answers import Delivered, Event
from leasehold.client import Client
from leasehold.errors import LeaseholdError
from tests.stack import Stack, StackError, all_processes, kill

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 60
NOTE = "note.txt"
SECRET = b"the first holder's secret\n"


class Stopped(BaseException):
    """Somebody asked the demo to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Access:
    """What the holder of a box was given to connect."""

    box: str
    url: str
    user: str
    password: str

    @staticmethod
    def of(delivered: Delivered) -> Access:
        """Read what the lab's `deliver.sh` printed."""
        values = dict(line.split("=", 1) for line in (delivered["data"] or "").splitlines())
        return Access(delivered["name"], values["URL"], values["USER"], values["PASSWORD"])

    def ask(self, method: str, name: str = "", content: bytes = b"", password: str | None = None) -> httpx.Response:
        """One request to the box, with the delivered password or another one."""
        login = (self.user, self.password if password is None else password)
        return httpx.request(method, f"{self.url}/{name}", content=content, auth=login, timeout=5, trust_env=False)

    def opens(self) -> bool:
        """Whether address and password still let anybody in. The port may have gone to another server."""
        try:
            return self.ask("GET").status_code == 200
        except httpx.TransportError:
            return False


class Demo:
    """The play, scene by scene. Each scene finds what the ones before it left."""

    def __init__(self, narrator: Narrator, stack: Stack, client: Client, folder: Path) -> None:
        self.narrator, self.stack, self.client, self.folder = narrator, stack, client, folder
        self.first, self.second, self.third = "1", "2", "3"

    def run(self) -> None:
        """Play all of it. Raises `Untrue`."""
        self.apply()
        access = self.take()
        self.use(access)
        very, spare = access[0].box, ({"box1", "box2", "box3"} - {a.box for a in access}).pop()
        self.wait(very, spare)
        self.extend()
        self.hand_over(access, {very, spare})
        self.cancel()
        self.give_back()
        self.tell()

    def type(self, *arguments: str) -> str:
        """Run a `leasehold` command as a user would, before everyone's eyes."""
        self.narrator.command(" ".join(["leasehold", *arguments]))
        printed = self.stack.leasehold(*arguments, folder=self.folder)
        self.narrator.output(printed)
        return printed.strip()

    def apply(self) -> None:
        """A lab of three boxes."""
        self.narrator.chapter("A lab of three boxes, described in one file")
        self.type("apply", "-f", "examples/lab/pools.yaml")
        found = self.client.available("lab")
        self.narrator.check("three boxes are free", found["free"] == found["total"] == 3, found)

    def take(self) -> list[Access]:
        """The first lease, with its stages as they run."""
        self.narrator.chapter("The first lease takes two of them")
        self.narrator.command("leasehold take lab -n 2 --for 10m")
        submitted = self.client.submit([{"pool": "lab", "count": 2}], duration="10m")
        lease, seen = self.narrator.progress(lambda: self.client.lease(submitted["id"]))
        self.first = lease["id"]
        self.narrator.check("the lease is active", lease["state"] == "active", lease["error"] or lease["state"])
        boxes = {box["name"] for box in lease["resources"]}
        self.narrator.check("it has two boxes", len(boxes) == 2, boxes)
        self.narrator.check("the stages of both were seen live", {box for box, _ in seen} == boxes, seen)
        ended = {(e["resource"], e["data"]["stage"]) for e in self.events(self.first) if e["kind"] == "stage_ended"}
        wanted = {(box, name) for box in boxes for name in STAGES}
        self.narrator.check(f"each went through {', '.join(STAGES)}", ended == wanted, ended)
        return [Access.of(delivered) for delivered in self.client.delivery(self.first)["resources"]]

    def use(self, access: list[Access]) -> None:
        """What was delivered opens the boxes."""
        self.narrator.chapter("Its holder logs in with what was delivered")
        for one, other in zip(access, reversed(access), strict=True):
            self.narrator.command(f"curl -u {one.user}:{one.password[:4]}… {one.url}/")
            empty = one.ask("GET")
            self.narrator.check(f"{one.box} lets its holder in", (empty.status_code, empty.text) == (200, ""), empty)
            stranger = one.ask("GET", password=other.password).status_code
            self.narrator.check(f"{one.box} does not take the password of {other.box}", stranger == 401, stranger)
        very = access[0]
        self.narrator.command(f"curl -u {very.user}:{very.password[:4]}… -T {NOTE} {very.url}/{NOTE}")
        very.ask("PUT", NOTE, SECRET)
        self.narrator.check(f"a file lies on {very.box} now", very.ask("GET", NOTE).content == SECRET)

    def wait(self, very: str, spare: str) -> None:
        """The second lease has to wait, and is told why."""
        self.narrator.chapter("A second lease for two has to wait")
        self.narrator.say(f"It wants {very}, where the file lies, and {spare}, which is free.")
        self.second = self.type("take", "lab", "-n", "2", "--name", very, "--name", spare, "--for", "10m", "--no-wait")
        lease = self.client.lease(self.second)
        place = lease["queue"]
        self.narrator.check("it is queued", lease["state"] == "queued" and place is not None, lease["state"])
        assert place is not None
        self.narrator.say(f"  Position {place['position']}: {place['reason']}.")
        self.narrator.check(
            "it knows its position and the reason", place["position"] == 1 and bool(place["reason"]), place
        )
        state = self.client.resource("lab", spare)["state"]
        self.narrator.check(f"it holds nothing while it waits: {spare} is still free", state == "free", state)

    def extend(self) -> None:
        """More time for the first."""
        self.narrator.chapter("The first needs more time")
        before = _time(self.client.lease(self.first)["expires_at"])
        self.type("extend", self.name(self.first), "--by", "5m")
        longer = _time(self.client.lease(self.first)["expires_at"]) - before
        self.narrator.check("it ends five minutes later than before", longer == timedelta(minutes=5), longer)

    def hand_over(self, old: list[Access], wanted: set[str]) -> None:
        """The first is given back, and the second gets what it waited for, clean."""
        self.narrator.chapter("The first is given back, and the second gets its boxes")
        self.type("release", self.name(self.first))
        self.narrator.command(f"leasehold wait {self.second}")
        lease, _ = self.narrator.progress(lambda: self.client.lease(self.second))
        self.narrator.check("the second lease is active", lease["state"] == "active", lease["error"] or lease["state"])
        new = [Access.of(delivered) for delivered in self.client.delivery(self.second)["resources"]]
        self.narrator.check("it has the boxes it asked for", {one.box for one in new} == wanted, new)
        first = self.client.lease(self.first)
        self.narrator.check("the first has ended: released", first["outcome"] == "released", first["outcome"])
        very = old[0]
        for one in new:
            self.narrator.command(f"curl -u {one.user}:{one.password[:4]}… {one.url}/{NOTE}")
            gone = (one.ask("GET", NOTE).status_code, one.ask("GET").text) == (404, "")
            where = f"{one.box}, the very one" if one.box == very.box else one.box
            self.narrator.check(f"the file is not on {where}", gone)
            refused = one.ask("GET", password=very.password).status_code
            self.narrator.check(f"{one.box} does not take the first holder's password", refused == 401, refused)
        self.narrator.check(
            "what the first holder was given opens nothing any more", not any(one.opens() for one in old)
        )

    def cancel(self) -> None:
        """A third one is withdrawn from the queue."""
        self.narrator.chapter("A third lease waits, and is cancelled")
        self.third = self.type("take", "lab", "-n", "2", "--no-wait")
        before = self.client.lease(self.third)["state"]
        self.narrator.check("it is queued", before == "queued", before)
        self.type("cancel", self.third)
        lease = self.client.lease(self.third)
        how = (lease["state"], lease["outcome"])
        self.narrator.check("it has ended: cancelled", how == ("ended", "cancelled"), how)
        left = list(self.client.pool_queue("lab"))
        self.narrator.check("nobody waits any more", not left, left)

    def give_back(self) -> None:
        """Everything is as it was at first."""
        self.narrator.chapter("The second is given back too")
        self.type("release", self.second)
        until = time.monotonic() + 15
        while self.client.available("lab")["free"] < 3 and time.monotonic() < until:
            time.sleep(0.1)
        free = self.client.available("lab")["free"]
        self.narrator.check("all three boxes are free again", free == 3, free)
        servers = running_in(self.folder / "examples")
        self.narrator.check("none of their servers runs", not servers, servers)

    def tell(self) -> None:
        """What there is to know afterwards."""
        self.narrator.chapter("What happened, lease by lease")
        for ref, story in (
            (self.first, "preparing active extended releasing ended"),
            (self.second, "queued preparing active releasing ended"),
            (self.third, "queued ended"),
        ):
            lease, events = self.client.lease(ref), self.events(ref)
            self.narrator.timeline(lease, events)
            told = " ".join(e["kind"].removeprefix("lease_") for e in events if e["kind"].startswith("lease_"))
            self.narrator.check(f"lease {lease['number']} went its way: {story}", told == story, told)
            page = httpx.get(lease["temporal_url"] or "", timeout=5, trust_env=False)
            self.narrator.check("Temporal's UI answers at its link", page.status_code == 200, page.status_code)

    def events(self, ref: str) -> list[Event]:
        """A lease's events, oldest first."""
        return list(self.client.events(ref))

    def name(self, ref: str) -> str:
        """What a person calls the lease."""
        return str(self.client.lease(ref)["number"])


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text or "")


def running_in(folder: Path) -> dict[int, str]:
    """The processes that work in a folder: the lab's servers."""
    return {process.pid: process.command for process in all_processes() if str(folder) in process.command}


def stopping(number: int, _frame: object) -> NoReturn:
    """What a signal does."""
    if number == signal.SIGALRM:
        raise Untrue(f"all of it takes less than {LONGEST_S} s")
    raise Stopped(number)


def play(narrator: Narrator, stack: Stack, folder: Path, pause: bool) -> None:
    """Start the stack, show everything, and stop it. Raises `Untrue`, or what went wrong."""
    narrator.say("Starting Temporal, a worker and the API, apart from whatever else runs here.")
    narrator.command("make up")
    # A copy is a lab of its own: this folder's may be in use by another stack.
    shutil.copytree(ROOT / "examples" / "lab", folder / "examples" / "lab", ignore=shutil.ignore_patterns(".*"))
    stack.start()
    narrator.check("the service is ready", stack.ready())
    with stack.client() as client:
        Demo(narrator, stack, client, folder).run()
    if pause and narrator.console.is_terminal:
        signal.alarm(0)
        narrator.console.input("[bold]The links work until you press Enter. ")
    narrator.chapter("Nothing is left behind")
    status = stack.stop()
    narrator.check("the service has stopped by itself", status == 0, status)
    left = {**stack.processes(), **running_in(folder)}
    narrator.check("nothing of it runs any more", not left, left)


def clean_up(stack: Stack, folder: Path) -> None:
    """End all that there may be, after success and failure alike."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    try:
        stack.close()
    finally:
        for pid in running_in(folder):
            kill(pid)


def main() -> int:
    """Return the exit status: 0 if everything that was claimed is true."""
    narrator, began = Narrator(), time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, stopping)
    signal.alarm(LONGEST_S)
    with tempfile.TemporaryDirectory(prefix="leasehold-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        stack = Stack(folder)
        try:
            play(narrator, stack, folder, pause="--pause" in sys.argv)
        except Untrue as error:
            narrator.console.print(f"  [bold red]✗ not true: {escape(str(error))}", soft_wrap=True)
            return 1
        except (LeaseholdError, StackError, httpx.HTTPError, subprocess.SubprocessError) as error:
            narrator.console.print(f"[bold red]The demo failed: {escape(str(error))}", soft_wrap=True)
            return 1
        except Stopped as stopped:
            narrator.console.print(f"[bold red]{stopped}: stopping")
            return 128 + stopped.number
        finally:
            clean_up(stack, folder)
    took = time.monotonic() - began
    narrator.console.print(f"\n[bold green]All {narrator.claims} claims were true, in {took:.0f} seconds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
