"""What a pools file says of notices: its channels, and how they find people."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from leasehold.channels import Channel, NoticeKind, People, domain_of
from leasehold.fields import Strict, Tag, storable

ChannelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")]

Domain = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"), AfterValidator(lambda name: name.lower())
]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Path = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(storable)]


def _address(value: str) -> str:
    if domain_of(value) is None:
        raise PydanticCustomError("address", "{value} is no mail address", {"value": repr(value[:80])})
    return value


Address = Annotated[str, AfterValidator(_address)]


class PeopleFile(Strict):
    """How the names of people become mail addresses."""

    domain: Domain | None = Field(default=None, description="Follows a name that is no address itself")
    domains: list[Domain] = Field(default=[], max_length=100, description="Others in which requests may name people")
    names: dict[Tag, Address] = Field(default={}, max_length=10_000, description="Who has another address")

    def people(self) -> People:
        """What it describes."""
        return People(domain=self.domain, domains=tuple(self.domains), names=self.names)


class ChannelFile(Strict):
    """A channel: where it leads is a secret, in a file or an environment variable of the workers."""

    url_file: Path | None = Field(default=None, description="The file on the workers that has the channel's URL")
    url_env: Variable | None = Field(default=None, description="The variable of the workers that has it")
    about: list[NoticeKind] = Field(
        default=list(NoticeKind), min_length=1, max_length=len(NoticeKind), description="Of what it tells"
    )
    people: PeopleFile | None = Field(
        default=None, description="Each person is written to; without it whoever is at the channel's end"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.url_file is None) == (self.url_env is None):
            raise PydanticCustomError("one_url", "a channel needs url_file or url_env, and only one of them")
        return self

    @property
    def relative(self) -> bool:
        """Whether its file is named by a path that depends on the folder."""
        return self.url_file is not None and not PurePosixPath(self.url_file).is_absolute()

    def channel(self, folder: str | None) -> Channel:
        """The channel it describes, its file found from `folder`."""
        return Channel(
            url_file=str(PurePosixPath(folder or "/", self.url_file)) if self.url_file else None,
            url_env=self.url_env,
            about=tuple(dict.fromkeys(self.about)),
            people=self.people.people() if self.people else None,
        )
