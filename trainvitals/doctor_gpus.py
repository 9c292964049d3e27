"""What `trainvitals doctor` says of the GPUs: whether they answer, and why a metric of theirs is missing."""

from __future__ import annotations

import errno
import functools
import os
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from exporters import catalog
from exporters.collector import Collector, Sample
from exporters.gpu.node import GpuStatus, gpu_statuses
from exporters.gpu.nvml import NvmlUnavailableError
from exporters.gpu.profile import ProfileCollector
from exporters.gpu.xid import KERNEL_LOG
from trainvitals.finding import Finding, Status

BETWEEN_WINDOWS_SECONDS = 0.15


class Question(NamedTuple):
    """One round of a collector."""

    collector: str
    ask: Callable[[], Iterable[Sample]]


def questions(collectors: Sequence[Collector], sleep: Callable[[float], None] = time.sleep) -> list[Question]:
    """A round of each collector, and another of that which compares two moments."""

    def once_more(collector: Collector) -> Iterable[Sample]:
        sleep(BETWEEN_WINDOWS_SECONDS)
        return collector.collect()

    comparing = [each for each in collectors if isinstance(each, ProfileCollector)]
    return [
        *(Question(each.name, each.collect) for each in collectors),
        *(Question(each.name, functools.partial(once_more, each)) for each in comparing),
    ]


def gpu_findings(
    questions: Sequence[Question], *, kernel_log: Path = KERNEL_LOG, deadline_seconds: float = 10.0
) -> list[Finding]:
    """What the service would find; the first question is which GPUs there are, and each has this deadline.

    A driver that hangs is left hanging in a thread.
    """
    which_gpus, *others = _answers(questions, deadline_seconds)
    if isinstance(which_gpus, Finding):
        return [which_gpus]
    findings = [_finding_of_reading(which_gpus)]
    gpus = gpu_statuses(
        [*which_gpus, *(sample for answer in others if not isinstance(answer, Finding) for sample in answer)]
    )
    if any(gpu.up for gpu in gpus):
        failures = [answer for answer in others if isinstance(answer, Finding)]
        missing = list(metric_findings(gpus, _driver_version(which_gpus)))
        findings += [*dict.fromkeys(failures), *missing]
        if not failures and not missing:
            findings.append(Finding("GPU metrics", "ok", "none is missing"))
        findings.append(kernel_log_finding(kernel_log))
    return findings


def _answers(questions: Sequence[Question], deadline_seconds: float) -> Iterator[Sequence[Sample] | Finding]:
    """To each question the samples, or a finding why there are none; a question that hangs is the last."""
    answers: queue.SimpleQueue[list[Sample] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        for question in questions:
            try:
                answers.put(list(question.ask()))
            except Exception as error:
                answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    for number, question in enumerate(questions):
        subject = "GPUs" if number == 0 else "GPU metrics"
        try:
            answer = answers.get(timeout=deadline_seconds)
        except queue.Empty:
            asked = "NVML" if number == 0 else f"NVML, asked by the collector {question.collector},"
            yield Finding(
                subject,
                "limited",
                f"{asked} gave no answer within {deadline_seconds:g} s",
                "look for NVRM lines in `dmesg`; a driver that hangs needs a reboot",
            )
            return
        if isinstance(answer, NvmlUnavailableError):
            yield Finding(subject, "limited", answer.problem, answer.remedy)
        elif isinstance(answer, Exception):
            whose = "reading them" if number == 0 else f"the collector {question.collector}"
            yield Finding(
                subject,
                "limited",
                f"{whose} failed with {type(answer).__name__}: {answer}",
                "if `nvidia-smi` works, report this line as a bug of trainvitals",
            )
        else:
            yield answer


def _finding_of_reading(samples: Sequence[Sample]) -> Finding:
    devices = next(
        (
            int(each.value)
            for each in samples
            if each.metric is catalog.NVIDIA_GPU_DEVICES and isinstance(each.value, float)
        ),
        0,
    )
    up = [gpu for gpu in gpu_statuses(samples) if gpu.up]
    if not up and not devices:
        return Finding(
            "GPUs",
            "limited",
            "the driver is loaded and reports no GPU",
            "look for the GPU in `lspci`; in a container, give it one",
        )
    names = Counter(map(_kind, up))
    kinds = ", ".join(f"{count} {name}" for name, count in names.items()) or "none"
    version = _driver_version(samples)
    driver = f"driver {version}" if version else "driver version unknown"
    if len(up) < devices:
        return Finding(
            "GPUs",
            "limited",
            f"{len(up)} of {devices} answer: {kinds}; {driver}",
            "look for Xid lines in `dmesg`: a lost GPU needs a reset, a hidden one its device file",
        )
    return Finding("GPUs", "ok", f"{kinds}; {driver}")


def _kind(gpu: GpuStatus) -> str:
    return gpu.name or "unnamed"


def _driver_version(samples: Iterable[Sample]) -> str | None:
    versions = (
        each.labels.get("driver_version") for each in samples if each.metric is catalog.NVIDIA_GPU_INFO
    )
    return next(filter(None, versions), None)


def metric_findings(gpus: Iterable[GpuStatus], driver_version: str | None) -> Iterator[Finding]:
    """Why metrics are missing: one finding for each kind of GPU, reason and remedy."""
    up = [gpu for gpu in gpus if gpu.up]
    kinds = Counter(map(_kind, up))
    lacking: defaultdict[tuple[str, str, str], defaultdict[str, set[int]]] = defaultdict(
        lambda: defaultdict(set)
    )
    for gpu in up:
        for metric, reason in gpu.unsupported.items():
            lacking[_kind(gpu), reason, remedy(metric, reason, driver_version)][metric].add(gpu.gpu)
    for (kind, reason, way_out), numbers_by_metric in lacking.items():
        concerned = set[int]().union(*numbers_by_metric.values())
        gpu_or_gpus = "GPU" if len(concerned) == 1 else "GPUs"
        whose = f"{len(concerned)} {kind if len(kinds) > 1 else gpu_or_gpus}"
        metrics = ", ".join(
            _short(metric) + ("" if numbers == concerned else f" ({_numbered(numbers)})")
            for metric, numbers in numbers_by_metric.items()
        )
        status: Status = "ok" if reason == "not_supported" else "limited"
        yield Finding("GPU metrics", status, f"{reason} on {whose}: {metrics}", way_out)


def remedy(metric: str, reason: str, driver_version: str | None) -> str:
    """What would bring this metric, by the reason it is missing."""
    match reason:
        case "not_supported":
            return "this GPU has none: nothing to do"
        case "no_permission" if catalog.CATALOG[metric].source.startswith("GPM"):
            return (
                "profiling is kept for administrators: load the driver with "
                "NVreg_RestrictProfilingToAdminUsers=0, or give the service CAP_SYS_ADMIN"
            )
        case "no_permission":
            return "the driver tells administrators only: give the service CAP_SYS_ADMIN"
        case "function_not_found":
            return f"a newer driver has it; this one is {driver_version or 'of unknown version'}"
        case "pid_namespace":
            return (
                "processes of other containers are hidden: run the service with the host's pid namespace "
                "(--pid=host, hostPID: true)"
            )
    return "run `nvidia-smi -q`, which asks the same library: what says ERR! there is the driver's to mend"


def _short(metric: str) -> str:
    """nvidia_gpu_sm_active_seconds_total as sm_active."""
    bare = metric.removeprefix("nvidia_gpu_").removesuffix("_total")
    return bare.removesuffix(f"_{catalog.CATALOG[metric].unit}")


def _numbered(gpus: Set[int]) -> str:
    return f"GPU{'s' if len(gpus) > 1 else ''} {', '.join(map(str, sorted(gpus)))}"


def kernel_log_finding(path: Path = KERNEL_LOG) -> Finding:
    """Whether XID errors are read from the kernel log too. Without it there are NVML's events: no fault."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        absent = error.errno == errno.ENOENT
        return Finding(
            "XID errors",
            "ok",
            f"from NVML alone, not those before the service started nor of a lost GPU: {path} "
            + ("is not here" if absent else f"cannot be read ({error.strerror})"),
            (
                "in a container, give the service this device and CAP_SYSLOG"
                if absent
                else "give the service CAP_SYSLOG, or set kernel.dmesg_restrict=0"
            ),
        )
    os.close(descriptor)
    return Finding(
        "XID errors", "ok", f"from NVML and from {path}, those before the service started included"
    )
