"""Restoring a lab's database from an older copy, under everything that runs."""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path

from tests.workflows.lab import Lab


class Copy:
    """A copy of the lab's database, made now."""

    def __init__(self, lab: Lab) -> None:
        name = lab.store.database.url.database
        assert name is not None
        self._original = Path(name)
        self._copy = self._original.with_name(f"copy-{uuid.uuid4().hex}.db")
        _copy(self._original, self._copy)

    def restore(self) -> None:
        """Put it in the place of the database."""
        _copy(self._copy, self._original)


def _copy(source: Path, target: Path) -> None:
    before, after = sqlite3.connect(source), sqlite3.connect(target, timeout=20)
    with before, after:
        before.backup(after)
    before.close()
    after.close()
