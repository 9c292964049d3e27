from __future__ import annotations

import inspect
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from tests.trainer_hooks.processes import ended
from tests.trainer_hooks.recorded import Recorded, every_byte, only, recorded, scalars
from trainer_hooks import monitor as monitors
from trainer_hooks import tee
from trainer_hooks.monitor import Monitor, current
from trainer_hooks.recording import FAILED, FINISHED, find
from trainer_hooks.torch_process import watch

SECRET = "the client said that she"


@pytest.fixture(autouse=True)
def _teed(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process of its own, in which nothing has recorded."""
    monkeypatch.setattr(monitors, "_current", None)
    monkeypatch.setattr(monitors, "_has_recorded", False)
    tee.install(name="teed")
    yield
    tee.remove()
    monitor = current()
    if monitor is not None:
        monitor.finish()


WRITERS: list[Callable[[str], Any]] = [SummaryWriter, tensorboardX.SummaryWriter]
each_writer = pytest.mark.parametrize("writer_of", WRITERS, ids=["torch", "tensorboardX"])


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Any]:
    writer = SummaryWriter(str(tmp_path / "events"))
    yield writer
    writer.close()


def closed(recordings: Path) -> Recorded:
    """The recording after its end."""
    monitor = current()
    assert monitor is not None
    monitor.finish()
    seen = only(recordings)
    assert (seen.live.hook_errors, seen.live.hook_dropped) == (0, 0)
    return seen


@each_writer
def test_the_first_logged_number_opens_a_recording(
    recordings: Path, tmp_path: Path, writer_of: Callable[[str], Any]
) -> None:
    writer = writer_of(str(tmp_path / "events"))
    assert not list(find(recordings))
    for step in range(4):
        writer.add_scalar("train/loss", 4.0 - step, step * 10)
        writer.add_scalar("train/lr", 0.1 * step, global_step=step * 10)
        writer.add_scalar("grad_norm", torch.tensor(2.5))
        writer.add_scalar("success_rate", np.float32(0.25 * step), step)
    writer.add_scalars("Loss", {"val": 0.75, "extra": np.array([3.0])}, 30)
    writer.add_scalar("Accuracy/val", 0.5, 30)
    writer.add_scalar("epoch", 2, 30)
    writer.close()
    seen = closed(recordings)
    live = seen.live
    assert seen.static.run.startswith("teed-")
    assert (live.loss, live.gradient_norm) == (1.0, 2.5)
    assert live.learning_rates[0] == pytest.approx(0.3)
    assert (live.validation_loss, live.validation_loss_best, live.validation_accuracy) == (0.75, 0.75, 0.5)
    assert (live.step, live.epoch) == (30, 2.0)
    assert scalars(seen) == {"success_rate": 0.75, "Loss/extra": 3.0}


def test_a_call_of_a_logger_is_no_step_and_no_batch(recordings: Path, writer: Any) -> None:
    for step in range(1, 6):
        writer.add_scalar("loss", 1.0, step)
    live = closed(recordings).live
    assert (live.steps, live.batches, live.samples, live.records, live.step) == (0, 0, 0, 0, 5)
    assert live.last_progress_ns > live.last_step_ns


def test_the_step_is_the_largest_that_a_number_was_logged_at(recordings: Path, writer: Any) -> None:
    for step in (100, 200, 300):
        writer.add_scalar("loss", 1.0, step)
        writer.add_scalar("val_loss", 1.0, step // 100)
    writer.add_scalar("loss", 1.0, torch.tensor(250))
    for no_step in (None, -1, 1e3 + 0.5, math.nan, math.inf, SECRET):
        tee._scalar(writer, "loss", 1.0, no_step)
        assert tee._tee is not None
        tee._tee.take((("loss", 1.0),), no_step)
    assert closed(recordings).live.step == 300


def test_a_logged_step_is_the_step(recordings: Path, writer: Any) -> None:
    for step in (7, 8):
        writer.add_scalar("global_step", step)
    assert closed(recordings).live.step == 8


def test_the_first_round_of_numbers_belongs_to_the_initialisation(recordings: Path, writer: Any) -> None:
    writer.add_scalar("success_rate", 0.0, 0)
    writer.add_scalar("avg_return", -5.0, 0)
    assert only(recordings).live.phase == "init"
    writer.add_scalar("success_rate", 0.5, 10)
    assert only(recordings).live.phase == "other"


def test_what_is_no_number_is_passed_over(recordings: Path, writer: Any) -> None:
    assert tee._tee is not None
    values = [
        "0.5",
        b"1",
        True,
        None,
        [1.0],
        {"a": 1.0},
        np.zeros(2),
        torch.zeros(3),
        object(),
        1j,
        np.str_("a"),
    ]
    for value in values:
        tee._tee.take((("a", value),), 1)
    writer.add_text("text", SECRET)
    writer.add_histogram("histogram", np.arange(10.0))
    assert current() is None
    writer.add_scalar("b", 1.0)
    assert scalars(closed(recordings)) == {"b": 1.0}
    assert SECRET.encode() not in every_byte(recordings)


def test_a_loss_that_is_not_finite_is_counted_and_not_shown(recordings: Path, writer: Any) -> None:
    writer.add_scalar("loss", math.nan, 1)
    writer.add_scalar("grad_norm", math.inf, 1)
    live = closed(recordings).live
    assert (live.loss, live.nonfinite_loss, live.gradient_norm, live.nonfinite_gradient) == (None, 1, None, 1)


def test_where_a_monitor_measures_only_the_rest_is_added(recordings: Path, writer: Any) -> None:
    monitor = Monitor(name="measured")
    with monitor.step():
        monitor.batch(loss=0.5)
        monitor.learning_rates([0.1])
    for name in ("train/loss", "lr", "grad_norm", "loss_scale", "global_step"):
        writer.add_scalar(name, 99.0, 99)
    writer.add_scalar("success_rate", 0.25, 99)
    writer.add_scalar("val_loss", 0.125, 99)
    seen = closed(recordings)
    assert (seen.live.loss, seen.live.learning_rates[0], seen.live.gradient_norm) == (0.5, 0.1, None)
    assert (seen.live.steps, seen.live.step, seen.live.loss_scale) == (1, 1, None)
    assert seen.live.validation_loss == 0.125
    assert scalars(seen) == {"success_rate": 0.25}


def test_a_validation_loss_that_a_loop_measures_is_not_taken_from_the_log(
    recordings: Path, writer: Any
) -> None:
    class Model(torch.nn.Linear):
        def forward(self, values: torch.Tensor) -> Any:
            return {"loss": super().forward(values).square().mean()}

    model = Model(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(name="measured")
    watch(monitor, model, optimizer)
    for _ in range(2):
        model(torch.ones(4, 2))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            loss = float(model.eval()(torch.ones(4, 2))["loss"])
        writer.add_scalar("val_loss", 99.0, 1)
        model.train()
    seen = closed(recordings)
    assert [event["loss"] for event in seen.of("evaluation")][-1] == loss
    assert len(seen.of("evaluation")) == 2
    assert seen.live.steps == 2


def test_a_monitor_that_opens_before_the_second_round_takes_the_recording_over(
    recordings: Path, writer: Any
) -> None:
    writer.add_scalar("first", 1.0, 0)
    with Monitor(name="teed") as monitor, monitor.step():
        monitor.log(second=2.0)
    writer.add_scalar("first", 9.0, 2)
    seen = only(recordings)
    assert scalars(seen) == {"first": 1.0, "second": 2.0}
    assert seen.live.steps == 1


def test_a_monitor_that_opens_later_ends_the_recording_of_the_tee(recordings: Path, writer: Any) -> None:
    writer.add_scalar("first", 1.0, 0)
    writer.add_scalar("first", 2.0, 1)
    with Monitor(name="other"):
        writer.add_scalar("first", 3.0, 2)
    other, teed = recorded(recordings)
    assert (scalars(other), scalars(teed)) == ({"first": 3.0}, {"first": 2.0})
    assert teed.of("finish")[0]["reason"] == "superseded"


def test_what_is_logged_after_the_end_of_a_training_opens_no_other_recording(
    recordings: Path, writer: Any
) -> None:
    with Monitor(name="a-training"):
        pass
    writer.add_scalar("test_accuracy", 0.5, 1)
    assert only(recordings).static.run.startswith("a-training")


def test_threads_may_log_while_the_tee_alone_records(recordings: Path, tmp_path: Path) -> None:
    writers = [SummaryWriter(str(tmp_path / str(each))) for each in range(4)]

    def log(writer: Any, thread: int) -> None:
        for step in range(200):
            writer.add_scalar(f"thread-{thread}", float(step), step)

    threads = [threading.Thread(target=log, args=each) for each in zip(writers, range(4), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writers[0].add_scalar("last", 1.0)
    seen = closed(recordings)
    assert scalars(seen) == {**{f"thread-{each}": 199.0 for each in range(4)}, "last": 1.0}
    assert seen.live.step == 199


def test_what_another_thread_logs_while_a_recording_is_opened_is_kept(
    recordings: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly_opened(**options: Any) -> Monitor:
        elsewhere(lambda: writer.add_scalar("meanwhile", 0.25, 1))
        return Monitor(**options)

    monkeypatch.setattr(tee, "Monitor", slowly_opened)
    writer.add_scalar("success_rate", 0.5, 1)
    assert scalars(closed(recordings)) == {"meanwhile": 0.25, "success_rate": 0.5}


def test_what_another_thread_logs_at_the_end_of_the_opening_is_kept(
    recordings: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, opened = threading.Event(), threading.Event()
    other = threading.Thread(target=writer.add_scalar, args=("meanwhile", 0.25, 1))

    def slow_to_look() -> Monitor | None:
        found = current()
        if threading.current_thread() is other and tee._tee is not None and tee._tee._opens:
            looks.append(found)
            if len(looks) == 2:
                looked.set()
                opened.wait(60)
        return found

    def slowly_opened(**options: Any) -> Monitor:
        other.start()
        looked.wait(60)
        return Monitor(**options)

    looks: list[Monitor | None] = []
    monkeypatch.setattr(tee, "current", slow_to_look)
    monkeypatch.setattr(tee, "Monitor", slowly_opened)
    writer.add_scalar("success_rate", 0.5, 1)
    opened.set()
    other.join()
    writer.add_scalar("success_rate", 0.75, 2)
    assert looks == [None, None]
    assert scalars(closed(recordings)) == {"meanwhile": 0.25, "success_rate": 0.75}


def test_what_another_thread_logs_at_the_beginning_of_the_opening_is_kept(
    recordings: Path, writer: Any
) -> None:
    class Lock:
        """As soon as it is held for the first time, another thread logs."""

        def acquire(self, blocking: bool) -> bool:
            is_held = lock.acquire(blocking)
            if is_held and not others:
                others.append(threading.Thread(target=writer.add_scalar, args=("meanwhile", 0.25, 1)))
                others[0].start()
                others[0].join()
            return is_held

        def release(self) -> None:
            lock.release()

    others: list[threading.Thread] = []
    assert tee._tee is not None
    lock, tee._tee._lock = tee._tee._lock, Lock()  # type: ignore[assignment]
    writer.add_scalar("success_rate", 0.5, 1)
    assert len(others) == 1
    assert scalars(closed(recordings)) == {"meanwhile": 0.25, "success_rate": 0.5}


def test_a_number_that_had_to_wait_does_not_cover_a_newer_one(recordings: Path, writer: Any) -> None:
    writer.add_scalar("success_rate", 0.25, 1)
    assert tee._tee is not None
    with tee._tee._lock:  # as while another thread tells
        writer.add_scalar("success_rate", 0.5, 2)
    writer.add_scalar("success_rate", 0.75, 3)
    assert scalars(closed(recordings)) == {"success_rate": 0.75}


def test_what_another_thread_logs_while_a_number_is_told_is_kept(
    recordings: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.add_scalar("success_rate", 0.25, 1)
    monitor = current()
    assert monitor is not None
    log, others = monitor.log, iter([lambda: writer.add_scalar("meanwhile", 0.125, 2)])

    def slowly_logged(**numbers: Any) -> None:
        for other in others:
            elsewhere(other)
        log(**numbers)

    monkeypatch.setattr(monitor, "log", slowly_logged)
    writer.add_scalar("success_rate", 0.5, 2)
    assert scalars(closed(recordings)) == {"success_rate": 0.5, "meanwhile": 0.125}


def test_a_thread_that_looked_before_another_opened_the_recording_tells_it_too(
    recordings: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = iter([lambda: writer.add_scalar("first", 0.5, 1)])

    def looked_too_early() -> Monitor | None:
        for other in others:
            elsewhere(other)
            return None
        return current()

    monkeypatch.setattr(tee, "current", looked_too_early)
    writer.add_scalar("second", 0.25, 1)
    assert scalars(closed(recordings)) == {"first": 0.5, "second": 0.25}


def test_another_thread_hands_its_numbers_to_the_one_that_trains(recordings: Path, writer: Any) -> None:
    monitor = Monitor(name="measured")
    thread = threading.Thread(target=writer.add_scalar, args=("success_rate", 0.5, 1))
    thread.start()
    thread.join()
    assert not only(recordings).of("scalar")
    with monitor.step():
        pass
    assert scalars(closed(recordings)) == {"success_rate": 0.5}


def elsewhere(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_of_names_that_mean_the_same_the_first_counts_on_every_thread(recordings: Path) -> None:
    monitor = Monitor(name="measured")

    def log() -> None:
        tee._tee.take((("success_rate", 0.9), ("avg_success_rate", 0.1)), 1)  # type: ignore[union-attr]

    elsewhere(log)
    with monitor.step():
        pass
    assert scalars(closed(recordings))["success_rate"] == 0.9


def test_another_thread_is_heard_by_the_monitor_that_takes_over(recordings: Path, writer: Any) -> None:
    Monitor(name="measured", provisional=True)
    elsewhere(lambda: writer.add_scalar("before", 1.0, 1))
    monitor = Monitor(name="measured")
    elsewhere(lambda: writer.add_scalar("success_rate", 0.5, 1))
    with monitor.step():
        pass
    assert scalars(closed(recordings)) == {"before": 1.0, "success_rate": 0.5}


def test_a_value_that_is_odd_in_any_way_costs_nothing_beside_it(recordings: Path) -> None:
    class Odd:
        @property
        def shape(self) -> Any:
            raise KeyError

    Monitor(name="measured")
    tee._tee.take((("odd", Odd()), ("success_rate", 0.5)), 1)  # type: ignore[union-attr]
    monitor = current()
    assert monitor is not None
    monitor.finish()
    seen = only(recordings)
    assert (scalars(seen), seen.live.hook_errors) == ({"success_rate": 0.5}, 1)


def test_names_without_end_from_another_thread_take_no_memory_without_end(recordings: Path) -> None:
    Monitor(name="measured")
    taking = tee._tee
    assert taking is not None

    def log() -> None:
        for number in range(5000):
            taking.take(((f"a{number}", 1.0),), 1)

    elsewhere(log)
    assert len(taking._handed) == 256
    monitor = current()
    assert monitor is not None
    monitor.finish()


def test_numbers_without_end_from_another_thread_take_no_memory_without_end(recordings: Path) -> None:
    Monitor(name="measured")
    assert tee._tee is not None

    def log() -> None:
        for number in range(5000):
            tee._tee.take((("a", float(number)),), 1)  # type: ignore[union-attr]

    elsewhere(log)
    assert tee._tee._handed == {"a": (4999.0, 1)}
    monitor = current()
    assert monitor is not None
    assert len(monitor._waiting) == 1
    assert scalars(closed(recordings)) == {"a": 4999.0}


def test_a_forked_child_leaves_the_recording_alone(recordings: Path, writer: Any) -> None:
    writer.add_scalar("a", 1.0, 1)
    pid = os.fork()
    if not pid:
        assert tee._tee is not None
        tee._tee.take((("a", 2.0),), 2)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert scalars(closed(recordings)) == {"a": 1.0}


def test_what_the_logger_raises_and_returns_is_unchanged(writer: Any, recordings: Path) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        writer.add_scalar("a")
    with pytest.raises(NotImplementedError):
        writer.add_scalar("a", object(), 1)
    assert writer.add_scalar("a", 1.0, 1) is None
    assert scalars(closed(recordings)) == {"a": 1.0}


def test_a_fault_of_the_tee_reaches_nobody(
    recordings: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.add_scalar("a", 1.0, 1)

    def fails(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(tee.Tee, "_tell_all", fails)
    writer.add_scalar("a", 2.0, 2)
    monkeypatch.setattr(tee, "_number", fails)
    writer.add_scalar("a", 2.0, 2)
    assert only(recordings).live.hook_errors == 2
    monkeypatch.undo()
    monitor = current()
    if monitor is not None:
        monitor.finish()


def test_a_recording_that_cannot_be_opened_costs_one_warning(
    tmp_path: Path, writer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))
    for step in range(3):
        writer.add_scalar("a", 1.0, step)
    assert [record.levelname for record in caplog.records if record.name == "trainvitals"] == ["WARNING"]


def test_the_signature_stays_and_removing_gives_the_methods_back() -> None:
    teed = vars(SummaryWriter)["add_scalar"]
    tee.install()
    assert vars(SummaryWriter)["add_scalar"] is teed
    tee.remove()
    original = vars(SummaryWriter)["add_scalar"]
    assert original is not teed
    assert inspect.signature(teed) == inspect.signature(original)
    assert teed.__doc__ == original.__doc__
    tee.install()
    assert inspect.unwrap(vars(SummaryWriter)["add_scalar"]) is original


def test_a_wrapper_of_somebody_else_stays_and_tells_once(
    recordings: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = vars(SummaryWriter)["add_scalar"]
    theirs = lambda *args, **kwargs: ours(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr(SummaryWriter, "add_scalar", theirs)
    tee.remove()
    writer.add_scalar("a", 1.0, 1)
    assert current() is None
    tee.install()
    assert vars(SummaryWriter)["add_scalar"] is theirs
    writer.add_scalar("val_loss", 1.0, 1)
    assert len(closed(recordings).of("evaluation")) == 1


@each_writer
def test_the_event_files_are_the_same_with_and_without(
    tmp_path: Path, writer_of: Callable[[str], Any]
) -> None:
    def write(folder: Path) -> list[tuple[str, list[tuple[int, float]]]]:
        writer = writer_of(str(folder))
        for step in range(20):
            writer.add_scalar("loss", torch.tensor(1.0 / (1 + step)), step)
            writer.add_scalar("accuracy", np.float64(step), step, 100.0 + step)
        writer.close()
        events = event_accumulator.EventAccumulator(str(folder))
        events.Reload()
        names = sorted(events.Tags()["scalars"])
        return [(name, [(each.step, each.value) for each in events.Scalars(name)]) for name in names]

    with_it = write(tmp_path / "with")
    tee.remove()
    assert with_it == write(tmp_path / "without")
    assert [name for name, _ in with_it] == ["accuracy", "loss"]


def test_mlflow_metrics_are_recorded(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    with mlflow.start_run() as run:
        for step in range(1, 3):
            mlflow.log_metric("train_loss", 1.0 / step, step=step)
            mlflow.log_metrics({"eval_loss": 0.25 * step, "success_rate": 0.5}, step=step)
        mlflow.log_param("text", SECRET)
    client = MlflowClient()
    client.log_metric(run.info.run_id, "avg_return", 3.0, step=5)
    client.log_metric(run.info.run_id, "system/cpu_utilization_percentage", 50.0)
    kept = {key: client.get_metric_history(run.info.run_id, key) for key in ("train_loss", "eval_loss")}
    assert {key: [each.value for each in values] for key, values in kept.items()} == {
        "train_loss": [1.0, 0.5],
        "eval_loss": [0.25, 0.5],
    }
    seen = closed(recordings)
    assert (seen.live.loss, seen.live.validation_loss, seen.live.validation_loss_best) == (0.5, 0.5, 0.25)
    assert len(seen.of("evaluation")) == 2
    assert seen.live.step == 5
    assert scalars(seen) == {"success_rate": 0.5, "average_return": 3.0}
    assert SECRET.encode() not in every_byte(recordings)


WANDB = """
import json, sys
if sys.argv[2] == "before":
    from trainer_hooks import tee
    tee.install(name="with-wandb")
import wandb
run = wandb.init(mode=sys.argv[1], project="a-project", settings=wandb.Settings(console="off"))
if sys.argv[2] == "after":
    from trainer_hooks import tee
    tee.install(name="with-wandb")
returned = []
for step in range(1, 4):
    numbers = {"train": {"loss": 1.0 / step}, "lr": 0.5, "global_step": 10 * step}
    returned.append(wandb.log({**numbers, "text": "she"}))
    returned.append(run.log({"eval/loss": 0.25, "table": wandb.Histogram([1, 2])}, step=None, commit=False))
try:
    wandb.log("no dictionary")
except (TypeError, ValueError) as error:
    returned.append(type(error).__name__)
summary = {key: run.summary.get(key) for key in ("lr", "global_step")} if sys.argv[1] == "offline" else {}
wandb.finish()
from trainer_hooks.monitor import current
assert sys.argv[2] == "never" or current().recording
print(json.dumps([returned, summary]))
"""


@pytest.mark.parametrize("mode", ["disabled", pytest.param("offline", marks=pytest.mark.long)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_wandb_logs_is_recorded(recordings: Path, tmp_path: Path, mode: str, when: str) -> None:
    environment = {"WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true", "TRAINVITALS_DIR": str(recordings)}
    said, _ = ended(WANDB, tmp_path, mode, when, **environment)
    assert said == ended(WANDB, tmp_path, mode, "never", **environment)[0]
    seen = only(recordings)
    assert (seen.live.hook_errors, seen.live.hook_dropped, seen.live.outcome) == (0, 0, FINISHED)
    assert (seen.live.learning_rates[0], seen.live.step) == (0.5, 30)
    assert seen.live.loss == pytest.approx(1 / 3)
    assert seen.live.validation_loss == 0.25
    assert scalars(seen) == {}
    assert b"she" not in every_byte(recordings)


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None  # importing it fails
from trainer_hooks import tee
tee.install()
import tensorboardX
writer = tensorboardX.SummaryWriter(sys.argv[1])
for step in range(3):
    writer.add_scalar("loss", 0.5, step)
print(json.dumps(step), flush=True)
if sys.argv[2] == "raises":
    json.loads("{")
"""


def test_nothing_of_it_needs_torch(tmp_path: Path, recordings: Path) -> None:
    said, errors = ended(WITHOUT_TORCH, tmp_path, tmp_path / "tb", "ends", TRAINVITALS_DIR=str(recordings))
    assert (said, errors) == (2, "")
    seen = only(recordings)
    assert (seen.static.run.startswith("trainer-"), seen.live.outcome, seen.live.loss) == (
        True,
        FINISHED,
        0.5,
    )


def test_an_exception_of_the_script_passes_and_is_recorded(tmp_path: Path, recordings: Path) -> None:
    with pytest.raises(AssertionError, match="JSONDecodeError"):
        ended(WITHOUT_TORCH, tmp_path, tmp_path / "tb", "raises", TRAINVITALS_DIR=str(recordings))
    assert only(recordings).live.outcome == FAILED
