from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from prometheus_client import Metric as Family
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from exporters import catalog
from exporters.catalog import CATALOG, Metric
from exporters.collector import Histogram, Runner, Sample
from exporters.exposition import gather, render
from exporters.gpu.node import published
from exporters.gpu.simulated import SimulatedGpus, Simulation
from exporters.recordings import RecordingsCollector
from tests.exporters.looks import Series
from tests.exporters.trainers import small_recording
from trainer_hooks.monitor import Monitor

parse_openmetrics: Any = parser.text_string_to_metric_families
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
BOUNDS = catalog.TRAINING_STEP_DURATION_SECONDS.buckets


@pytest.fixture
def page(tmp_path: Path) -> Iterator[list[Sample]]:
    """What a service publishes with a training, a fresh one, one that failed, and two GPUs."""
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path, loss_kind="cross_entropy")
    monitor.expect(steps=10, epochs=1)
    with monitor.step():
        monitor.batch(loss=1e4, samples=1, tokens=5, trained_tokens=4)
    monitor.log(learning_rate=0.1, reward=1.0, accuracy=0.5)
    monitor.evaluated(loss=2.0, tokens=10, accuracy=0.5)
    with monitor.checkpoint():
        pass
    small_recording(tmp_path, "fresh", info={"a key": 'back\\slash "quoted"\nline'})
    Monitor(run="failed", rank=0, world_size=1, directory=tmp_path).fail(ValueError())
    runners = [Runner(RecordingsCollector([tmp_path])), Runner(SimulatedGpus(Simulation(2)))]
    for runner in runners:
        runner.run_once()
    yield published(gather(runners))
    monitor.finish()
    for runner in runners:
        runner.stop()


def text(samples: list[Sample], accept: str | None = None) -> str:
    return render(samples, accept)[0].decode()


def parsed(families: Iterable[Family]) -> dict[Series, float]:
    """The value of every line of a page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def lines_of(samples: list[Sample]) -> dict[Series, float]:
    """What the samples must come to, line by line."""
    lines: dict[Series, float] = {}
    for metric, labels, value in samples:
        if isinstance(value, Histogram):
            bounds = [*map(str, map(float, metric.buckets)), "+Inf"]
            for bound, count in zip(bounds, value.cumulative_counts, strict=True):
                key = f"{metric.name}_bucket", tuple(sorted({**labels, "le": bound}.items()))
                lines[key] = float(count)
            lines[f"{metric.name}_count", tuple(sorted(labels.items()))] = value.cumulative_counts[-1]
            lines[f"{metric.name}_sum", tuple(sorted(labels.items()))] = value.sum
        else:
            lines[metric.name, tuple(sorted(labels.items()))] = float(value)
    return lines


def test_classic_text_is_the_default_and_says_every_sample(page: list[Sample]) -> None:
    body, content_type = render(page, None)

    assert content_type.startswith("text/plain; version=0.0.4")
    assert parsed(parse_classic(body.decode())) == lines_of(page)


def test_openmetrics_is_for_who_asks_and_says_every_sample(page: list[Sample]) -> None:
    body, content_type = render(page, OPENMETRICS)

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert parsed(parse_openmetrics(body.decode())) == lines_of(page)


def test_who_asks_for_a_later_openmetrics_gets_the_one_there_is(page: list[Sample]) -> None:
    _, content_type = render(page, "application/openmetrics-text;version=2.0.0")

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")


def test_every_family_has_its_help_type_and_unit(page: list[Sample]) -> None:
    families = {family.name: family for family in parse_openmetrics(text(page, OPENMETRICS))}

    assert {metric.name for metric, _, _ in page} == {
        name for name in CATALOG if _family_name(CATALOG[name]) in families
    }
    for metric in {sample.metric for sample in page}:
        family = families[_family_name(metric)]
        assert (family.documentation, family.type, family.unit) == (metric.help, metric.kind, metric.unit)


def _family_name(metric: Metric) -> str:
    return metric.name.removesuffix({"counter": "_total", "info": "_info"}.get(metric.kind, ""))


def test_promtool_has_nothing_to_say_about_the_page(page: list[Sample]) -> None:
    if which("promtool") is None:
        pytest.skip("promtool is not installed; it comes with Debian's package prometheus")

    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text(page), capture_output=True, text=True, check=False
    )

    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


def test_every_metric_of_the_catalog_keeps_its_name_on_the_page() -> None:
    for metric in CATALOG.values():
        value = Histogram([0] * (len(metric.buckets) + 1), 0.0) if metric.kind == "histogram" else 1.0
        samples = [Sample(metric, dict.fromkeys(metric.labels, "x"), value)]
        for accept in (None, OPENMETRICS):
            names = {line.split("{")[0].split(" ")[0] for line in text(samples, accept).splitlines()} - {"#"}
            assert all(name.startswith(metric.name) for name in names), (names, accept)
            if metric.kind != "histogram":
                assert names == {metric.name}


def test_families_stand_in_the_order_of_the_catalog_each_once(page: list[Sample]) -> None:
    scattered = [*page[::2], *page[1::2]]

    helps = [line.split()[2] for line in text(scattered).splitlines() if line.startswith("# HELP")]

    assert helps == [name for name in CATALOG if name in set(helps)]


def test_an_infinite_value_is_written_as_prometheus_reads_it() -> None:
    perplexity = Sample(catalog.TRAINING_PERPLEXITY, {"run": "a-run"}, math.inf)

    assert 'training_perplexity{run="a-run"} +Inf' in text([perplexity]).splitlines()


def test_a_histogram_is_cumulative_and_ends_at_infinity() -> None:
    counts = [*range(1, len(BOUNDS) + 1), 40]
    body = text([Sample(catalog.TRAINING_STEP_DURATION_SECONDS, {"run": "a-run"}, Histogram(counts, 12.5))])

    assert 'training_step_duration_seconds_bucket{le="0.005",run="a-run"} 1.0' in body
    assert 'training_step_duration_seconds_bucket{le="+Inf",run="a-run"} 40.0' in body
    assert 'training_step_duration_seconds_count{run="a-run"} 40.0' in body
    assert 'training_step_duration_seconds_sum{run="a-run"} 12.5' in body


def test_the_clock_of_the_service_is_on_the_page() -> None:
    before = time.time()
    (clock,) = gather([])

    assert clock.metric is catalog.WALLCLOCK_SECONDS
    assert isinstance(clock.value, float)
    assert before <= clock.value <= time.time()
