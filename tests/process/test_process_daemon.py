"""Into the background (``-D``), and as somebody else: what a service is, and what its workers are, after the start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import procfs
import pytest
from harness import app
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

CTL = Path(sys.executable).with_name("arbiterctl")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[list[int]]:
    """Daemons that a test has begun: they are in sessions of their own, where the harness does not look."""
    found: list[int] = []
    yield found
    for pid in found:
        if (left := procfs.find(pid)) and left.title.startswith("arbiter: supervisor"):
            os.kill(pid, signal.SIGKILL)


def test_a_daemon_returns_when_it_serves_lets_go_of_the_terminal_and_is_stopped_by_name(
    arbiter: Arbiter, tmp_path: Path, begun: list[int]
) -> None:
    """1. -D with an import of a second. 2. The command returns: it is asked. 3. arbiterctl stop. Result: nothing is left."""
    arbiter.write("live.py", app("one", at_import="\ntime.sleep(1)\n"))
    began = time.monotonic()
    command = arbiter.launch("-D", "--pid", "pid", "--error-logfile", "log", "-w", "1", "live", bind="unix:sock")
    status = command.wait_exit()
    took = time.monotonic() - began
    pid = int((tmp_path / "pid").read_text())
    begun.append(pid)
    answered = command.get().status
    daemon = procfs.find(pid)

    assert status == 0
    assert took >= 1
    assert answered == 200
    assert daemon
    assert daemon.session not in (command.pid, pid), "it leads no session: it can get no terminal"
    assert [os.readlink(f"/proc/{pid}/fd/{stream}") for stream in (0, 1, 2)] == ["/dev/null"] * 3
    subprocess.run([CTL, "-p", "pid", "stop"], cwd=tmp_path, check=True, timeout=20)
    until(lambda: procfs.find(pid) is None, "the end of the daemon")
    assert not [found for found in procfs.everyone() if found.session == daemon.session]
    command.check()


def test_a_daemon_whose_application_can_not_boot_returns_3_with_the_traceback_on_the_terminal(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    arbiter.write("live.py", "import nosuch_module\n")
    status, said = arbiter.fail("-D", "--pid", "pid", "live")

    assert status == 3
    assert "cannot start: worker=1 failed while importing live" in said
    assert "No module named 'nosuch_module'" in said
    assert not (tmp_path / "pid").exists()


def test_a_daemon_on_an_address_in_use_returns_1_with_the_reason_and_the_first_goes_on(arbiter: Arbiter) -> None:
    first = arbiter.serve(workers=1)
    status, said = arbiter.fail("-D", "live", bind=f"127.0.0.1:{first.tcp[1]}")

    assert status == 1
    assert "in use" in said
    assert first.get().status == 200


def test_a_second_daemon_with_the_same_pid_file_returns_1_and_the_first_goes_on(arbiter: Arbiter, tmp_path: Path) -> None:
    first = arbiter.serve("--pid", "pid", workers=1)
    status, said = arbiter.fail("-D", "--pid", "pid", "live", keeps=[tmp_path / "pid"])

    assert status == 1
    assert str(first.pid) in said
    assert first.get().status == 200
    assert (tmp_path / "pid").read_text().strip() == str(first.pid)


# Who the workers are --------------------------------------------------------------------------------------------------

WHO = """
def application(environ, start_response):
    import os, time
    time.sleep(0.1 if environ["PATH_INFO"] == "/slowly" else 0)
    umask = os.umask(0)
    os.umask(umask)
    environment = "".join(f'"{name}": "{os.environ.get(name, "")}", ' for name in ("SHOP", "EMPTY", "ARBITER_WORKER_ID"))
    data = (
        f'{{{environment}"users": {list(os.getresuid())}, "groups": {list(os.getresgid())}, '
        f'"more": {sorted(os.getgroups())}, "umask": {umask}, "pid": {os.getpid()}}}'
    ).encode()
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return [data]
"""
"""Tells who its process is; ``/slowly`` takes a moment. Imports nothing else: Python's own library may lie where another user can't read."""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can read, as pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "live.py").write_text(WHO)
        yield Path(folder)


def who(server: Server) -> dict[str, object]:
    """What a worker says of itself."""
    told = json.loads(server.get().text)
    assert isinstance(told, dict)
    return told


@as_root
def test_workers_are_the_user_and_group_that_the_settings_name_and_the_supervisor_stays_root(
    arbiter: Arbiter, public: Path
) -> None:
    """As numbers without an entry, as in a container. Of root's groups nothing is left."""
    server = arbiter.launch(
        "-w", "1", "--user", "54321", "--group", "54322", "--umask", "027", "--chdir", str(public), "live"
    ).wait_ready()
    told = who(server)

    assert told["users"] == [54321] * 3
    assert told["groups"] == [54322] * 3
    assert told["more"] == [54322]
    assert told["umask"] == 0o027
    assert Path(f"/proc/{server.pid}").stat().st_uid == 0


@as_root
@pytest.mark.parametrize(("flags", "groups"), [((), [54321]), (("--initgroups",), [54321, 54323])])
def test_workers_have_all_groups_of_their_user_only_with_initgroups(
    arbiter: Arbiter, public: Path, tmp_path: Path, flags: tuple[str, ...], groups: list[int]
) -> None:
    """With a user and groups that only the server sees: files of ours in the place of the system's, in its own namespace."""
    unshare = shutil.which("unshare")
    assert unshare, "unshare is part of util-linux, which Debian always has"
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\nshop:x:54321:54321::/:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\nshop:x:54321:\nprinters:x:54323:shop\n")
    own = 'mount --bind passwd /etc/passwd && mount --bind group /etc/group && exec "$@"'
    prefix = (unshare, "--mount", "sh", "-c", own, "sh")
    if subprocess.run([*prefix, "true"], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount (no CAP_SYS_ADMIN)")
    server = arbiter.launch("-w", "1", "--user", "shop", *flags, "--chdir", str(public), "live", prefix=prefix).wait_ready()
    told = who(server)

    assert told["users"] == [54321] * 3
    assert told["groups"] == [54321] * 3
    assert told["more"] == groups


def test_a_user_that_is_not_there_ends_the_start_and_is_named(arbiter: Arbiter) -> None:
    arbiter.write("live.py", WHO)
    status, log = arbiter.fail("-w", "1", "--user", "nosuchuser", "live")

    assert status == 3
    assert "there is no user 'nosuchuser'" in log


def test_raw_env_is_set_before_the_application_is_imported_and_changed_by_a_reload(arbiter: Arbiter) -> None:
    arbiter.write("live.py", WHO + "\nimport os\nassert os.environ['SHOP']\n")
    arbiter.write("arbiter.toml", 'workers = 1\n[raw_env]\nSHOP = "north"\nEMPTY = ""\n')
    server = arbiter.launch("live", env={"SHOP": "none", "EMPTY": "full"}).wait_ready()
    first = who(server)
    arbiter.write("arbiter.toml", 'workers = 1\n[raw_env]\nSHOP = "south"\n')
    server.send(signal.SIGHUP)
    server.wait_workers(1, generation=2)
    second = who(server)

    assert (first["SHOP"], first["EMPTY"]) == ("north", "")
    assert (second["SHOP"], second["EMPTY"]) == ("south", "full"), "what it says no more is not left over"


def test_the_id_of_a_worker_is_its_slot_whatever_the_settings_say(arbiter: Arbiter) -> None:
    server = arbiter.serve("-e", "ARBITER_WORKER_ID=77", "-e", "REGION=eu", workers=1)

    assert server.get("/env?ARBITER_WORKER_ID").text == "1"
    assert server.get("/env?REGION").text == "eu"


def test_worker_ids_are_1_to_n_and_a_successor_has_that_of_its_predecessor(arbiter: Arbiter) -> None:
    """1. Three workers, one is killed, then all are reloaded. Result: always 1, 2 and 3."""
    arbiter.write("live.py", WHO)
    server = arbiter.serve("--surge", "2", workers=3)

    def ids() -> dict[str, object]:
        """What each worker that there is says of itself: they are asked all at once until each has been heard."""
        found: dict[str, object] = {}

        def all_heard() -> bool:
            for asked in [server.ask("/slowly") for _ in range(3)]:
                told = json.loads(asked.reply().text)
                found[told["ARBITER_WORKER_ID"]] = told["pid"]
            return len(set(found.values())) == 3

        until(all_heard, lambda: f"three workers, there were {found}")
        return found

    first = ids()
    os.kill(int(str(first["2"])), signal.SIGKILL)
    server.wait_log("worker=2 gen=1 .* ready after", times=2)
    server.wait_workers(3)
    second = ids()
    server.send(signal.SIGHUP)
    server.wait_workers(3, generation=2)
    third = ids()

    assert sorted(first) == sorted(second) == sorted(third) == ["1", "2", "3"]
    assert first["1"] == second["1"]
    assert first["2"] != second["2"]
    assert not set(second.values()) & set(third.values())
