"""The units of deploy/ and of `arbiter --init --systemd`, as systemd's own tools and its real manager take them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from clients import Client, ask
from harness import APP, BASE
from systemd_user import OBSTACLE, Systemd
from waiting import PATIENCE, until

from arbiter import templates
from arbiter.scaffold import plan, write

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed (.ci/run installs it)"),
]


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=PATIENCE, check=False)


def lay_units(folder: Path) -> None:
    """The two units of deploy/, with a program that there is."""
    for path in ("arbiter@.service", "arbiter@.socket"):
        text = templates.DEPLOY[f"systemd/{path}"]
        (folder / path).write_text(text.replace("/srv/%i/.venv/bin/arbiter", sys.executable + " -m arbiter"))


def test_systemd_finds_nothing_wrong_in_the_units(tmp_path: Path) -> None:
    lay_units(tmp_path)
    found = analyze("verify", "--man=no", str(tmp_path / "arbiter@.service"), str(tmp_path / "arbiter@.socket"))

    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_the_service_may_do_little_more_than_serve(tmp_path: Path) -> None:
    lay_units(tmp_path)
    found = analyze("security", "--offline=true", "--threshold=25", "--no-pager", str(tmp_path / "arbiter@.service"))

    assert found.returncode == 0, found.stdout


@pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)
def test_the_generated_unit_serves_reloads_restarts_without_a_lost_request_and_stops(systemd: Systemd, tmp_path: Path) -> None:
    """1. --init --systemd, its unit under the real manager. 2. Under load: reload, restart. 3. Stop.

    Result: active when it serves; nothing is lost, since systemd keeps the queue; inactive with success.
    The user manager knows no other users, the test lies in /tmp, and a namespace's /proc can't be mounted over: so User=,
    Group=, PrivateTmp=, ProtectKernelTunables= and ProtectKernelLogs= are taken out; all else is as it is deployed.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address: tuple[str, int] = probe.getsockname()
    (tmp_path / "app.py").write_text(APP)
    made = plan(["--init", "--systemd", "--name", "shop", "app"], str(tmp_path), {})
    write(made.files, str(tmp_path))
    toml = (tmp_path / "arbiter.toml").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{address[1]}")
    (tmp_path / "arbiter.toml").write_text(f'workers = 2\nprove = 0\nerrorlog = "{tmp_path}/log"\n{toml}')
    systemd.write("shop.service", (tmp_path / "deploy/shop.service").read_text())
    drop_in = systemd.units / "shop.service.d"
    drop_in.mkdir()
    environment = "\n".join(f'Environment="{key}={value}"' for key, value in BASE.items() if key.startswith("PYTHON"))
    program = f"{sys.executable} -m arbiter -c {tmp_path}/arbiter.toml"
    (drop_in / "test.conf").write_text(
        "[Service]\nUser=\nGroup=\nPrivateTmp=no\nProtectKernelTunables=no\nProtectKernelLogs=no\n"
        f"ReadWritePaths={tmp_path}\n{environment}\nExecStart=\nExecStart={program}\n"
    )

    def order(*words: str) -> None:
        done = systemd.ctl(*words, "shop.service")
        status = systemd.ctl("status", "--no-pager", "shop.service").stdout
        assert done.returncode == 0, f"{words}: {done.stderr}\n{status}\n{systemd.log.read_text()}"

    def show(name: str) -> str:
        return systemd.ctl("show", "--value", "--property", name, "shop.service").stdout.strip()

    assert systemd.ctl("daemon-reload").returncode == 0
    order("start")
    assert ask(address).status == 200
    with Client(address, threads=2) as client:
        client.more(10)
        order("reload")
        until(lambda: "gen 2" in show("StatusText"), lambda: f"generation 2, not {show('StatusText')}")
        client.more(10)
        order("restart")
        client.more(10)
    order("stop")

    assert client.failures == []
    assert (show("ActiveState"), show("Result")) == ("inactive", "success")
