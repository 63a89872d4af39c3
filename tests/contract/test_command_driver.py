"""The driver `command`: what users' hooks are given, and what becomes of what they print."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from activities.drivers.command import CommandDriver
from activities.drivers.output import LOG_LIMIT, RESULT_LIMIT
from leasehold.ports import Ending
from tests.contract.command_hooks import GRACE, PATIENCE, Log, call, run_hook, until


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[CommandDriver]:
    async with asyncio.timeout(2 * PATIENCE), CommandDriver(tmp_path / "locks", GRACE) as driver:
        yield driver


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pools"
    folder.mkdir()
    return folder


def lives_on(path: bytes) -> bool:
    return os.path.exists(path)


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


async def test_the_result_is_what_stdout_said_byte_for_byte(driver: CommandDriver) -> None:
    result = await run_hook(driver, call(r"printf 'a\377\000b\r\n\n'; echo not this >&2"))
    assert result.stdout == b"a\xff\x00b\r\n\n"
    assert not result.cut
    assert result.ok


async def test_a_hook_may_say_nothing(driver: CommandDriver) -> None:
    log = Log()
    result = await run_hook(driver, call(":"), log)
    assert (result.ok, result.stdout, log.pieces) == (True, b"", [])


async def test_a_line_goes_to_the_shell_in_the_pools_folder(driver: CommandDriver, folder: Path) -> None:
    result = await run_hook(driver, call("pwd | tr a-z A-Z", folder=folder))
    assert result.stdout.decode().strip() == str(folder).upper()


async def test_without_a_folder_a_hook_starts_in_the_root(driver: CommandDriver) -> None:
    assert (await run_hook(driver, call("pwd"))).stdout == b"/\n"


async def test_a_list_runs_without_a_shell_relative_to_the_folder(driver: CommandDriver, folder: Path) -> None:
    script(folder / "say.sh", '#!/bin/sh\nprintf "%s|" "$@"\n')
    result = await run_hook(driver, call(("./say.sh", "$HOME", "a  b", "*"), folder=folder))
    assert result.stdout == b"$HOME|a  b|*|"


async def test_a_program_is_found_on_the_path_of_the_hook(driver: CommandDriver, folder: Path) -> None:
    script(folder / "deploy", "#!/bin/sh\necho mine\n")
    result = await run_hook(driver, call(("deploy",), env={"PATH": f"{folder}:/bin:/usr/bin"}))
    assert result.stdout == b"mine\n"


@pytest.mark.parametrize("status", [0, 1, 255])
async def test_the_exit_status_is_told(driver: CommandDriver, status: int) -> None:
    result = await run_hook(driver, call(f"exit {status}"))
    assert (result.ending, result.code, result.ok) == (Ending.EXITED, status, status == 0)
    assert str(status) in result.detail


async def test_a_signal_is_told_apart_from_a_status(driver: CommandDriver) -> None:
    result = await run_hook(driver, call("kill -9 $$"))
    assert (result.ending, result.code, result.ok) == (Ending.SIGNALLED, 9, False)


@pytest.mark.parametrize(
    ("run", "where", "why"),
    [
        (("./missing",), "", "./missing: No such file"),
        (("no-such-program",), "", "no-such-program: No such file"),
        (("./plain",), "", "./plain: Permission denied"),
        (("./rootless",), "", "./rootless: its interpreter does not exist"),
        (("./shapeless",), "", "./shapeless: Exec format error"),
        ("true", "nowhere", "nowhere: No such file"),
        ("true", "plain", "plain: Not a directory"),
        ((), "", "nothing to run"),
    ],
)
async def test_what_cannot_start_says_why(
    driver: CommandDriver, folder: Path, run: str | tuple[str, ...], where: str, why: str
) -> None:
    script(folder / "plain", "#!/bin/sh\n", mode=0o644)
    script(folder / "rootless", "#!/no/such/interpreter\n")
    script(folder / "shapeless", "echo no interpreter line\n")
    result = await run_hook(driver, call(run, folder=folder / where))
    assert (result.ending, result.code) == (Ending.NOT_STARTED, None)
    assert why in result.detail


async def test_the_workers_own_environment_does_not_leak(
    driver: CommandDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEASEHOLD_SECRET_KEY", "TEMPORAL_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2")
    result = await run_hook(driver, call(("env",), env={"LEASEHOLD_POOL": "r640"}))
    names = {line.partition("=")[0] for line in result.stdout.decode().splitlines()}
    assert names == {"PATH", "HOME", "LANG", "LEASEHOLD_POOL", "LEASEHOLD_LEASE_FILE", "LEASEHOLD_RUN"}


async def test_a_large_environment_arrives_whole(driver: CommandDriver) -> None:
    env = {f"LEASEHOLD_{n}": "\xe4\udcff" * 40_000 for n in range(4)}
    result = await run_hook(driver, call('printf %s "$LEASEHOLD_3" | wc -c', env=env))
    assert result.stdout.strip() == b"120000"


async def test_a_value_that_no_environment_can_hold_is_a_clear_refusal(driver: CommandDriver) -> None:
    result = await run_hook(driver, call("true", env={"LEASEHOLD_PARAMS": "x" * 200_000}))
    assert result.ending is Ending.NOT_STARTED
    assert "Argument list too long" in result.detail


async def test_the_lease_is_in_a_private_file_that_goes_away(driver: CommandDriver) -> None:
    hook = 'echo "$LEASEHOLD_LEASE_FILE"; stat -c %a "$LEASEHOLD_LEASE_FILE"; cat "$LEASEHOLD_LEASE_FILE"'
    result = await run_hook(driver, call(hook, lease_file=b'{"id": "\xff"}'))
    path, mode, content = result.stdout.split(b"\n")
    assert not lives_on(path)
    assert content == b'{"id": "\xff"}'
    assert int(mode, 8) == stat.S_IRUSR | stat.S_IWUSR


async def test_a_hook_starts_with_a_clean_slate(driver: CommandDriver) -> None:
    hook = "wc -c; grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd; ulimit -Sn"
    given = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    result = await run_hook(driver, call(("/bin/sh", "-c", hook)))
    stdin, blocked, ignored, *descriptors, limit = result.stdout.decode().split("\n")[:-1]
    assert stdin == "0"
    # 32 and 33 are the C library's own, which no program can change or pass on.
    own = 1 << 31 | 1 << 32
    assert [int(line.split()[1], 16) & ~own for line in (blocked, ignored)] == [0, 0]
    assert descriptors == ["0", "1", "2", "3"]  # 3 is the folder that ls reads
    assert int(limit) == given


async def test_a_result_of_just_the_limit_is_whole(driver: CommandDriver) -> None:
    result = await run_hook(driver, call(f"yes 1234567 | head -c {RESULT_LIMIT}"))
    assert (len(result.stdout), result.cut) == (RESULT_LIMIT, False)


async def test_a_result_too_long_is_cut_at_whole_lines(driver: CommandDriver) -> None:
    result = await run_hook(driver, call("seq 100000"))
    assert result.cut
    assert result.stdout.endswith(b"\n")
    assert RESULT_LIMIT - 6 < len(result.stdout) <= RESULT_LIMIT
    assert result.stdout.split() == [b"%d" % n for n in range(1, len(result.stdout.split()) + 1)]


async def test_a_first_line_too_long_is_cut_hard(driver: CommandDriver) -> None:
    result = await run_hook(driver, call(f"head -c {RESULT_LIMIT + 1} /dev/zero"))
    assert (result.stdout, result.cut) == (b"\0" * RESULT_LIMIT, True)


async def test_a_gigabyte_neither_fills_memory_nor_stalls(driver: CommandDriver) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await run_hook(driver, call("head -c 1000000000 /dev/zero"))
    assert (result.ok, result.cut) == (True, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


async def test_a_log_too_long_is_cut_once_for_both_streams_and_says_so(driver: CommandDriver) -> None:
    log = Log()
    hook = "yes | head -c 700000; sleep 0.3; yes | head -c 700000 >&2; sleep 0.3; echo more; echo more >&2"
    result = await run_hook(driver, call(hook), log)
    assert result.ok
    assert len(log.text("stdout") + log.text("stderr")) == LOG_LIMIT
    assert log.text("stderr")
    assert log.pieces[-1] == ("service", b"the log of this run is longer than 1024 KiB; the rest was dropped\n")
    assert sum(stream == "service" for stream, _ in log.pieces) == 1


async def test_the_log_has_both_streams(driver: CommandDriver) -> None:
    log = Log()
    await run_hook(driver, call("echo one; echo two >&2; echo three"), log)
    assert (log.text("stdout"), log.text("stderr")) == (b"one\nthree\n", b"two\n")


async def test_a_secret_result_is_not_logged(driver: CommandDriver) -> None:
    log = Log()
    result = await run_hook(driver, call("echo password; echo fine >&2", log_stdout=False), log)
    assert result.stdout == b"password\n"
    assert log.pieces == [("stderr", b"fine\n")]


async def test_the_log_can_be_followed_while_the_hook_runs(driver: CommandDriver, folder: Path) -> None:
    log = Log()
    running = asyncio.create_task(
        run_hook(driver, call("echo ready; until [ -e go ]; do sleep 0.05; done", folder=folder), log)
    )
    await until(lambda: log.text("stdout") == b"ready\n")
    (folder / "go").touch()
    assert (await running).ok


async def test_a_chatty_hook_does_not_write_the_log_a_thousand_times(driver: CommandDriver) -> None:
    log = Log()
    await run_hook(driver, call("i=0; while [ $i -lt 5000 ]; do echo $i; echo $i >&2; i=$((i+1)); done"), log)
    assert log.text("stdout") == log.text("stderr") == b"".join(b"%d\n" % n for n in range(5000))
    assert len(log.pieces) < 500


async def test_a_log_that_fails_does_not_fail_the_hook(driver: CommandDriver, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(stream: str, data: bytes) -> None:
        raise ConnectionError("the log database is away")

    result = await run_hook(driver, call("echo done"), broken)
    assert (result.ok, result.stdout) == (True, b"done\n")
    assert "5 bytes of a hook's log are lost" in caplog.text


async def test_two_hundred_hooks_run_at_once(driver: CommandDriver, folder: Path) -> None:
    # Each waits until all have started.
    hook = 'touch "$N"; until [ "$(ls | wc -l)" -ge 200 ]; do sleep 1; done; echo "$N"'
    calls = [call(hook, folder=folder, env={"N": str(n)}, locks=(f"r640/host{n}",)) for n in range(200)]
    results = await asyncio.gather(*(run_hook(driver, each) for each in calls))
    assert [result.stdout for result in results] == [b"%d\n" % n for n in range(200)]


async def test_names_of_any_kind_can_be_locks(driver: CommandDriver) -> None:
    for lock in ("", "..", "../../etc", "a/b", "x" * 1000, "\xe4\0"):
        assert (await run_hook(driver, call("true", locks=(lock,)))).ok
