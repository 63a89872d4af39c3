"""What a busy machine must not decide: when the SDK breaks into a workflow, and whom collecting garbage holds up."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from temporalio.worker._workflow import _WorkflowWorker

_STUCK_S = 60


def wait_for_workflows(patch: pytest.MonkeyPatch) -> None:
    """Have the SDK take a workflow for stuck after a minute instead of its 2 s, for which it has no option.

    It breaks into whatever the thread is at, which may be pytest's own.
    """
    begin = _WorkflowWorker.__init__

    def patient(self: Any, **options: Any) -> None:
        begin(self, **options)
        assert self._deadlock_timeout_seconds == 2, "the SDK has another limit, or another name for it"
        self._deadlock_timeout_seconds = _STUCK_S

    patch.setattr(_WorkflowWorker, "__init__", patient)


def keep_what_is_loaded() -> None:
    """Look through all modules and tests for garbage once, and no more: it would stop the process each time."""
    gc.collect()
    gc.freeze()
