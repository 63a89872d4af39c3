"""Where the commands of other systems find Leasehold: as all others do, or at an address that is given to them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from leasehold.cli.connect import connect

if TYPE_CHECKING:
    from leasehold.client import Client

Connection = Annotated[
    str | None,
    typer.Option(
        "--connection",
        metavar="URL",
        help="Leasehold's API, where LEASEHOLD_URL does not say it; what is no URL of HTTP is left alone.",
    ),
]


def remember(ctx: typer.Context, url: str | None) -> None:
    """Have the command of this context look for the API there, unless the environment says where it is.

    Scripts have the address of the server that was there before.
    """
    usable = url is not None and url.startswith(("http://", "https://"))
    ctx.obj = url if usable and not os.environ.get("LEASEHOLD_URL") else None


def connected(ctx: typer.Context, patience: timedelta = timedelta(seconds=3)) -> Client:
    """A client for the API that the command of this context is to talk to."""
    return connect(patience, url=ctx.obj)
