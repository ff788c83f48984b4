"""A service under the real systemd: what its unit files promise is kept, and no restart, fault or stop loses a request."""

from __future__ import annotations

import re
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from clients import Asking, Client, ask
from harness import APP, BASE, app
from systemd_user import OBSTACLE, Systemd, version
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANGS = "\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)]


TYPES = ["notify", *(["notify-reload"] if version() >= 253 else [])]
"""Kinds of unit that this version of systemd knows: with the second, it waits for the end of a reload."""


@dataclass
class Service:
    """The unit ``site.service``: an Arbiter of `app.APP` on one TCP port."""

    systemd: Systemd
    folder: Path
    port: int

    def unit(self, *lines: str, options: str = "", kind: str = "notify") -> None:
        """Write the unit; `lines` more than the usual ones, `options` of the command line."""
        bind = f"--bind 127.0.0.1:{self.port}"
        environment = "\n".join(f'Environment="{k}={v}"' for k, v in BASE.items() if k.startswith("PYTHON"))
        reload = "" if kind == "notify-reload" else "ExecReload=sh -c 'kill -HUP $MAINPID'"
        self.systemd.write(
            "site.service",
            f"""
[Unit]
Description=a site
StartLimitIntervalSec=0
[Service]
Type={kind}
ExecStart={sys.executable} -m arbiter -w 2 --prove 0 {bind} {options} live
{reload}
WorkingDirectory={self.folder}
{environment}
StandardOutput=append:{self.folder}/log
StandardError=append:{self.folder}/log
{chr(10).join(lines)}
""",
        )
        self.systemd.ctl("daemon-reload")

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def code(self, source: str) -> None:
        """Write the application."""
        draft = self.folder / ".live.py"
        draft.write_text(source)
        draft.replace(self.folder / "live.py")

    def order(self, *words: str) -> None:
        """`systemctl --user` with these words and the unit's name; it must work."""
        result = self.systemd.ctl(*words, "site.service")
        assert result.returncode == 0, f"{words}: {result.stderr}\n{self.log()}"

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.systemd.ctl("show", "--value", "--property", name, "site.service").stdout.strip()

    def wait(self, name: str, *values: str, patience: float = PATIENCE) -> None:
        """Wait until a property begins with one of these."""
        until(
            lambda: self.show(name).startswith(values),
            lambda: f"{name} {values}, not {self.show(name)!r}\n{self.log()}",
            patience,
        )

    def client(self) -> Client:
        return Client(self.address, threads=3)

    def wait_held(self) -> None:
        until(lambda: list(self.folder.glob("held-*")), "a held request")

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def service(systemd: Systemd, tmp_path: Path) -> Iterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        service = Service(systemd, tmp_path, probe.getsockname()[1])
    service.code(APP)
    yield service
    print(service.log())
    assert "Traceback" not in service.log().replace('Traceback (most recent call last):\n  File "' + str(tmp_path), "")
    assert "please report" not in service.log()


STORE = ("FileDescriptorStoreMax=4", "Environment=FDSTORE=4")


def test_start_returns_when_a_worker_serves_and_stop_when_all_is_gone(service: Service) -> None:
    """1. Start; the import is held. 2. It is let go. 3. Stop.

    Result: `activating` with a status, then `active` and an answer at once; at the end `inactive`, and the port is free.
    """
    service.code(app("one", at_import=HANGS))
    service.unit()
    service.order("start", "--no-block")
    service.wait("StatusText", "starting: 0/2 ready")
    held = service.show("ActiveState")
    (service.folder / "go").touch()
    service.order("start")
    reply = ask(service.address)
    state = service.show("ActiveState"), service.show("SubState")
    service.wait("StatusText", "2/2 ready, 0 busy, gen 1")
    service.order("stop")

    assert held == "activating"
    assert state == ("active", "running")
    assert reply.status == 200
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    with pytest.raises(ConnectionRefusedError):
        ask(service.address)


def test_a_start_may_take_longer_than_timeout_start_sec_while_its_own_deadline_runs(service: Service) -> None:
    service.code(app("one", at_import="\ntime.sleep(4)\n"))
    service.unit("TimeoutStartSec=2")
    began = time.monotonic()
    service.order("start")

    assert time.monotonic() - began > 4
    assert ask(service.address).status == 200


@pytest.mark.parametrize(
    ("source", "options", "status", "why"),
    [
        ("raise RuntimeError('boom')\n", "", "3", "cannot start: worker=1 failed while importing live: RuntimeError: boom."),
        (APP, "--wokers 2", "2", "cannot start: unknown option '--wokers'"),
        (
            app("one", at_import=HANGS),
            "--boot-timeout 1",
            "3",
            "cannot start: worker=1 was not ready within boot_timeout (1 s).",
        ),
    ],
    ids=["the application raises", "wrong settings", "the import hangs"],
)
def test_a_start_that_fails_is_failed_and_the_status_says_why(
    service: Service, source: str, options: str, status: str, why: str
) -> None:
    service.code(source)
    service.unit(options=options)
    result = service.systemd.ctl("start", "site.service")

    assert result.returncode != 0
    assert (service.show("ActiveState"), service.show("Result")) == ("failed", "exit-code")
    assert service.show("ExecMainStatus") == status
    assert service.show("StatusText").startswith(why)
    assert f'Status: "{why[:60]}' in service.systemd.ctl("status", "--full", "site.service").stdout


@pytest.mark.parametrize("kind", TYPES)
def test_reloads_good_and_refused_keep_the_service_and_the_status_tells_them_apart(service: Service, kind: str) -> None:
    """A client asks all the time. 1. A reload of code that raises. 2. A reload of good code.

    Result: the same main process for ever, no failure; the reason of the refusal is in `systemctl status`.
    """
    service.unit(kind=kind)
    service.order("start")
    service.wait("StatusText", "2/2 ready")
    pid = service.show("MainPID")
    with service.client() as client:
        service.code("raise RuntimeError('boom')\n")
        service.order("reload")
        until(lambda: "last reload refused" in service.show("StatusText"), "the refusal in the status")
        service.wait("SubState", "running")
        status = service.systemd.ctl("status", "--full", "site.service").stdout
        service.code(app("two"))
        service.order("reload")
        until(lambda: client.heard("two"), "the new code")
        service.wait("SubState", "running")
        until(lambda: "refused" not in service.show("StatusText"), "a status without the refusal")

    assert client.failures == []
    assert "failed while importing live: RuntimeError: boom." in status
    assert service.show("MainPID") == pid
    assert service.show("ActiveState") == "active"


@pytest.mark.parametrize("mode", ["mixed", "control-group"])
def test_a_restart_loses_no_request_when_systemd_keeps_the_socket(service: Service, mode: str) -> None:
    """A client asks all the time. Three restarts. Result: no failure, and the store has the one socket once."""
    service.unit(*STORE, f"KillMode={mode}")
    service.order("start")
    pids = {service.show("MainPID")}
    with service.client() as client:
        for _ in range(3):
            client.more(30)
            service.order("restart")
            pids.add(service.show("MainPID"))
        client.more(30)

    assert client.failures == []
    assert len(pids) == 4
    assert service.show("NFileDescriptorStore") == "1"
    assert service.show("Result") == "success"


def test_a_socket_unit_starts_the_service_for_the_first_client_and_loses_nobody_in_a_restart(service: Service) -> None:
    """1. Only the socket is started. 2. A client asks. 3. Restarts, while a client asks all the time.

    Result: the first client is answered by the service that it has started, and nobody's request fails.
    """
    port, service.port = service.port, 1  # what --bind says must not matter
    service.unit("KillMode=mixed", "NonBlocking=true")
    service.port = port
    service.systemd.write("site.socket", f"[Socket]\nListenStream=127.0.0.1:{port}\nFileDescriptorName=web\n")
    service.systemd.ctl("daemon-reload")
    assert service.systemd.ctl("start", "site.socket").returncode == 0
    before = service.show("ActiveState")
    first = ask(service.address)
    with service.client() as client:
        for _ in range(3):
            client.more(30)
            service.order("restart")
        client.more(30)

    assert before == "inactive"
    assert first.status == 200
    assert client.failures == []


def test_a_frozen_supervisor_is_found_by_the_watchdog_and_the_service_started_anew(service: Service) -> None:
    """1. The main process shows signs of life. 2. SIGSTOP to it.

    Result: it is killed for the watchdog's reason, the only one for which this unit is started anew, and the next one serves.
    """
    service.unit(*STORE, "WatchdogSec=1", "Restart=on-watchdog", "RestartSec=0", "KillMode=mixed", "TimeoutAbortSec=2")
    service.order("start")
    pid = service.show("MainPID")
    until(lambda: service.show("WatchdogTimestampMonotonic") not in {"", "0"}, "a sign of life")
    time_of_life = service.show("WatchdogTimestampMonotonic")
    until(lambda: service.show("WatchdogTimestampMonotonic") != time_of_life, "the next")
    service.order("kill", "--kill-who=main", "--signal=STOP")
    service.wait("NRestarts", "1")
    service.wait("SubState", "running")

    assert service.show("MainPID") != pid
    assert ask(service.address).status == 200


def test_a_killed_main_process_is_replaced_and_who_waited_is_served(service: Service) -> None:
    """A client asks all the time. SIGKILL to the main process.

    Result: the next one serves on the same socket; only what was inside a worker, one request each, can be lost.
    """
    service.unit(*STORE, "Restart=always", "RestartSec=0", "KillMode=mixed")
    service.order("start")
    with service.client() as client:
        client.more(30)
        service.order("kill", "--kill-who=main", "--signal=KILL")
        service.wait("NRestarts", "1")
        service.wait("SubState", "running")
        client.more(30)

    assert len(client.failures) <= 2, client.failures


def test_an_upgrade_tells_systemd_the_new_main_process_and_loses_no_request(service: Service) -> None:
    """A client asks all the time. 1. USR2, twice one after the other. 2. A reload. 3. A restart, while a request is in it.

    Result: the unit stays active, its main process is the new supervisor, which systemd reloads and restarts; no failure, and
    the request is finished first, though who is the main process now was not systemd's own child when it was told of it.
    """
    service.unit(*STORE, "KillMode=mixed", "WatchdogSec=5")
    service.order("start")
    pids = [service.show("MainPID")]
    with service.client() as client:
        for _ in range(2):
            service.wait("StatusText", "2/2 ready")
            service.order("kill", "--kill-who=main", "--signal=USR2")
            until(lambda: service.log().count("listening on") > len(pids), lambda: f"a new supervisor\n{service.log()}")
            pids.append(re.findall(r"supervisor pid (\d+)", service.log())[-1])
            until(
                lambda: service.log().count("this supervisor leaves") == len(pids) - 1,
                lambda: f"the end of the old\n{service.log()}",
            )
            service.wait("MainPID", pids[-1])
            client.more(30)
        service.code(app("two"))
        service.order("reload")
        until(lambda: client.heard("two"), lambda: f"the new code\n{service.log()}")
        restarts = service.show("NRestarts")
        held = Asking(service.address, "/held")
        service.wait_held()
        service.order("restart", "--no-block")
        until(lambda: "the service stops" in service.log(), lambda: f"the stop\n{service.log()}")
        (service.folder / "release").touch()
        reply = held.reply()
        service.wait("StatusText", "2/2 ready")
        client.more(30)

    assert client.failures == []
    assert reply.status == 200
    assert restarts == "0"
    assert (service.show("ActiveState"), service.show("NFileDescriptorStore")) == ("active", "1")


def test_a_stop_may_take_longer_than_timeout_stop_sec_while_graceful_timeout_runs(service: Service) -> None:
    """1. A request of four seconds is in the application. 2. Stop, with TimeoutStopSec=2. Result: the whole response."""
    service.unit("TimeoutStopSec=2", "KillMode=mixed")
    service.order("start")
    held = Asking(service.address, "/held")
    service.wait_held()
    began = time.monotonic()
    service.order("stop", "--no-block")
    service.wait("StatusText", "stopping: 1 left, 1 busy")
    until(lambda: time.monotonic() > began + 4, "four seconds")
    (service.folder / "release").touch()
    service.wait("ActiveState", "inactive")

    assert held.reply().status == 200
    assert service.show("Result") == "success"


def test_a_stop_is_over_after_graceful_timeout_whatever_a_worker_does(service: Service) -> None:
    service.unit("KillMode=mixed", options="--graceful-timeout 1")
    service.order("start")
    deaf = Asking(service.address, "/deaf")
    service.wait_held()
    began = time.monotonic()
    service.order("stop")
    took = time.monotonic() - began

    assert 1 <= took < 4
    assert isinstance(deaf.outcome(), Exception)
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
