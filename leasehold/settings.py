"""What a process of the service is told by its environment; read by entry points alone."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from leasehold import durations
from leasehold.access import Role
from leasehold.errors import Invalid, LeaseholdError
from leasehold.quads import CLOUDS, SPARE, VLANS

SECRETS = Path("/run/secrets")
"""Where containers find secrets, each in a file: unlike a variable, nobody sees it who inspects the container."""


def _span(value: object) -> object:
    try:
        return durations.parse(value) if isinstance(value, str) else value
    except LeaseholdError as error:
        raise ValueError(error.detail) from None


Span = Annotated[timedelta, BeforeValidator(_span)]
"""A duration as people write it: `90s`, `30m`."""


class Settings(BaseSettings):
    """`LEASEHOLD_…` variables; a bad value stops the process with its name and the reason.

    One that is not set is read from the file of its name, `leasehold_…`, in `SECRETS`, if there is one.
    """

    model_config = SettingsConfigDict(
        env_prefix="LEASEHOLD_", frozen=True, secrets_dir=SECRETS if SECRETS.is_dir() else None
    )

    data: Path = Path("data")
    database_url: str | None = None
    logs_url: str | None = None
    pools: Path | None = None
    build: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    secret_key: str | None = None
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8700, ge=1, le=65535)
    temporal_port: int = Field(default=7233, ge=1, le=65535)
    public_url: str | None = Field(default=None, pattern=r"^https?://[^\s?#]+$")
    sweep_every: Span = timedelta(minutes=1)
    sweep_grace: Span = timedelta(seconds=40)
    quads_clouds: str = CLOUDS
    quads_vlans: str = VLANS
    quads_spare: str = SPARE
    resalloc_port: int | None = Field(default=None, ge=1, le=65535)
    resalloc_lifetime: Span | None = None
    resalloc_heartbeat: Span | None = None
    munge_role: Literal[Role.VIEWER, Role.USER, Role.OPERATOR] | None = None
    munge_socket: Path | None = None
    temporal_ui_port: int = Field(default=8233, ge=1, le=65535)

    @property
    def folder(self) -> Path:
        """The data folder, absolute, made with mode 0700 if it was not there."""
        folder = self.data.absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    @property
    def main_url(self) -> str:
        """Where inventory, grants and leases are: SQLAlchemy's URL of an SQLite file or a PostgreSQL database."""
        return self.database_url or f"sqlite:///{self.folder / 'leasehold.db'}"

    @property
    def log_url(self) -> str:
        """Where the output of hooks is."""
        return self.logs_url or f"sqlite:///{self.folder / 'logs.db'}"

    @property
    def people_url(self) -> str:
        """The address of the API for people's browsers and commands, without a slash at the end."""
        return (self.public_url or f"http://127.0.0.1:{self.api_port}").rstrip("/")

    @property
    def temporal_ui(self) -> str:
        """The address of Temporal's UI for people's browsers."""
        return os.environ.get("TEMPORAL_UI_URL", f"http://127.0.0.1:{self.temporal_ui_port}")


class RunnerSettings(Settings):
    """Those of a runner, which has no database: where the API is, and its token or the file that has it."""

    url: str | None = None
    token: str | None = None
    token_file: Path | None = None
    local_slots: int = Field(default=100, ge=1, le=1000)

    def secret(self) -> str:
        """The token. Raises `Invalid` where there is none."""
        if self.token:
            return self.token
        if self.token_file is None:
            raise Invalid("a runner needs LEASEHOLD_TOKEN, or LEASEHOLD_TOKEN_FILE")
        try:
            return self.token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise Invalid(f"LEASEHOLD_TOKEN_FILE cannot be read: {error}") from error
