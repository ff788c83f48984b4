"""What a directory holds that can be served: for `arbiter --init`. Reads files and runs none of them."""

from __future__ import annotations

import ast
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

WSGI: Final = "wsgi"
ASGI: Final = "asgi"

_FRAMEWORKS: Final = {
    "Flask": ("Flask", WSGI),
    "FastAPI": ("FastAPI", ASGI),
    "Starlette": ("Starlette", ASGI),
    "Quart": ("Quart", ASGI),
    "Litestar": ("Litestar", ASGI),
    "Falcon": ("falcon.App", WSGI),
    "Bottle": ("Bottle", WSGI),
}
"""Frameworks by the call that makes an application, with the interface it speaks."""
_FACTORIES: Final = ("create_app", "make_app", "get_app", "build_app")
_NAMES: Final = ("application", "app", "api", "server")
"""In this order, where a module has several."""
_IGNORED: Final = frozenset({"tests", "test", "docs", "node_modules", "venv", "env", "migrations", "static", "site-packages"})
_DEPTH: Final = 3
"""Folders below the first: src/shop/web/app.py is as deep as projects put it."""
_MOST: Final = 500
"""Files to read at most: a directory that is no project, like a home, must not take minutes."""


class Project(NamedTuple):
    """An application that was found."""

    app: str
    """``module:attribute``; empty: none was found."""
    framework: str
    """``Django``, ``Flask``; empty: not known."""
    interface: str
    """`WSGI` or `ASGI`."""
    path: str
    """Where modules are imported from, relative to the directory: ``.`` or ``src``."""
    why: str
    """Where it was found."""
    static: str = ""
    """Where static files are collected, if the framework says so; relative, or absolute."""


NOTHING: Final = Project("", "", WSGI, ".", "")


def find(directory: str) -> Project:
    """The application that a directory most likely serves; `NOTHING` if there is no sign of one."""
    return _django(directory) or _by_source(directory) or NOTHING


def _django(directory: str) -> Project | None:
    """By manage.py, which names the settings, beside which startproject puts wsgi.py."""
    source = _read(os.path.join(directory, "manage.py"))
    match = re.search(r"""DJANGO_SETTINGS_MODULE["'],\s*["']([\w.]+)["']""", source)
    if not match:
        return None
    package = match[1].removesuffix(".settings")
    while package:  # config.settings.production: wsgi.py is where the settings begin
        base = os.path.join(directory, *package.split("."))
        # Channels puts its routing into asgi.py; without it, Django serves as well by WSGI, and more of Django is synchronous.
        wants_asgi = "ProtocolTypeRouter" in _read(os.path.join(base, "asgi.py"))
        for interface in (ASGI, WSGI) if wants_asgi else (WSGI, ASGI):
            if os.path.exists(os.path.join(base, f"{interface}.py")):
                settings = _read(os.path.join(directory, *match[1].split(".")) + ".py")
                root = re.search(r"""^STATIC_ROOT\s*=\s*(?:BASE_DIR\s*/\s*)?["']([^"']+)["']""", settings, re.MULTILINE)
                static = root[1] if root else ""
                return Project(f"{package}.{interface}:application", "Django", interface, ".", "manage.py", static)
        package = package.rpartition(".")[0]
    return None


def _by_source(directory: str) -> Project | None:
    found = []
    for path in _sources(directory):
        source = _read(path)
        if any(f"{name}(" in source for name, _ in _FRAMEWORKS.values()):
            found += list(_applications(directory, os.path.relpath(path, directory), source))
    # What is named as applications are, and lies high up, is likelier to be the one.
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _applications(directory: str, relative: str, source: str) -> Iterator[tuple[tuple[bool, int, int, str], Project]]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    path = (
        "src"
        if relative.startswith("src" + os.sep) and not os.path.exists(os.path.join(directory, "src", "__init__.py"))
        else "."
    )
    module = os.path.relpath(relative, path).removesuffix(".py").replace(os.sep, ".").removesuffix(".__init__")
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, calls, call = node.targets[0].id, [node.value], ""
        elif isinstance(node, ast.FunctionDef) and node.name in _FACTORIES and not _needs_arguments(node):
            name, calls, call = node.name, [each for each in ast.walk(node) if isinstance(each, ast.Call)], "()"
        else:
            continue
        for made in calls:
            framework = _framework(made)
            if framework:
                interface = _FRAMEWORKS[framework][1]
                rank = _NAMES.index(name) if name in _NAMES else len(_NAMES)
                project = Project(f"{module}:{name}{call}", framework, interface, path, f"{relative}:{node.lineno}")
                yield (bool(call), relative.count(os.sep), rank, relative), project
                break


def _needs_arguments(function: ast.FunctionDef) -> bool:
    arguments = function.args
    return len(arguments.args) + len(arguments.posonlyargs) > len(arguments.defaults) or None in arguments.kw_defaults


def _framework(node: ast.expr) -> str:
    if not isinstance(node, ast.Call):
        return ""
    called = ast.unparse(node.func)
    for framework, (name, _) in _FRAMEWORKS.items():
        if called == name or called.endswith(f".{name}"):
            return framework
    return ""


def _sources(directory: str) -> Iterator[str]:
    left = _MOST
    for folder, folders, files in os.walk(directory):
        depth = os.path.relpath(folder, directory).count(os.sep) + (folder != directory)
        folders[:] = sorted(
            name for name in folders if depth < _DEPTH and not name.startswith((".", "_")) and name not in _IGNORED
        )
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("test_") and left:
                left -= 1
                yield os.path.join(folder, name)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)  # a larger source file is data
    except OSError:
        return ""
