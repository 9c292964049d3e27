from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)

from tests.conformance.reference import collate, model, rows
from tests.trainer_hooks.huggingface import SECRET, forget_precision, token_sum, trainer
from tests.trainer_hooks.recorded import clean, every_byte, only, recorded
from trainer_hooks import transformers as hooked
from trainer_hooks.monitor import current
from trainer_hooks.recording import FAILED, FINISHED, PHASES, find
from trainer_hooks.transformers import TelemetryCallback

WRAPPED = ("get_batch_samples", "compute_loss", "evaluate", "_save_checkpoint")


@pytest.fixture(autouse=True)
def _anew(recordings: Path) -> Iterator[None]:
    yield
    hooked._uninstall()
    forget_precision()


class Watching(TrainerCallback):
    """Calls a function after each optimizer step."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._function(state)


def raising(error: BaseException) -> Watching:
    def fail(state: Any) -> None:
        if state.global_step == 2:
            raise error

    return Watching(fail)


def test_a_run_tells_what_it_is_and_its_phases_add_up(tmp_path: Path, recordings: Path) -> None:
    callback = TelemetryCallback(name="a-name", dataset="toys")
    trainer(tmp_path, callback).train()
    seen = clean(recordings)
    assert seen.static.run.startswith("a-name-")
    info = seen.static.info
    assert (info["model"], info["dataset"], info["precision"]) == ("LlamaForCausalLM", "toys", "float32")
    assert info["framework"].startswith("transformers ")
    assert info["loss_kind"] == "cross_entropy"
    live = seen.live
    assert (live.steps, live.step, live.steps_expected, live.batches) == (4, 4, 4, 8)
    assert live.epochs_expected == pytest.approx(4 / 6)
    assert live.epoch == pytest.approx(8 / 11)
    assert live.learning_rates[0] == 0.01
    used = {name for name, spent in zip(PHASES, live.phase_ns, strict=True) if spent}
    assert used == {"init", "data", "forward", "backward", "optimizer", "other"}
    assert sum(live.phase_ns) == live.end_ns - seen.static.start_monotonic_ns
    assert (live.outcome, seen.of("finish")[0]["reason"]) == (FINISHED, "completed")


def test_the_precision_of_a_model_that_does_not_tell_is_that_of_its_parameters(
    tmp_path: Path, recordings: Path
) -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            network: Any = model()
            self.network = network.to(torch.bfloat16)

        def forward(self, **batch: Any) -> Any:
            return self.network(**batch)

    trainer(tmp_path, TelemetryCallback(), network=Plain(), max_steps=1).train()
    assert clean(recordings).static.info["precision"] == "bfloat16"


def test_report_to_is_enough_and_a_callback_that_is_given_comes_first(
    tmp_path: Path, recordings: Path
) -> None:
    trainer(tmp_path, report_to="trainvitals", run_name="reported").train()
    assert clean(recordings).static.run.startswith("reported-")
    trainer(tmp_path, TelemetryCallback(run="given"), report_to="trainvitals").train()
    assert sorted(seen.static.run.split("-")[0] for seen in recorded(recordings)) == ["given", "reported"]


def test_every_trainer_is_recorded_once_installed_and_none_twice(tmp_path: Path, recordings: Path) -> None:
    remove = hooked.install(run="automatic")
    training = trainer(tmp_path)
    training.train()
    assert clean(recordings).live.steps == 4
    assert not [each for each in training.callback_handler.callbacks if isinstance(each, TelemetryCallback)]
    late = trainer(tmp_path)
    late.add_callback(TelemetryCallback(run="explicit"))
    late.train()
    remove()
    trainer(tmp_path).train()
    assert sorted(seen.static.run for seen in recorded(recordings)) == ["automatic", "explicit"]


def test_the_hook_changes_nothing_a_training_computes(
    tmp_path: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[Any] = []
    for callbacks in ([], [TelemetryCallback()]):
        set_seed(3)
        network = model()
        training = trainer(tmp_path, *callbacks, network=network, eval_strategy="steps", eval_steps=2)
        result = training.train()
        history = [
            {name: value for name, value in log.items() if not name.endswith(("_runtime", "_per_second"))}
            for log in training.state.log_history
        ]
        printed = [line for line in capsys.readouterr().out.splitlines() if "runtime" not in line]
        told.append((history, printed, result.global_step, result.training_loss, torch.rand(3).tolist()))
        told.append([parameter.detach().clone() for parameter in network.parameters()])
        assert not [name for name in WRAPPED if name in vars(training)]
        assert not {"backward", "clip_grad_norm_"} & vars(training.accelerator).keys()
    (without, weights_without, with_it, weights_with) = told
    assert with_it == without
    for mine, other in zip(weights_with, weights_without, strict=True):
        assert torch.equal(mine, other)
    assert clean(recordings).live.steps == 4


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
def test_a_step_the_loss_scaler_left_out_is_skipped(tmp_path: Path, recordings: Path, optimizer: str) -> None:
    """A fused optimizer is called in any case."""

    class Overflowing(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            loss = super().training_step(model, inputs, num_items_in_batch)
            if self.state.global_step == 1:
                model.lm_head.weight.grad[0, 0] = math.inf
            return loss

    training = trainer(tmp_path, TelemetryCallback(), kind=Overflowing, optim=optimizer)
    training.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    training.train()
    live = clean(recordings).live
    assert (live.steps, live.steps_skipped, live.step, live.batches) == (3, 1, 4, 8)
    assert (live.loss_scale, live.nonfinite_gradient) == (32.0, 0)


def test_an_evaluation_is_weighted_by_tokens_and_tells_its_metrics(tmp_path: Path, recordings: Path) -> None:
    def metrics(prediction: Any) -> dict[str, float]:
        return {"accuracy": 0.25, "bleu": 0.5}

    training = trainer(
        tmp_path,
        TelemetryCallback(),
        learning_rate=0.0,
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
        compute_metrics=metrics,
        eval_dataset=rows(2)[:4],  # each batch padded alike: predictions can be put together
    )
    training.train()
    seen = clean(recordings)
    expected = [token_sum(model(), collate([row])) for row in rows(2)[:4]]
    tokens = sum(tokens for _, tokens in expected)
    assert seen.live.validation_loss == pytest.approx(sum(loss for loss, _ in expected) / tokens, rel=1e-5)
    assert seen.live.validation_loss_tokens == tokens
    assert seen.live.validation_accuracy == 0.25
    assert [event["name"] for event in seen.of("scalar")] == ["eval_bleu"]
    assert len(seen.of("evaluation")) == 3
    assert seen.live.phase_ns[PHASES.index("evaluation")] > 0
    assert seen.live.batches == 8
    by_examples = [log["eval_loss"] for log in training.state.log_history if "eval_loss" in log]
    assert seen.live.validation_loss != pytest.approx(by_examples[-1], rel=1e-4)


def test_an_evaluation_without_a_training_opens_nothing(tmp_path: Path, recordings: Path) -> None:
    training = trainer(tmp_path, TelemetryCallback())
    training.evaluate()
    assert not list(find(recordings))
    training.train()
    training.evaluate()
    seen = clean(recordings)
    assert (seen.live.steps, seen.of("evaluation")) == (4, [])


def test_checkpoints_have_a_size_and_a_training_resumes_from_one(tmp_path: Path, recordings: Path) -> None:
    trainer(tmp_path, TelemetryCallback(run="resumed"), save_strategy="steps", save_steps=2).train()
    seen = clean(recordings)
    folders = [tmp_path / "output" / f"checkpoint-{step}" for step in (2, 4)]
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
    assert [event["bytes"] for event in seen.of("checkpoint")] == sizes
    assert seen.live.phase_ns[PHASES.index("checkpoint")] > 0
    again = trainer(tmp_path, TelemetryCallback(run="resumed"))
    again.train(resume_from_checkpoint=str(folders[0]))
    _, resumed = recorded(recordings)
    assert (resumed.live.resumed_from_step, resumed.live.step, resumed.live.steps) == (2, 4, 2)


def test_a_checkpoint_that_fails_is_counted_and_fails_the_training(tmp_path: Path, recordings: Path) -> None:
    class Full(Trainer):
        def save_model(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        trainer(tmp_path, TelemetryCallback(), kind=Full, save_strategy="steps", save_steps=2).train()
    live = clean(recordings).live
    assert (live.checkpoints_failed, live.checkpoints_ok, live.outcome) == (1, 0, FAILED)


def test_an_early_stop_is_told(tmp_path: Path, recordings: Path) -> None:
    trainer(
        tmp_path,
        TelemetryCallback(),
        EarlyStoppingCallback(early_stopping_patience=1),
        learning_rate=0.0,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    ).train()
    seen = clean(recordings)
    assert (seen.live.steps, seen.of("finish")[0]["reason"]) == (2, "early_stopping")


class Patient(TrainerCallback):
    """A stranger's, which stops at the second step."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 2


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"early_stopping_patience": 3}, ("completed", 0)),
        ({"early_stopping_patience": "3 epochs", "early_stopping_patience_counter": 3}, ("unknown", 1)),
    ],
)
def test_a_patience_of_a_strangers_callback_does_not_keep_the_recording_open(
    tmp_path: Path, recordings: Path, attributes: dict[str, Any], told: tuple[str, int]
) -> None:
    trainer(tmp_path, TelemetryCallback(), Patient(**attributes)).train()
    seen = only(recordings)
    assert (seen.live.steps, seen.live.outcome, current()) == (2, FINISHED, None)
    assert (seen.of("finish")[0]["reason"], seen.live.hook_errors) == told


def test_an_exception_is_told_by_its_type_and_place_and_goes_on(tmp_path: Path, recordings: Path) -> None:
    error = ValueError(SECRET)
    training = trainer(tmp_path, TelemetryCallback(), raising(error))
    with pytest.raises(ValueError, match=SECRET) as caught:
        training.train()
    assert caught.value is error
    seen = clean(recordings)
    assert seen.live.outcome == FAILED
    (told,) = seen.of("exception")
    assert told["type"] == "ValueError"
    assert str(told["place"]).startswith("test_transformers.py:")
    assert SECRET.encode() not in every_byte(recordings)
    assert not [name for name in WRAPPED if name in vars(training)]
    assert current() is None


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (KeyboardInterrupt(), FINISHED, "interrupted"),
        (SystemExit(0), FINISHED, "exit"),
        (SystemExit(3), FAILED, None),
        (MemoryError(), FAILED, None),
    ],
)
def test_how_a_training_is_left_is_told(
    tmp_path: Path, recordings: Path, error: BaseException, outcome: int, reason: str | None
) -> None:
    with pytest.raises(type(error)):
        trainer(tmp_path, TelemetryCallback(), raising(error)).train()
    seen = clean(recordings)
    assert seen.live.outcome == outcome
    assert [event.get("reason") for event in seen.of("finish")] == ([reason] if reason else [])
    assert seen.live.ooms == isinstance(error, MemoryError)


def test_a_second_training_is_the_next_attempt(tmp_path: Path, recordings: Path) -> None:
    training = trainer(tmp_path, TelemetryCallback())
    training.train()
    training.train()
    attempts = recorded(recordings)
    assert len({seen.static.run for seen in attempts}) == 1
    assert [seen.live.steps for seen in attempts] == [4, 4]


@pytest.mark.long
def test_a_training_that_is_tried_again_with_smaller_batches_is_the_next_attempt(
    tmp_path: Path, recordings: Path
) -> None:
    out_of_memory = RuntimeError("CUDA out of memory. " + SECRET)
    tries = []

    def once(state: Any) -> None:
        tries.append(state.global_step)
        if len(tries) == 1:
            raise out_of_memory

    trainer(tmp_path, TelemetryCallback(), Watching(once), auto_find_batch_size=True).train()
    first, second = recorded(recordings)
    assert (first.live.outcome, second.live.outcome) == (FAILED, FINISHED)
    assert second.live.steps == 4


def test_a_copy_of_the_callback_records_nothing_and_can_record_anew(tmp_path: Path, recordings: Path) -> None:
    copies: list[TelemetryCallback] = []
    callback = TelemetryCallback(run="original")

    def make(state: Any) -> None:
        copies.extend([copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))])

    trainer(tmp_path, callback, Watching(make)).train()
    assert len(copies) == 8
    assert all(each.monitor is None for each in copies)
    trainer(tmp_path, copies[0]).train()
    assert [seen.static.run for seen in recorded(recordings)] == ["original", "original"]


def test_a_recording_that_cannot_be_opened_costs_nothing_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))
    assert trainer(tmp_path, TelemetryCallback()).train().global_step == 4
    assert [record.levelname for record in caplog.records if record.name == "trainvitals"] == ["WARNING"]
