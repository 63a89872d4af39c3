"""What a hook of the driver `redfish` says: a BMC, who logs in there, and what to do with its machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from leasehold import templates
from leasehold.fields import Strict
from leasehold.hook_fields import CALL, FilePath, Template, Verify, compiles

NAMES = frozenset({"resource"})
"""What the path of a secret can use: of the resource its pool and name, in which there is no way to another folder."""

Power = Literal["on", "off", "graceful-off", "restart", "force-restart", "cycle"]
Device = Literal["pxe", "http", "disk", "cd", "usb", "bios"]
Mode = Literal["uefi", "legacy"]
Held = Literal["on", "off"]

_ACTIONS = ("power", "boot", "wait")
_SERVICES_OWN = ("LEASEHOLD_", "TEMPORAL_")


def address_url(source: str) -> str:
    """The template of a BMC's URL, which may be written without its scheme."""
    return source if "://" in source else f"https://{source}"


def _address(source: str) -> str:
    url = address_url(source)
    try:
        templates.url_template(url, CALL)
    except templates.BadTemplate as error:
        raise PydanticCustomError("template", "{reason}", {"reason": str(error)}) from None
    if re.search(r"[/?]", url.partition("://")[2].removesuffix("/")):
        raise PydanticCustomError("address", "the address of a BMC is a host, and perhaps https:// and a port")
    return source


def _path(source: str) -> str:
    try:
        templates.text_template(source, NAMES).render({"resource": {"pool": "a", "name": "b"}})
    except (templates.BadTemplate, templates.NotRendered) as error:
        reason = f"{error}; a path knows resource.pool and resource.name alone"
        raise PydanticCustomError("template", "{reason}", {"reason": reason}) from None
    return source


def _variable(name: str) -> str:
    if name.startswith(_SERVICES_OWN):
        raise PydanticCustomError("variable", "the service's own settings are not for hooks")
    return name


class SecretFile(Strict):
    """Where a secret is, on the worker: in a file, or in a variable of the worker's environment."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [place]} for place in ("file", "env")]})

    file: Annotated[FilePath, AfterValidator(_path)] | None = Field(
        default=None, description="A path, a template over resource.pool and resource.name"
    )
    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"), AfterValidator(_variable)] | None = Field(
        default=None, description="The name of a variable"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise PydanticCustomError("one_place", "a secret is in a file or in env, one of the two")
        return self


class StepFile(Strict):
    """One thing to do: switch the power, choose what the next start is from, or wait for a state of the power."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [action]} for action in _ACTIONS]})

    power: Power | None = Field(default=None, description="What to do with the power, until that has come to be")
    boot: Device | None = Field(default=None, description="What the next start is from, that one alone")
    mode: Mode | None = Field(default=None, description="With boot: how that start is done; as it is, if not given")
    wait: Held | None = Field(default=None, description="Which state the power comes to by itself")

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        if sum(getattr(self, action) is not None for action in _ACTIONS) != 1:
            raise PydanticCustomError("one_action", "a step is power, boot or wait, one of them")
        if self.mode is not None and self.boot is None:
            raise PydanticCustomError("mode", "mode belongs to boot")
        return self


class RedfishFile(Strict):
    """Steps that a BMC takes with its machine, one after the other."""

    address: Annotated[Template, AfterValidator(_address)] = Field(
        description="The BMC's host, perhaps with a port; https:// if nothing else is said"
    )
    user: Annotated[Template, compiles(templates.text_template, CALL)] = Field(description="Who logs in")
    password: SecretFile
    system: Annotated[Template, compiles(templates.text_template, CALL)] | None = Field(
        default=None, description="The id of the system; needed where the BMC has more than one"
    )
    verify: Verify = True
    do: Annotated[
        list[StepFile],
        Field(min_length=1, max_length=20),
        BeforeValidator(
            lambda value: [value] if isinstance(value, Mapping) else value,
            json_schema_input_type=StepFile | list[StepFile],
        ),
    ] = Field(description="A step, or a list of them")

    @property
    def relative(self) -> bool:
        """Whether it names a file by a path that depends on the folder."""
        paths = [path for path in (self.password.file, self.verify) if isinstance(path, str)]
        return not all(PurePosixPath(path).is_absolute() for path in paths)

    def settings(self) -> Mapping[str, Any]:
        """What was written, as plain JSON, from which the same comes back."""
        written: dict[str, Any] = self.model_dump(mode="json", exclude_unset=True)
        return written
