"""A real training, through the service, to a real Prometheus: what arrives, and under which names."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from alerts.build import groups
from alerts.thresholds import Thresholds
from exporters import catalog
from exporters.catalog import CATALOG
from tests.alerts.expressions import selectors
from tests.alerts.test_rules import HISTOGRAM_SERIES
from tests.dashboards.origin import QUERIES
from tests.e2e.queried import queried
from trainvitals.stack import Stack

RUN = "end-to-end"
STEPS = 200  # seconds, so that scrapes fall into the training: some metrics are published only then
# Catalogued metrics that alerts read, and why this demonstration does not publish them.
UNPUBLISHED = {
    "nvidia_gpu_metric_unsupported": "every metric of the simulated GPU is there",
    "nvidia_gpu_mig_memory_total_bytes": "it has no MIG instance",
    "nvidia_gpu_xid_last_timestamp_seconds": "it has had no XID error",
    "training_cuda_alloc_retries_total": "torch tells it of a real GPU",
    "training_cuda_memory_reserved_bytes": "torch tells it of a real GPU",
    "training_device_seconds_total": "it is measured on a real GPU",
    "training_peak_flops": "that of a simulated GPU is not known",
}
ORIGIN_RULES = yaml.safe_load((Path(__file__).parents[1] / "alerts" / "origin.yaml").read_text())
ORIGIN_EXPRESSIONS = [rule["expr"] for group in ORIGIN_RULES["groups"] for rule in group["rules"]]


# The first of them waits for the training.
pytestmark = pytest.mark.timeout(700)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, conversations: Path) -> Iterator[Stack]:
    """The local stack after a training, whose last values Prometheus has seen."""
    folder = tmp_path_factory.mktemp("stack")
    with Stack(folder, Thresholds(), simulate_gpus="1") as stack:
        training = stack.start(
            "training",
            *(sys.executable, "-m", "trainvitals", "train", "--run", RUN, "--max-steps", str(STEPS)),
            *("--data", str(conversations), "--checkpoints", str(folder / "checkpoints")),
            environment={
                "TRAINVITALS_DIR": str(stack.recordings),
                "TRAINVITALS_DEADLINE": str(time.time() + 3600),
                "OMP_NUM_THREADS": "1",
            },
        )
        assert training.process.wait(500) == 0, training.last_lines()
        # Two scrapes after the end: a rate needs two, however short the training was.
        state = f'{catalog.TRAINING_RUN_STATE}{{run="{RUN}",state="finished"}}'
        deadline = time.monotonic() + 60
        while not stack.query(f"sum_over_time({state}[5m]) >= 2"):
            assert time.monotonic() < deadline, "Prometheus has not seen the run finish"
            time.sleep(0.1)
        yield stack


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_original_dashboard_returns_data(stack: Stack, query: str) -> None:
    assert queried(stack, query)


@pytest.mark.parametrize("expression", ORIGIN_EXPRESSIONS)
def test_every_alert_expression_of_the_original_evaluates(stack: Stack, expression: str) -> None:
    stack.query(expression)


def test_the_counts_that_arrive_are_those_of_the_training(stack: Stack) -> None:
    def value(metric: catalog.Metric, **labels: str) -> float:
        selector = ",".join(f'{name}="{label}"' for name, label in {"run": RUN, **labels}.items())
        (series,) = queried(stack, f"{metric}{{{selector}}}")
        return float(series["value"][1])

    assert value(catalog.TRAINING_STEPS_TOTAL) == STEPS
    assert value(catalog.TRAINING_BATCHES_PROCESSED_TOTAL) == 2 * STEPS
    assert value(catalog.TRAINING_SAMPLES_PROCESSED_TOTAL) == 2 * 8 * STEPS
    assert value(catalog.TRAINING_PROGRESS_RATIO) == 1
    assert value(catalog.HOOK_ERRORS_TOTAL) == 0
    assert value(catalog.HOOK_DROPPED_TOTAL) == 0
    assert value(catalog.TRAINING_CHECKPOINTS_TOTAL, result="ok") >= 1
    assert 0 < value(catalog.TRAINING_ACCURACY) <= 1
    assert value(catalog.VALIDATION_PERPLEXITY) > 1


def test_the_phases_add_up_to_the_age_of_the_run(stack: Stack) -> None:
    phases = queried(stack, f'sum({catalog.TRAINING_PHASE_SECONDS_TOTAL}{{run="{RUN}"}})')
    start, end = catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS, catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS
    age = queried(stack, f'{end}{{run="{RUN}"}} - {start}{{run="{RUN}"}}')
    assert float(phases[0]["value"][1]) == pytest.approx(float(age[0]["value"][1]), abs=0.01)


def names_of(alerts: list[dict[str, Any]]) -> list[str]:
    return [each["metric"]["alertname"] for each in alerts]


def test_a_healthy_run_raises_no_alert(stack: Stack) -> None:
    """Nor is one about to be, but for what a scrape that takes too long looks like until the next."""
    deadline = time.monotonic() + 20
    while names_of(alerts := stack.query("ALERTS")) != ["Watchdog"]:  # which always fires, and tells nobody
        assert time.monotonic() < deadline, alerts
        time.sleep(0.1)
    fired = 'count_over_time(ALERTS{alertstate="firing", alertname!="Watchdog"}[1h])'
    assert stack.query(fired) == []
    assert stack.alerts() == []


def test_every_metric_that_an_alert_reads_is_published(stack: Stack) -> None:
    """But those that need what this machine, or this short and healthy training, does not have."""
    read = {
        selector.metric
        for group in groups(Thresholds())
        for rule in group.rules
        for selector in selectors(rule.expr)
    }
    ours = sorted(name for name in read if name in CATALOG or name in HISTOGRAM_SERIES)
    absent = [name for name in ours if not stack.query(f"last_over_time({name}[10m])")]
    assert absent == sorted(UNPUBLISHED)


def test_promtool_has_nothing_to_say_about_the_metrics(stack: Stack) -> None:
    page = httpx.get(f"{stack.service_url}/metrics").content
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
