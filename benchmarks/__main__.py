"""Measure Arbiter and its peers: `make bench`, or python -m benchmarks [options].

Servers are started one after another, with one worker, each process of it pinned to one core and the load generator to
another. Rounds are interleaved: every server is measured once under every workload before any is measured again, and the
order turns from round to round, so what disturbs the machine for a minute disturbs one value of each median. Servers that no
figure to reach is compared to are left out of most rounds, or a whole run would take an hour and not 25 minutes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import time
from typing import Final, TypeVar

from benchmarks import log_cost, servers, table, workloads
from benchmarks.figures import Run, unknown
from benchmarks.load import H2LOAD, WRK
from benchmarks.measure import START, WARM, CannotMeasureError, Cores, measure, take_cores
from benchmarks.servers import HERE, SERVERS, Server
from benchmarks.workloads import WORKLOADS, Workload

_Cell = TypeVar("_Cell")

QUICK_SERVERS: Final = "limit-environ,arbiter-sync,arbiter-threaded,gunicorn-sync,gunicorn-gthread,granian"
QUICK_WORKLOADS: Final = "hello,close"

LATEST: Final = os.path.relpath(f"{HERE}/results/latest.json")
PARTIAL: Final = os.path.relpath(f"{HERE}/../build/bench.json")

ALONGSIDE: Final = ("gunicorn_h1c", "h2", "httptools", "uvloop", "django", "flask", "fastapi", "starlette")
"""What figures depend on besides the servers themselves; Gunicorn uses gunicorn_h1c when it is there."""


def main() -> int:
    """The exit status."""
    options = _parse()
    if WRK is None:
        print("The load generator wrk is missing. Debian: apt-get install wrk", file=sys.stderr)
        return 1
    names = {"servers": options.servers, "workloads": options.workloads}
    known = {"servers": servers.BY_NAME.keys(), "workloads": workloads.BY_NAME.keys()}
    for kind, chosen in names.items():
        if wrong := unknown(chosen, known[kind]):
            print(f"There are no {kind} {', '.join(wrong)}. There are: {', '.join(known[kind])}.", file=sys.stderr)
            return 2
    run = Run(about=about(options.seconds, options.rounds))
    chosen = [server for server in SERVERS if server.name in options.servers]
    for server in chosen.copy():
        if server.version is None:
            skip(run, server.name, f"{server.package} is not installed" + (f"; it needs {server.hint}" if server.hint else ""))
            chosen.remove(server)
    loads = [workload for workload in WORKLOADS if workload.name in options.workloads]
    if H2LOAD is None:
        for load in [load for load in loads if load.streams]:
            skip(run, load.name, "the load generator h2load is missing (Debian: apt-get install nghttp2-client)")
            loads.remove(load)
    cells = [(server, workload) for workload in loads for server in chosen if server.serves(workload)]
    if not cells:
        print("None of these servers can do any of these workloads.", file=sys.stderr)
        return 2
    cores = take_cores()
    rounds = [in_round(cells, number) for number in range(options.rounds)]
    minutes = sum(lasts(workload, options.seconds) for chosen in rounds for _, workload in chosen) / 60
    print(f"{sum(map(len, rounds))} measurements: about {minutes:.0f} minutes on a quiet machine", flush=True)
    if cores.server == cores.load:
        print("Only one core: server and load share it, and the figures are of little use.", file=sys.stderr)
    try:
        for number, chosen in enumerate(rounds):
            round_of(run, turned(chosen, number), cores, options.seconds, number)
            save(run, options.output)  # after each round: a run that is stopped has what it has
        measure_logs(run, log_cost.logging(cells), cores, log_cost.TURNS * options.rounds)
        save(run, options.output)
    except KeyboardInterrupt:
        save(run, options.output)
    for workload in run.workloads():
        print(f"\n{table.title_of(workload)}\n{table.text(table.lines(run, workload))}")
    if run.log_costs:
        print(f"\nWhat an access log costs a request, CPU us\n{table.text(log_cost.lines(run.log_costs))}")
    print(f"\nWritten to {options.output}; python -m benchmarks.report {options.output} makes docs/performance.md of it.")
    return 0


def round_of(run: Run, cells: list[tuple[Server, Workload]], cores: Cores, seconds: int, number: int) -> None:
    """Measure each cell once."""
    for server, workload in cells:
        name = f"{workload.name} / {server.name}"
        if name in run.skipped or server.name in run.skipped:
            continue
        with tempfile.TemporaryDirectory(prefix="arbiter-bench-") as folder:
            try:
                sample = measure(server, workload, folder, cores.server, seconds, seed=number)
            except CannotMeasureError as error:
                skip(run, name, str(error))
                continue
        run.add(workload.name, server.name, sample)
        print(
            f"round {number + 1}  {workload.name:10}{server.name:22}{sample.cpu_us:9.1f} us  {sample.rps:8.0f}/s"
            f"  p99 {sample.p99_us / 1e3:8.2f} ms  {sample.pss_bytes / 1e6:5.0f} MB  errors {sample.errors}",
            flush=True,
        )


def measure_logs(run: Run, cells: list[tuple[Server, Workload]], cores: Cores, turns: int) -> None:
    """Measure what an access log costs each of these; the turns are interleaved as rounds are."""
    for turn in range(turns):
        for server, workload in turned(cells, turn):
            name = f"{server.name.removesuffix(log_cost.SUFFIX)} / {workload.name}"
            try:
                run.log_costs.setdefault(name, []).extend(log_cost.measure(server, workload, cores.server))
            except CannotMeasureError as error:
                skip(run, f"{workload.name} / {server.name}, off and on", str(error))
    run.log_costs = {name: values for name, values in run.log_costs.items() if values}
    for name, values in run.log_costs.items():
        found = log_cost.cost(values)
        print(f"access log  {name:32}{found.median:+9.1f} us  {found.low:+.1f} to {found.high:+.1f}", flush=True)


def in_round(cells: list[tuple[Server, Workload]], number: int) -> list[tuple[Server, Workload]]:
    """The cells that this round measures."""
    if not number % workloads.SELDOM:
        return cells
    return [(server, workload) for server, workload in cells if server.ours or server.name in compared(workload)]


def compared(workload: Workload) -> set[str]:
    """The names of the servers that Arbiter's figures of a workload are held against."""
    return workloads.COMPARED.get(workload.name, set())


def lasts(workload: Workload, seconds: int) -> float:
    """About how many seconds a measurement takes."""
    return START + WARM * workload.workers + seconds * workload.longer


def turned(cells: list[_Cell], number: int) -> list[_Cell]:
    """The cells in the order of this round: nobody is always the first, or always after the same one."""
    start = number % 5 * len(cells) // 5
    order = cells[start:] + cells[:start]
    return order if number % 2 == 0 else order[::-1]


def skip(run: Run, name: str, reason: str) -> None:
    """Say that there is no figure, here and in the result."""
    run.skipped[name] = reason
    print(f"skipped  {name}: {reason}", flush=True)


def save(run: Run, path: str) -> None:
    """Write the result, whole."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    draft = f"{path}.draft"
    with open(draft, "w") as file:
        file.write(run.to_json())
    os.replace(draft, path)


def about(seconds: int, rounds: int) -> dict[str, str]:
    """When, where and of what the figures are."""
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(": ")[2].strip() for line in file if line.startswith("model name")), platform.machine())
    packages = dict.fromkeys([*(server.package for server in SERVERS if server.package), *ALONGSIDE])
    commit = _git("describe", "--always", "--abbrev=9") + (
        ", and what was changed since" if _git("diff", "HEAD", "--stat") else ""
    )
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{model}, {os.cpu_count()} cores, Linux {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "arbiter": commit or "not in a repository",
        "load": f"{os.getloadavg()[0]:.1f} processes ran when it began",
        "rounds": f"{rounds} of {seconds} s",
        "versions": ", ".join(f"{package} {found}" for package in packages if (found := servers.installed(package))),
    }


def _git(*words: str) -> str:
    """What git says of the source; nothing where there is no git, or no repository."""
    try:
        done = subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Arbiter and its peers.",
        epilog=f"servers: {', '.join(servers.BY_NAME)}. workloads: {', '.join(workloads.BY_NAME)}.",
    )

    def names(value: str) -> list[str]:
        return [name.strip() for name in value.split(",") if name.strip()]

    parser.add_argument("--servers", type=names, help="comma-separated [all]")
    parser.add_argument(
        "--workloads",
        type=names,
        help=f"comma-separated [all but {', '.join(load.name for load in WORKLOADS if load.is_extra)}]",
    )
    parser.add_argument("--seconds", type=int, help="of load for each figure, whole seconds [1]")
    parser.add_argument("--rounds", type=int, help="how often each figure is measured [5]")
    parser.add_argument("--quick", action="store_true", help="a few servers, two workloads, one round: half a minute")
    parser.add_argument("--output", help=f"where the result goes [{LATEST} of a whole run, {PARTIAL} of a part]")
    options = parser.parse_args()
    options.output = options.output or (PARTIAL if options.quick or options.servers or options.workloads else LATEST)
    if options.servers is None:
        options.servers = names(QUICK_SERVERS) if options.quick else list(servers.BY_NAME)
    if options.workloads is None:
        options.workloads = names(QUICK_WORKLOADS) if options.quick else [load.name for load in WORKLOADS if not load.is_extra]
    options.seconds = options.seconds or 1
    options.rounds = options.rounds or (1 if options.quick else 5)
    if options.seconds < 1 or options.rounds < 1:
        parser.error("--seconds and --rounds must be 1 or more")
    return options


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    sys.exit(status)
