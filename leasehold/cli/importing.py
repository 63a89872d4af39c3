"""Commands that take a lab over from another system: `import quads`."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Annotated, Any

import typer

from leasehold import quads
from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.output import note, one_line
from leasehold.cli.pools import print_applied
from leasehold.quads import Imported

_TIMEOUT = timedelta(minutes=2)
_BROKEN = "broken in QUADS"


def from_quads(
    source: Annotated[
        str,
        typer.Argument(
            metavar="URL|FILE",
            help="QUADS's address, or a file with its answer: the list of hosts, or {hosts, clouds, vlans}.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where the pools file goes, if not to stdout.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Apply the pools file, and mark broken hosts offline.")
    ] = False,
    spare: Annotated[
        str, typer.Option("--spare", metavar="CLOUD", help="Where QUADS keeps hosts that nobody has; left out.")
    ] = quads.SPARE,
    as_json: options.Json = False,
) -> None:
    """Take hosts with all that is known of them, environments and VLANs from QUADS, as a pools file.

    What is left out is said, and why. Hosts of one model become one pool.
    """
    found = quads.read(_answers(source), spare)
    for line in found.left_out:
        note(one_line(f"left out: {line}"))
    text = quads.to_yaml(found.pools)
    if output is not None:
        _write(output, text)
    elif not apply:
        typer.echo(text, nl=False)
    if apply:
        _apply(text, found, as_json)
    else:
        for pool, host in found.broken:
            note(one_line(f"broken: once it is applied, leasehold resource offline {pool}/{host} --reason '{_BROKEN}'"))


def _answers(source: str) -> Any:
    """What QUADS answers at an address, or what a file has of it."""
    if source.partition("://")[0] in ("http", "https"):
        # Imported here: it takes most of the start-up time.
        from leasehold.wire import Wire

        wire = Wire(source, None, transport=None, timeout=_TIMEOUT, patience=timedelta(seconds=3))
        try:
            return {name: wire.call("GET", name, version="api/v3") for name in quads.LISTS}
        finally:
            wire.close()
    try:
        with sys.stdin if source == "-" else open(source, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise typer.BadParameter(f"{source} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{source} has no JSON: {error}") from error


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from error


def _apply(text: str, found: Imported, as_json: bool) -> None:
    with connect() as client:
        applied = client.apply(text)
        for pool, host in found.broken:
            client.offline(pool, host, _BROKEN)
            note(one_line(f"offline: {pool}/{host}, {_BROKEN}"))
    print_applied(applied, as_json)
