"""Engines of tests, each of which would compile every statement anew: a third of what tests of stores would do."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine

_first: dict[str, Engine] = {}


def share_what_is_compiled(patch: pytest.MonkeyPatch) -> None:
    """Have all engines for one kind of database, from now on, use what the first of them has compiled."""
    patch.setattr("leasehold.store.engine.create_engine", _created)


def _created(*arguments: Any, **options: Any) -> Engine:
    engine = sqlalchemy.create_engine(*arguments, **options)
    first = _first.setdefault(engine.dialect.name, engine)
    if first.dialect.server_version_info is None:
        # It has never met its database, and does not know it yet.
        _first[engine.dialect.name] = engine
    else:
        engine.dialect, engine._compiled_cache = first.dialect, first._compiled_cache
    return engine
