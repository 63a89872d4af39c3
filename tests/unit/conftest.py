"""The command line on an API that answers what a test tells it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.cli_runner import Cli
from tests.unit.fake_api import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


@pytest.fixture
def cli(api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    return Cli(api, monkeypatch, capfdbinary)
