"""Commands about users' tokens: `token create`, `token ls`, `token revoke`, `token whoami`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from leasehold.answers import Scopes, Token
from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit, of_error
from leasehold.cli.output import note, one_line, print_error, print_fields, print_json, print_rows, say
from leasehold.cli.words import moment
from leasehold.errors import LeaseholdError

User = Annotated[str | None, typer.Option("--user", "-u", metavar="USER", help="By default you.")]


def create(
    user: User = None,
    role: Annotated[
        str | None, typer.Option("--role", "-r", help="viewer, user, operator, admin or runner; by default user.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            "-e",
            metavar="DURATION",
            callback=options.as_duration,
            help="How long it is good; by default 90d, at most 365d.",
        ),
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option("--pool", "-p", metavar="POOL", help="Good for this pool alone; repeatable.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="It changes nothing.")] = False,
    label: Annotated[str | None, typer.Option("--label", "-l", help="What it is for.")] = None,
    as_json: options.Json = False,
) -> None:
    """Make a token and print it, this once: export LEASEHOLD_TOKEN=$(leasehold token create --user ci)."""
    with connect() as client:
        made = client.create_token(
            user=user, role=role, expires=expires, pools=pool or (), read_only=read_only, label=label
        )
    if as_json:
        print_json(made)
        return
    until = moment(made["expires_at"])
    note(one_line(f"Token {made['id']} of {made['user']}: {_may(made['role'], made['scopes'])}, until {until}."))
    note(f"It is shown only now. To end it: leasehold token revoke {made['id']}")
    say(made["token"])


def list_tokens(
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="USER", help="Only those of this user.")] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those too that expired or were revoked.")] = False,
    as_json: options.Json = False,
) -> None:
    """List tokens, yours or, for an admin, all; without --all those that are good."""
    with connect() as client:
        found = [one for one in client.tokens(user) if everything or _end(one) is None]
    if as_json:
        print_json({"items": found, "next_cursor": None})
        return
    rows = [
        (
            one["id"],
            one["user"],
            _may(one["role"], one["scopes"]),
            one["label"],
            _end(one) or moment(one["expires_at"]),
            moment(one["last_used_at"]),
            one["created_by"],
        )
        for one in found
    ]
    print_rows(("ID", "USER", "MAY", "LABEL", "UNTIL", "LAST USED", "MADE BY"), rows)


def revoke(
    tokens: Annotated[
        list[str], typer.Argument(metavar="ID", help="Ids of tokens, as ls prints them.", show_default=False)
    ],
    as_json: options.Json = False,
) -> None:
    """Make tokens good for nothing, with those that their users made with them."""
    done: list[Token] = []
    status = Exit.DONE
    with connect() as client:
        for token in tokens:
            try:
                done.append(client.revoke_token(_id(token)))
            except LeaseholdError as error:
                print_error(error, as_json)
                status = status or of_error(error)
    if done and as_json:
        print_json(done[0] if len(done) == 1 else {"items": done, "next_cursor": None})
    for one in () if as_json else done:
        say(one_line(f"{one['id']} of {one['user']}: {_end(one)}"))
    raise typer.Exit(status)


def whoami(as_json: options.Json = False) -> None:
    """Print who you are to the service, and what your token is good for."""
    with connect() as client:
        found = client.whoami()
    if as_json:
        print_json(found)
        return
    fields: list[tuple[str, Any]] = [
        ("user", None if found["lease"] else found["user"]),
        ("lease", found["lease"]),
        ("role", found["role"]),
        ("pools", found["scopes"]["pools"]),
        ("changes", "nothing" if found["scopes"]["read"] else None),
        ("token", found["token"]),
        ("until", moment(found["expires_at"])),
    ]
    print_fields(fields)


def _may(role: str, scopes: Scopes) -> str:
    where = "" if scopes["pools"] is None else f" in {','.join(scopes['pools'])}"
    return f"{role}{where}{', reading' if scopes['read'] else ''}"


def _end(token: Token) -> str | None:
    """How a token came to its end, if it did."""
    if token["revoked_at"] is not None:
        return f"revoked {moment(token['revoked_at'])} by {token['revoked_by']}"
    if datetime.fromisoformat(token["expires_at"]) <= datetime.now(UTC):
        return f"expired {moment(token['expires_at'])}"
    return None


def _id(text: str) -> str:
    """The id of a token; from a whole one that somebody found, so that its secret is sent nowhere."""
    parts = text.split("_")
    return parts[1] if parts[0] == "lh" and len(parts) > 1 else text
