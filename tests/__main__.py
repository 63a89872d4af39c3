"""`python -m tests [arguments of pytest]`: runs the tests; the exit status is pytest's own."""

from __future__ import annotations

import os
import sys

import pytest

from tests.skipping import Missed


def main() -> int:
    """Run the tests; say last which of them failed, or else what could not be tested here."""
    missed = Missed()
    status = int(pytest.main(sys.argv[1:], plugins=[missed]))
    if missed.reason and status == 0:
        print(f"\nNOT TESTED on PostgreSQL: {missed.reason}.")
        print("Install PostgreSQL, or name a server: LEASEHOLD_TEST_POSTGRES=postgresql://user:password@host/database")
    return status


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the Temporal client outlive the interpreter, which crashes some of its exits.
    os._exit(status)
