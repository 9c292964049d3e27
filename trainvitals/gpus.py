"""`trainvitals gpus`: the GPUs of this machine and the runs that train on them, live in a terminal."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from exporters import catalog
from exporters.collector import Runner, Sample, stop_all
from exporters.gpu.node import Gpus, GpuStatus, NvmlGpus, gpu_statuses
from exporters.gpu.simulated import SimulatedGpus, parse_simulation
from exporters.recordings import RecordingsCollector, living_ranks
from trainer_hooks import directory
from trainvitals import interruption, options
from trainvitals.gpu_table import View, render

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ONCE_INTERVAL_SECONDS = 1.0
ONCE_SECONDS = 6.0
RECORDINGS_SECONDS = 3.0
POLL_SECONDS = 0.05
PATIENCE_ROUNDS = 3
OF_GPUS, OF_WINDOWS = "gpu", "gpu_profile"  # collectors by name


@app.command()
def gpus(
    dir: options.Recordings = None,
    simulate_gpus: options.SimulateGpus = "0",
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds from one look to the next.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
) -> None:
    """Show every GPU and the run that trains on it, until Ctrl-C; once where the output is no terminal."""
    try:
        simulation = parse_simulation(simulate_gpus)
    except ValueError as error:
        options.stop("gpus", str(error))
    logging.getLogger("exporters").setLevel(logging.CRITICAL)  # what they would say is in the table
    interruption.listen()
    console = Console(highlight=False)
    once = once or not console.is_terminal
    recordings = RecordingsCollector([dir] if dir else directory.candidates())
    of_recordings = Runner(recordings)
    ranks = functools.partial(living_ranks, recordings, of_recordings)
    source: Gpus = SimulatedGpus(simulation, ranks) if simulation.count else NvmlGpus(ranks)
    watch = Watch(of_recordings, source, ONCE_INTERVAL_SECONDS if once else interval)
    try:
        watch.start()
        view = watch.first_look()
        if not view.gpus and view.problems:
            options.stop("gpus", view.problems[0])
        if once:
            console.print(render(watch.look_at_a_window(), console.width))
        else:
            _show(watch, console, interval)
    except KeyboardInterrupt:
        pass
    finally:
        watch.stop()


def _show(watch: Watch, console: Console, interval: float) -> None:
    """Until Ctrl-C, on a screen of its own; what it showed last stays in the terminal."""
    view = watch.look()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                interruption.check()
                view = watch.look()
                live.update(render(view, console.width), refresh=True)
                time.sleep(interval)
    finally:
        console.print(render(view, console.width))


class Watch:
    """Follows GPUs and runs by their collectors; keeps what it knew when the driver gives no answer."""

    def __init__(self, of_recordings: Runner, gpus: Gpus, interval_seconds: float) -> None:
        self._gpus = gpus
        self._interval_seconds = interval_seconds
        for collector in gpus.collectors:
            if collector.name in (OF_GPUS, OF_WINDOWS):
                collector.interval_seconds = interval_seconds
        self._of_recordings = of_recordings
        self._of_gpus = [Runner(collector) for collector in gpus.collectors]
        self._last = View(())

    def start(self) -> None:
        """The runs come first: the GPUs are joined to those that are known."""
        self._of_recordings.start()
        self._of_recordings.wait_for_first_round(RECORDINGS_SECONDS)
        for runner in self._of_gpus:
            runner.start()

    def stop(self) -> None:
        stop_all([self._of_recordings, *self._of_gpus])
        self._gpus.close()

    def first_look(self) -> View:
        """What the driver says at first, or that it does not."""
        (runner,) = (each for each in self._of_gpus if each.collector.name == OF_GPUS)
        while not runner.ready:
            interruption.check()
            time.sleep(POLL_SECONDS)
        return self.look()

    def look_at_a_window(self) -> View:
        """Two rounds later, for what is a mean or a difference between them; waits a few seconds at most."""
        began = time.monotonic()
        while True:
            interruption.check()
            time.sleep(POLL_SECONDS)
            view = self.look()
            waited = time.monotonic() - began
            is_whole = all(runner.ready for runner in self._of_gpus) and all(map(_has_window, view.gpus))
            if waited > ONCE_SECONDS or (is_whole and waited > 1.5 * self._interval_seconds):
                return view

    def look(self) -> View:
        """What is known now; without newer figures for some rounds, the last there were."""
        runners = [self._of_recordings, *self._of_gpus]
        errors = {each.collector.name: error for each in runners if each.ready and (error := each.error)}
        problems = tuple(dict.fromkeys(_problem(*each) for each in errors.items()))
        samples = [sample for runner in runners for sample in runner.samples()]
        age = self._age_seconds(samples)
        if OF_GPUS in errors:
            return self._last._replace(problems=problems, age_seconds=age)
        devices = [each.value for each in samples if each.metric is catalog.NVIDIA_GPU_DEVICES]
        self._last = View(
            gpu_statuses(samples),
            devices=int(devices[0]) if devices and isinstance(devices[0], float) else None,
            problems=problems,
            age_seconds=age if age > PATIENCE_ROUNDS * self._interval_seconds else None,
        )
        return self._last

    def _age_seconds(self, samples: Iterable[Sample]) -> float:
        for sample in samples:
            is_time = sample.metric is catalog.COLLECTOR_LAST_SUCCESS_TIMESTAMP_SECONDS
            if is_time and sample.labels["collector"] == OF_GPUS and isinstance(sample.value, float):
                return time.time() - sample.value
        return 0.0


def _problem(collector: str, error: str) -> str:
    if collector == RecordingsCollector.name:
        return f"the recordings cannot be read: {error}"
    if error.startswith("no answer"):
        return f"NVML gives {error}; look for NVRM lines in `dmesg`"
    return error


def _has_window(gpu: GpuStatus) -> bool:
    return not gpu.up or gpu.sm_active_ratio is not None or _SM_ACTIVE in gpu.unsupported


_SM_ACTIVE = catalog.NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL.name
