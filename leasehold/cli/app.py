"""All commands, and the one place where an error becomes words and an exit status."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from leasehold import __version__
from leasehold.cli import growth, healing, importing, inventory, leases, pools, queue, selfservice, tokens, users
from leasehold.cli.compat import cq, dci_queue, resalloc
from leasehold.cli.exits import SIGNALLED, of_error
from leasehold.cli.options import wants_json
from leasehold.cli.output import print_error, say
from leasehold.cli.remote import remote
from leasehold.cli.run import run
from leasehold.cli.signals import Interrupted
from leasehold.cli.take import take
from leasehold.errors import LeaseholdError


class Commands(TyperGroup):
    """Commands that say what went wrong instead of showing where in the code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except LeaseholdError as error:
            print_error(error, wants_json(ctx))
            raise typer.Exit(of_error(error)) from error
        except Interrupted as interruption:
            raise typer.Exit(SIGNALLED + interruption.signum) from interruption


def _group(description: str, **commands: Any) -> typer.Typer:
    group = typer.Typer(help=description, no_args_is_help=True)
    for name, command in commands.items():
        group.command(name)(command)
    return group


app = typer.Typer(
    cls=Commands,
    help="Lease shared test resources. LEASEHOLD_URL and LEASEHOLD_TOKEN say where and as whom.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"leasehold {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(take)
# What follows the command belongs to it: `leasehold run --pool lab make -n` passes -n to make.
_OF_ANOTHER = {"allow_interspersed_args": False}
app.command(context_settings=_OF_ANOTHER)(run)
app.command(context_settings=_OF_ANOTHER)(remote)
app.command("ls")(leases.list_leases)
for command in (leases.show, leases.wait, leases.delivery, leases.extend, leases.release, leases.cancel, leases.logs):
    app.command()(command)
app.command()(leases.heartbeat)
app.command()(leases.transfer)
app.command()(growth.add)
app.command("give-back")(growth.give_back)
app.command()(pools.apply)
app.command()(inventory.available)
app.command()(healing.health)
app.command()(healing.reconcile)
app.add_typer(queue.app, name="queue")
app.add_typer(
    _group(
        "Pools.",
        ls=pools.list_pools,
        show=pools.show,
        queue=pools.queue,
        logs=pools.logs,
        pause=pools.pause,
        drain=pools.drain,
        resume=pools.resume,
    ),
    name="pool",
)
app.add_typer(
    _group(
        "Resources, named POOL/NAME.",
        ls=inventory.list_resources,
        show=inventory.show,
        logs=inventory.logs,
        add=inventory.add,
        rm=inventory.remove,
        offline=inventory.offline,
        online=inventory.online,
        repair=inventory.repair,
    ),
    name="resource",
)
app.add_typer(
    _group(
        "Self-service: what those who are no operators may take by themselves.",
        ls=selfservice.list_states,
        open=selfservice.open_,
        close=selfservice.close,
        auto=selfservice.auto,
    ),
    name="self-service",
)
app.add_typer(
    _group("Tokens of users.", create=tokens.create, ls=tokens.list_tokens, revoke=tokens.revoke, whoami=tokens.whoami),
    name="token",
)
app.add_typer(
    _group(
        "Users with passwords.",
        add=users.add,
        ls=users.list_users,
        passwd=users.passwd,
        disable=users.disable,
        enable=users.enable,
        rm=users.remove,
    ),
    name="user",
)
app.add_typer(
    _group(
        "Take a lab over from another system.",
        quads=importing.from_quads,
        resalloc=importing.from_resalloc,
        **{"dci-queue": importing.from_dci_queue},
    ),
    name="import",
)
_compat = _group("The commands of other systems, for scripts that have them.")
_compat.add_typer(resalloc.app, name="resalloc")
_compat.add_typer(dci_queue.app, name="dci-queue")
# Its -h is the host.
_compat.command("cq_client", context_settings={**_OF_ANOTHER, "help_option_names": ["--help"]})(cq.cq_client)
app.add_typer(_compat, name="compat")
