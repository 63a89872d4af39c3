"""dci-queue's commands, with its own arguments."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from leasehold.cli.compat import dci_jobs, dci_pools
from leasehold.cli.exits import Exit
from leasehold.cli.output import print_error
from leasehold.cli.trailing import Trailing
from leasehold.errors import LeaseholdError


class Level(StrEnum):
    """How much dci-queue writes into its log."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class _Commands(TyperGroup):
    """Commands that end with 1 whatever went wrong, as dci-queue's do."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LeaseholdError as error:
            print_error(error, as_json=False)
            raise typer.Exit(Exit.ERROR) from error


app = typer.Typer(cls=_Commands, help="The commands of dci-queue.", invoke_without_command=True)


@app.callback()
def _common(
    ctx: typer.Context,
    level: Annotated[Level, typer.Option("--log-level", "-l", help="Not needed.")] = Level.INFO,
    top_dir: Annotated[str | None, typer.Option("--top-dir", "-t", metavar="DIR", help="Not needed.")] = None,
    console_output: Annotated[bool, typer.Option("--console-output", "-c", help="Not needed.")] = False,
    podman: Annotated[bool, typer.Option("--podman", "-p", help="Not needed.")] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(Exit.ERROR)


for _name, _command, _kind in (
    ("add-pool", dci_pools.add_pool, None),
    ("remove-pool", dci_pools.remove_pool, None),
    ("add-resource", dci_pools.add_resource, None),
    ("remove-resource", dci_pools.remove_resource, None),
    ("schedule", dci_jobs.schedule, Trailing),
    ("list", dci_pools.list_pool, None),
    ("log", dci_jobs.log, None),
    ("search", dci_jobs.search, Trailing),
    ("searchdir", dci_jobs.search_dir, None),
    ("unschedule", dci_jobs.unschedule, None),
    ("dci-job", dci_jobs.dci_job, None),
    ("run", dci_pools.run, None),
    ("clean", dci_pools.clean, None),
    ("install", dci_pools.install, None),
    ("uninstall", dci_pools.uninstall, None),
    ("add-crontab", dci_pools.add_crontab, None),
    ("remove-crontab", dci_pools.remove_crontab, None),
):
    app.command(_name, cls=_kind)(_command)
