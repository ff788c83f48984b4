"""A folder that stands in for the package index: Arbiter's wheel, made from the tree, and those of what is installed here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from typing import TYPE_CHECKING

from guide import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_OWN = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")
"""Files of an installation, not of its wheel."""


def fill(folder: Path, *names: str) -> None:
    """Put Arbiter's wheel there, those of these distributions, and those of all that they require."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("arbiter", "workers", "config"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True, timeout=120)
    shutil.rmtree(source)
    left, done = [*names, *_requirements("arbiter-server")], set()
    while left:
        name = left.pop()
        if name not in done:
            done.add(name)
            left += _requirements(name)
            _pack(metadata.distribution(name), folder)


def _requirements(name: str) -> list[str]:
    """What a distribution requires here, without extras; what is for another system is not installed."""
    found = []
    for line in metadata.distribution(name).requires or ():
        match = re.match(r"[\w.-]+", line)
        if match and "extra ==" not in line:
            try:
                metadata.distribution(match[0])
            except metadata.PackageNotFoundError:
                continue
            found.append(match[0])
    return found


def _pack(dist: metadata.Distribution, folder: Path) -> None:
    """The wheel that a distribution was installed from (PEP 427); pip makes the programs of its entry points anew."""
    tags = re.findall(r"^Tag: (\S+)", dist.read_text("WHEEL") or "", re.MULTILINE)
    name = re.sub(r"[-_.]+", "_", dist.metadata["Name"])
    lines = []
    with zipfile.ZipFile(folder / f"{name}-{dist.version}-{tags[0]}.whl", "w") as wheel:
        for file in dist.files or ():
            inner = str(file)
            if not inner.startswith("..") and not inner.endswith(".pyc") and file.name not in _OWN:
                wheel.write(str(file.locate()), inner)
                lines.append(f"{inner},,\n")
        (info,) = {line.split("/")[0] for line in lines if line.split("/")[0].endswith(".dist-info")}
        wheel.writestr(f"{info}/RECORD", "".join(lines) + f"{info}/RECORD,,\n")
