"""Hooks: each is called at its moment, in its process, with what Gunicorn gives it, and none can hurt the service."""

from __future__ import annotations

import os
import re
import signal
import textwrap
from typing import TYPE_CHECKING

import pytest
from waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

CONF = """
import os

def _note(event, *words):
    with open("events", "a") as file:
        file.write(" ".join([event, str(os.getpid()), *map(str, words)]) + "\\n")

def on_starting(server):
    _note("on_starting", server.pid, server.num_workers, server.cfg.bind, os.environ.get("MODE"))
    server.mine = 7

def nworkers_changed(server, new_value, old_value):
    _note("nworkers_changed", new_value, old_value)

def when_ready(server):
    _note("when_ready", server.mine, server.num_workers, len(server.WORKERS), server.address[0][0])

def on_reload(server):
    _note("on_reload", server.pid)

def pre_fork(server, worker):
    worker.number = worker.age * 100
    _note("pre_fork", worker.age, worker.pid, worker.ppid)

def post_fork(server, worker):
    server.log.info("Worker spawned (pid: %s)", worker.pid)
    _note("post_fork", worker.age, worker.pid, worker.ppid, worker.number, server.mine, os.environ.get("MODE"))

def post_worker_init(worker):
    _note("post_worker_init", worker.age, callable(worker.wsgi), worker.cfg.timeout, worker.alive)

def pre_request(worker, req):
    _note("pre_request", req.method, req.path, req.query, dict(req.headers)["HOST"])
    worker.log.debug("%s %s" % (req.method, req.path))

def post_request(worker, req, environ, resp):
    _note("post_request", req.uri, environ["REQUEST_METHOD"], resp.status, resp.sent, worker.nr, dict(resp.headers)["Content-Type"])

def worker_int(worker):
    _note("worker_int", worker.pid)

def worker_abort(worker):
    _note("worker_abort", worker.pid)

def worker_exit(server, worker):
    _note("worker_exit", worker.pid, worker.alive)

def child_exit(server, worker):
    _note("child_exit", worker.pid, worker.pid in server.WORKERS)

def pre_exec(server):
    _note("pre_exec", server.pid)

def on_exit(server):
    _note("on_exit", len(server.WORKERS))

def worker_ready(server, worker):
    _note("worker_ready", worker.pid, server.WORKERS[worker.pid] is worker)

def all_workers_ready(server):
    _note("all_workers_ready", len(server.WORKERS))

def worker_timed_out(info):
    _note("worker_timed_out", info.pid, "/held" in info.doing, "held" in info.stacks)

def reload_refused(error):
    _note("reload_refused", "wokers" in error, "ZeroDivisionError" in error)

def drain_started(server):
    _note("drain_started", server.num_workers)

raw_env = ["MODE=hooked"]
"""


def events(server: Server, name: str = "") -> list[list[str]]:
    """The lines of one event, or of all, without the name: the process first."""
    lines = [line.split(" ") for line in (server.folder / "events").read_text().splitlines()]
    return [line[1:] for line in lines if line[0] == name] if name else lines


def names(server: Server, *, of: int = 0) -> list[str]:
    """The events in order, or those of one process."""
    return [line[0] for line in events(server) if not of or line[1] == str(of)]


def test_every_hook_of_a_life_is_called_in_its_process_in_gunicorns_order(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: a service with one worker starts, answers, gets a second worker by TTIN, and stops.

    Result: the supervisor's hooks and the worker's, in the order that Gunicorn has, but that when_ready waits for a worker.
    """
    (tmp_path / "gunicorn.conf.py").write_text(CONF)
    server = arbiter.serve(workers=1)
    boss, worker = server.pid, server.workers()[0].pid
    server.get("/x?y=1")
    until(lambda: events(server, "post_request"), "post_request")
    server.send(signal.SIGTTIN)
    server.wait_workers(2)
    until(lambda: len(events(server, "worker_ready")) == 2, "the second worker")
    other = next(pid for pid in (one.pid for one in server.workers()) if pid != worker)
    assert server.stop() == 0

    me, it, second = str(boss), str(worker), str(other)
    assert names(server, of=boss) == [
        "nworkers_changed",
        "on_starting",
        "pre_fork",
        "worker_ready",
        "when_ready",
        "all_workers_ready",
        "nworkers_changed",
        "pre_fork",
        "worker_ready",
        "drain_started",
        "child_exit",
        "child_exit",
        "on_exit",
    ]
    assert names(server, of=worker) == ["post_fork", "post_worker_init", "pre_request", "post_request", "worker_exit"]
    assert events(server, "nworkers_changed") == [[me, "1", "None"], [me, "2", "1"]]
    assert events(server, "on_starting") == [[me, me, "1", "['127.0.0.1:0']", "hooked"]]
    assert events(server, "when_ready") == [[me, "7", "1", "1", "127.0.0.1"]]
    assert events(server, "pre_fork") == [[me, "1", "[booting]", me], [me, "2", "[booting]", me]]
    assert events(server, "post_fork")[0] == [it, "1", it, me, "100", "7", "hooked"]
    assert events(server, "post_worker_init")[0] == [it, "1", "True", "30", "True"]
    assert events(server, "pre_request")[0][:4] == [it, "GET", "/x", "y=1"]
    (after,) = events(server, "post_request")
    assert after[:5] == [it, "/x?y=1", "GET", "200", "OK"]
    assert after[-2:] == ["1", "text/plain"]
    assert sorted(events(server, "worker_exit")) == sorted([[it, it, "False"], [second, second, "False"]])
    assert sorted(events(server, "child_exit")) == sorted([[me, it, "False"], [me, second, "False"]])
    assert events(server, "on_exit") == [[me, "0"]]
    assert server.count(r"worker=1 gen=1 pid=\d+ Worker spawned \(pid: \d+\)") == 1


def test_a_reload_reads_the_hooks_anew_and_tells_of_its_refusal(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: a reload whose file is wrong, one whose application raises, then a good one with another post_fork."""
    (tmp_path / "gunicorn.conf.py").write_text(CONF)
    server = arbiter.serve(workers=1)
    arbiter.write("gunicorn.conf.py", CONF + "\nwokers = 3\n")
    server.send(signal.SIGHUP)
    until(lambda: len(events(server, "reload_refused")) == 1, "the first refusal")
    arbiter.write("gunicorn.conf.py", CONF)
    arbiter.write("live.py", "1 / 0")
    server.expect("ZeroDivisionError")
    server.send(signal.SIGHUP)
    until(lambda: len(events(server, "reload_refused")) == 2, "the second refusal")
    (tmp_path / "live.py").unlink()
    arbiter.write(
        "live.py",
        "def application(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    return [b'two']\n",
    )
    arbiter.write("gunicorn.conf.py", CONF.replace('_note("post_fork"', '_note("post_fork_two"'))
    server.send(signal.SIGHUP)
    server.wait_log("reload done")

    assert [line[1:] for line in events(server, "reload_refused")] == [["True", "False"], ["False", "True"]]
    assert len(events(server, "on_reload")) == 2
    assert len(events(server, "post_fork_two")) == 1
    until(lambda: server.get().text == "two", "the new application alone")


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_a_stuck_worker_is_told_to_abort_and_what_it_did_is_told(arbiter: Arbiter, tmp_path: Path, kind: str) -> None:
    """Story: a request hangs for longer than the timeout. Result: both hooks, and a new worker; and SIGINT to that one."""
    (tmp_path / "gunicorn.conf.py").write_text(CONF + "timeout = 1\n")
    server = arbiter.serve("-k", kind, workers=1)
    stuck = server.workers()[0].pid
    if kind == "threaded":
        os.kill(stuck, signal.SIGABRT)  # its main thread is never stuck: it is asked by hand
    else:
        server.ask("/held")
    until(lambda: [line[1] for line in events(server, "worker_abort")] == [str(stuck)], "worker_abort")
    if kind == "sync":
        until(lambda: events(server, "worker_timed_out") == [[str(server.pid), str(stuck), "True", "True"]], "worker_timed_out")
        server.release()
    until(lambda: [line[1] for line in events(server, "child_exit")] == [str(stuck)], "child_exit")
    assert [line[1] for line in events(server, "worker_exit")] == [str(stuck)]
    assert server.wait_workers(1)[0].pid != stuck
    server.get("/")
    assert server.stop(signal.SIGINT) == 0
    assert len(events(server, "worker_int")) == 1


RAISING = "".join(
    f"def {name}({', '.join(parameters)}):\n    raise RuntimeError('from {name}')\n"
    for name, parameters in {
        "on_reload": ("server",),
        "when_ready": ("server",),
        "pre_fork": ("server", "worker"),
        "child_exit": ("server", "worker"),
        "nworkers_changed": ("server", "new", "old"),
        "on_exit": ("server",),
        "worker_ready": ("server", "worker"),
        "all_workers_ready": ("server",),
        "drain_started": ("server",),
        "worker_exit": ("server", "worker"),
        "post_request": ("worker", "req"),
        "reload_refused": ("error",),
    }.items()
).replace("raise RuntimeError('from child_exit')", "raise SystemExit(9)")


def test_a_hook_that_raises_is_logged_and_hurts_nobody(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: every hook raises, one by sys.exit, through a start, requests, a reload, another worker and a stop."""
    (tmp_path / "gunicorn.conf.py").write_text(RAISING)
    server = arbiter.serve(workers=1)
    server.expect("RuntimeError: from", "SystemExit: 9")
    with server.client() as client:
        server.send(signal.SIGHUP)
        server.wait_log("reload done")
        server.send(signal.SIGTTIN)
        server.wait_workers(2)
        (tmp_path / "gunicorn.conf.py").write_text(RAISING + "\nwokers = 3\n")
        server.send(signal.SIGHUP)
        server.wait_log("reload refused")
    assert client.failures == []
    assert server.stop() == 0
    for name in (
        "on_reload",
        "when_ready",
        "pre_fork",
        "on_exit",
        "worker_exit",
        "post_request",
        "reload_refused",
        "drain_started",
    ):
        assert server.count(rf"\[ERROR\].* the hook {name} raised") >= 1, name
    assert server.count("SystemExit: 9") >= 2


def test_a_hook_that_hangs_does_not_keep_the_service_from_ending(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: when_ready waits for ever. Result: workers serve, and TERM ends the hook, then the service, as it always does."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "import time\ndef when_ready(server):\n    open('hangs', 'x').close()\n    time.sleep(1000)\n"
    )
    arbiter.write("live.py", "def application(environ, start):\n    start('200 OK', [])\n    return [b'ok']\n")
    server = arbiter.launch("-w", "1", "live")
    until((tmp_path / "hangs").exists, "the hook")

    assert server.get().text == "ok"
    assert server.stop() == 0
    assert server.count("the hook when_ready was cut short by SIGTERM") == 1


@pytest.mark.parametrize(
    ("source", "status", "told"),
    [
        (
            "def on_starting(server):\n    raise RuntimeError('no')",
            1,
            "the hook on_starting raised RuntimeError: no. Nothing was",
        ),
        (
            "def post_fork(server, worker):\n    raise RuntimeError('no')",
            3,
            "failed while calling the hook post_fork: RuntimeError: no",
        ),
        ("def post_worker_init(worker):\n    exit(7)", 3, "failed while calling the hook post_worker_init: SystemExit: 7"),
        ("when_ready = 'no.such:thing'", 1, "when_ready = no.such:thing: ModuleNotFoundError: No module named 'no'"),
        ("post_fork = 'live:nothing'", 3, "post_fork = live:nothing: AttributeError: module 'live' has no attribute 'nothing'"),
        (
            "def pre_fork(server):\n    pass",
            2,
            "pre_fork = pre_fork (gunicorn.conf.py:1): it does not take 2 arguments; expected a",
        ),
        (
            "def post_frok(server, worker):\n    pass",
            2,
            "unknown hook 'post_frok' (gunicorn.conf.py:1): did you mean 'post_fork'?",
        ),
    ],
)
def test_a_hook_that_fails_the_first_start_says_so(
    arbiter: Arbiter, tmp_path: Path, source: str, status: int, told: str
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(source)
    arbiter.write("live.py", "application = print")
    code, words = arbiter.fail("-w", "1", "live")

    assert (status, True) == (code, told in words), words


def test_hooks_are_named_in_toml_and_imported_where_they_run(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: hooks by name, one in Gunicorn's form; a reload imports what has changed in them, in the supervisor too."""
    arbiter.write("boss.py", "def ready(server):\n    server.log.warning('boss %s', 'one')\n")
    arbiter.write("crew/hooks.py", "def born(server, worker):\n    worker.log.warning('crew one')\n")
    arbiter.write("arbiter.toml", 'all_workers_ready = "boss:ready"\npost_fork = "crew.hooks.born"\npythonpath = ["lib"]\n')
    server = arbiter.serve(workers=1)
    server.wait_log("boss one")
    server.wait_log("crew one")
    for name in ("boss.py", "crew/hooks.py"):
        arbiter.write(name, (tmp_path / name).read_text().replace("one", "two"))
    server.send(signal.SIGHUP)
    server.wait_log("boss two")
    server.wait_log("crew two")


def test_a_template_calls_its_hooks_around_each_fork(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: preload_app. Result: the application is loaded before post_fork, and what before_fork closes after_fork opens."""
    (tmp_path / "gunicorn.conf.py").write_text(
        CONF
        + textwrap.dedent("""
        preload_app = True
        def before_fork(server):
            _note("before_fork", server.cfg.preload_app)
        def after_fork(worker):
            _note("after_fork", worker.age, worker.pid)
        def post_fork(server, worker):
            import sys
            _note("post_fork", worker.age, "live" in sys.modules)
        """)
    )
    server = arbiter.serve(workers=2)
    template = server.templates()[0].pid
    pids = [str(worker.pid) for worker in server.workers()]

    assert names(server, of=template) == ["before_fork", "before_fork"]
    assert sorted(line[0] for line in events(server, "after_fork")) == sorted(pids)
    assert {line[2] for line in events(server, "post_fork")} == {"True"}
    assert all(line[0] == line[2] for line in events(server, "after_fork"))
    until(lambda: len(events(server, "worker_ready")) == 2, "both workers")
    assert sorted(line[1] for line in events(server, "worker_ready")) == sorted(pids)
    assert server.stop() == 0
    assert sorted(line[1] for line in events(server, "child_exit")) == sorted(pids)


def test_a_worker_whose_hook_sets_alive_to_false_is_replaced_without_a_gap(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: the usual recipe against leaks: post_request counts, and ends the worker. Nobody is refused meanwhile."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "def post_request(worker, req, environ):\n    if worker.nr >= 20:\n        worker.alive = False\n"
    )
    server = arbiter.serve(workers=1)
    with server.client() as client:
        server.wait_log("to be replaced: a hook set worker.alive to False", times=2)
    assert client.failures == []


def test_an_upgrade_calls_pre_exec_in_the_new_process(arbiter: Arbiter, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(CONF)
    server = arbiter.serve(workers=1)
    server.send(signal.SIGUSR2)
    server.wait_log("upgrade done")
    (line,) = events(server, "pre_exec")

    assert line[0] != line[1] == str(server.pid)
    assert len(events(server, "on_starting")) == 2
    server.wait_exit()
    for member in server.members():
        if member.parent == 1 or member.pid == int(line[0]):
            os.kill(member.pid, signal.SIGTERM)
    until(lambda: len(events(server, "on_exit")) == 2, "the end of the new one")
    server.ended()


def test_worker_ids_of_the_well_known_recipe_are_unique(arbiter: Arbiter, tmp_path: Path) -> None:
    """Story: a recipe that gives each worker a number by attributes of its own on server and worker, across the fork."""
    (tmp_path / "gunicorn.conf.py").write_text(
        textwrap.dedent("""
        import os

        def on_starting(server):
            server._worker_id_overload = set()

        def nworkers_changed(server, new_value, old_value):
            server._worker_id_current_workers = new_value

        def _next(server):
            if server._worker_id_overload:
                return server._worker_id_overload.pop()
            in_use = {w._worker_id for w in server.WORKERS.values() if w.alive}
            free = set(range(1, server._worker_id_current_workers + 1)) - in_use
            return free.pop()

        def on_reload(server):
            server._worker_id_overload = set(range(1, server.cfg.workers + 1))

        def pre_fork(server, worker):
            worker._worker_id = _next(server)

        def post_fork(server, worker):
            os.environ["APP_WORKER_ID"] = str(worker._worker_id)
            worker.log.info("the recipe gave %(id)s", {"id": os.environ["APP_WORKER_ID"]})
        """)
    )
    server = arbiter.serve(workers=3)
    seen = set(re.findall(r"the recipe gave (\d)", server.log()))

    assert seen == {"1", "2", "3"}
