"""What becomes known of a run while it is recorded, and what follows of its FLOPs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.recordings import RecordingsCollector
from tests.exporters.looks import Look, names, value
from tests.exporters.trainers import set_slot, small_recording
from tests.prometheus import binary
from trainer_hooks.monitor import Monitor


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    opened = Monitor(run="a-run", rank=0, world_size=1, directory=tmp_path, info={"model": "tiny"})
    with opened.step():
        opened.batch(loss=2.0, tokens=12, trained_tokens=10)
    yield opened
    opened.finish()


def test_a_loss_that_turns_out_to_be_cross_entropy_has_a_perplexity_until_it_turns_out_otherwise(
    monitor: Monitor, look: Look
) -> None:
    of_cross_entropy = {"training_perplexity", "training_loss_token_sum_total"}
    assert of_cross_entropy.isdisjoint(names(look()))
    monitor.describe(loss_kind="cross_entropy")
    assert of_cross_entropy < names(look())
    monitor.describe(loss_kind="other")
    assert of_cross_entropy.isdisjoint(names(look()))


def test_facts_told_later_stand_beside_and_over_those_told_at_first(monitor: Monitor, look: Look) -> None:
    assert value(look(), "training_run_info", model="tiny") == 1
    monitor.describe(model="large", precision="bf16")
    assert value(look(), "training_run_info", model="large", precision="bf16", attempt="1") == 1


def test_facts_told_later_are_cleaned_as_those_told_at_first(
    tmp_path: Path, collector: RecordingsCollector
) -> None:
    recorder = small_recording(tmp_path, "a-run", info={"model": "tiny"})
    told: dict[str, object] = {"data set": "/home/a-person/chats", "model": 7, "long": "x" * 5000, "run": "b"}
    recorder.event({"event": "info", "time_ns": 1, "step": 0, **told})
    for name in range(200):
        recorder.event({"event": "info", f"fact{name}": "x"})
    samples = list(collector.collect())
    info = collector.runs[0].info
    assert info["data_set"] == "chats"
    assert (info["model"], len(info["long"])) == ("tiny", 1024)
    assert len(info) == 64
    assert info.keys().isdisjoint({"event", "time_ns", "step"})
    assert value(samples, "training_run_info", run="a-run") == 1
    assert "a-person" not in str(samples)


def test_the_uuid_of_a_ranks_device_is_no_label_of_its_run(
    tmp_path: Path, collector: RecordingsCollector
) -> None:
    small_recording(tmp_path, "a-run").event({"event": "info", "gpu_uuid": "GPU-1", "device": "NVIDIA L4"})
    (info,) = (each for each in collector.collect() if each.metric.name == "training_run_info")
    assert info.labels == {"run": "a-run", "attempt": "1", "device": "NVIDIA L4"}
    assert collector.runs[0].info["gpu_uuid"] == "GPU-1"


@pytest.mark.parametrize(
    ("ranks", "peak"),
    [
        ([("GPU-1", 989e12), ("GPU-2", 756e12)], 1745e12),
        ([("GPU-1", 989e12), ("GPU-1", 989e12)], 989e12),
        ([("GPU-1,GPU-2", 1978e12), ("GPU-2", 989e12)], None),
        ([(None, 989e12), (None, 989e12)], 1978e12),
        ([("GPU-1", 989e12), ("GPU-2", None)], None),
        ([("GPU-1", 989e12)], None),
    ],
    ids=["two devices", "one shared", "partly shared", "without uuid", "one unknown", "a rank elsewhere"],
)
def test_the_peak_of_a_run_is_that_of_all_its_devices_or_absent(
    tmp_path: Path, look: Look, ranks: list[tuple[str | None, float | None]], peak: float | None
) -> None:
    kept = []
    for rank, (uuid, flops) in enumerate(ranks):
        recorder = small_recording(tmp_path, "a-run", rank=rank, world_size=2)
        if uuid:
            recorder.event({"event": "info", "gpu_uuid": uuid})
        if flops is not None:
            set_slot(recorder, peak_flops=flops)
        kept.append(recorder)
    samples = look()
    if peak is None:
        assert "training_peak_flops" not in names(samples)
    else:
        assert value(samples, "training_peak_flops") == peak


def test_utilization_follows_in_promql(tmp_path: Path) -> None:
    """Two ranks of 400 TFLOP/s each on devices of 1 PFLOP/s each are at 40 %."""
    of_rank = [
        {"series": f'training_model_flops_total{{run="a", rank="{rank}"}}', "values": "0+6e15x20"}
        for rank in range(2)
    ]
    test = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [*of_rank, {"series": 'training_peak_flops{run="a"}', "values": "2e15x20"}],
                "promql_expr_test": [
                    {
                        "expr": "sum by (run) (rate(training_model_flops_total[1m])) / training_peak_flops",
                        "eval_time": "5m",
                        "exp_samples": [{"labels": '{run="a"}', "value": 0.4}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(json.dumps(test))
    done = subprocess.run(
        [binary("promtool"), "test", "rules", "test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
