"""Tests that are skipped for want of something, and what the test run says of it in the end."""

from __future__ import annotations

from typing import NoReturn

import pytest

_NO_POSTGRES = "no PostgreSQL: "


def without_postgres(why: object) -> NoReturn:
    """Skip a test that wanted PostgreSQL."""
    pytest.skip(f"{_NO_POSTGRES}{why}")


class Missed:
    """Learns from the tests' reports, wherever they ran, why there was no PostgreSQL for those that wanted it."""

    def __init__(self) -> None:
        self.reason = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at one report."""
        if report.skipped and isinstance(report.longrepr, tuple):
            _, found, why = report.longrepr[2].partition(_NO_POSTGRES)
            self.reason = why if found else self.reason
