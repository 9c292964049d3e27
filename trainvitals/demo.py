"""`trainvitals demo`: a real training, scraped, alerted on and told about, on this machine alone."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import httpx
import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from alerts.gpu_health import GPU_MEMORY_HIGH, GPU_XID_HARDWARE
from alerts.lifecycle import TRAINING_RUN_KILLED, TRAINING_STALLED
from alerts.thresholds import Thresholds
from exporters import catalog
from exporters.api.models import Alert
from exporters.collector import Runner
from exporters.gpu.device import DeviceCollector
from exporters.gpu.nvml import Nvml
from exporters.gpu.simulated import FAULT_AFTER_SECONDS, Scenario, Simulation
from exporters.runs import RunStatus
from trainer_hooks.recording import PHASES
from trainvitals import interruption
from trainvitals.child import Child, ChildError
from trainvitals.stack import Stack

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

T = TypeVar("T")

STALL_SECONDS = 10.0
FIRST_STEPS_SECONDS = 240.0
ALERT_SECONDS = 90.0
# A stall is one page: no step is overdue before, however short its steps are.
SCALED = Thresholds(
    stall_seconds=STALL_SECONDS,
    restart_grace_seconds=1,
    overdue_steps_ratio=1_000_000,
    overdue_seconds=STALL_SECONDS / 2,
    overdue_for_seconds=1,
)
ONE_PAGE_SECONDS = STALL_SECONDS + 5.0
GPU_MEMORY_FOR_SECONDS = 10.0
GPU_LOST_FOR_SECONDS = 5.0
# A stall is as long as it is shipped: nothing happens to the training, however slow it is.
GPU_SCALED = Thresholds(
    gpu_memory_for_seconds=GPU_MEMORY_FOR_SECONDS, gpu_lost_for_seconds=GPU_LOST_FOR_SECONDS
)
# Memory that fills up takes half a minute after the fault began, and a checkpoint may lower it once more.
GPU_ALERT_SECONDS = FAULT_AFTER_SECONDS + 160.0
PLAIN_LINE_EVERY_SECONDS = 10.0


class Injection(enum.StrEnum):
    """SIGKILL to the training, or SIGSTOP, which leaves it alive and still; or a fault of a GPU beside it.

    That GPU is always a simulated one: its memory fills up, or it falls off the bus.
    """

    kill = "kill"
    stall = "stall"
    gpu_memory = "gpu-memory"
    xid79 = "xid79"


class GpuFault(NamedTuple):
    """What happens to the simulated GPU, in words too, and the alert that has to come of it."""

    scenario: Scenario
    what: str
    alert: str


GPU_FAULTS = {
    Injection.gpu_memory: GpuFault(Scenario.memory_fill, "begins to fill its memory", GPU_MEMORY_HIGH),
    Injection.xid79: GpuFault(Scenario.xid79, "falls off the bus (XID 79)", GPU_XID_HARDWARE),
}


class DemoError(Exception):
    """The demonstration did not come out as it should; the message says where."""


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up until Ctrl-C.")] = False,
    inject: Annotated[
        Injection | None,
        typer.Option(help="Let the run die or freeze, or a GPU fail, and wait for the page."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Train for fewer optimizer steps.")] = None,
) -> None:
    """Run the whole loop once: a training, the service, Prometheus, Alertmanager."""
    if inject and max_steps is not None:
        raise typer.BadParameter("the run must not end before the page has come: leave out --max-steps")
    interruption.listen()
    console = Console(highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="trainvitals-demo-") as folder:
            _run(console, Path(folder), keep, inject, max_steps)
    except (DemoError, ChildError, httpx.HTTPError) as error:
        print(f"trainvitals demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("trainvitals demo: interrupted; everything it started is stopped", file=sys.stderr)
        raise typer.Exit(130) from None


def _run(console: Console, folder: Path, keep: bool, inject: Injection | None, max_steps: int | None) -> None:
    fault = GPU_FAULTS.get(inject) if inject else None
    simulation = _simulation(console, fault)
    thresholds = Thresholds()
    if inject:
        thresholds = GPU_SCALED if fault else SCALED
        console.print(f"Thresholds are scaled for this demonstration: {_scaling(inject)}.")
    with Stack(folder, thresholds, simulate_gpus=str(simulation)) as stack:
        _print_urls(console, stack)
        try:
            _train(console, stack, folder, inject, max_steps)
        except httpx.HTTPError as error:
            raise DemoError(stack.failure() or str(error)) from error
        if keep:
            console.print("The stack stays up until Ctrl-C:")
            _print_urls(console, stack)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    interruption.check()
                    signal.pause()


def _simulation(console: Console, fault: GpuFault | None) -> Simulation:
    """Which GPUs are simulated, none where a real one serves; says so."""
    has_gpu = _has_gpu()
    if has_gpu and fault is None:
        return Simulation(0)
    if has_gpu:
        console.print(
            "The GPU of this machine is left alone and not watched: one simulated GPU, whose name says so, "
            "has the fault instead."
        )
    else:
        console.print("No NVIDIA GPU answers here: one simulated GPU stands in, and its name says so.")
    return Simulation(1, fault.scenario if fault else Scenario.healthy)


def _scaling(inject: Injection) -> str:
    shipped = Thresholds()
    match inject:
        case Injection.gpu_memory:
            what, seconds = "a GPU's memory is high", GPU_MEMORY_FOR_SECONDS
            condition, instead = f"above {shipped.gpu_memory_ratio:.0%}", shipped.gpu_memory_for_seconds
        case Injection.xid79:
            what, seconds = "a GPU is lost", GPU_LOST_FOR_SECONDS
            condition, instead = "without an answer", shipped.gpu_lost_for_seconds
        case Injection.kill | Injection.stall:
            what, seconds = "a run has stalled", STALL_SECONDS
            condition, instead = "without progress", shipped.stall_seconds
    return (
        f"{what} after {seconds:g} s {condition} instead of {instead:g} s, "
        "and rules are evaluated every second"
    )


def _train(
    console: Console, stack: Stack, folder: Path, inject: Injection | None, max_steps: int | None
) -> None:
    run = f"demo-{secrets.token_hex(3)}"
    training = _start_training(stack, folder, run, max_steps)
    if inject in GPU_FAULTS:
        _await_gpu_fault(console, stack, training, run, GPU_FAULTS[inject])
    elif inject:
        _inject(console, stack, training, run, inject)
    else:
        _follow_to_the_end(console, stack, training, run)
        _summarize(console, stack, training, run)


def _has_gpu() -> bool:
    logging.getLogger("exporters").setLevel(logging.ERROR)  # the demonstration says it in its own words
    nvml = Nvml()
    runner = Runner(DeviceCollector(nvml))
    runner.start()
    runner.wait_for_first_round(runner.collector.deadline_seconds)
    samples = runner.samples()
    runner.stop()
    nvml.close()
    return any(sample.metric is catalog.NVIDIA_GPU_UP for sample in samples)


def _print_urls(console: Console, stack: Stack) -> None:
    console.print(f"  the page      {stack.service_url}/")
    console.print(f"  service       {stack.service_url}/metrics  {stack.service_url}/api/v1/runs")
    console.print(f"  Prometheus    {stack.prometheus_url}/alerts")
    console.print(f"  Alertmanager  {stack.alertmanager_url}/#/alerts")


def _start_training(stack: Stack, folder: Path, run: str, max_steps: int | None) -> Child:
    steps = ["--max-steps", str(max_steps)] if max_steps else []
    return stack.start(
        "training",
        *(sys.executable, "-m", "trainvitals", "train", "--preset", "tiny", "--run", run),
        *("--checkpoints", str(folder / "checkpoints"), *steps),
        environment={
            "TRAINVITALS_DIR": str(stack.recordings),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(folder),  # what torch leaves behind goes with the rest
        },
    )


def _follow_to_the_end(console: Console, stack: Stack, training: Child, run: str) -> None:
    with _progress_line(console) as show:
        while training.running:
            interruption.check()
            show(_progress(stack.run(run)))
            time.sleep(0.5)
        show(_progress(stack.run(run)))
    if training.process.returncode != 0:
        raise DemoError(
            f"the training ended with status {training.process.returncode}:\n{training.last_lines()}"
        )


def _summarize(console: Console, stack: Stack, training: Child, run: str) -> None:
    finished = f'{catalog.TRAINING_RUN_STATE}{{run="{run}",state="finished"}} == 1'
    _wait_for(lambda: stack.query(finished), 30, lambda: "Prometheus has not seen the run finish")
    status = stack.run(run)
    if status is None:
        raise DemoError(f"the service does not know run {run}")
    series = _scalar(stack, f'count({{job="{Thresholds().job}"}})')
    samples = _scalar(stack, f'sum(sum_over_time(scrape_samples_scraped{{job="{Thresholds().job}"}}[1h]))')
    scrapes = _scalar(stack, f'sum(count_over_time(up{{job="{Thresholds().job}"}}[1h]))')
    phases = _phase_shares(stack, run)
    console.print()
    console.print(training.last_lines(1))
    perplexity = status.validation_perplexity
    console.print(f"  state                  {status.state} ({status.reason})")
    if perplexity is not None:
        console.print(f"  validation perplexity  {perplexity:,.1f}, as the service tells it")
    console.print(f"  where the time went    {phases}")
    console.print(
        f"  scraped                {series:,.0f} series, {samples:,.0f} samples in {scrapes:,.0f} scrapes"
    )
    alerts = stack.alerts()
    console.print(f"  alerts                 {len(alerts) or 'none, as it should be'}")
    for alert in alerts:
        _print_alert(console, alert)


def _phase_shares(stack: Stack, run: str) -> str:
    """Of the last minute's scrapes the newest, for one may fail just now."""
    total = f'{catalog.TRAINING_PHASE_SECONDS_TOTAL}{{run="{run}"}}'
    expression = f"sum by (phase) (last_over_time({total}[1m]))"
    seconds = {each["metric"]["phase"]: float(each["value"][1]) for each in stack.query(expression)}
    age = sum(seconds.values())
    shares = [(phase, seconds.get(phase, 0.0) / age) for phase in PHASES]
    return ", ".join(f"{phase} {share:.0%}" for phase, share in shares if share >= 0.005)


def _scalar(stack: Stack, expression: str) -> float:
    result = stack.query(expression)
    return float(result[0]["value"][1]) if result else math.nan


def _inject(console: Console, stack: Stack, training: Child, run: str, injection: Injection) -> None:
    with _progress_line(console) as show:
        _wait_for(
            lambda: _has_made_steps(stack, training, run, show),
            FIRST_STEPS_SECONDS,
            lambda: "the run made no steps",
        )
    number, expected = {
        Injection.kill: (signal.SIGKILL, TRAINING_RUN_KILLED),
        Injection.stall: (signal.SIGSTOP, TRAINING_STALLED),
    }[injection]
    os.kill(training.process.pid, number)
    console.print(f"\n{number.name} to the training; waiting for {expected} through Alertmanager …")
    began = time.monotonic()
    alert = _wait_for(
        lambda: _firing(stack, expected, run=run),
        ALERT_SECONDS,
        lambda: f"no {expected} for {run} has arrived; what has: {_names(stack.alerts()) or 'nothing'}",
    )
    console.print(f"received after {time.monotonic() - began:.0f} s:")
    _print_alert(console, alert)
    _watch_that_it_stays_one_page(console, stack, began + ONE_PAGE_SECONDS)


def _await_gpu_fault(console: Console, stack: Stack, training: Child, run: str, fault: GpuFault) -> None:
    console.print(
        f"\n{FAULT_AFTER_SECONDS:g} s after the service's first look the simulated GPU {fault.what}; waiting "
        f"for {fault.alert} through Alertmanager, the training beside it …"
    )
    began = time.monotonic()

    def arrived() -> Alert | None:
        if not training.running and training.process.returncode != 0:
            raise DemoError(f"the training ended, and nobody harmed it:\n{training.last_lines()}")
        show(_progress(stack.run(run)))
        return _firing(stack, fault.alert, gpu="0")

    with _progress_line(console) as show:
        alert = _wait_for(
            arrived,
            GPU_ALERT_SECONDS,
            lambda: f"no {fault.alert} has arrived; what has: {_names(stack.alerts()) or 'nothing'}",
        )
    console.print(f"received after {time.monotonic() - began:.0f} s:")
    _print_alert(console, alert)
    _watch_that_it_stays_one_page(console, stack, time.monotonic() + ONE_PAGE_SECONDS)
    console.print(f"the training beside it: {_progress(stack.run(run))}")


def _watch_that_it_stays_one_page(console: Console, stack: Stack, until: float) -> None:
    console.print("watching whether it stays one page …")
    time.sleep(max(0.0, until - time.monotonic()))
    alerts = stack.alerts()
    firing = sum(each.notifications for each in alerts if each.status == "firing")
    if firing != 1 or len(alerts) != 1:
        raise DemoError(f"one incident is to be one page, but there came {firing} of {_names(alerts)}")
    console.print("it was one page")


def _has_made_steps(stack: Stack, training: Child, run: str, show: Callable[[str], None]) -> bool:
    if not training.running:
        raise DemoError(f"the training ended before it was harmed:\n{training.last_lines()}")
    status = stack.run(run)
    show(_progress(status))
    seen = stack.query(f'{catalog.TRAINING_STEPS_TOTAL}{{run="{run}"}} > 0')
    return status is not None and status.step >= 5 and bool(seen)


def _firing(stack: Stack, name: str, **labels: str) -> Alert | None:
    for alert in stack.alerts():
        if _name(alert) == name and labels.items() <= alert.labels.items() and alert.status == "firing":
            return alert
    return None


def _name(alert: Alert) -> str:
    return alert.labels.get("alertname", "?")


def _names(alerts: Iterable[Alert]) -> str:
    return ", ".join(map(_name, alerts))


def _print_alert(console: Console, alert: Alert) -> None:
    console.print(f"  {_name(alert)} ({alert.status}, {alert.labels.get('severity')})")
    for key in ("summary", "description", "runbook_url"):
        if alert.annotations.get(key):
            console.print(f"    {key}: {alert.annotations[key]}")


def _progress(run: RunStatus | None) -> str:
    if run is None:
        return "the training starts …"
    parts = [f"step {run.step:,}/{run.steps_expected:,}" if run.steps_expected else f"step {run.step:,}"]
    if run.loss is not None:
        parts.append(f"loss {run.loss:.3f}")
    if run.perplexity is not None:
        parts.append(f"perplexity {run.perplexity:,.1f}")
    if run.tokens_per_second is not None:
        parts.append(f"{run.tokens_per_second:,.0f} tokens/s")
    if run.eta_seconds is not None:
        parts.append(f"ETA {run.eta_seconds:.0f} s")
    parts.append(f"[{run.ranks[0].phase}]" if run.state == "running" else run.state)
    return "  ".join(parts)


@contextlib.contextmanager
def _progress_line(console: Console) -> Iterator[Callable[[str], None]]:
    """One line that renews itself; where the output is no terminal, a line now and then."""
    if console.is_terminal:
        with Live(Text(), console=console, refresh_per_second=4) as live:
            yield lambda line: live.update(Text(line))
        return
    printed_at, last = -math.inf, ""

    def show(line: str) -> None:
        nonlocal printed_at, last
        if time.monotonic() - printed_at >= PLAIN_LINE_EVERY_SECONDS and line != last:
            printed_at, last = time.monotonic(), line
            print(line, flush=True)

    yield show


def _wait_for(condition: Callable[[], T | None], seconds: float, otherwise: Callable[[], str]) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        interruption.check()
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise DemoError(f"{otherwise()} within {seconds:g} s")
