"""One stack in which one scenario after another is played, each with its kill."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, create_engine
from temporalio.client import Client as Temporal
from temporalio.service import RPCError

from api.routes.leases import lease_id
from leasehold.answers import Command
from leasehold.client import Client
from leasehold.errors import Conflict, LeaseholdError, Unavailable
from leasehold.wire import Wire
from tests.faults import audit
from tests.faults.hooklog import HookLog
from tests.faults.nursery import Nursery
from tests.faults.parts import NAMES, RUNNER, Kind, Parts
from tests.faults.points import Call, Point, Victim, disarm
from tests.stack import marked

PATIENCE_S = 40.0
"""No test says how fast something is; this only ends those that hang."""


_LEFT_BEHIND_S = 4.0
"""By then a workflow has noticed that its worker died."""


_PROCESSES = (*NAMES, RUNNER)
_KILLED = {Victim.ITSELF: 1, Victim.API: 1, Victim.ALL: len(_PROCESSES)}


class Violation(AssertionError):
    """Something that must hold did not; says what, and what happened to the leases."""


class Made(NamedTuple):
    """A commit that was made, by the worker or the API; `told`: it wrote messages to workflows."""

    call: Call
    by: str
    told: bool


class Lane:
    """A stack of test builds, with clients as patient as those who wait for a restart have to be."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        folder.mkdir(parents=True)
        # What a sweep would put right must not go unnoticed.
        self.parts = Parts(folder, nursery, kind=Kind.BUILD, LEASEHOLD_SWEEP_EVERY="24h")
        self.folder = folder
        self._runner = asyncio.Runner()
        self._temporal: Temporal | None = None
        self._client: Client | None = None
        self._wire: Wire | None = None
        self._scenes = 0

    def __enter__(self) -> Self:
        self.parts.start()
        patience = timedelta(seconds=PATIENCE_S)
        self._client = Client(self.parts.url, self.parts.token, patience=patience)
        self._wire = Wire(self.parts.url, self.parts.token, transport=None, timeout=patience, patience=patience)
        _until(lambda: any(runner["up"] for runner in self.client.runners()), "its runner is there")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.close()
        if self._client is not None:
            self._client.close()
        if self._wire is not None:
            self._wire.close()
        self.parts.close()

    @property
    def client(self) -> Client:
        """The admin's; repeats what may be repeated until it is answered."""
        assert self._client is not None
        return self._client

    def call(self, method: str, *path: str, json: Any = None, key: str | None = None) -> Any:
        """Make a call that the client has no method for, as patiently; it must be one that can be made twice."""
        assert self._wire is not None
        return self._wire.call(method, *path, json=json, key=key, repeatable=True)

    def play(self, scenario: Callable[[Scene], None], point: Point | None = None) -> bool:
        """Play a scenario to its end with this kill in it, and check all that must hold; return whether it came to it.

        Raises `Violation`.
        """
        self._scenes += 1
        scene, before = Scene(self, f"s{self._scenes}", point), self._starts()
        if point is not None:
            point.arm(self.parts.data)
        try:
            scenario(scene)
            missed = disarm(self.parts.data)
            self._check(scene)
            killed = scene.ended_runners + (0 if point is None or missed else _KILLED[point.victim])
            _until(lambda: all(self.parts[name].lives for name in _PROCESSES), "all processes run")
            # A runner that the scenario ends may be among those that are killed.
            both = 1 if scene.ended_runners and not scene.spares_runner else 0
            if not killed - both <= self._starts() - before <= killed:
                raise AssertionError(f"{self._starts() - before} processes ended, and {killed} were killed")
        except Exception as error:
            disarm(self.parts.data)
            told = "\n".join(self._stories(scene))
            raise Violation(f"{point}:\n{error!r}\n{told}\n{self.parts.last_words()}") from error
        return not missed

    def _starts(self) -> int:
        return sum(self.parts[name].starts for name in _PROCESSES)

    def _check(self, scene: Scene) -> None:
        """Wait until all is over in the database and in Temporal, and look for what must not be."""
        begun = time.monotonic()
        while found := self._runner.run(self._open(scene.leases)) or self._faults():
            waited = time.monotonic() - begun
            if waited > PATIENCE_S:
                raise AssertionError("\n".join(found))
            if waited > _LEFT_BEHIND_S:
                self._runner.run(self._wake(scene.leases))
            time.sleep(0.05)
        if found := scene.hooks.faults:
            raise AssertionError("\n".join(found))

    def _faults(self) -> list[str]:
        with self.database() as connection:
            return audit.faults(connection)

    @contextlib.contextmanager
    def database(self) -> Iterator[Connection]:
        """The service's database, as it is."""
        engine = create_engine(f"sqlite:///{self.parts.data / 'leasehold.db'}")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def _stories(self, scene: Scene) -> Iterable[str]:
        with self.database() as connection:
            for lease in scene.leases:
                yield f"--- {lease}"
                yield from audit.story(connection, lease)

    async def _open(self, leases: Sequence[str]) -> list[str]:
        """The workflows of these leases and their recyclings that are not completed."""
        if self._temporal is None:
            self._temporal = await Temporal.connect(self.parts.temporal_address)
        with self.database() as connection:
            recyclings = audit.recyclings(connection, last=2 * len(leases))
        return await audit.unfinished(self._temporal, [*leases, *recyclings])

    async def _wake(self, leases: Iterable[str]) -> None:
        """Signal leases whose workflows may not know that their records have ended, as the sweep does each minute.

        The update that ended such a lease lived in the memory of a Temporal that was killed.
        """
        assert self._temporal is not None
        for lease in leases:
            with contextlib.suppress(RPCError):
                await self._temporal.get_workflow_handle(lease).signal("cancel")

    def calls(self) -> list[Made]:
        """The commits that were made since the last time, in order."""
        file = self.parts.data / "calls"
        lines = [line.split("\t") for line in file.read_text().splitlines()] if file.exists() else []
        file.unlink(missing_ok=True)
        return [Made(Call(method=method, about=about or None), by, told == "told") for method, about, by, told in lines]

    def strays(self) -> list[str]:
        """Transactions that were made outside of the ports' methods, where no kill can be ordered."""
        file = self.parts.data / "strays"
        return sorted(set(file.read_text().splitlines())) if file.exists() else []


class Scene:
    """What one playing of a scenario works with: pools and leases of its own on its lane."""

    def __init__(self, lane: Lane, name: str, point: Point | None) -> None:
        self.lane = lane
        self.name = name
        self.spares_runner = point is None or point.victim is not Victim.ALL
        """Whether the kill, if there is one, does not hit the runner."""
        self.ended_runners = 0
        self.client = lane.client
        self.hooks = HookLog(lane.folder / name)
        self.hooks.folder.mkdir()
        self.leases: list[str] = []

    def pool(
        self,
        *,
        resources: int = 1,
        stages: dict[str, Any],
        limits: Mapping[str, int] | None = None,
        site: str | None = None,
        **policy: Any,
    ) -> str:
        """Make a pool, named after the scene; a stage is a line of shell, or a hook with its settings."""
        hooks = {}
        for stage, given in stages.items():
            settings = {"run": given} if isinstance(given, str) else given
            hooks[stage] = {"timeout": "1m", **settings, "run": self.hooks.hook(settings["run"])}
        names = [{"name": f"r{n}"} for n in range(resources)]
        pool = {"name": self.name, "resources": names, "policy": policy, "site": site, **hooks}
        file = {"name": self.name, "limits": dict(limits or {}), "pools": [pool]}
        again(lambda: self.client.apply(file, folder=str(self.hooks.folder)))
        return self.name

    def dynamic_pool(self, size: Mapping[str, Any], **hooks: Any) -> str:
        """Make a pool that makes its resources, named after the scene; what is made is a file of the folder `made`."""
        (self.hooks.folder / "made").mkdir()
        machine = 'made/"$LEASEHOLD_RESOURCE"'
        create = f'test -e {machine} && echo "$who created it twice" >>faults; touch {machine}; echo key'
        pool = {
            "name": self.name,
            "size": dict(size),
            "create": {"run": self.hooks.hook(create), "timeout": "1m"},
            "delete": {"run": self.hooks.hook(f"rm -f {machine}"), "timeout": "1m"},
            **hooks,
        }
        self.applied(pool)
        return self.name

    def applied(self, *pools: Mapping[str, Any]) -> None:
        """Make the pools of the scene these."""
        again(lambda: self.client.apply({"name": self.name, "pools": list(pools)}, folder=str(self.hooks.folder)))

    @property
    def made(self) -> set[str]:
        """What there is of what pools have made."""
        return {path.name for path in (self.hooks.folder / "made").iterdir()}

    def take(
        self,
        pool: str,
        key: str,
        duration: str = "10m",
        *,
        count: int = 1,
        heartbeat: str | None = None,
        wait: bool = False,
        **more: Any,
    ) -> str:
        """Ask for resources, however often it takes to be answered; return the lease's id."""
        body = {"items": [{"pool": pool, "count": count}], "duration": duration, "heartbeat": heartbeat, **more}
        lease: str = self.lane.call("POST", "leases", json=body, key=f"{self.name}-{key}")["id"]
        if lease not in self.leases:
            self.leases.append(lease)
        if wait:
            self.comes_to(lease, "active")
        return lease

    def command(self, status: int = 0, **more: Any) -> dict[str, Any]:
        """A command for `take`: it prints `words`, hangs as `hold` says, and ends with a status."""
        body = f'echo "$WORD of $LEASEHOLD_LEASE"\n{HANG_COMMAND}'
        folder = str(self.hooks.folder)
        return {"run": self.hooks.command(body, status), "folder": folder, "env": {"WORD": folder}, **more}

    def ended_command(self, lease: str) -> Command:
        """Wait until a lease with a command has ended, as the command did, and return it."""
        found = self.client.wait_for(lease, "ended", timedelta(seconds=PATIENCE_S))
        command = found["command"]
        assert command is not None
        outcome = {"exited": "released", "lost": "lost"}.get(command["result"] or "")
        assert (found["state"], found["outcome"]) == ("ended", outcome), found
        return command

    def words(self, lease: str) -> bytes:
        """What the command of a lease prints: one word that its environment alone has told it, and another."""
        return f"{self.hooks.folder} of {lease}\n".encode()

    @property
    def commanded(self) -> list[int]:
        """The processes that live of commands."""
        return marked("WORD", str(self.hooks.folder))

    def end_runner(self, number: signal.Signals) -> None:
        """Send the runner a signal that ends it; it is started again."""
        self.lane.parts[RUNNER].signal(number)
        self.ended_runners += 1

    def happened(self, lease: str, kind: str) -> int:
        """How often something happened to a lease."""
        return sum(event["kind"] == kind for event in self.client.events(lease))

    def repaired(self, pool: str) -> None:
        """Wait until a resource of a pool is broken, and repair it."""
        self.until(lambda: list(self.client.resources(pool=pool, state="broken")), f"a resource of {pool} is broken")
        (broken,) = self.client.resources(pool=pool, state="broken")
        again(lambda: self.client.repair(pool, broken["name"]), done=Conflict)

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until something holds."""
        _until(true, what)

    def key(self, key: str) -> str:
        """The id that the lease taken with this key has, or will have."""
        return lease_id("admin", f"{self.name}-{key}")

    def comes_to(self, lease: str, state: str) -> None:
        """Wait until a lease is in this state."""
        found = self.client.wait_for(lease, state, timedelta(seconds=PATIENCE_S))
        assert found["state"] == state, found

    def all_free(self, pool: str) -> None:
        """Wait until every resource of a pool is free."""
        self.until(lambda: {r["state"] for r in self.client.resources(pool=pool)} == {"free"}, f"{pool} is free")

    def ends(self, lease: str, outcome: str) -> None:
        """Wait until a lease has ended, in this way."""
        found = self.client.wait_for(lease, "ended", timedelta(seconds=PATIENCE_S))
        assert (found["state"], found["outcome"]) == ("ended", outcome), found

    def hold(self, stage: str, lease: str) -> Path:
        """Have a stage of a lease, or its `command`, hang until the file is removed."""
        file = self.hooks.folder / f"hold.{stage}.{lease}"
        file.touch()
        return file


HANG = 'while test -e "hold.$LEASEHOLD_STAGE.$LEASEHOLD_LEASE"; do sleep 0.05; done'
"""For a hook: hang for as long as `Scene.hold` says."""

HANG_COMMAND = 'while test -e "hold.command.$LEASEHOLD_LEASE"; do sleep 0.05; done'
"""The same for a command."""


def _until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"still not so: {what}"
        time.sleep(0.02)


def again(
    call: Callable[[], Any],
    *,
    done: type[LeaseholdError] | None = None,
    refused: type[LeaseholdError] | None = None,
) -> None:
    """Make a call that can be made twice until it is answered.

    `done` says that one which was not answered has been carried out. `refused` is said while a workflow whose worker
    died has not caught up with its record.
    """
    end, unanswered = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            call()
            return
        except LeaseholdError as error:
            if done is not None and unanswered and isinstance(error, done):
                return
            unanswered = unanswered or isinstance(error, Unavailable)
            passing = isinstance(error, (Unavailable, *filter(None, [refused])))
            if not passing or time.monotonic() > end:
                raise
            time.sleep(0.05)
