"""One stack for all end-to-end tests; whoever stops it leaves it to the next one to start it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import Lab
from tests.stack import TEMPORAL, Stack


@pytest.fixture(scope="session")
def session_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, with data that last as long as the tests."""
    assert TEMPORAL.exists(), "Temporal's command line tool is missing: make setup"
    stack = Stack(tmp_path_factory.mktemp("stack"))
    yield stack
    stack.close()


@pytest.fixture
def stack(session_stack: Stack) -> Stack:
    """The stack, running."""
    if not session_stack.running:
        session_stack.start()
    return session_stack


@pytest.fixture
def lab(stack: Stack, tmp_path: Path) -> Iterator[Lab]:
    """Pools and leases for one test."""
    lab = Lab(stack, tmp_path)
    yield lab
    lab.close()
