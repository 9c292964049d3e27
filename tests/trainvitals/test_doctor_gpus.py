from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.gpu.node import NvmlGpus
from exporters.gpu.nvml import NvmlUnavailableError
from tests import fake_nvml
from trainvitals.doctor_gpus import Question, gpu_findings, kernel_log_finding, questions
from trainvitals.finding import Finding

REPOSITORY = Path(__file__).parents[2]
NOTHING_TO_DO = "this GPU has none: nothing to do"


@pytest.fixture
def machine(tmp_path: Path) -> fake_nvml.Machine:
    fake_nvml.build(tmp_path)
    return fake_nvml.Machine(tmp_path / "control")


def report(machine: fake_nvml.Machine) -> list[str]:
    """The lines of the command about GPUs on this machine, remedies beneath."""
    folder = machine.control.parent
    done = subprocess.run(
        [sys.executable, "-m", "trainvitals", "doctor", "--listen", "127.0.0.1:1"],
        env={
            **os.environ,
            "TRAINVITALS_DIR": str(folder),
            **fake_nvml.environment(machine.control),
        },
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    first = next(number for number, line in enumerate(lines) if " GPUs " in line)
    last = next(number for number, line in enumerate(lines) if " torch " in line)
    return lines[first:last]


@pytest.mark.skipif(ctypes.util.find_library("nvidia-ml") is not None, reason="this machine has a driver")
def test_a_machine_without_a_driver_is_limited_and_the_reason_is_given() -> None:
    (finding,) = gpu_findings(questions(NvmlGpus().collectors))

    assert (finding.subject, finding.status) == ("GPUs", "limited")
    assert "libnvidia-ml.so.1 is not found" in finding.detail
    assert finding.remedy.startswith("install the driver")


def test_a_driver_that_is_not_loaded_is_told_once(machine: fake_nvml.Machine) -> None:
    machine.set("driver", "unloaded")

    assert report(machine) == [
        "limited GPUs the NVIDIA driver is installed but not loaded",
        "→ load it with `modprobe nvidia`",
    ]


def test_gpus_that_answer_are_named_with_their_driver(machine: fake_nvml.Machine) -> None:
    machine.set("devices", 2)

    first, *others = report(machine)

    assert first == "ok GPUs 2 NVIDIA H100 80GB HBM3; driver 570.86.15"
    assert any(line.startswith("ok XID errors from NVML") for line in others)


def test_why_a_metric_is_missing_is_said_once_for_all_gpus(machine: fake_nvml.Machine) -> None:
    """GPM tells of its permissions with the first sample, and of a metric of its own with the second."""
    machine.update({"devices": 8, "error.nvmlGpmSampleGet": 4})
    without_permission = [line for line in report(machine) if "no_permission" in line or "NVreg" in line]
    machine.unset("error.nvmlGpmSampleGet")
    machine.set("gpm.5.error", 3)
    without_tensor_cores = [line for line in report(machine) if "tensor" in line]

    assert without_permission == [
        "limited GPU metrics no_permission on 8 GPUs: "
        "sm_active, tensor_active, dram_active, sm_occupancy, pipe_active",
        "→ profiling is kept for administrators: load the driver with "
        "NVreg_RestrictProfilingToAdminUsers=0, or give the service CAP_SYS_ADMIN",
    ]
    assert without_tensor_cores == ["ok GPU metrics not_supported on 8 GPUs: tensor_active"]


def sample(of: Metric, value: float = 1.0, *, gpu: int | None = None, **labels: str) -> Sample:
    of_gpu = {} if gpu is None else {"gpu": str(gpu), "uuid": f"GPU-{gpu}"}
    return Sample(of, {**of_gpu, **labels}, value)


def node(devices: int, *names: str, lost: Sequence[int] = ()) -> list[Sample]:
    """What the first collector says of GPUs of these names."""
    samples = [sample(catalog.NVIDIA_GPU_DEVICES, float(devices))]
    for gpu, name in enumerate(names):
        samples.append(sample(catalog.NVIDIA_GPU_INFO, gpu=gpu, name=name, driver_version="570.86"))
        samples.append(sample(catalog.NVIDIA_GPU_UP, 0.0 if gpu in lost else 1.0, gpu=gpu))
    return samples


def missing(metric: Metric, reason: str, *gpus: int) -> list[Sample]:
    unsupported = catalog.NVIDIA_GPU_METRIC_UNSUPPORTED
    return [sample(unsupported, gpu=gpu, metric=metric.name, reason=reason) for gpu in gpus]


def found(*answers: list[Sample] | Exception, kernel_log: Path = Path(os.devnull)) -> list[Finding]:
    def saying(answer: list[Sample] | Exception) -> Callable[[], list[Sample]]:
        def ask() -> list[Sample]:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask

    asked = [Question(f"number_{number}", saying(answer)) for number, answer in enumerate(answers)]
    return gpu_findings(asked, kernel_log=kernel_log)


def about_metrics(*answers: list[Sample] | Exception) -> list[Finding]:
    return [finding for finding in found(*answers) if finding.subject == "GPU metrics"]


@pytest.mark.parametrize("first", [node(3, "NVIDIA L4", "NVIDIA L4"), node(3, *["NVIDIA L4"] * 3, lost=[1])])
def test_a_gpu_that_does_not_answer_is_counted(first: list[Sample]) -> None:
    finding, *_ = found(first)

    assert finding.status == "limited"
    assert finding.detail == "2 of 3 answer: 2 NVIDIA L4; driver 570.86"


def test_a_driver_without_gpus_is_limited() -> None:
    (finding,) = found(node(0), [])

    assert (finding.status, finding.detail) == ("limited", "the driver is loaded and reports no GPU")


def test_a_driver_that_answers_nonsense_is_limited_with_what_it_said_and_at_once() -> None:
    began = time.monotonic()
    (finding,) = found(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))

    assert finding.status == "limited"
    assert finding.detail.startswith("reading them failed with UnicodeDecodeError: 'utf-8' codec")
    assert time.monotonic() - began < 5


def test_a_driver_that_hangs_does_not_hang_the_doctor() -> None:
    released = threading.Event()

    def hang() -> list[Sample]:
        released.wait(30)
        return []

    at_once = gpu_findings([Question("gpu", hang)], deadline_seconds=0.05)
    later = gpu_findings(
        [Question("gpu", lambda: node(1, "NVIDIA L4")), Question("gpu_health", hang)], deadline_seconds=2
    )
    released.set()

    assert [(each.subject, each.status) for each in at_once] == [("GPUs", "limited")]
    assert at_once[0].detail == "NVML gave no answer within 0.05 s"
    assert [each.subject for each in later] == ["GPUs", "GPU metrics", "XID errors"]
    assert later[0].status == "ok"
    assert later[1].detail == "NVML, asked by the collector gpu_health, gave no answer within 2 s"


def test_what_fails_in_every_later_collector_is_said_once() -> None:
    gone = NvmlUnavailableError("no driver", "load it")

    assert about_metrics(node(1, "NVIDIA L4"), gone, gone) == [
        Finding("GPU metrics", "limited", "no driver", "load it")
    ]


def test_gpus_that_give_all_metrics_are_fine() -> None:
    assert about_metrics(node(1, "NVIDIA H100"), []) == [Finding("GPU metrics", "ok", "none is missing")]


@pytest.mark.parametrize(
    ("metric", "reason", "status", "remedy"),
    [
        (catalog.NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL, "no_permission", "limited", "NVreg_Restrict"),
        (catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES, "no_permission", "limited", "tells administrators only"),
        (catalog.NVIDIA_GPU_NVLINK_LINKS, "not_supported", "ok", NOTHING_TO_DO),
        (
            *(catalog.NVIDIA_GPU_RECOVERY_ACTION, "function_not_found", "limited"),
            "a newer driver has it; this one is 570.86",
        ),
        (catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES, "pid_namespace", "limited", "--pid=host"),
        (catalog.NVIDIA_GPU_POWER_WATTS, "failed", "limited", "run `nvidia-smi"),
    ],
)
def test_each_reason_has_a_remedy(metric: Metric, reason: str, status: str, remedy: str) -> None:
    (finding,) = about_metrics(node(1, "NVIDIA L4"), missing(metric, reason, 0))

    assert finding.status == status
    assert finding.detail.startswith(f"{reason} on 1 GPU: ")
    assert remedy in finding.remedy


def test_kinds_of_gpus_are_told_apart_and_so_is_one_of_a_kind() -> None:
    findings = about_metrics(
        node(4, "NVIDIA H100", "NVIDIA H100", "NVIDIA H100", "NVIDIA L4"),
        missing(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, "not_supported", 0, 1, 2, 3),
        missing(catalog.NVIDIA_GPU_NVLINK_LINKS, "not_supported", 1),
    )

    assert findings == [
        Finding(
            "GPU metrics",
            "ok",
            "not_supported on 3 NVIDIA H100: ecc_errors, nvlink_links (GPU 1)",
            NOTHING_TO_DO,
        ),
        Finding("GPU metrics", "ok", "not_supported on 1 NVIDIA L4: ecc_errors", NOTHING_TO_DO),
    ]


def test_a_kernel_log_that_cannot_be_read_is_no_fault_but_is_told(tmp_path: Path) -> None:
    (tmp_path / "kmsg").touch()

    readable = kernel_log_finding(tmp_path / "kmsg")
    absent = kernel_log_finding(tmp_path / "nothing")
    refused = kernel_log_finding(tmp_path / "kmsg" / "x")

    assert readable.status == absent.status == refused.status == "ok"
    assert "those before the service started included" in readable.detail
    assert "nor of a lost GPU" in absent.detail
    assert "CAP_SYSLOG" in absent.remedy
    assert "kernel.dmesg_restrict=0" in refused.remedy
    assert readable.remedy == ""
