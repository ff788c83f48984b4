"""The arithmetic of the benchmarks is right: a wrong figure is worse than none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import chart, log_cost, report, table
from benchmarks.__main__ import in_round, lasts, turned
from benchmarks.figures import Metric, Run, Sample, Summary, ratio, summarize
from benchmarks.load import Load
from benchmarks.mixed_load import percentile, schedule
from benchmarks.servers import BY_NAME, SERVERS
from benchmarks.workloads import COMPARED, WORKLOADS, Feature

ROOT = Path(__file__).parents[2]

SAMPLE = Sample(requests=20_000, seconds=2.0, cpu_seconds=1.0, p50_us=900.0, p99_us=3000.0, pss_bytes=20_000_000, errors=0)

samples = st.builds(
    Sample,
    requests=st.integers(1, 10**7),
    seconds=st.floats(0.5, 60),
    cpu_seconds=st.floats(0.01, 60),
    p50_us=st.floats(0, 1e7),
    p99_us=st.floats(0, 1e7),
    pss_bytes=st.integers(0, 10**10),
    errors=st.integers(0, 1000),
)


def sample(**changes: Any) -> Sample:
    return dataclasses.replace(SAMPLE, **changes)


def run_of(**cells: float) -> Run:
    """A run of `hello`, with three rounds of so many CPU seconds for each server."""
    run = Run(about={"date": "a day"})
    for name, seconds in cells.items():
        for share in (1.1, 0.9, 1.0):
            run.add("hello", name.replace("_", "-"), sample(cpu_seconds=seconds * share))
    return run


def test_figures_are_per_request_and_per_second() -> None:
    assert SAMPLE.rps == 10_000
    assert SAMPLE.cpu_us == 50
    assert SAMPLE.busy == 0.5


def test_a_server_that_answered_nothing_is_infinitely_dear_and_has_no_ratio() -> None:
    nothing = summarize([sample(requests=0)], Metric.CPU)

    assert float("inf") == nothing.value
    assert ratio(nothing, summarize([SAMPLE], Metric.CPU)) is None


def test_a_summary_is_the_medians_and_all_errors() -> None:
    rounds = [sample(cpu_seconds=seconds, errors=1) for seconds in (1.2, 0.8, 3.0, 1.0, 0.9)]

    found = summarize(rounds, Metric.CPU)

    assert pytest.approx(found.value) == 50
    assert found.errors == 5
    assert pytest.approx(found.spread) == (150 - 40) / 2 / 50


def test_a_single_round_has_no_spread() -> None:
    assert summarize([SAMPLE], Metric.CPU).spread is None


@given(st.lists(samples, min_size=1, max_size=7), st.sampled_from(Metric))
def test_each_metric_compares_by_its_own_median(rounds: list[Sample], metric: Metric) -> None:
    get = {Metric.CPU: "cpu_us", Metric.P99: "p99_us", Metric.PSS: "pss_bytes"}[metric]

    assert median(getattr(one, get) for one in rounds) == summarize(rounds, metric).value


def test_a_ratio_above_one_means_that_we_are_ahead() -> None:
    ours, peer = (summarize([sample(cpu_seconds=seconds)], Metric.CPU) for seconds in (0.5, 2.0))

    assert ratio(peer, ours) == 4
    assert ratio(ours, peer) == 0.25


@given(
    st.dictionaries(st.tuples(st.text(), st.text()), st.lists(samples, min_size=1, max_size=3), max_size=4),
    st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_result_is_read_as_it_was_written(cells: dict[tuple[str, str], list[Sample]], words: dict[str, str]) -> None:
    written = Run(about=words, skipped=words, cells=cells)

    read = Run.from_json(written.to_json())

    assert (words, words, cells.keys()) == (read.about, read.skipped, read.cells.keys())
    for key, rounds in cells.items():
        for one, other in zip(rounds, read.cells[key], strict=True):
            assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-6)


def test_a_table_has_the_best_first_and_ratios_to_each_arbiter() -> None:
    rows = table.lines(run_of(gunicorn_sync=4.0, arbiter_sync=1.0, arbiter_threaded=0.5, arbiter_sync_log=1.2), "hello")

    columns = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert [row["server"] for row in columns] == ["arbiter-threaded", "arbiter-sync", "arbiter-sync-log", "gunicorn-sync"]
    assert [row["/ sync"] for row in columns] == ["0.50", "1.00", "1.20", "4.00"]
    assert [row["/ threaded"] for row in columns] == ["1.00", "2.00", "2.40", "8.00"]
    assert [row["CPU us"] for row in columns] == ["25.0", "50.0", "60.0", "200"]
    assert {"10%"} == {row["±"] for row in columns}


def test_what_an_access_log_costs_is_written_read_and_shown_with_its_interval() -> None:
    run = run_of(arbiter_sync=1.0)
    run.log_costs["arbiter-sync / hello"] = [float(number) for number in (*range(-40, 60), 900)]

    read = Run.from_json(run.to_json())

    assert run.log_costs == read.log_costs
    assert "| arbiter-sync / hello | +10.0 | +0.0 to +21.0 | 101 |" in report.section(read)


def test_the_cost_of_a_log_is_found_between_slices_that_are_off_on_on_off() -> None:
    """1. A process gets slower from slice to slice of 100 requests, and each logged request needs 2 us. Its first slices are odd.

    Result: 2 us, of whole groups only.
    """
    logged = [False, True, True, False] * 5
    slices = [10**9 * (number < 8) + 5_000_000 + 1000 * number + 200_000 * is_on for number, is_on in enumerate(logged)]

    assert log_cost.differences(slices, 100) == [2.0] * 3
    assert log_cost.differences(slices[:-1], 100) == [2.0] * 2


@given(st.lists(st.floats(-100, 100), min_size=1))
def test_the_median_is_in_its_interval_and_that_in_the_values(values: list[float]) -> None:
    found = log_cost.cost(values)

    assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_every_kind_of_arbiter_is_measured_with_an_access_log() -> None:
    cells = [(server, workload) for workload in WORKLOADS for server in SERVERS if server.serves(workload)]

    found = {(server.name, workload.name) for server, workload in log_cost.logging(cells)}

    assert {(f"arbiter-{kind}-log", name) for kind in ("sync", "threaded", "async") for name in ("hello", "browser")} == found


def test_the_chart_has_a_bar_for_each_server_as_long_as_its_value() -> None:
    run = run_of(gunicorn_sync=4.0, arbiter_sync=1.0, arbiter_sync_log=2.0, limit_canned=0.5)
    picture = ET.fromstring(chart.pictures(run)["hello"])

    bars = [bar for bar in picture.iter("{http://www.w3.org/2000/svg}rect") if bar.get("class") != "paper"]
    widths = {bar.get("class"): float(bar.get("width", "")) for bar in bars}
    assert len(bars) == 3  # access logs are in the tables only
    assert pytest.approx(widths["peer"] / widths["ours"], rel=0.01) == 4
    assert pytest.approx(widths["ours"] / widths["limit"], rel=0.01) == 2


def test_the_page_keeps_what_was_written_by_hand() -> None:
    page = f"# By hand\n{report.BEGIN}\nold figures\n{report.END}\nalso by hand\n"

    once = report.filled(page, report.section(run_of(arbiter_sync=1.0)))

    assert once.startswith("# By hand\n")
    assert once.endswith("\nalso by hand\n")
    assert "old figures" not in once
    assert once == report.filled(once, report.section(run_of(arbiter_sync=1.0)))


def test_a_page_without_a_place_for_the_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="put these two lines there"):
        report.filled("# By hand\n", "figures")


def test_the_page_shows_the_committed_result() -> None:
    """`make docs` has been run since docs/performance.md, the result or the report was changed."""
    run = Run.from_json((ROOT / "benchmarks/results/latest.json").read_text())
    page = (ROOT / "docs/performance.md").read_text()

    assert report.filled(page, report.section(run)) == page
    assert chart.pictures(run) == {path.stem: path.read_text() for path in (ROOT / "docs/figures").iterdir()}


def test_reasons_are_told_once_for_all_workloads_of_a_server() -> None:
    skipped = {"hello / one": "it is ill", "post / one": "it is ill", "post / two": "it is ill", "three": "not installed"}

    assert report.why(skipped) == {"one (hello, post)": "it is ill", "two (post)": "it is ill", "three": "not installed"}


@given(st.lists(st.integers(), unique=True), st.integers(0, 20))
def test_every_round_measures_every_cell_once(cells: list[int], number: int) -> None:
    assert sorted(cells) == sorted(turned(cells, number))


def test_no_server_is_measured_first_in_every_round() -> None:
    cells = list(range(10))

    assert len({turned(cells, number)[0] for number in range(5)}) == 5


def test_every_server_says_how_it_is_started_and_has_a_workload() -> None:
    assert len(SERVERS) == len(BY_NAME)
    for server in SERVERS:
        mine = [workload for workload in WORKLOADS if server.serves(workload)]
        assert mine, server.name
        for workload in mine:
            words = server.words(workload, 8000)
            assert not [word for word in words if "{" in word]
            assert any("8000" in word for word in words)


def test_every_workload_measures_a_kind_of_arbiter() -> None:
    ours = [server for server in SERVERS if server.ours]

    assert [workload.name for workload in WORKLOADS if not any(server.serves(workload) for server in ours)] == []


def test_every_figure_to_reach_is_compared_in_every_round() -> None:
    cells = [(server, workload) for workload in WORKLOADS for server in SERVERS if server.serves(workload)]
    often = {(server.name, workload.name) for server, workload in in_round(cells, 1)}

    assert cells == in_round(cells, 0)
    assert {(name, workload) for workload, names in COMPARED.items() for name in names} <= often
    assert {(server.name, workload.name) for server, workload in cells if server.ours} <= often
    assert len(often) < len(cells) / 2


def test_a_whole_run_lasts_no_longer_than_the_page_says() -> None:
    cells = [
        (server, workload) for workload in WORKLOADS for server in SERVERS if not workload.is_extra and server.serves(workload)
    ]

    assert sum(lasts(workload, 1) for number in range(5) for _, workload in in_round(cells, number)) < 25 * 60


def test_asgi_servers_get_the_asgi_application() -> None:
    hello = WORKLOADS[0]

    for server in SERVERS:
        app = next((word for word in server.words(hello, 8000) if word.startswith("plain:")), None)
        speaks_asgi = Feature.ASGI in server.has or server.name in {"gunicorn-http2", "arbiter-async-log", "uvicorn-log"}
        expected = "plain:asgi" if speaks_asgi else "plain:wsgi"
        assert app == (None if server.name == "limit-canned" else expected)


@given(st.lists(st.floats(0, 1e9), min_size=1).map(sorted), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_covers_the_share(values: list[float], share: float) -> None:
    found = percentile(values, share)

    assert sum(value <= found for value in values) >= share * len(values) * (1 - 1e-12)
    assert sum(value < found for value in values) < share * len(values)


def test_percentiles_of_nothing_and_of_a_hundred() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([float(number) for number in range(1, 101)], 0.99) == 99.0


def test_all_servers_of_a_round_meet_the_same_requests() -> None:
    first, again, other = (list(schedule(300, 10, 0.01, seed)) for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert 2700 < len(first) < 3300  # 3000 +- 5 standard deviations
    assert 3 < sum(arrival.slow for arrival in first) < 60
    assert all(0 < arrival.at < 10 for arrival in first)


def test_what_wrk_says_is_what_a_load_is_made_of() -> None:
    assert Load._fields == ("requests", "seconds", "p50_us", "p99_us", "errors")
    assert {"value", "spread"} < {field.name for field in dataclasses.fields(Summary)}
