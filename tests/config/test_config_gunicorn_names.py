"""Gunicorn's settings: all are known by name and flag, and none is passed over in silence."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from arbiter.config import callables, render
from arbiter.config.argv import make_parser
from arbiter.config.kinds import Refused
from arbiter.config.names import ALIASES, GUNICORN, NOTES
from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import resolve
from arbiter.config.schema import SETTINGS
from arbiter.facade import Config

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "gunicorn" / "recorded.json").read_text())
THEIRS: dict[str, dict[str, Any]] = RECORDED["settings"]
FLAGS = {flag for row in SETTINGS.values() for flag in row.flags}
FLAGS |= {flag for note in NOTES.values() for flag in note.flags} | {flag for alias in ALIASES.values() for flag in alias.flags}


def test_the_list_of_names_is_gunicorns_own() -> None:
    assert RECORDED["version"].startswith("27.")
    assert set(THEIRS) == GUNICORN


def test_a_setting_is_honoured_or_noted_and_not_both() -> None:
    assert set(NOTES) <= GUNICORN
    assert set(ALIASES) <= GUNICORN
    assert set() == (set(NOTES) | set(ALIASES)) & set(SETTINGS)
    assert set() == GUNICORN - set(SETTINGS) - set(NOTES) - set(ALIASES)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) & set(THEIRS) | set(NOTES) | set(ALIASES)))
def test_every_flag_of_gunicorns_is_taken_by_the_setting_of_that_name(name: str) -> None:
    theirs = THEIRS[name]
    flags = SETTINGS[name].flags if name in SETTINGS else NOTES[name].flags if name in NOTES else ALIASES[name].flags
    known = set(flags) | {"-c", "--config", "--check-config", "--print-config"}

    assert set(theirs["flags"]) <= known
    parser = make_parser(SETTINGS.values())
    for flag in theirs["flags"]:
        parser.parse_args([flag] if theirs["takes"] == "none" else [flag, "1"])


@pytest.mark.parametrize("name", NOTES)
def test_a_setting_that_means_nothing_here_is_accepted_with_one_line_wherever_it_is_said(tmp_path: Path, name: str) -> None:
    note = NOTES[name]
    value = "/x" if note.default is None else 7
    (tmp_path / "gunicorn.conf.py").write_text(f"\n{name} = {value!r}\n")
    python = resolve(["a:b"], {}, str(tmp_path))
    (tmp_path / "arbiter.toml").write_text(f"\n\n{name} = 7\n")
    environ = {} if name == "config" else {f"ARBITER_{name.upper()}": "7"}
    toml = resolve(["a:b"], environ, str(tmp_path))

    assert python.warnings == (f"{name} (gunicorn.conf.py:2) has no effect: {note.advice}",)
    assert toml.warnings == (
        *(f"{name} (env {variable}) has no effect: {note.advice}" for variable in environ),
        f"{name} (arbiter.toml:3) has no effect: {note.advice}",
    )
    assert python.noted == {name: value}
    for flag in note.flags:
        words = [flag] if THEIRS[name]["takes"] == "none" else [flag, "7"]
        told = resolve(["a:b", *words], {}, str(tmp_path / "..")).warnings
        assert told == (f"{name} ({note.flags[-1]}) has no effect: {note.advice}",)


@pytest.mark.parametrize("name", NOTES)
def test_gunicorns_own_default_is_worth_no_line(tmp_path: Path, name: str) -> None:
    default = THEIRS[name]["default"]
    (tmp_path / "gunicorn.conf.py").write_text(f"{name} = {default!r}\n")

    assert resolve(["a:b"], {}, str(tmp_path)).warnings == ()
    if THEIRS[name]["parameters"] is None:
        assert NOTES[name].default == default


@pytest.mark.parametrize("name", [*NOTES, *ALIASES])
def test_the_others_stand_in_the_documentation(name: str) -> None:
    assert f"\n### {name}\n" in render.docs_text().partition("## Gunicorn's other settings")[2]


@pytest.mark.parametrize(("word", "ours"), [("auto", "auto"), ("fast", "httptools"), ("python", "h11"), ("Python", "h11")])
def test_a_setting_with_another_name_here_is_taken_by_gunicorns(tmp_path: Path, word: str, ours: str) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(f"http_parser = {word!r}")

    assert resolve(["a:b"], {}, str(tmp_path)).settings.http == ours
    assert resolve(["a:b", "--http-parser", word], {}, "/").settings.http == ours
    assert resolve(["a:b"], {"ARBITER_HTTP_PARSER": word}, "/").settings.http == ours


FLAG = r"(?<!\S)--?[A-Za-z][\w-]*"
LINES = [line for line, _ in RECORDED["command_lines"]]


@pytest.mark.parametrize("words", [line for line in LINES if set(re.findall(FLAG, line)) <= FLAGS])
def test_no_command_line_of_gunicorns_is_refused_for_its_syntax(words: str) -> None:
    argv = shlex.split(words)
    resolve(argv if "app:app" in argv else [*argv, "app:app"], {}, "/")


@pytest.mark.parametrize(
    ("words", "theirs"), [(line, values) for line, values in RECORDED["command_lines"] if set(re.findall(FLAG, line)) <= FLAGS]
)
def test_a_command_line_means_what_it_means_to_gunicorns_own_parser(words: str, theirs: dict[str, Any]) -> None:
    """Story: the effective values that gunicorn 27 was recorded to give, and what a hook sees of ours as `cfg`."""
    argv = shlex.split(words)
    resolved = resolve(argv if "app:app" in argv else [*argv, "app:app"], {}, "/")
    cfg = Config(resolved.settings, resolved.noted)
    ours = {name: getattr(cfg, name) for name in theirs}
    if "worker_class" in theirs:
        theirs = {**theirs, "worker_class": callables.WorkerClass().parse(theirs["worker_class"])}
    if "loglevel" in theirs:
        theirs = {**theirs, "loglevel": theirs["loglevel"].lower()}

    assert json.loads(json.dumps(ours)) == theirs


# --- Values as Gunicorn takes them


@pytest.mark.parametrize(
    ("source", "name", "value"),
    [
        ("user = 1000", "user", "1000"),
        ("group = 'www-data'", "group", "www-data"),
        ("loglevel = 'WARN'", "loglevel", "warning"),
        ("errorlog = None", "errorlog", "-"),
        ("bind = None", "bind", SETTINGS["bind"].default),
        ("preload_app = None", "preload_app", False),
        ("sendfile = False", "sendfile", False),
        ("worker_class = 'egg:gunicorn#gthread'", "worker_class", "threaded"),
        ("worker_class = 'asgi'", "worker_class", "async"),
        ("worker_class = 'uvicorn.workers.UvicornWorker'", "worker_class", "async"),
        ("worker_class = 'uvicorn_worker.UvicornH11Worker'", "worker_class", "async"),
        ("worker_class = 'gunicorn.workers.sync.SyncWorker'", "worker_class", "sync"),
        (
            "class UvicornWorker: pass\nUvicornWorker.__module__ = 'uvicorn.workers'\nworker_class = UvicornWorker",
            "worker_class",
            "async",
        ),
    ],
)
def test_a_value_is_taken_in_gunicorns_form(tmp_path: Path, source: str, name: str, value: object) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(source)

    assert value == getattr(resolve(["a:b"], {}, str(tmp_path)).settings, name)


@pytest.mark.parametrize("name", callables.WorkerClass.GONE)
def test_a_worker_that_is_not_to_be_had_names_what_to_use_instead(name: str) -> None:
    with pytest.raises(Refused) as refused:
        callables.WorkerClass().parse(name)

    assert "; expected auto, sync, threaded or async, or" in str(refused.value)
    assert "threaded" in str(refused.value).partition("; expected")[0] or "ASGI" in str(refused.value)


def test_a_worker_of_ones_own_is_refused_with_the_name_of_what_it_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "class UvicornWorker: pass\nUvicornWorker.__module__ = 'uvicorn.workers'\n"
        "class Mine(UvicornWorker):\n    CONFIG_KWARGS = {}\nworker_class = Mine\n"
    )
    with pytest.raises(ConfigError) as error:
        resolve(["a:b"], {}, str(tmp_path))

    assert str(error.value).startswith(
        "worker_class = Mine (gunicorn.conf.py:5): this is made from what is called async here, but is a worker of another server"
    )
