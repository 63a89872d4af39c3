"""A lab on each kind of database, checked against the ledger's rules after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import NewDatabase
from tests.contract import ledger
from tests.contract.store_lab import Lab


@pytest.fixture
async def lab(new_database: NewDatabase) -> AsyncIterator[Lab]:
    lab = Lab(new_database("main"))
    try:
        yield lab
        assert await ledger.faults(lab.store) == []
    finally:
        lab.store.close()
