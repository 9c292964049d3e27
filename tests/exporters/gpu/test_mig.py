"""MIG instances, which come and go while the service runs."""

from __future__ import annotations

import pytest

from exporters.gpu.mig import MigCollector
from exporters.gpu.nvml import Nvml
from tests.exporters.gpu.double import UUIDS, names_of_gpu, values
from tests.fake_nvml import Machine

USED, TOTAL = "nvidia_gpu_mig_memory_used_bytes", "nvidia_gpu_mig_memory_total_bytes"
MIB = 1024**2


@pytest.fixture
def collector(nvml: Nvml) -> MigCollector:
    return MigCollector(nvml)


def test_each_instance_has_its_memory_by_its_number_and_profile(
    machine: Machine, collector: MigCollector
) -> None:
    machine.update(
        {
            "gpu1.mig_mode": 1,
            "gpu1.mig.0": f"1 0 3g.40gb 40448 {5 * MIB}",
            "gpu1.mig.2": f"9 0 1g.10gb 9856 {7 * MIB}",
        }
    )

    samples = collector.collect()

    assert {tuple(sorted(sample.labels.items())) for sample in samples} == {
        (("gpu", "1"), ("mig_instance", "1"), ("mig_profile", "3g.40gb"), ("uuid", UUIDS[1])),
        (("gpu", "1"), ("mig_instance", "9"), ("mig_profile", "1g.10gb"), ("uuid", UUIDS[1])),
    }
    assert values(samples, USED, "mig_instance") == {"1": 5 * MIB, "9": 7 * MIB}
    assert values(samples, TOTAL, "mig_instance") == {"1": 40448 * MIB, "9": 9856 * MIB}


def test_compute_instances_of_one_gpu_instance_share_its_series(
    machine: Machine, collector: MigCollector
) -> None:
    machine.update(
        {"gpu0.mig_mode": 1, "gpu0.mig.0": "4 0 1c.3g.40gb 40448 0", "gpu0.mig.1": "4 1 2c.3g.40gb 40448 0"}
    )

    samples = collector.collect()

    assert values(samples, TOTAL, "mig_profile") == {"3g.40gb": 40448 * MIB}


def test_instances_made_and_taken_away_are_followed_from_round_to_round(
    machine: Machine, collector: MigCollector
) -> None:
    assert collector.collect() == []
    machine.update({"gpu0.mig_mode": 1, "gpu0.mig.0": "1 0 7g.80gb 80000 0"})
    assert values(collector.collect(), TOTAL, "mig_profile").keys() == {"7g.80gb"}
    machine.unset("gpu0.mig.0")
    assert collector.collect() == []
    machine.update({"gpu0.mig.0": "3 0 2g.20gb 20096 0", "gpu0.mig.1": "5 0 2g.20gb 20096 0"})
    assert values(collector.collect(), TOTAL, "mig_instance").keys() == {"3", "5"}
    machine.set("gpu0.mig_mode", 0)
    assert collector.collect() == []


def test_memory_that_may_not_be_read_is_absent_with_the_reason(
    machine: Machine, collector: MigCollector
) -> None:
    machine.update(
        {
            "gpu0.mig_mode": 1,
            "gpu0.mig.0": "1 0 7g.80gb 80000 0",
            "mig.0.error.nvmlDeviceGetMemoryInfo_v2": 4,
        }
    )

    samples = collector.collect()

    assert names_of_gpu(samples, "0") == {"nvidia_gpu_metric_unsupported"}
    assert {s.labels["reason"] for s in samples} == {"no_permission"}


def test_a_lost_gpu_has_no_instances_and_leaves_the_others(machine: Machine, collector: MigCollector) -> None:
    machine.update({"mig_mode": 1, "mig.0": "1 0 7g.80gb 80000 0", "gpu0.error": 15})

    assert names_of_gpu(collector.collect(), "0") == set()
    assert names_of_gpu(collector.collect(), "1") == {USED, TOTAL}
