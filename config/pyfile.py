"""Settings from a Python file, executed as Gunicorn executes gunicorn.conf.py.

The file's own variables, imports and functions are its own business. Only a name that is set and never read in the
file can be a misspelt setting: a helper exists to be read. Rules:

* the file runs in a module of its own, which is gone afterwards, so that the next reading runs it again;
* what it does on purpose to the process (os.environ, sys.path) stays, as it does under Gunicorn: workers rely on it;
* whatever it raises, SystemExit included, is one problem with the line that raised it, and nothing worse.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from arbiter.config.shim import standing_in

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec

MODULE_NAME = "__config__"  # Gunicorn's, which some files look at


class PythonFileError(Exception):
    """The file cannot be compiled, or it raised."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.line = line


class Name(NamedTuple):
    """One global name of the file after it ran.

    `is_idle`: the file assigns or defines it and never reads it. A variable that helps to work out a setting is read; an
    idle one is meant for whoever reads the file.
    """

    name: str
    value: object
    line: int | None
    is_idle: bool


def find_module(name: str, directory: str) -> ModuleSpec | None:
    """The module `name` seen from `directory`, or None when there is none. Imports the packages above it."""
    from importlib import invalidate_caches
    from importlib.util import find_spec

    before = sys.modules.pop(name, None)  # an imported module may have no spec, or an old one
    try:
        with _importing_from(directory):
            invalidate_caches()
            return find_spec(name)
    except (ImportError, ValueError):  # a package above it is missing; an empty name
        return None
    finally:
        if before is not None:
            sys.modules[name] = before


def run(path: str, source: bytes, directory: str, spec: ModuleSpec | None = None) -> list[Name]:
    """The global names of a Python file, in order of definition.

    Args:
        path: what `__file__` is to be, and what tracebacks name.
        source: the file's bytes.
        directory: where imports begin, first on sys.path while the file runs.
        spec: of the module, when it was found by name.

    Raises:
        PythonFileError: it does not compile, or it raised.

    """
    import ast
    from importlib.machinery import SourceFileLoader
    from importlib.util import decode_source, module_from_spec, spec_from_loader

    try:
        text = decode_source(source)
        tree = ast.parse(text, path)
        code = compile(tree, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise PythonFileError(f"{type(error).__name__}: {error.msg}.", error.lineno) from None
    except ValueError as error:  # bytes that are not of its encoding; NUL, before Python 3.12
        raise PythonFileError(f"{error}.", None) from None
    spec = spec or spec_from_loader(MODULE_NAME, SourceFileLoader(MODULE_NAME, path))
    if spec is None:  # typeshed allows it; a SourceFileLoader always gives one
        raise PythonFileError("the import system gives no module for it.", None)
    module = module_from_spec(spec)
    before = sys.modules.get(spec.name)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up by name
    try:
        with _importing_from(directory), standing_in():
            exec(code, vars(module))  # noqa: S102 - this is what a Python configuration file is
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the file raises is reported, with its line
        raise PythonFileError(_told(error), _line_in(path, error)) from None
    finally:
        sys.modules.pop(spec.name, None)
        if before is not None:
            sys.modules[spec.name] = before
    lines = dict(_definitions(tree))
    made = {name for name, _ in _assignments(tree)} | {
        node.name for node in _statements(tree) if isinstance(node, ast.FunctionDef)
    }
    idle = made - _read_names(text, path)
    names = [name for name in vars(module) if not name.startswith("__")]
    return [Name(name, vars(module)[name], lines.get(name), name in idle) for name in names]


@contextmanager
def _importing_from(directory: str) -> Iterator[None]:
    """`directory` first on sys.path; what the file itself adds there stays."""
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        if directory in sys.path:
            sys.path.remove(directory)


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})."
    return f"{type(error).__name__}: {error}." if str(error) else f"{type(error).__name__}."


def _line_in(path: str, error: BaseException) -> int | None:
    """The deepest line of `path` in the error's traceback."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs in the module's own scope; bodies of functions and classes are left out."""
    import ast

    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _statements(node)


def _assignments(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that are assigned, each with its line; the last of a name is the one that most likely counts."""
    import ast

    for node in _statements(tree):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        else:
            continue
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    yield part.id, part.lineno


def _definitions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that are imported, defined or assigned, each with its line."""
    import ast

    for node in _statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, node.lineno
    yield from _assignments(tree)


def _read_names(text: str, path: str) -> set[str]:
    """The global names that the file reads. A function's own `worker` is not the global `worker`."""
    import symtable

    top = symtable.symtable(text, path, "exec")
    names = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    scopes = top.get_children()
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        names |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_referenced() and symbol.is_global()}
    return names
