"""The guides that have their reader be root: on a machine of its own, as they are written, with the real systemd, nginx, HAProxy."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import wheels
import yaml
from guide import DOCS, ROOT, read
from machine import OBSTACLE, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    # One machine, on which one page goes on where another has ended.
    pytest.mark.xdist_group("machine"),
    pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE),
]
PATIENCE = 300.0
"""Seconds for a page: ten times what it takes on a machine that does nothing else."""
INDEX = ("PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels")
SETTING = f"""
shopt -s expand_aliases
export PATH={Path(sys.executable).resolve().parent}:$PATH {" ".join(INDEX)}
"""
"""What the machine of a reader has: an index of packages, and a terminal, whose shell knows aliases."""
ALIAS = "alias shop='curl -s --connect-to shop.example::127.0.0.1 --cacert /etc/ssl/shop/fullchain.pem'\n"
"""As the tutorial has it, for who begins in the middle."""
LOAD = """
import http.client, os, ssl, threading, time

context = ssl.create_default_context(cafile="/etc/ssl/shop/fullchain.pem")
replies, failures = set(), []
count = 0

def ask():
    global count
    while not os.path.exists("/tmp/enough"):
        connection = http.client.HTTPSConnection("shop.example", timeout=60, context=context)
        try:
            for _ in range(20):
                connection.request("GET", "/")
                response = connection.getresponse()
                text = response.read().decode()
                replies.add(text)
                count += 1
                if response.status != 200:
                    failures.append((response.status, text))
        except Exception as error:
            failures.append(repr(error))
        finally:
            connection.close()

threads = [threading.Thread(target=ask)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(count, len(replies), failures)
"""
"""Clients of the shop, each with a connection of its own through nginx's TLS, until they have had enough."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    made = tmp_path_factory.mktemp("index") / "wheels"
    wheels.fill(made, "django")
    (folder / "root").mkdir()
    machine = Machine(folder / "root")
    try:
        machine.put(made, "/wheels")
        machine.put(ROOT / "deploy", "/usr/src/arbiter/deploy")
        yield machine
    finally:
        print(machine.run("journalctl --no-pager --lines=200").stdout)
        machine.close()


TUTORIAL = DOCS / "tutorials/production.md"


def test_a_newcomer_deploys_a_django_site_twice_and_back_without_a_lost_request(machine: Machine) -> None:
    """1. docs/tutorials/production.md, up to nginx with TLS. 2. Under load: a release, a broken one, the old one, a restart.

    Result: all is as the page shows it, and no client was refused or failed.
    """
    before, mark, after = TUTORIAL.read_text().partition("## 4.")
    first, second = read(TUTORIAL, before), read(TUTORIAL, mark + after)
    first.check(machine.run(SETTING + first.script, timeout=PATIENCE).stdout)
    machine.run("echo 127.0.0.1 shop.example >> /etc/hosts")
    load = machine.start(f"python3 -c '{LOAD}'")
    try:
        second.check(machine.run(f"{SETTING}{ALIAS}cd /srv/shop\n{second.script}", timeout=PATIENCE).stdout)
    finally:
        machine.run("touch /tmp/enough")
        said = load.communicate(timeout=PATIENCE)[0]
    count, releases, failures = said.split(maxsplit=2)
    assert failures == "[]\n"
    assert int(count) > 100
    assert releases == "2"


@pytest.mark.parametrize("page", ["howto/deploy.md", "howto/systemd.md", "howto/proxy.md"])
def test_what_an_operator_is_told_to_do_works_as_written(machine: Machine, page: str) -> None:
    """The page's commands, on the machine of the tutorial, which has to have been followed before."""
    if machine.run("test -d /srv/shop").returncode:
        machine.run(SETTING + read(TUTORIAL).script, timeout=PATIENCE)
        machine.run("echo 127.0.0.1 shop.example >> /etc/hosts")
    guide = read(DOCS / page)
    guide.check(machine.run(f"{SETTING}{ALIAS}cd /srv/shop\n{guide.script}", timeout=PATIENCE).stdout)
    assert machine.run("systemctl show --value --property NRestarts shop").stdout == "0\n", "it has not ended by itself"


def steps_of(dockerfile: str) -> tuple[str, str]:
    """What an engine would do to build the image, as a script for bash, and what it runs then."""
    build, settings, place, user, command = ["set -e"], ["env", "-i"], "/", "0", ""
    for line in re.sub(r"\\\n", "", dockerfile).splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "FROM":
                settings = ["env", "-i", "PATH=$PATH", *INDEX]
            case "ENV":
                settings += rest.split()
            case "WORKDIR":
                place = rest
                build.append(f"mkdir -p {place}")
            case "COPY" if not rest.startswith("--from"):
                source, target = rest.split()
                build.append(f"cp -r {source}{'/.' if source == '.' else ''} {place if target == '.' else target}")
            case "RUN":
                build.append(f"(cd {place}; export {' '.join(settings[2:])}; {rest})")
            case "USER":
                user = rest
            case "CMD":
                command = shlex.join(json.loads(rest))
    exports = f"export {' '.join(settings[2:])}"
    return "\n".join(build), f"cd {place}; {exports}; exec setpriv --reuid={user} --regid={user} --clear-groups {command}"


def test_what_the_dockerfile_does_builds_what_its_command_serves_and_the_health_check_asks(machine: Machine) -> None:
    """1. A Django project gets --init --docker. 2. Each step of the Dockerfile, as it is, by the shell. 3. Its CMD, as its USER.

    Result: it serves, the health check of compose.yaml is content, and it stops with 0. There is no engine here: what remains
    unproven is the syntax of the file, the base image, and that the two stages share nothing but what is copied.
    """
    machine.run("systemctl stop shop")  # of the tutorial: it may have the port
    project = "mkdir /project && cd /project && $tools/python -m django startproject shop . && $tools/python -m arbiter --init --docker"
    made = machine.run(f"tools={Path(sys.executable).parent}\n{SETTING}{project}", timeout=PATIENCE)
    assert "wrote Dockerfile" in made.stdout
    build, serve = steps_of(machine.run("cat /project/Dockerfile").stdout)
    built = machine.run(f"{SETTING}cd /project\n{build}", timeout=PATIENCE)
    assert built.returncode == 0, built.stdout
    (site,) = yaml.safe_load(machine.run("cat /project/compose.yaml").stdout)["services"].values()
    kind, *check = site["healthcheck"]["test"]
    assert kind == "CMD"
    server = machine.start(f"{SETTING}{serve}")
    try:
        asked = f"for turn in $(seq 600); do {shlex.join(check)} && exit 0; sleep 0.2; done 2>/dev/null; exit 1"
        assert machine.run(f"export PATH=/venv/bin:$PATH\n{asked}", timeout=PATIENCE).returncode == 0
        page = machine.run("curl -s http://127.0.0.1:8000/ -H 'Host: localhost'").stdout
        assert "The install worked successfully" in page
        assert machine.run("pgrep --uid 10001 --full supervisor | xargs kill -TERM").returncode == 0
        said = server.communicate(timeout=PATIENCE)[0]
    finally:
        machine.run("pkill -KILL --uid 10001")
    assert server.returncode == 0, said
    assert '"GET / HTTP/1.1" 200' in said
