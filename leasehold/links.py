"""Links for people: to a lease in the API, and to its workflow in Temporal's UI."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


def workflow_link(ui: str, namespace: str, workflow: str, run: str) -> str:
    """The history of a run of a workflow, in the Temporal UI at `ui`."""
    return f"{ui}/namespaces/{namespace}/workflows/{quote(workflow, safe='')}/{run}/history"


@dataclass(frozen=True, kw_only=True)
class Links:
    """Where people's browsers find the API and Temporal's UI, without a slash at the end."""

    api: str
    ui: str
    namespace: str

    def lease(self, lease: str) -> str:
        """A lease, by its id or number."""
        return f"{self.api}/v1/leases/{quote(lease, safe='')}"

    def workflow(self, workflow: str, run: str) -> str:
        """The history of a run of a workflow."""
        return workflow_link(self.ui, self.namespace, workflow, run)
