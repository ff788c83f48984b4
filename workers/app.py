"""The application: loaded from its name, its kind told, its mistakes told apart.

Child side. Three mistakes get three messages: the module is not there, the attribute is not there (or can't be called), and
the module raised while it was imported. Only the last has a traceback, without our own frames.
"""

from __future__ import annotations

import ast
import importlib
import sys
from types import ModuleType
from typing import Any, Final

from arbiter.workers.contract import Exit, Failed, Interrupted
from arbiter.workers.stacks import application_traceback, one_line

DEFAULT_ATTRIBUTE: Final = "application"
"""What PEP 3333's examples, Django and Gunicorn call it."""


class BootError(Exception):
    """The application can't be served; `failed` is what the supervisor is told."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.error)
        self.failed = failed


def load(name: str) -> Any:
    """The application called `name`: ``module``, ``module:attribute``, ``module:a.b`` or ``module:factory("literal")``.

    Raises:
        BootError: with `Exit.NOT_FOUND` when there is no such thing, with `Exit.BOOT` when loading it raised.
    """
    module_name, _, expression = name.partition(":")
    module = _import(module_name)
    factory, arguments, keywords = _parse(name, expression or DEFAULT_ATTRIBUTE)
    app = _attribute(module, factory)
    if arguments is not None:
        if not callable(app):
            raise _not_found(f"finding {name}", f"{factory!r} in {module_name!r} can't be called: it is a {type(app).__name__}")
        try:
            app = app(*arguments, **keywords)
        except Interrupted:
            raise
        except BaseException as error:  # a factory may raise anything, sys.exit() included
            raise raised(f"calling {name}", error) from error
    if not callable(app):
        what = f"is a {type(app).__name__}"
        if isinstance(app, ModuleType):
            what = f"is a module: write {module_name}.{factory}:application"
        raise _not_found(f"finding {name}", f"{factory!r} in {module_name!r} is not an application: it {what}")
    return app


def _import(name: str) -> ModuleType:
    during = f"importing {name}"
    try:
        return importlib.import_module(name)
    except Interrupted:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            where = sys.path[0] or "the current directory"
            raise _not_found(during, f"no module named {error.name!r} in {where} or on sys.path. Is --chdir right?") from error
        raise raised(during, error) from error
    except BaseException as error:  # a module may raise anything, sys.exit() included
        raise raised(during, error) from error


def _parse(name: str, expression: str) -> tuple[str, list[Any] | None, dict[str, Any]]:
    """A dotted attribute, and the arguments of its call (None: it is not called)."""
    try:
        node = ast.parse(expression, mode="eval").body
        if isinstance(node, ast.Call):
            arguments = [ast.literal_eval(argument) for argument in node.args]
            keywords = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in node.keywords}
            return _dotted(node.func), arguments, keywords
        return _dotted(node), None, {}
    except (SyntaxError, ValueError) as error:
        wanted = "an attribute, or a call with literal arguments, like app or create_app('prod')"
        raise _not_found(f"finding {name}", f"{expression!r} is not {wanted}") from error


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("neither a name nor an attribute")


def _attribute(module: ModuleType, dotted: str) -> Any:
    found: Any = module
    for part in dotted.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            import difflib

            callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            near = difflib.get_close_matches(part, callables, 1) or [key for key in ("application", "app") if key in callables]
            hint = f" Did you mean {module.__name__}:{near[0]}?" if near else ""
            raise _not_found(f"finding {module.__name__}:{dotted}", f"{module.__name__!r} has no {part!r}.{hint}") from None
    return found


def _not_found(during: str, error: str) -> BootError:
    return BootError(Failed(during, error, "", Exit.NOT_FOUND))


def raised(during: str, error: BaseException) -> BootError:
    """The error for a boot that raised, its traceback without our own frames."""
    return BootError(Failed(during, one_line(error), application_traceback(error), Exit.BOOT))
