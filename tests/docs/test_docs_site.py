"""The documentation: it is made from the code, it builds without a warning, its links lead somewhere, and its commands work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import procfs
import pytest
from guide import DOCS, ROOT, read, unmarked
from harness import BASE
from waiting import until

MACHINE = [DOCS / name for name in ("tutorials/production.md", "howto/deploy.md", "howto/systemd.md", "howto/proxy.md")]
"""Their reader is root: tests/docs/test_docs_machine.py."""


def test_the_reference_is_fresh() -> None:
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            "import make_reference as m, sys, json; json.dump({n: p() for n, p in m.PAGES.items()}, sys.stdout)",
        ],
        env={**os.environ, "PYTHONPATH": str(DOCS)},
        check=True,
        capture_output=True,
        text=True,
    )
    import json

    fresh = json.loads(made.stdout)
    written = {name: (DOCS / "reference" / name).read_text() for name in fresh}
    assert fresh == written, "run: python docs/make_reference.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_site_builds_without_a_warning_and_every_link_within_it_leads_somewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "dirhtml", str(DOCS), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    pages = {path.parent for path in (tmp_path / "site").rglob("index.html")}
    broken = []
    for page in pages:
        for link in re.findall(r'href="([^"#:?]+)(?:#[^"]*)?"', (page / "index.html").read_text()):
            target = Path(os.path.normpath(page / link))
            if not target.exists():
                broken.append(f"{page.relative_to(tmp_path)}: {link}")
    assert broken == []


def test_every_link_in_the_readme_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


READY = "for turn in $(seq 300); do grep -q 'all .* ready' server.log && break; sleep 0.1; done"
GUIDES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if page not in MACHINE and (page.read_text().count("<!-- run -->") or page.read_text().count("<!-- run, and"))
]


def test_every_command_of_the_documentation_is_run_or_says_why_not() -> None:
    pages = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    assert [block for page in pages for block in unmarked(page)] == []


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", GUIDES, ids=lambda path: str(path.relative_to(DOCS)))
def test_the_commands_of_a_guide_work_as_written(page: Path, tmp_path: Path) -> None:
    """1. Its files are written and its commands run in order, in one shell. Result: each prints what the guide shows below it.

    In a network namespace of its own, so that every guide may have port 8000; a server is waited for until its log says that it
    serves, which a reader sees too. What it logs is in server.log.
    """
    if os.geteuid():
        pytest.skip("only root can make a network namespace")
    guide = read(page, log="server.log", after=READY)
    script = f"set -m\nip link set lo up\n{guide.script}\nkill %1 2>/dev/null; wait"
    environment = {**BASE, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PWD": str(tmp_path)}
    process = subprocess.Popen(
        ["unshare", "--net", "bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=250)[0]
    finally:
        if process.poll() is None:
            process.kill()
    log = (tmp_path / "server.log").read_text() if (tmp_path / "server.log").exists() else ""
    print(log)
    guide.check(output)
    assert ("Traceback" in log) == ("Traceback" in page.read_text()), "a traceback that the page does not speak of"
    until(lambda: not [p for p in procfs.everyone() if p.session == process.pid], "the end of all that was started")
