"""The command line. Each command parses, calls `leasehold.client`, and prints; the service decides."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of `exits.Exit`, or as `leasehold run` documents."""
    from leasehold.cli.app import app

    app(args=argv, prog_name="leasehold")
