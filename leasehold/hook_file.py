"""Hooks as a pools file describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Self

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from leasehold.fields import Duration, Name, Strict, Word
from leasehold.http_hook import HttpFile
from leasehold.model import Cadence, Hook, Scope
from leasehold.redfish_hook import RedfishFile

Command = Annotated[
    Annotated[Word, Field(min_length=1), pydantic.Tag("line")]
    | Annotated[list[Word], Field(min_length=1), pydantic.Tag("arguments")],
    pydantic.Discriminator(lambda value: "arguments" if isinstance(value, list) else "line"),
]

_DRIVERS = ("run", "http", "redfish")
"""The keys that say what a hook does, and how."""


class HookFile(Strict):
    """A hook: a command on the worker (`run`), a request over HTTP (`http`), or steps of a BMC (`redfish`)."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [driver]} for driver in _DRIVERS]})

    run: Command | None = Field(
        default=None, description="A line for /bin/sh, or a list of arguments that no shell sees"
    )
    http: HttpFile | None = Field(default=None, description="A request to a server")
    redfish: RedfishFile | None = Field(default=None, description="What a BMC does with its machine")
    timeout: Duration = Field(
        default=timedelta(minutes=30), description="Then the whole process group is killed, or the request given up"
    )
    attempts: int = Field(default=1, ge=1, le=100, description="How often the hook may end without success")
    scope: Scope = Field(
        default=Scope.RESOURCE, description="Run once for each resource, or once for a lease when all of them are ready"
    )
    limit: Name | None = Field(default=None, description="The limiter of which each run needs a slot")

    @model_validator(mode="after")
    def _one_driver(self) -> Self:
        if sum(getattr(self, driver) is not None for driver in _DRIVERS) != 1:
            raise PydanticCustomError("one_driver", "a hook needs run, http or redfish, and only one of them")
        return self

    def hook(self) -> Hook:
        """The hook it describes."""
        common = Hook(timeout=self.timeout, attempts=self.attempts, scope=self.scope, limit=self.limit)
        if self.http is not None:
            return replace(common, driver="http", settings=self.http.settings())
        if self.redfish is not None:
            return replace(common, driver="redfish", settings=self.redfish.settings())
        return replace(common, run=tuple(self.run) if isinstance(self.run, list) else self.run or "")

    @property
    def relative(self) -> bool:
        """Whether it names a program or a file by a path that depends on the folder."""
        elsewhere = self.http or self.redfish
        if elsewhere is not None:
            return elsewhere.relative
        assert self.run is not None
        words = self.run.split() if isinstance(self.run, str) else self.run
        return bool(words) and "/" in words[0] and not PurePosixPath(words[0]).is_absolute()


Stage = Annotated[
    list[HookFile],
    Field(min_length=1, max_length=20),
    BeforeValidator(
        lambda value: [value] if isinstance(value, Mapping) else value,
        json_schema_input_type=HookFile | list[HookFile],
    ),
]


class PeriodicFile(HookFile):
    """A hook that is run again and again, once for a resource or once for a pool."""

    every: Duration

    @model_validator(mode="after")
    def _alone(self) -> Self:
        if self.scope is Scope.LEASE or self.limit:
            raise PydanticCustomError("scope", "what is run again and again has neither scope nor limit")
        return self

    def hook(self) -> Hook:
        """The hook it describes; unless its timeout is given, one run is over before the next is due."""
        described = super().hook()
        within = self.timeout if "timeout" in self.model_fields_set else min(self.timeout, self.every)
        return replace(described, timeout=within, attempts=1)


class LivecheckFile(PeriodicFile):
    """Whether a resource is alive: run for each that is free or leased, many at once."""

    every: Duration = Field(default=timedelta(minutes=10), description="How long after one check the next one comes")
    attempts: int = Field(default=3, ge=1, le=100, description="How many checks in a row may fail")
    parallel: int = Field(default=10, ge=1, le=1000, description="How many resources are checked at once")

    def cadence(self) -> Cadence:
        """How often it is run, and what is made of its failures."""
        return Cadence(every=self.every, attempts=self.attempts, parallel=self.parallel)


class ListFile(PeriodicFile):
    """Prints the names of all resources that there really are in a pool, one in each line."""

    every: Duration = Field(default=timedelta(minutes=30), description="How long after one listing the next one comes")
    attempts: int = Field(default=1, ge=1, le=1, description="It comes again anyway")

    def cadence(self) -> Cadence:
        """How often it is run."""
        return Cadence(every=self.every)
