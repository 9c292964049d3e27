from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import (
    EarlyStoppingCallback,
    MixtralConfig,
    MixtralForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from tests.conformance.reference import IGNORED, VOCABULARY, Row, collate, model, rows
from tests.trainer_hooks.recorded import Recorded, every_byte, only, recorded
from trainer_hooks import transformers as hooked
from trainer_hooks.monitor import current
from trainer_hooks.recording import FAILED, FINISHED, PHASES, find
from trainer_hooks.transformers import TelemetryCallback

SECRET = "the client said that she"
WRAPPED = ("get_batch_samples", "compute_loss", "evaluate", "_save_checkpoint")


@pytest.fixture(autouse=True)
def _recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "recordings"))
    for launcher in ("TRAINVITALS_RUN", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(launcher, raising=False)
    yield
    hooked._uninstall()
    forget_precision()


def forget_precision() -> None:
    """Accelerate keeps the precision of a process's first Trainer for all that come after it."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


def clean(recordings: Path) -> Recorded:
    seen = only(recordings)
    assert (seen.live.hook_errors, seen.live.hook_dropped) == (0, 0)
    return seen


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    usual = {
        "output_dir": str(folder / "output"),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**{**usual, **changes})


def trainer(
    folder: Path, *callbacks: Any, kind: type[Trainer] = Trainer, network: Any = None, **changes: Any
) -> Trainer:
    given: Any = {
        name: changes.pop(name)
        for name in ("compute_loss_func", "compute_metrics", "eval_dataset", "train_dataset")
        if name in changes
    }
    data: Any = {"train_dataset": rows(1), "eval_dataset": rows(2)[:5], **given}
    return kind(
        model=model() if network is None else network,
        args=arguments(folder, **changes),
        data_collator=collate,
        callbacks=list(callbacks),
        **data,
    )


def token_sum(network: Any, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
    """The sum of the cross-entropies of a batch's trained tokens, and how many those are."""
    with torch.no_grad():
        logits = network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.reshape(-1, VOCABULARY), labels.reshape(-1), reduction="sum", ignore_index=IGNORED
    )
    return float(losses), int((labels != IGNORED).sum())


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
    assert sum(live.phase_ns) == pytest.approx(live.end_ns - seen.static.start_monotonic_ns, rel=1e-3)
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


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_losses_are_exact_over_accumulation_and_an_uneven_last_window(
    tmp_path: Path, recordings: Path, accumulation: int
) -> None:
    """Nothing is learned; 11 micro-batches an epoch."""
    trainer(
        tmp_path,
        TelemetryCallback(),
        gradient_accumulation_steps=accumulation,
        learning_rate=0.0,
        max_steps=-1,
        num_train_epochs=1,
    ).train()
    seen = clean(recordings)
    expected = [token_sum(model(), collate([row])) for row in rows(1)]
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (math.ceil(11 / accumulation), 11, 22)
    assert seen.live.tokens_trained == seen.live.loss_tokens == sum(tokens for _, tokens in expected)
    assert seen.live.tokens_all == sum(len(row.prompt) + len(row.completion) for row in rows(1))
    assert seen.live.loss_token_sum == pytest.approx(sum(loss for loss, _ in expected), rel=1e-5)


def test_what_the_trainer_logs_of_loss_and_norm_is_what_is_recorded(tmp_path: Path, recordings: Path) -> None:
    training = trainer(tmp_path, TelemetryCallback())
    training.train()
    logs = [log for log in training.state.log_history if "loss" in log]
    steps = clean(recordings).steps
    assert [step.gradient_norm for step in steps] == pytest.approx([log["grad_norm"] for log in logs])
    if hasattr(training, "_loss_shifts_labels"):  # else the Trainer divides by labels that train nothing
        assert [step.loss for step in steps] == pytest.approx([log["loss"] for log in logs], rel=1e-3)


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


def poisoned(at: int) -> type[Trainer]:
    class Poisoned(Trainer):
        batches = 0

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            self.batches += 1
            weight = model.lm_head.weight
            kept = weight.detach().clone()
            with torch.no_grad():
                weight.mul_(math.nan if self.batches == at else 1.0)
            loss = super().training_step(model, inputs, num_items_in_batch)
            with torch.no_grad():
                weight.copy_(kept)
            if self.batches == at:
                model.zero_grad()  # or all that follows would be lost, too
            return loss

    return Poisoned


def test_losses_that_the_trainer_hides_are_counted(tmp_path: Path, recordings: Path) -> None:
    training = trainer(
        tmp_path, TelemetryCallback(), kind=poisoned(3), learning_rate=0.0, logging_nan_inf_filter=True
    )
    training.train()
    assert all(math.isfinite(log["loss"]) for log in training.state.log_history if "loss" in log)
    live = clean(recordings).live
    assert (live.nonfinite_loss, live.batches) == (1, 8)
    assert 0 < live.loss_tokens < live.tokens_trained


def test_a_smoothed_or_a_strangers_loss_has_no_perplexity_but_one_may_say_so(
    tmp_path: Path, recordings: Path
) -> None:
    class Own(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def function(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return outputs.logits.square().mean() * 1000  # version 4 logs four decimals

    trainer(tmp_path, TelemetryCallback(run="smoothed"), label_smoothing_factor=0.1).train()
    trainer(tmp_path, TelemetryCallback(run="own"), kind=Own).train()
    func = trainer(tmp_path, TelemetryCallback(run="function"), compute_loss_func=function)
    func.train()
    trainer(tmp_path, TelemetryCallback(run="told", loss_kind="cross_entropy"), kind=Own).train()
    kinds = {seen.static.run: seen.static.info["loss_kind"] for seen in recorded(recordings)}
    assert kinds == {"smoothed": "other", "own": "other", "function": "other", "told": "cross_entropy"}
    assert all((seen.live.hook_errors, seen.live.steps) == (0, 4) for seen in recorded(recordings))
    (of_function,) = [seen for seen in recorded(recordings) if seen.static.run == "function"]
    logged = [log["loss"] for log in func.state.log_history if "loss" in log]
    assert [step.loss for step in of_function.steps] == pytest.approx(logged, rel=1e-3)


def mixture() -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
            num_experts_per_tok=2,
            output_router_logits=True,
            router_aux_loss_coef=0.5,
            pad_token_id=0,
        )
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_auxiliary_loss_is_apart(tmp_path: Path, recordings: Path, accumulation: int) -> None:
    trainer(
        tmp_path,
        TelemetryCallback(),
        network=mixture(),
        learning_rate=0.0,
        max_steps=-1,
        num_train_epochs=1,
        gradient_accumulation_steps=accumulation,
        eval_strategy="epoch",
    ).train()
    seen = clean(recordings)
    network = mixture()
    network.config.output_router_logits = False
    expected = [token_sum(network, collate([row])) for row in rows(1)]
    assert seen.live.loss_tokens == sum(tokens for _, tokens in expected)
    assert seen.live.loss_token_sum == pytest.approx(sum(loss for loss, _ in expected), rel=1e-4)
    validation = [token_sum(network, collate([row])) for row in rows(2)[:5]]
    assert seen.live.validation_loss == pytest.approx(
        sum(loss for loss, _ in validation) / sum(tokens for _, tokens in validation), rel=1e-4
    )
    (slot,) = [event["slot"] for event in seen.of("scalar") if event["name"] == "auxiliary_loss"]
    auxiliary = seen.live.scalars[int(str(slot))]
    assert auxiliary is not None
    assert 1.0 < auxiliary < 8.0  # before the coefficient: 2 where two of the experts get equal shares
    assert seen.static.info["loss_kind"] == "cross_entropy"


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


def test_a_batch_that_cannot_be_counted_does_not_lose_its_step(tmp_path: Path, recordings: Path) -> None:
    def fail(batch: Any) -> Any:
        raise RuntimeError(SECRET)

    result = trainer(tmp_path, TelemetryCallback(count_tokens=fail)).train()
    live = only(recordings).live
    assert result.global_step == live.steps == 4
    assert (live.hook_errors, live.batches, live.tokens_all) == (8, 8, 0)
    assert live.loss is not None


def test_tokens_can_be_counted_by_a_function_of_ones_own(tmp_path: Path, recordings: Path) -> None:
    trainer(tmp_path, TelemetryCallback(count_tokens=lambda batch: (7, 5))).train()
    live = clean(recordings).live
    assert (live.tokens_all, live.tokens_trained, live.loss_tokens) == (56, 40, 40)


def test_a_recording_that_cannot_be_opened_costs_nothing_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))
    assert trainer(tmp_path, TelemetryCallback()).train().global_step == 4
    assert [record.levelname for record in caplog.records if record.name == "trainvitals"] == ["WARNING"]


def test_labels_that_are_no_tokens_count_none(tmp_path: Path, recordings: Path) -> None:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    network = LlamaForSequenceClassification(model().config)  # type: ignore[no-untyped-call, unused-ignore]

    def classes(batch: list[Row]) -> dict[str, torch.Tensor]:
        return {**collate(batch), "labels": torch.tensor([len(row.completion) % 2 for row in batch])}

    training = trainer(tmp_path, TelemetryCallback(), network=network)
    training.data_collator = classes
    training.train()
    seen = clean(recordings)
    logged = [log["loss"] for log in training.state.log_history if "loss" in log]
    assert (seen.live.tokens_trained, seen.live.loss_tokens, seen.live.samples) == (0, 0, 16)
    assert seen.static.info["loss_kind"] == "other"
    assert [step.loss for step in seen.steps] == pytest.approx(logged, rel=1e-3)
