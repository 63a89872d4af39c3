"""Commands that take a lab over from another system: `import quads`, `import resalloc`, `import dci-queue`."""

from __future__ import annotations

import importlib
import io
import json
import os
import shlex
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leasehold import dciqueue, quads, resalloc
from leasehold.answers import Change
from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit
from leasehold.cli.output import note, one_line
from leasehold.cli.pools import print_applied
from leasehold.errors import Malformed
from leasehold.quads import Imported

if TYPE_CHECKING:
    from leasehold.client import Client

_TIMEOUT = timedelta(minutes=2)
_BROKEN = "broken in QUADS"
_LARGEST = 4 * 2**20
"""Of a file of resalloc's configuration, in bytes."""
_LONGEST_REASON = 500
_LARGEST_JSON = 2**20
"""Of a file that dci-queue has of a command or a reason, in bytes."""

Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE", help="Where the pools file goes, if not to stdout.")
]


def from_quads(
    source: Annotated[
        str,
        typer.Argument(
            metavar="URL|FILE",
            help="QUADS's address, or a file with its answer: the list of hosts, or {hosts, clouds, vlans}.",
            show_default=False,
        ),
    ],
    output: Output = None,
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
    _put(text, output, apply)
    if apply:
        _apply(text, found, as_json)
    else:
        for pool, host in found.broken:
            note(one_line(f"broken: once it is applied, leasehold resource offline {pool}/{host} --reason '{_BROKEN}'"))


def from_resalloc(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG_DIR|FILE",
            help="The folder of resalloc's pools.yaml, /etc/resallocserver say, or that file.",
            show_default=False,
        ),
    ],
    output: Output = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply the pools file.")] = False,
    as_json: options.Json = False,
) -> None:
    """Take all pools over from resalloc's configuration, with their commands, sizes, tags and reuse, as a pools file.

    What is changed or left out is said, and why.
    """
    pools = Path(source, "pools.yaml") if os.path.isdir(source) else Path(source)
    server = pools.with_name("server.yaml")
    found = resalloc.read(_yaml(pools), (_yaml(server) or {}) if server.exists() else None)
    if output is not None and os.path.exists(output) and os.path.samefile(pools, output):
        raise typer.BadParameter(f"{output} is resalloc's own: the pools file goes somewhere else")
    for line in found.notes:
        note(one_line(line))
    text = resalloc.to_yaml(found.pools)
    _put(text, output, apply)
    if apply:
        with connect() as client:
            applied = client.apply(text)
        print_applied(applied, as_json)


def from_dci_queue(
    source: Annotated[
        str,
        typer.Argument(metavar="DIR", help="dci-queue's folder, /var/lib/dci-queue say.", show_default=False),
    ],
    output: Output = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Make these pools now, and mark removed resources offline.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Take all pools over from dci-queue with their resources, as a pools file, and why some of these are removed.

    What is left out is said, and why; for each command that waits there, what queues it here.
    """
    found = dciqueue.read(_folders(Path(source)))
    for line in found.left_out:
        note(one_line(f"left out: {line}"))
    text = dciqueue.to_yaml(found.pools)
    _put(text, output, apply)
    if apply:
        with connect() as client:
            changes = [change for pool in found.pools for change in _made(client, found, pool)]
        print_applied({"changes": changes}, as_json)
        return
    for pool, name, reason in found.removed:
        line = shlex.join(["leasehold", "resource", "offline", f"{pool}/{name}", "--reason", reason])
        note(one_line(f"removed: once it is applied, {line}"))


def _made(client: Client, found: dciqueue.Imported, pool: str) -> list[Change]:
    """Make a pool as the commands of dci-queue do: they do not change those of a pools file."""
    removed = {name: reason for of, name, reason in found.removed if of == pool}
    there = [name for name in found.pools[pool] if name not in removed]
    changes = client.put_pool(pool, dciqueue.pool(pool, there))["changes"]
    if not removed:
        return changes
    # Nobody who waits already may have what was removed, before it is marked.
    is_paused = client.pool(pool)["paused"] is not None
    if not is_paused:
        client.pause(pool, "what dci-queue had removed is being marked")
    changes += client.put_pool(pool, dciqueue.pool(pool, list(removed)))["changes"]
    for name, reason in removed.items():
        client.offline(pool, name, reason)
        note(one_line(f"offline: {pool}/{name}, {reason}"))
    if not is_paused:
        client.resume(pool)
    return changes


def _folders(top: Path) -> list[dciqueue.Folders]:
    """What dci-queue's folders have; `.seq` and its lock, which are in that of commands, are none."""
    if not (top / "pool").is_dir():
        raise typer.BadParameter(f"{top} is no folder of dci-queue: there is no {top / 'pool'}")
    try:
        return [
            dciqueue.Folders(
                pool=pool,
                resources=_names(top / "pool" / pool),
                available=_names(top / "available" / pool),
                reasons=_jsons(top / "reason" / pool),
                queue=_jsons(top / "queue" / pool),
            )
            for pool in _names(top / "pool")
        ]
    except OSError as error:
        raise typer.BadParameter(f"{error.filename} cannot be read: {error.strerror}") from error


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []


def _jsons(folder: Path) -> dict[str, object]:
    """The JSON of each file by its name; None where there is none in it."""
    found: dict[str, object] = {}
    for name in _names(folder):
        try:
            with open(folder / name, "rb") as file:
                found[name] = json.loads(file.read(_LARGEST_JSON))
        except (ValueError, RecursionError):
            found[name] = None
        except FileNotFoundError:
            # A command that ended meanwhile.
            continue
    return found


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


def _yaml(path: Path) -> Any:
    """What a YAML file says, as resalloc reads it."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise typer.BadParameter(f"{path} is larger than {_LARGEST // 2**20} MiB")
    try:
        # By its name: no other command needs it, and so it is none of the client's packages.
        yaml = importlib.import_module("ruamel.yaml")
    except ModuleNotFoundError as error:
        note("To read YAML this command needs a package of the service: pip install 'leasehold[service]'")
        raise typer.Exit(Exit.ERROR) from error
    reader = yaml.YAML(typ="safe", pure=True)
    # resalloc's library knows no other: `yes` is true, 010 is 8.
    reader.version = "1.1"
    try:
        with warnings.catch_warnings(action="ignore"):
            return reader.load(io.BytesIO(content))
    except (yaml.error.YAMLError, ValueError, RecursionError) as error:
        # ValueError: bytes that are no text, and words that look like a date or number and are none.
        raise Malformed(f"{path}: {_yaml_reason(error)}"[:_LONGEST_REASON]) from None


def _yaml_reason(error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}" if mark else f"this is no YAML: {error}"


def _put(text: str, output: str | None, apply: bool) -> None:
    """Write a pools file where it is wanted; to standard output, if it is not applied."""
    if output is not None:
        _write(output, text)
    elif not apply:
        typer.echo(text, nl=False)


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
