"""The names of dcgm-exporter, for dashboards that know no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from exporters import exposition
from exporters.collector import Runner, Sample
from exporters.gpu.dcgm import LABELS, VideoCollector, dcgm_samples
from exporters.gpu.node import NvmlGpus, published
from tests.exporters.gpu.double import UUIDS, Clock, of_gpu, values
from tests.fake_nvml import Machine

parse_openmetrics: Any = parser.text_string_to_metric_families

# The counters that are switched on in etc/default-counters.csv of dcgm-exporter 4.8, by type. Of its list
# only the state of a virtual GPU's licence is left out: NVML tells it of a virtual GPU only.
DEFAULT_COUNTERS = {
    "DCGM_FI_DEV_SM_CLOCK": "gauge",
    "DCGM_FI_DEV_MEM_CLOCK": "gauge",
    "DCGM_FI_DEV_MEMORY_TEMP": "gauge",
    "DCGM_FI_DEV_GPU_TEMP": "gauge",
    "DCGM_FI_DEV_POWER_USAGE": "gauge",
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": "counter",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": "counter",
    "DCGM_FI_DEV_GPU_UTIL": "gauge",
    "DCGM_FI_DEV_MEM_COPY_UTIL": "gauge",
    "DCGM_FI_DEV_ENC_UTIL": "gauge",
    "DCGM_FI_DEV_DEC_UTIL": "gauge",
    "DCGM_FI_DEV_XID_ERRORS": "gauge",
    "DCGM_FI_DEV_FB_FREE": "gauge",
    "DCGM_FI_DEV_FB_USED": "gauge",
    "DCGM_FI_DEV_FB_RESERVED": "gauge",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "counter",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "counter",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": "counter",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "gauge",
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "gauge",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "gauge",
    "DCGM_FI_PROF_DRAM_ACTIVE": "gauge",
    "DCGM_FI_PROF_PCIE_TX_BYTES": "gauge",
    "DCGM_FI_PROF_PCIE_RX_BYTES": "gauge",
}


class Node:
    """All collectors over the double, a minute between two rounds."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gpus = NvmlGpus(more=[VideoCollector], kernel_log=Path("/nonexistent"), monotonic=self.clock)
        self.runners = [Runner(each) for each in self.gpus.collectors]

    def page(self) -> list[Sample]:
        self.clock.now += 60
        for runner in self.runners:
            runner.run_once()
        samples = list(exposition.gather(self.runners))
        return [*published(samples), *dcgm_samples(samples, "node-1")]


@pytest.fixture
def node(machine: Machine) -> Node:
    node = Node()
    node.page()
    return node


def test_every_default_field_is_there_of_its_type_with_the_labels_of_its_exporter(
    machine: Machine, node: Node
) -> None:
    body = exposition.render(node.page(), None)[0].decode()

    families = {family.name: family for family in parse_classic(body) if family.name.startswith("DCGM_")}
    types = {
        line.split()[2]: line.split()[3] for line in body.splitlines() if line.startswith("# TYPE DCGM_")
    }
    assert types == DEFAULT_COUNTERS
    for family in families.values():
        for sample in family.samples:
            more = {"err_code", "err_msg"} if sample.name == "DCGM_FI_DEV_XID_ERRORS" else set()
            assert set(sample.labels) == {*LABELS, *more}
            assert sample.labels["UUID"] == UUIDS[int(sample.labels["gpu"])]
            assert sample.labels["device"] == f"nvidia{sample.labels['gpu']}"
            assert sample.labels["modelName"] == "NVIDIA H100 80GB HBM3"
            assert sample.labels["Hostname"] == "node-1"
            assert sample.labels["DCGM_FI_DRIVER_VERSION"] == "570.86.15"


def test_values_are_in_the_units_of_its_exporter(machine: Machine, node: Node) -> None:
    machine.update(
        {
            "gpu0.power_mw": 512_000,
            "gpu0.memory_used_bytes": 10 * 1024**3,
            "gpu0.field.138": 1000,
            "gpu0.field.139": 24,
            "gpu0.gpm.5": 42,
            "gpu0.gpm.20": 3,
            "gpu0.encoder_percent": 5,
            "event.0": "0 31",
        }
    )
    node.page()

    page = of_gpu(node.page(), "0")

    def value(name: str) -> float:
        return values(page, f"DCGM_FI_{name}")["0"]

    (xid,) = (sample.labels for sample in page if sample.metric.name == "DCGM_FI_DEV_XID_ERRORS")
    assert (xid["err_code"], xid["err_msg"]) == ("31", "Xid 31")

    assert value("DEV_POWER_USAGE") == 512
    assert value("DEV_SM_CLOCK") == 1980
    assert value("DEV_TOTAL_ENERGY_CONSUMPTION") == pytest.approx(512345678901)
    assert value("DEV_FB_USED") == 10240
    assert value("DEV_FB_FREE") == pytest.approx((85520809984 - 577765376) / 1024**2 - 10240)
    assert value("DEV_NVLINK_BANDWIDTH_TOTAL") == 1024
    assert value("PROF_PIPE_TENSOR_ACTIVE") == pytest.approx(0.42)
    assert value("PROF_PCIE_TX_BYTES") == 3 * 1024**2
    assert value("DEV_ENC_UTIL") == 5
    assert value("DEV_XID_ERRORS") == 31


def test_our_own_names_stay_beside_them(machine: Machine, node: Node) -> None:
    ours = {sample.metric.name for sample in node.page() if not sample.metric.name.startswith("DCGM_")}

    assert {"nvidia_gpu_power_watts", "nvidia_gpu_tensor_active_seconds_total"} < ours


def test_a_lost_gpu_has_no_values_there_either_but_its_xid(machine: Machine, node: Node) -> None:
    machine.update({"event.0": "1 79", "gpu1.error": 15})

    page = node.page()

    assert {s.metric.name for s in of_gpu(page, "1") if s.metric.name.startswith("DCGM_")} == {
        "DCGM_FI_DEV_XID_ERRORS"
    }
    assert values(page, "DCGM_FI_DEV_XID_ERRORS") == {"0": 0, "1": 79}


def test_what_a_gpu_does_not_give_is_absent_there_too(machine: Machine, node: Node) -> None:
    machine.update({"gpu0.error.nvmlDeviceGetEncoderUtilization": 3, "gpu0.field.82.error": 3})

    names = {sample.metric.name for sample in of_gpu(node.page(), "0")}

    assert not {"DCGM_FI_DEV_ENC_UTIL", "DCGM_FI_DEV_MEMORY_TEMP"} & names
    assert "DCGM_FI_DEV_DEC_UTIL" in names


def test_openmetrics_readers_take_the_page(machine: Machine, node: Node) -> None:
    """Its counters lack the ending that OpenMetrics wants: they are of unknown type there."""
    body = exposition.render(node.page(), "application/openmetrics-text;version=1.0.0")[0].decode()

    families = {family.name: family.type for family in parse_openmetrics(body)}
    assert families["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"] == "unknown"
    assert families["DCGM_FI_DEV_GPU_UTIL"] == "gauge"


def test_each_mig_instance_has_the_labels_of_its_exporter(machine: Machine, node: Node) -> None:
    machine.update({"gpu0.mig_mode": 1, "gpu0.mig.0": "2 0 3g.40gb 40448 1048576", "gpu0.mig.2.gpm.5": 25})
    node.page()

    instances = [s for s in of_gpu(node.page(), "0") if "GPU_I_ID" in s.labels]

    assert {(s.metric.name, s.labels["GPU_I_ID"], s.labels["GPU_I_PROFILE"]) for s in instances} == {
        (name, "2", "3g.40gb")
        for name in (
            *("DCGM_FI_DEV_FB_USED", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),
            *("DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"),
        )
    }
    assert values(instances, "DCGM_FI_DEV_FB_USED") == {"0": 1}
    assert values(instances, "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE") == {"0": 0.25}


def test_no_xid_is_not_said_where_none_would_be_heard(machine: Machine, node: Node) -> None:
    machine.set("gpu0.error.nvmlDeviceRegisterEvents", 3)
    anew = Node()

    assert values(anew.page(), "DCGM_FI_DEV_XID_ERRORS") == {"1": 0}
    machine.set("error.nvmlDeviceGetCount_v2", 999)
    assert values(anew.page(), "DCGM_FI_DEV_XID_ERRORS") == {}


def test_a_gpu_whose_identity_is_not_known_now_has_no_series_of_other_labels(
    machine: Machine, node: Node
) -> None:
    (device,) = (runner for runner in node.runners if runner.collector.name == "gpu")
    node.runners.remove(device)

    assert not [s for s in node.page() if s.metric.name.startswith("DCGM_")]
