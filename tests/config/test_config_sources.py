"""Sources: who wins, where each value says it came from, and what happens to names that no setting has."""

from __future__ import annotations

import os
import sys
import types
from typing import TYPE_CHECKING

import pytest

from arbiter.config import tomlfile
from arbiter.config.argv import Action, make_parser
from arbiter.config.kinds import Boolean
from arbiter.config.names import NOTES, nearest
from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import Resolved, resolve
from arbiter.config.schema import SETTINGS, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def problems(cwd: Path, *argv: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as error:
        resolve(argv, environ or {}, str(cwd))
    assert str(error.value) == "\n".join(map(str, error.value.problems))
    return [str(problem) for problem in error.value.problems]


def show(cwd: Path, *argv: str, environ: Mapping[str, str] | None = None) -> Resolved:
    return resolve(["--print-config", *argv], environ or {}, str(cwd))


def test_each_source_beats_the_one_before_it(tmp_path: Path) -> None:
    """Story: add one source after the other, weakest first; each time the new one's value and origin are taken."""
    environ: dict[str, str] = {}
    seen = [(str(show(tmp_path, environ=environ).origins["workers"]).partition(" (")[0], 0)]
    environ["WEB_CONCURRENCY"] = "11"
    seen.append(taken(show(tmp_path, environ=environ)))
    environ["ARBITER_CMD_ARGS"] = "-w 12"
    seen.append(taken(show(tmp_path, environ=environ)))
    environ["ARBITER_WORKERS"] = "13"
    seen.append(taken(show(tmp_path, environ=environ)))
    (tmp_path / "arbiter.toml").write_text("\nworkers = 14\n")
    seen.append(taken(show(tmp_path, environ=environ)))
    seen.append(taken(show(tmp_path, "--workers", "15", environ=environ)))

    assert seen == [
        ("default", 0),
        ("env WEB_CONCURRENCY", 11),
        ("env ARBITER_CMD_ARGS --workers", 12),
        ("env ARBITER_WORKERS", 13),
        ("arbiter.toml:2", 14),
        ("--workers", 15),
    ]


def taken(resolved: Resolved) -> tuple[str, int]:
    return str(resolved.origins["workers"]), resolved.settings.workers


def test_the_first_file_that_says_something_is_read_and_no_other(tmp_path: Path) -> None:
    """Story: all four files are there; each time the one that was read is removed, and the next one is."""
    (tmp_path / "arbiter.toml").write_text("workers = 1")
    (tmp_path / "pyproject.toml").write_text("[tool.arbiter]\nworkers = 2")
    (tmp_path / "arbiter.conf.py").write_text("workers = 3")
    (tmp_path / "gunicorn.conf.py").write_text("workers = 4")
    seen = []
    for name in ("arbiter.toml", "pyproject.toml", "arbiter.conf.py", "gunicorn.conf.py"):
        resolved = show(tmp_path)
        assert resolved.file == str(tmp_path / name)
        seen.append(taken(resolved))
        (tmp_path / name).unlink()

    assert seen == [("arbiter.toml:1", 1), ("pyproject.toml:2", 2), ("arbiter.conf.py:1", 3), ("gunicorn.conf.py:1", 4)]
    assert show(tmp_path).file is None


@pytest.mark.parametrize("text", ["[project]\nname = 'x'", "[tool.other]\nx = 'arbiter'", "broken = ["])
def test_a_pyproject_that_says_nothing_to_us_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    (tmp_path / "gunicorn.conf.py").write_text("workers = 4")

    assert taken(show(tmp_path)) == ("gunicorn.conf.py:1", 4)


def test_a_pyproject_that_is_named_must_have_our_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'")

    assert problems(tmp_path, "-c", "pyproject.toml", "app:app") == [
        "no settings in the configuration file (pyproject.toml): there is no table [tool.arbiter] in it."
    ]


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (["-c", "conf/a.toml"], {}),
        (["--config", "file:conf/a.toml"], {"ARBITER_CONFIG": "gone.toml"}),
        (["-c", "conf/a.toml"], {"ARBITER_CMD_ARGS": "-c gone.toml"}),
        ([], {"ARBITER_CMD_ARGS": "-c conf/a.toml", "ARBITER_CONFIG": "gone.toml"}),
        ([], {"ARBITER_CONFIG": "conf/a.toml"}),
    ],
)
def test_a_file_that_is_named_is_read_instead_of_those_that_are_looked_for(
    tmp_path: Path, argv: list[str], environ: dict[str, str]
) -> None:
    (tmp_path / "arbiter.toml").write_text("workers = 1")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.toml").write_text("workers = 2")

    assert taken(show(tmp_path, *argv, environ=environ)) == ("conf/a.toml:1", 2)


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()

    assert problems(tmp_path, "-c", "gone.toml", "app:app") == [
        "cannot read the configuration file (gone.toml): No such file or directory. Check its path and its mode."
    ]
    assert problems(tmp_path, "-c", "folder.toml", "app:app") == [
        "cannot read the configuration file (folder.toml): Is a directory. Check its path and its mode."
    ]
    assert problems(tmp_path, "-c", "python:no.such.module", "app:app") == [
        "cannot read the configuration file (python:no.such.module): no Python file of that name can be imported from here."
    ]


def test_port_opens_every_address_as_platforms_expect(tmp_path: Path) -> None:
    resolved = show(tmp_path, environ={"PORT": "5000"})

    assert list(map(str, resolved.settings.bind)) == ["0.0.0.0:5000"]
    assert str(resolved.origins["bind"]) == "env PORT"
    (told,) = problems(tmp_path, "app:app", environ={"PORT": "http"})
    assert told.startswith('bind = "0.0.0.0:http" (env PORT): "http" is not a port number; expected host:port')


@pytest.mark.parametrize("name", ["WEB_CONCURRENCY", "PORT", "ARBITER_WORKERS", "ARBITER_CMD_ARGS", "ARBITER_CONFIG"])
def test_an_empty_variable_counts_as_not_set(tmp_path: Path, name: str) -> None:
    assert show(tmp_path, environ={name: ""}).settings == show(tmp_path).settings


NEEDS = {"keyfile": ["certfile"], "sni_certs": ["certfile"], "ca_certs": ["certfile"], "cert_reqs": ["certfile", "ca_certs"]}
"""Settings that are a mistake without others."""


def needed(name: str) -> dict[str, str]:
    """Variables for what the setting is a mistake without."""
    return {SETTINGS[other].variable: SETTINGS[other].kind.example for other in NEEDS.get(name, ())}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_its_variable(tmp_path: Path, name: str) -> None:
    row = SETTINGS[name]
    value = str(tmp_path) if name == "chdir" else row.kind.example
    resolved = show(tmp_path, environ={row.variable: value, **needed(name)})

    assert f"env ARBITER_{name.upper()}" == str(resolved.origins[name])
    assert row.kind.anchored(row.kind.parse(value), str(tmp_path)) == getattr(resolved.settings, name)


@pytest.mark.parametrize(("name", "flag"), [(row.name, flag) for row in SETTINGS.values() for flag in row.flags])
def test_every_flag_sets_its_setting(tmp_path: Path, name: str, flag: str) -> None:
    row = SETTINGS[name]
    value = str(tmp_path) if name == "chdir" else row.kind.example
    resolved = show(tmp_path, flag, value, environ=needed(name))

    assert row.flag == str(resolved.origins[name])
    assert row.kind.anchored(row.kind.parse(value), str(tmp_path)) == getattr(resolved.settings, name)


def test_a_flag_for_a_list_may_be_repeated_and_replaces_the_files_list(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text('bind = "file:1"')
    resolved = show(tmp_path, "-b", "a:1", "--bind=b:2", "-e", "A=1", "-e", "B=2,3 4")

    assert list(map(str, resolved.settings.bind)) == ["a:1", "b:2"]
    assert resolved.settings.raw_env == (("A", "1"), ("B", "2,3 4"))


@pytest.mark.parametrize(
    "argv", [["app:app", "-w", "2"], ["-w", "2", "app:app"], ["-w2", "app:app", "-b", ":1"], ["-w", "2", "--", "app:app"]]
)
def test_the_application_may_stand_anywhere_among_the_flags(tmp_path: Path, argv: list[str]) -> None:
    resolved = resolve(argv, {}, str(tmp_path))

    assert resolved.settings.wsgi_app == "app:app"
    assert str(resolved.origins["wsgi_app"]) == "command line"
    assert resolved.settings.workers == 2


@pytest.mark.parametrize(
    ("argv", "action"),
    [
        (["a:b"], Action.RUN),
        (["a:b", "--check-config"], Action.CHECK),
        (["--print-config"], Action.PRINT),
        (["--check-config", "--print-config", "a:b"], Action.CHECK),
        (["-v", "--check-config"], Action.VERSION),
        (["--version", "-h"], Action.HELP),
    ],
)
def test_the_action_is_the_first_of_the_list_that_is_asked_for(tmp_path: Path, argv: list[str], action: Action) -> None:
    assert resolve(argv, {}, str(tmp_path)).action is action


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_read_nothing_and_so_cannot_fail(tmp_path: Path, flag: str) -> None:
    (tmp_path / "arbiter.toml").write_text("broken = [")

    assert resolve([flag], {"ARBITER_WORKERS": "abc"}, str(tmp_path)).file is None


def test_an_action_may_stand_in_the_environment(tmp_path: Path) -> None:
    environ = {"ARBITER_CMD_ARGS": "--check-config"}

    assert resolve(["app:app"], environ, str(tmp_path)).action is Action.CHECK


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--wokers", "3"], ["unknown option '--wokers' (command line): did you mean '--workers'?"]),
        (["--bnd=x"], ["unknown option '--bnd' (command line): did you mean '--bind'?"]),
        (["--work", "3"], ["unknown option '--work' (command line): did you mean '--workers'?"]),
        (["-z"], ["unknown option '-z' (command line): see arbiter --help."]),
        (["a:b", "c:d"], ["unexpected argument 'c:d' (command line): one application is served."]),
        (
            ["a:b", "-w"],
            ["cannot read the options (command line): argument -w/--workers: expected one argument. See arbiter --help."],
        ),
    ],
)
def test_a_command_line_that_is_wrong_is_told_apart(tmp_path: Path, argv: list[str], expected: list[str]) -> None:
    assert expected == problems(tmp_path, *argv)


def test_a_wrong_command_line_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    assert problems(tmp_path, "a:b", environ={"ARBITER_CMD_ARGS": "--wokers 3"}) == [
        "unknown option '--wokers' (env ARBITER_CMD_ARGS): did you mean '--workers'?"
    ]
    assert problems(tmp_path, "a:b", environ={"ARBITER_CMD_ARGS": "-n 'x"}) == [
        "cannot read the options (env ARBITER_CMD_ARGS): No closing quotation. Close every quote."
    ]
    assert problems(tmp_path, "a:b", environ={"ARBITER_CMD_ARGS": "-w abc"}) == [
        'workers = "abc" (env ARBITER_CMD_ARGS --workers): expected a whole number or "auto", like 4.'
    ]


def test_a_misspelt_variable_is_an_error_and_a_strange_one_a_warning(tmp_path: Path) -> None:
    assert problems(tmp_path, "a:b", environ={"ARBITER_WOKERS": "3"}) == [
        "unknown variable 'ARBITER_WOKERS' (env ARBITER_WOKERS): did you mean ARBITER_WORKERS?"
    ]
    assert show(tmp_path, environ={"ARBITER_COLOUR": "red", "ARBITER_WORKERS": "2"}).warnings == (
        "ARBITER_COLOUR is set in the environment, but there is no such setting.",
    )


def test_the_variables_of_a_kubernetes_service_named_arbiter_are_nobodys_business(tmp_path: Path) -> None:
    environ = {
        "ARBITER_SERVICE_HOST": "10.0.0.1",
        "ARBITER_SERVICE_PORT": "80",
        "ARBITER_SERVICE_PORT_HTTP": "80",
        "ARBITER_PORT": "tcp://10.0.0.1:80",
        "ARBITER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "ARBITER_PORT_80_TCP_ADDR": "10.0.0.1",
    }

    assert show(tmp_path, environ=environ).warnings == ()


def test_gunicorns_own_variable_is_read_with_a_note_and_a_warning_where_gunicorn_would_go_by_it(tmp_path: Path) -> None:
    """Story: it is weaker than our own variable and than a file; the second is not so in Gunicorn, which must not surprise."""
    environ = {"GUNICORN_CMD_ARGS": "-w 3 -t 9 -c conf.py", "ARBITER_CMD_ARGS": "-t 8"}
    (tmp_path / "conf.py").write_text("backlog = 7")
    resolved = show(tmp_path, environ=environ)
    note = "GUNICORN_CMD_ARGS is read, for Gunicorn's sake. Its name here is ARBITER_CMD_ARGS."

    assert taken(resolved) == ("env GUNICORN_CMD_ARGS --workers", 3)
    assert (resolved.settings.timeout, resolved.settings.backlog, resolved.warnings) == (8.0, 7, (note,))

    (tmp_path / "conf.py").write_text("workers = 7")
    resolved = show(tmp_path, environ=environ)
    assert taken(resolved) == ("conf.py:1", 7)
    told = "workers is taken from conf.py:1, not from env GUNICORN_CMD_ARGS --workers: a file is stronger than the environment "
    assert resolved.warnings == (note, told + "here, and weaker in Gunicorn. Remove one of the two.")
    assert show(tmp_path, "-w", "2", environ=environ).warnings == (note,)


# --- TOML


def test_every_kind_of_value_is_taken_from_toml(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text(
        """
        wsgi_app = "shop.wsgi"
        bind = ["127.0.0.1:9000", "unix:/run/shop.sock"]
        workers = "auto"
        timeout = 12.5
        graceful_timeout = "2m"
        limit_request_body = "10MiB"
        [raw_env]
        A = "1"
        """
    )
    resolved = show(tmp_path)
    settings = resolved.settings

    assert settings.wsgi_app == "shop.wsgi"
    assert list(map(str, settings.bind)) == ["127.0.0.1:9000", "unix:/run/shop.sock"]
    assert settings.workers >= 3
    assert str(resolved.origins["workers"]).startswith("arbiter.toml:4 (2 x ")
    assert (settings.timeout, settings.graceful_timeout) == (12.5, 120.0)
    assert settings.limit_request_body == 10 * 2**20
    assert settings.raw_env == (("A", "1"),)
    assert str(resolved.origins["raw_env"]) == "arbiter.toml:8"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("workers = 1", 1),
        ("# workers = 2\n\n  workers=1", 3),
        ('"workers" = 1', 1),
        ("'workers' = 1", 1),
        ('a = """\nworkers = 3\n"""\nworkers = 1', 4),
        ("a = '''x''' \nworkers = 1", 2),
        ("a = '''\n\"\"\"\nworkers = 3\n'''\nworkers = 1", 5),
        ("workers_x = 5\nworkers = 1\n[x]\nworkers = 2", 2),
    ],
)
def test_the_line_of_a_key_is_found(text: str, line: int) -> None:
    entries = tomlfile.read(text)

    assert entries is not None
    assert [("workers", 1, line)] == [entry for entry in entries if entry.name == "workers"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[tool.other]\nworkers = 2\n[tool.arbiter]\nworkers = 1", 4),
        ("[ tool . 'arbiter' ]\nworkers = 1", 2),
        ("tool.arbiter.workers = 1", 1),
        ("[tool]\narbiter.workers = 1", 2),
        ("[tool]\n\narbiter = {workers = 1}", 3),
    ],
)
def test_the_line_of_a_key_in_a_table_is_found(text: str, line: int) -> None:
    assert tomlfile.read(text, ("tool", "arbiter")) == [("workers", 1, line)]


@pytest.mark.parametrize("text", ["tool = 1", "[tool]\narbiter = 1"])
def test_a_table_that_is_none_is_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text + " # arbiter")

    assert problems(tmp_path, "a:b") == ["not valid TOML (pyproject.toml): [tool.arbiter] is not a table."]


def test_a_toml_file_with_a_syntax_error_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text("workers = 2\nbind = [\n\n'a' 'b']\n")
    (told,) = problems(tmp_path, "a:b")

    assert told == "not valid TOML (arbiter.toml:4): Unclosed array."


def test_a_toml_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_bytes(b"workers = 2\nproc_name = 'caf\xe9'\n")

    assert problems(tmp_path, "a:b") == ["not valid TOML (arbiter.toml:2): the file is not UTF-8."]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("wokers", "did you mean 'workers'?"),
        ("log-level", "did you mean 'loglevel'?"),
        ("worker-class", "did you mean 'worker_class'?"),
        ("error_logfile", "did you mean 'errorlog'?"),
        ("env", "did you mean 'raw_env'?"),
        ("colour", "there is no such setting. Remove it, or see docs/settings.md."),
    ],
)
def test_every_unknown_key_in_toml_is_an_error_with_advice(tmp_path: Path, key: str, told: str) -> None:
    (tmp_path / "arbiter.toml").write_text(f"\n\n{key} = 7")

    assert problems(tmp_path, "a:b") == [f"unknown setting '{key}' (arbiter.toml:3): {told}"]


# --- Python files


def test_a_gunicorn_file_runs_unmodified(tmp_path: Path) -> None:
    """The manner of public files: helpers, imports, functions, environment, names of our own that mean nothing here."""
    (tmp_path / "gunicorn.conf.py").write_text(
        """\
import http
import json
import multiprocessing
import os
from pathlib import Path

workers_per_core_str = os.getenv("WORKERS_PER_CORE", "1")
cores = multiprocessing.cpu_count()
web_concurrency = int(workers_per_core_str) * cores
timeout_str = os.getenv("NO_SUCH_TIMEOUT", "120")
log_level = "warning"

bind = "unix:" + str(Path("/run") / "shop.sock")
workers = web_concurrency
timeout = int(timeout_str)
loglevel = log_level
raw_env = ["DJANGO_SETTINGS_MODULE=shop.settings"]
accesslog = None
pidfile = Path("shop.pid")
Options = {"x": http.HTTPStatus.OK}
_private = 3


def helper(worker):
    return json.dumps(Options, default=str)
"""
    )
    resolved = show(tmp_path)
    settings = resolved.settings

    assert resolved.warnings == ()
    assert list(map(str, settings.bind)) == ["unix:/run/shop.sock"]
    assert settings.workers == os.cpu_count()
    assert (settings.timeout, settings.loglevel, settings.accesslog) == (120.0, "warning", None)
    assert settings.raw_env == (("DJANGO_SETTINGS_MODULE", "shop.settings"),)
    assert settings.pidfile == str(tmp_path / "shop.pid")
    origins = [str(resolved.origins[name]) for name in ("bind", "timeout", "raw_env", "prove")]
    assert origins == ["gunicorn.conf.py:13", "gunicorn.conf.py:15", "gunicorn.conf.py:17", "default"]


def test_the_line_is_that_of_the_last_assignment(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("workers = 1\nsurge: int = 2\nif True:\n    workers, backlog = 4, 6\n    workers += 1\n")
    resolved = show(tmp_path, "-c", "a.py")

    assert taken(resolved) == ("a.py:5", 5)
    assert [str(resolved.origins[name]) for name in ("surge", "backlog")] == ["a.py:2", "a.py:4"]


def test_a_misspelt_name_that_nothing_reads_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "wokers = 3\nworker = 2\nerror_logfile = 'x'\ndef post_fork(server, worker):\n    worker.log.info('x')\n"
    )

    assert problems(tmp_path, "a:b") == [
        "unknown setting 'wokers' (gunicorn.conf.py:1): did you mean 'workers'?",
        "unknown setting 'worker' (gunicorn.conf.py:2): did you mean 'workers'?",
        "unknown setting 'error_logfile' (gunicorn.conf.py:3): did you mean 'errorlog'?",
    ]


def test_what_a_python_file_says_in_vain_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "worker_tmp_dir = '/dev/shm'\ncolour = 'red'\nspew = False\ndef helper(x):\n    pass\nfrom os.path import join\n"
    )

    assert show(tmp_path).warnings == (
        f"worker_tmp_dir (gunicorn.conf.py:1) has no effect: {NOTES['worker_tmp_dir'].advice}",
        "colour (gunicorn.conf.py:2) has no effect: no setting has this name, and nothing reads it.",
    )


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"workers = (1", "(gunicorn.conf.py:1): SyntaxError: '(' was never closed."),
        (b"x = 1\n  y = 2\n", "(gunicorn.conf.py:2): IndentationError: unexpected indent."),
        (b"def f():\n    return 1 / 0\n\nf()\n", "(gunicorn.conf.py:2): ZeroDivisionError: division by zero."),
        (b"\nimport no_such_module\n", "(gunicorn.conf.py:2): ModuleNotFoundError: No module named 'no_such_module'."),
        (b"import sys\nsys.exit(3)\n", "(gunicorn.conf.py:2): it calls sys.exit(3)."),
        (b"\nassert False\n", "(gunicorn.conf.py:2): AssertionError."),
        (
            b"import json\njson.loads('x')\n",
            "(gunicorn.conf.py:2): JSONDecodeError: Expecting value: line 1 column 1 (char 0).",
        ),
        (b"import broken_helper\n", "(gunicorn.conf.py:1): SyntaxError: invalid syntax (broken_helper.py, line 1)."),
        (b"# coding: no-such\n", "(gunicorn.conf.py): SyntaxError: unknown encoding: no-such."),
    ],
)
def test_a_python_file_that_fails_names_its_line_and_the_error(tmp_path: Path, source: bytes, told: str) -> None:
    (tmp_path / "gunicorn.conf.py").write_bytes(source)
    (tmp_path / "broken_helper.py").write_text("= 1\n")

    assert [f"cannot run the configuration file {told}"] == problems(tmp_path, "a:b")


@pytest.mark.parametrize("source", [b"x = '\xff'\n", b"\n\n\nx = '\xff'\n", b"x = '\0'\n"])
def test_a_python_file_that_is_no_text_is_a_problem(tmp_path: Path, source: bytes) -> None:
    (tmp_path / "gunicorn.conf.py").write_bytes(source)
    (told,) = problems(tmp_path, "a:b")

    assert told.startswith("cannot run the configuration file (gunicorn.conf.py")


def test_a_python_file_may_declare_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_bytes(b"# coding: latin-1\nproc_name = 'caf\xe9'\n")

    assert show(tmp_path).settings.proc_name == "café"


def test_a_python_file_sees_itself_as_under_gunicorn_and_leaves_no_trace(tmp_path: Path) -> None:
    """Story: the file looks at its module and imports its neighbour; afterwards the process is as it was."""
    (tmp_path / "arbiter_test_neighbour.py").write_text("NAME = 'from next door'\n")
    (tmp_path / "gunicorn.conf.py").write_text(
        """\
import dataclasses
import sys

from arbiter_test_neighbour import NAME

@dataclasses.dataclass
class Box:
    value: "int"

assert __name__ == "__config__" and sys.modules[__name__].Box is Box
proc_name = NAME + " " + __file__
"""
    )
    path, modules = list(sys.path), set(sys.modules)
    resolved = show(tmp_path)

    assert resolved.settings.proc_name == f"from next door {tmp_path}/gunicorn.conf.py"
    assert path == sys.path
    assert {"arbiter_test_neighbour"} == set(sys.modules) - modules - {"dataclasses"}
    del sys.modules["arbiter_test_neighbour"]


def test_what_a_python_file_does_on_purpose_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARBITER_TEST_MULTIPROC_DIR", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "gunicorn.conf.py").write_text(
        "import os, sys\nos.environ['ARBITER_TEST_MULTIPROC_DIR'] = '/run/x'\nsys.path.insert(0, '/srv/lib')\n"
    )
    show(tmp_path)

    assert os.environ["ARBITER_TEST_MULTIPROC_DIR"] == "/run/x"
    assert sys.path[0] == "/srv/lib"
    assert str(tmp_path) not in sys.path


def test_a_python_module_may_be_named_and_is_read_anew_each_time(tmp_path: Path) -> None:
    package = tmp_path / "arbiter_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "conf.py").write_text("from . import extra\nworkers = extra.N\n")
    (package / "extra.py").write_text("N = 7\n")
    name = "python:arbiter_test_package.conf"
    seen = [taken(show(tmp_path, "-c", name))]
    (package / "conf.py").write_text("\n\nworkers = 8\n")
    seen.append(taken(show(tmp_path, "-c", name)))
    for module in [module for module in sys.modules if module.startswith("arbiter_test_package")]:
        assert module != "arbiter_test_package.conf"
        del sys.modules[module]

    assert [(f"{name}:2", 7), (f"{name}:3", 8)] == seen


def test_a_module_that_was_imported_before_is_read_anew_and_stays_imported(tmp_path: Path) -> None:
    (tmp_path / "arbiter_test_conf.py").write_text("workers = 7\n")
    before = types.ModuleType("arbiter_test_conf")
    sys.modules["arbiter_test_conf"] = before
    try:
        assert taken(show(tmp_path, "-c", "python:arbiter_test_conf")) == ("python:arbiter_test_conf:1", 7)
        assert sys.modules["arbiter_test_conf"] is before
    finally:
        del sys.modules["arbiter_test_conf"]


# --- names


@pytest.mark.parametrize("name", ["workers_per_core", "web_concurrency", "host", "port", "cores", "use_bind", "log_data"])
def test_common_helper_names_are_near_to_nothing(name: str) -> None:
    assert nearest(name, SETTINGS) is None


def test_a_boolean_flag_takes_no_value_and_is_read_as_true() -> None:
    row = Setting("switch", False, Boolean(), "Section", "Doc.", ("--switch",), "reload", (), "")
    parser = make_parser([row])

    assert Boolean().parse(parser.parse_args(["--switch"]).switch)
    assert not hasattr(parser.parse_args([]), "switch")
