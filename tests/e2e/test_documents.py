"""What the documents tell people to type works, in that order, on a service that has just been set up."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import until
from tests.faults.nursery import Nursery
from tests.faults.parts import Kind, Parts
from tests.stack import LEASEHOLD, ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^\$ (.+?)(?:\s{2,}#.*)?$", re.MULTILINE)
HOSTS = """
pools:
- name: r640
  deliver: {run: echo ssh root@10.0.0.1}
  resources:
  - {name: host01, properties: {disks: [{disk_type: nvme}]}}
  - {name: host02, properties: {disks: [{disk_type: nvme}]}}
  - {name: host03}
- name: vm
  resources:
  - {name: vm1, tags: [fedora]}
  - {name: vm2, tags: [fedora]}
  - {name: vm3}
  - {name: vm4}
  - {name: vm5, tags: [fedora]}
  - {name: vm6}
"""
SCRIPT = ["sh", "-eu", "-c"]
RUN_BY_CI = {"setup", "check", "test", "demo", "up", "bench", "simulate"}
"""`up` by the tests of the stack, `bench` and `simulate` by tests of this module, the others by `.ci/run` itself."""


def commands(document: Path) -> list[list[str]]:
    """The commands that a document's console blocks show, and its blocks of shell as a whole, in their order."""
    shown: list[list[str]] = []
    blocks = re.findall(r"^```(console|sh)\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    for kind, block in blocks:
        shown += [[*SCRIPT, block]] if kind == "sh" else [shlex.split(line) for line in COMMAND.findall(block)]
    return shown


SHOWN = {document: commands(document) for document in DOCUMENTS}


def test_the_readme_shows_commands() -> None:
    assert ["leasehold", "take", "lab", "-n", "2", "--for", "2h"] in SHOWN[ROOT / "README.md"]


@pytest.mark.parametrize("document", [d for d, shown in SHOWN.items() if shown], ids=lambda d: d.name)
def test_every_make_target_is_run(document: Path) -> None:
    for command in SHOWN[document]:
        assert command[0] in {"make", "leasehold"} or command[:3] == SCRIPT, command
        assert command[0] != "make" or command[1] in RUN_BY_CI, command


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Each document has a service of its own: what it shows begins with the first lease."""
    with Nursery(preload=True) as nursery:
        yield nursery


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "document",
    [d for d, shown in SHOWN.items() if any(c[0] == "leasehold" for c in shown)],
    ids=lambda d: d.name,
)
def test_every_command_works(document: Path, nursery: Nursery, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(ROOT / "examples", work / "examples", ignore=shutil.ignore_patterns(".state"))
    # What `leasehold run` is shown to run belongs to the reader.
    (work / "bin").mkdir()
    (work / "bin" / "make").write_text("#!/bin/sh\n")
    (work / "bin" / "make").chmod(0o755)
    (work / "hosts.yaml").write_text(HOSTS)
    with Parts(tmp_path, nursery, kind=Kind.SERVICE) as stack:
        environment = {**stack.environment, "PATH": f"{work / 'bin'}:{LEASEHOLD.parent}:/usr/bin:/bin"}
        for command in (["leasehold", "apply", "-f", "hosts.yaml"], *SHOWN[document]):
            if command[0] == "make":
                continue
            done = subprocess.run(
                command, cwd=work, env=environment, capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        with stack.client() as client:
            for lease in client.leases(state="queued,preparing,active"):
                client.cancel(lease["id"])
            # Servers of the examples end with the release of what they stand for.
            busy = {"leased", "recycling"}
            until(lambda: not busy & {r["state"] for r in client.resources()}, "everything is released")


def run(module: str, *arguments: str) -> str:
    """What a program of the tests prints."""
    python = str(LEASEHOLD.with_name("python"))
    done = subprocess.run([python, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_benchmark_measures() -> None:
    assert "idle worker and API" in run("tests.bench", "idle")


def test_the_simulation_tells_when_each_lease_is_delivered_and_draws_it(tmp_path: Path) -> None:
    picture = tmp_path / "small.svg"
    small = ("--hosts", "7", "--requests", "2", "--each", "3", "--slots", "2")

    told = run("tests.simulation", *small, "--picture", str(picture))

    assert "7 hosts, 2 slots, 2 requests of 3 at once" in told
    assert told.count("delivered after") == 2
    assert picture.read_text().startswith("<?xml")
