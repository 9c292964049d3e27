"""The page of every machine the double can play, as a scraper gets it."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from exporters.catalog import CATALOG
from exporters.collector import Histogram, Sample
from tests import fake_nvml
from tests.exporters.gpu.double import names_of_gpu
from tests.exporters.gpu.scenarios import GOLDEN, SCENARIOS, page, text

MOST_SERIES_OF_A_GPU = 60
MOST_SERIES_OF_A_MIG_INSTANCE = 8


@pytest.fixture(params=SCENARIOS, scope="module")
def scenario(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def samples(scenario: str, library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp(scenario)
    without = SCENARIOS[scenario].without
    if without:
        library = fake_nvml.build(folder, without=without)
    return page(library, folder / "control", SCENARIOS[scenario])


def test_the_page_is_the_one_that_is_kept(scenario: str, samples: list[Sample]) -> None:
    assert text(samples) == (GOLDEN / f"{scenario}.txt").read_text(), (
        "if this change is meant: python -m tests.exporters.gpu.scenarios"
    )


def test_every_page_that_is_kept_is_of_a_scenario() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == SCENARIOS.keys()


def test_promtool_has_nothing_to_say_about_the_page(samples: list[Sample]) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "apt-get install prometheus"
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text(samples), capture_output=True, text=True, check=False
    )

    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


def test_no_value_is_nan_and_no_series_is_there_twice(samples: list[Sample]) -> None:
    for sample in samples:
        assert not isinstance(sample.value, Histogram)
        assert math.isfinite(sample.value), sample
    series = Counter((sample.metric.name, tuple(sorted(sample.labels.items()))) for sample in samples)
    assert [key for key, count in series.items() if count > 1] == []


def test_a_gpu_keeps_within_its_budget_of_series(samples: list[Sample]) -> None:
    """Two more for each XID seen; series that name a rank are of that rank's budget."""
    series: Counter[str] = Counter()
    xids: Counter[str] = Counter()
    instances: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        match sample.metric.scope:
            case "mig":
                instances[sample.labels["gpu"], sample.labels["mig_instance"]] += 1
            case "gpu" if "xid" in sample.labels:
                xids[sample.labels["gpu"], sample.labels["xid"]] += 1  # type: ignore[index]
            case "gpu" if not sample.labels.get("run"):
                series[sample.labels["gpu"]] += 1

    assert all(count <= MOST_SERIES_OF_A_GPU for count in series.values()), series
    assert all(count <= 2 for count in xids.values())
    assert all(count <= MOST_SERIES_OF_A_MIG_INSTANCE for count in instances.values())


def test_what_a_gpu_that_answers_does_not_give_is_named_with_its_reason(
    scenario: str, samples: list[Sample]
) -> None:
    """So nothing is missing without a word: but for what belongs to an event that has not happened."""
    expected = {metric.name for metric in CATALOG.values() if metric.scope == "gpu"} - {
        "nvidia_gpu_metric_unsupported",
        "nvidia_gpu_xid_errors_total",
        "nvidia_gpu_xid_last_timestamp_seconds",
    }
    for gpu in {sample.labels["gpu"] for sample in samples if "gpu" in sample.labels}:
        up = [s.value for s in samples if s.metric.name == "nvidia_gpu_up" and s.labels["gpu"] == gpu]
        if up != [1.0]:
            continue
        named = {
            s.labels["metric"]
            for s in samples
            if s.metric.name == "nvidia_gpu_metric_unsupported" and s.labels["gpu"] == gpu
        }
        assert expected - names_of_gpu(samples, gpu) <= named


def test_two_healthy_h100_give_every_gpu_metric_of_the_catalog(library: Path, tmp_path: Path) -> None:
    healthy = page(library, tmp_path / "control", SCENARIOS["h100"])

    expected = {metric.name for metric in CATALOG.values() if metric.scope == "gpu"} - {
        "nvidia_gpu_metric_unsupported",
        "nvidia_gpu_xid_errors_total",
        "nvidia_gpu_xid_last_timestamp_seconds",
    }
    for gpu in ("0", "1"):
        assert names_of_gpu(healthy, gpu) == expected | {"training_run_gpu_info"}


def test_of_a_lost_gpu_nothing_stays_that_another_collector_said_before(
    library: Path, tmp_path: Path
) -> None:
    """Whichever of them learned of the loss: an error that is not told apart, known by one collector only."""
    unknown = SCENARIOS["h100"]._replace(later={"gpu1.error": 999})
    lost = page(library, tmp_path / "control", unknown)

    assert names_of_gpu(lost, "1") == {"nvidia_gpu_info", "nvidia_gpu_up", "training_run_gpu_info"}
    assert {s.value for s in lost if s.metric.name == "nvidia_gpu_up" and s.labels["gpu"] == "1"} == {0.0}


def test_nothing_that_is_only_shown_is_published(samples: list[Sample]) -> None:
    assert {sample.metric.name for sample in samples} <= CATALOG.keys()
