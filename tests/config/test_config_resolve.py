"""Resolving: all problems at once, paths, the number of workers, and what a reload may change."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbiter.config.argv import Action
from arbiter.config.cores import usable_cores_here
from arbiter.config.provenance import ConfigError
from arbiter.config.resolve import resolve
from arbiter.config.schema import SETTINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def problems(cwd: Path, *argv: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as error:
        resolve(argv, environ or {}, str(cwd))
    return [str(problem) for problem in error.value.problems]


def test_a_sync_worker_is_not_asked_to_hold_websockets(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "-k", "sync", "--websocket-app", "a.asgi", "a.wsgi")

    assert 'websocket_app = "a.asgi"' in problem
    assert "a sync worker holds no WebSockets, and worker_class is sync (" in problem


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text(
        '# ours\nwokers = 3\nworkers = "abc"\nhttp = "http2"\nbind = ["a:1", "A:1"]\nchdir = "/no/such"\n'
    )

    assert problems(tmp_path, "--timeout", "soon", environ={"ARBITER_BACKLOG": "0"}) == [
        "unknown setting 'wokers' (arbiter.toml:2): did you mean 'workers'?",
        'backlog = "0" (env ARBITER_BACKLOG): expected a whole number from 1 to 2147483647, like 2048.',
        'workers = "abc" (arbiter.toml:3): expected a whole number or "auto", like 4.',
        'http = "http2" (arbiter.toml:4): expected auto, httptools or h11, like auto.',
        'timeout = "soon" (--timeout): expected a time, in seconds or with ms, s, m or h, like 30s.',
        'chdir = "/no/such" (arbiter.toml:6): there is no such directory. Make it, or change chdir.',
        "bind has a:1 twice (arbiter.toml:5): an address is listened on once. Remove one.",
    ]


def test_a_flag_gets_round_a_broken_entry_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "arbiter.toml").write_text('workers = "abc"')

    assert resolve(["-w", "2", "a:b"], {}, str(tmp_path)).settings.workers == 2


@pytest.mark.parametrize("flags", [[], ["--check-config"]])
def test_no_application_is_a_problem_when_one_is_needed(tmp_path: Path, flags: list[str]) -> None:
    assert problems(tmp_path, *flags) == [
        "no application: give one, like arbiter project.wsgi:application, or set wsgi_app in the configuration file."
    ]


def test_a_long_or_strange_value_is_quoted_on_one_short_line(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, "a:b", "-w", 'a"b\n' + "x" * 500)

    assert told.startswith('workers = "a\\"b\\nxxxx')
    assert told.count("\n") == 0
    assert len(told) < 160


def test_a_secret_is_never_quoted_in_a_problem(tmp_path: Path) -> None:
    told = problems(tmp_path, "a:b", "-e", "hunter2")

    assert told == ["raw_env (--env): expected NAME=value, like DJANGO_SETTINGS_MODULE=project.settings."]


@pytest.mark.parametrize("flags", [[], ["-w", "auto"]])
def test_the_number_of_workers_follows_the_cores_and_says_why(tmp_path: Path, flags: list[str]) -> None:
    cores = usable_cores_here()
    resolved = resolve([*flags, "a:b"], {}, str(tmp_path))

    assert resolved.settings.workers == 2 * cores.number + 1
    source = "--workers" if flags else "default"
    plural = "s" if cores.number > 1 else ""
    assert str(resolved.origins["workers"]) == f"{source} (2 x {cores.number} core{plural} + 1; {cores.why})"


def test_one_core_of_affinity_gives_three_workers(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        resolved = resolve(["a:b"], {}, str(tmp_path))
    finally:
        os.sched_setaffinity(0, before)

    assert resolved.settings.workers == 3
    assert str(resolved.origins["workers"]) == "default (2 x 1 core + 1; affinity)"


def test_relative_paths_start_at_chdir_and_chdir_at_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    flags = ["--chdir", "app", "-p", "run/a.pid", "-b", "unix:a.sock", "--access-logfile", "-", "--pythonpath", "lib,/x"]
    settings = resolve([*flags, "a:b"], {}, str(tmp_path)).settings
    base = str(tmp_path / "app")

    assert (base, f"{base}/run/a.pid", f"unix:{base}/a.sock") == (settings.chdir, settings.pidfile, str(settings.bind[0]))
    assert (settings.accesslog, settings.errorlog) == ("-", "-")
    assert settings.pythonpath == (f"{base}/lib", "/x")


def test_the_kernel_may_choose_several_ports(tmp_path: Path) -> None:
    assert len(resolve(["-b", "h:0", "-b", "h:0", "a:b"], {}, str(tmp_path)).settings.bind) == 2


def test_a_socket_that_is_inherited_twice_is_a_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, "-b", "fd://3", "-b", "fd://3", "a:b") == [
        "bind has fd://3 twice (--bind): an address is listened on once. Remove one."
    ]


def test_resolving_changes_nothing_in_the_process(tmp_path: Path) -> None:
    environ, cwd = dict(os.environ), os.getcwd()
    resolve(["a:b", "-e", "A=1", "--chdir", str(tmp_path)], {"ARBITER_WORKERS": "2"}, str(tmp_path))

    assert (environ, cwd) == (dict(os.environ), os.getcwd())


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().workers = 3  # type: ignore[misc]  # the point of the test


# --- reload


def test_a_reload_reads_everything_again(tmp_path: Path) -> None:
    config = tmp_path / "arbiter.toml"
    config.write_text("workers = 2")
    environ = {"ARBITER_TIMEOUT": "9"}
    first = resolve(["a:b"], environ, str(tmp_path))
    environ.clear()  # what was given belongs to the caller, who may change it
    config.write_text("\nworkers = 3")
    second = first.again()

    assert (second.settings.workers, str(second.origins["workers"])) == (3, "arbiter.toml:2")
    assert (second.settings.timeout, second.action) == (9.0, Action.RUN)
    assert second.warnings == ()


def test_a_reload_keeps_what_needs_a_restart_and_says_so(tmp_path: Path) -> None:
    """Result: the running value stays, with its origin, through any number of reloads, until the file says it again."""
    config = tmp_path / "arbiter.toml"
    config.write_text('pidfile = "/run/a"\nworkers = 2')
    first = resolve(["a:b"], {}, str(tmp_path))
    config.write_text('workers = 3\npidfile = "/run/b"\n')
    second = first.again()
    third = second.again()

    assert second == third
    assert (second.settings.pidfile, str(second.origins["pidfile"])) == ("/run/a", "arbiter.toml:1")
    assert second.settings.workers == 3
    assert second.warnings == ("pidfile (arbiter.toml:2) has changed: restart to apply it.",)
    config.write_text('pidfile = "/run/a"')
    assert third.again().warnings == ()


def test_a_reload_with_a_broken_file_raises_and_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "arbiter.toml"
    config.write_text("workers = 2")
    first = resolve(["a:b"], {}, str(tmp_path))
    config.write_text("workers = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        first.again()

    assert first.settings.workers == 2


def test_a_reload_without_its_file_is_refused_instead_of_falling_back_to_defaults(tmp_path: Path) -> None:
    config = tmp_path / "arbiter.toml"
    config.write_text("workers = 2")
    first = resolve(["a:b"], {}, str(tmp_path))
    config.unlink()
    with pytest.raises(ConfigError) as gone:
        first.again()
    (tmp_path / "gunicorn.conf.py").write_text("workers = 7")
    with pytest.raises(ConfigError) as other:
        first.again()

    told = f"the configuration file has changed its place: the running settings came from {config}, and "
    assert str(gone.value) == told + "there is no such file any more."
    assert str(other.value) == told + f"{tmp_path}/gunicorn.conf.py would be read now."


def test_a_file_that_is_new_at_a_reload_is_read(tmp_path: Path) -> None:
    first = resolve(["a:b"], {}, str(tmp_path))
    (tmp_path / "arbiter.toml").write_text("workers = 9")

    assert first.again().settings.workers == 9


# --- whatever is given


WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from([flag for row in SETTINGS.values() for flag in row.flags]),
    st.sampled_from(["a:b", "3", "-c", "--", "--check-config", "-b:1", "--env=A=1", "-"]),
)


@given(
    st.lists(WORDS, max_size=5),
    st.dictionaries(
        st.sampled_from([row.variable for row in SETTINGS.values()] + ["ARBITER_CMD_ARGS", "PORT", "ARBITER_X"]),
        st.text(max_size=8),
        max_size=3,
    ),
    st.one_of(st.none(), st.binary(max_size=40), st.text(st.characters(codec="utf-8"), max_size=40).map(str.encode)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_whatever_is_given_settings_or_a_config_error_come_out(
    tmp_path: Path, argv: list[str], environ: dict[str, str], toml: bytes | None
) -> None:
    (tmp_path / "arbiter.toml").unlink(missing_ok=True)
    if toml is not None:
        (tmp_path / "arbiter.toml").write_bytes(toml)
    try:
        resolved = resolve(argv, environ, str(tmp_path))
    except ConfigError as error:
        told = [str(problem) for problem in error.problems]
    else:
        told = [str(origin) for origin in resolved.origins.values()]
    assert told
    assert all(told)
