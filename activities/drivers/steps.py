"""One run of a hook of the driver `redfish`: its steps, one after the other, each of which can be taken twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from concurrent.futures import Executor
from datetime import timedelta

from pydantic import ValidationError

from activities.drivers.answer import client
from activities.drivers.bmc import Bmc, BmcError
from activities.drivers.carrier import Carrier
from activities.drivers.reach import Reach, reach
from activities.drivers.remote import Note, Outcome
from activities.drivers.request import CannotStart
from leasehold.errors import Unavailable
from leasehold.ports import Ending, HookCall
from leasehold.redfish_hook import Device, Mode, Power, RedfishFile, StepFile

ON, OFF, POWERING_OFF = "On", "Off", "PoweringOff"
SETTLED = frozenset({ON, OFF, "Paused"})
ANY = SETTLED | {"PoweringOn", POWERING_OFF}

_SAID = 500
"""So many characters of what a BMC says are logged."""


class Steps:
    """What one run does with a machine. `note` hears a line about each thing that happens.

    `doing` says what it is at now, for those who end it before it does. The library that it talks through blocks one of
    `threads` for each answer, `limit` at the longest; between two looks at the power there is `every`.
    """

    def __init__(self, call: HookCall, note: Note, threads: Executor, *, every: timedelta, limit: timedelta) -> None:
        try:
            self._wanted = RedfishFile.model_validate(call.hook.settings)
        except ValidationError:
            # Its words would quote the settings. They were good when they were applied, by another version then.
            raise Unavailable("this worker's version does not understand the hook's settings") from None
        self._call, self._note = call, note
        self._threads, self._every, self._limit = threads, every, limit
        self._carrier: Carrier
        self._bmc: Bmc
        self._step = ""
        self.doing = "nothing was asked of the BMC yet"
        self.last_body = b""

    async def perform(self) -> Outcome:
        """Find the machine, take the steps, and say how it ended. Cancelled, it sends nothing after it has returned."""
        try:
            found = await asyncio.to_thread(reach, self._wanted, self._call)
        except CannotStart as error:
            return Outcome(ending=Ending.NOT_STARTED, detail=f"the BMC was not asked: {error}")
        try:
            async with client(found.tls) as http:
                self._carrier = Carrier(http, found.url, self._threads, self._limit)
                await self._take_all(found)
        except BmcError as error:
            if error.said:
                self._note(f"the BMC says: {_harmless(error.said, found)}")
            return Outcome(ending=Ending.FAILED, code=error.status, detail=f"{self.doing}: {error}")
        except asyncio.CancelledError:
            # Whoever looks after the machine must know how far this came.
            self._note(f"stopped here: {self.doing}")
            raise
        return Outcome(ending=Ending.EXITED, code=0, detail=f"{self._step}: done")

    async def _take_all(self, found: Reach) -> None:
        self.doing = f"asking {found.host} for its system {found.system or ''}".rstrip()
        self._bmc = await self._carrier.run(lambda: Bmc(found, self._carrier))
        for step in self._wanted.do:
            self._step = self.doing = _named(step)
            if step.power is not None:
                await self._switch(step.power)
            elif step.boot is not None:
                await self._boot(step.boot, step.mode)
            else:
                await self._until({ON if step.wait == "on" else OFF})

    async def _switch(self, power: Power) -> None:
        match power:
            case "on":
                await self._on()
            case "off":
                await self._off("ForceOff")
            case "graceful-off":
                await self._off("GracefulShutdown")
            case "cycle":
                # Not the BMC's own: stopped half-way, it would go on, and nobody would know.
                await self._off("ForceOff")
                await self._on()
            case "restart":
                await self._restart("GracefulRestart")
            case "force-restart":
                await self._restart("ForceRestart")

    async def _on(self) -> None:
        if await self._until(SETTLED) != ON:
            await self._reset("On", ON)
        await self._until({ON})

    async def _off(self, kind: str) -> None:
        state = await self._until(ANY)
        shutting_down = state == POWERING_OFF and kind == "GracefulShutdown"
        if state != OFF and not shutting_down:
            await self._reset(kind, OFF)
        await self._until({OFF})

    async def _restart(self, kind: str) -> None:
        # One that is off starts, which is what a restart is for.
        if await self._until(SETTLED) == OFF:
            await self._reset("On", ON)
        else:
            await self._reset(kind)
        await self._until({ON})

    async def _reset(self, kind: str, wanted: str | None = None) -> None:
        """Have the BMC do it. One that refuses is forgiven where the power has come to be as `wanted` meanwhile."""
        self.doing = f"{self._step}: asking for {kind}"
        try:
            await self._carrier.run(lambda: self._bmc.reset(kind))
        except BmcError as error:
            if error.status is None or await self._carrier.run(self._bmc.power) != wanted:
                raise
            self._note(f"{self.doing}: {error}, but power is {wanted}")
        else:
            self._note(f"{self.doing}: accepted")

    async def _boot(self, device: Device, mode: Mode | None) -> None:
        await self._carrier.run(lambda: self._bmc.boot_once(device, mode))
        self._note(f"{self._step}: accepted")

    async def _until(self, wanted: Collection[str]) -> str:
        """Look again and again until the power is in one of these states, and return that."""
        started, told = time.monotonic(), ""
        what = " or ".join(sorted(wanted))
        while True:
            try:
                state = await self._carrier.run(self._bmc.power)
                if state in wanted:
                    waited = f" after {time.monotonic() - started:.1f} s" if told else ""
                    self._note(f"{self._step}: power is {state}{waited}")
                    return state
                news = f"{self._step}: power is {state}, to be {what}"
            except BmcError as error:
                if not error.passing:
                    raise
                news = f"{self._step}: {error}, while power is to be {what}"
            self.doing = news
            if news != told:
                self._note(news)
                told = news
            await asyncio.sleep(self._every.total_seconds())


def _named(step: StepFile) -> str:
    """A step as it is written in the pools file."""
    if step.boot is not None:
        return f"boot: {step.boot}" + (f" ({step.mode})" if step.mode is not None else "")
    return f"power: {step.power}" if step.power is not None else f"wait: {step.wait}"


def _harmless(said: str, found: Reach) -> str:
    """What a BMC said, on one line, without the password."""
    without = said.replace(found.password, "…") if found.password else said
    return " ".join(without.split())[:_SAID]
