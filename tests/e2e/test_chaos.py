"""Leases with failing hooks, under random kills: the long run of `make chaos`, in short."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.stack import ROOT


@pytest.mark.timeout(240)
def test_under_random_kills_nothing_is_lent_twice_leaked_or_lost() -> None:
    short = ["--seconds", "20", "--leases", "50", "--resources", "16", "--every", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *short], cwd=ROOT, capture_output=True, text=True, timeout=230
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(re.findall(r"^ *(.+?) {2,}(\S+)", done.stdout, re.MULTILINE))
    assert figures["leases"] == "50"
    assert [figures[name] for name in ("double", "leaked", "lost", "other faults")] == ["0"] * 4
    assert int(figures["worker restarted"]) + int(figures["api restarted"]) > 0
