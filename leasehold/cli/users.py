"""Commands about users with passwords: `user add`, `ls`, `passwd`, `disable`, `enable`, `rm`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from leasehold.answers import User
from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.output import one_line, print_json, print_rows, say
from leasehold.cli.words import exact

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name or a mail address.", show_default=False)]
PasswordFile = Annotated[
    str | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="Where the password is, in one line; - is standard input. Without it you are asked for it.",
    ),
]


def add(
    name: Name,
    role: Annotated[
        str | None, typer.Option("--role", "-r", help="viewer, user, operator or admin; by default user.")
    ] = None,
    password_file: PasswordFile = None,
    as_json: options.Json = False,
) -> None:
    """Make a user who logs in with a password, as QUADS's clients do."""
    password = _password(password_file)
    with connect() as client:
        _report(client.create_user(name, password, role), as_json, "can log in")


def list_users(as_json: options.Json = False) -> None:
    """List users with passwords."""
    with connect() as client:
        found = list(client.users())
    if as_json:
        print_json({"items": found, "next_cursor": None})
        return
    rows = [(one["name"], one["role"], _standing(one), exact(one["password_at"]), one["created_by"]) for one in found]
    print_rows(("USER", "ROLE", "STATE", "PASSWORD SET", "MADE BY"), rows)


def passwd(name: Name, password_file: PasswordFile = None, as_json: options.Json = False) -> None:
    """Change a user's password; what the old one opened is revoked."""
    password = _password(password_file)
    with connect() as client:
        _report(client.set_password(name, password), as_json, "has a new password")


def disable(name: Name, as_json: options.Json = False) -> None:
    """Let a user log in no more, and revoke all tokens of this user."""
    with connect() as client:
        _report(client.disable_user(name), as_json, "cannot log in")


def enable(name: Name, as_json: options.Json = False) -> None:
    """Let a user log in again."""
    with connect() as client:
        _report(client.enable_user(name), as_json, "can log in")


def remove(name: Name, as_json: options.Json = False) -> None:
    """Forget a user, and revoke all tokens of this user. Leases stay, under the owner's name."""
    with connect() as client:
        _report(client.remove_user(name), as_json, "is forgotten")


def _password(file: str | None) -> str:
    """A password from a file or the person at the terminal: on a command line everybody could read it."""
    if file is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody can be asked for a password here: give --password-file")
        asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    try:
        if file == "-":
            text = sys.stdin.read()
        else:
            with open(file, encoding="utf-8") as stream:
                text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise typer.BadParameter(f"{file} cannot be read: {reason}") from error
    lines = text.splitlines()
    if len(lines) != 1:
        raise typer.BadParameter(f"{file} must have the password in one line, and has {len(lines)} lines")
    return lines[0]


def _report(user: User, as_json: bool, what: str) -> None:
    if as_json:
        print_json(user)
    else:
        say(one_line(f"{user['name']} ({user['role']}) {what}"))


def _standing(user: User) -> str:
    return "enabled" if user["disabled_at"] is None else f"disabled by {user['disabled_by']}"
