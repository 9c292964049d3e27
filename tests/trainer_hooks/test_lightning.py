from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
import transformers
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tests.trainer_hooks.recorded import every_byte, only, recorded
from trainer_hooks.lightning import TelemetryCallback
from trainer_hooks.recording import FAILED, FINISHED, find

SECRET = "the client said that she"
VOCABULARY = 11
IGNORED = -100


@pytest.fixture(autouse=True)
def _anew(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINVITALS", "0")  # only the callbacks that a test gives its Trainer


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning|torch")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        yield


class Conversations(Dataset[dict[str, torch.Tensor]]):
    """Token sequences of uneven length, the first part of each without a label."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._rows = []
        for index in range(count):
            length = 3 + index * 5 % 7
            ids = torch.randint(1, VOCABULARY, (10,), generator=generator)
            mask = (torch.arange(10) < length).long()
            labels = torch.where((mask == 1) & (torch.arange(10) >= index % 3), ids, IGNORED)
            self._rows.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self._rows[index]

    def loader(self, batch_size: int = 2, **options: Any) -> DataLoader[Any]:
        return DataLoader(self, batch_size=batch_size, **options)


class Model(pl.LightningModule):
    """A language model as small as can be; it remembers what happened to it, for comparison."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.embed = torch.nn.Embedding(VOCABULARY, VOCABULARY)
        self.losses: list[tuple[float, int]] = []
        self.validated: list[tuple[float, int]] = []
        self.rates: list[float] = []
        self.norms: list[float] = []

    def loss(self, batch: Any) -> tuple[torch.Tensor, int]:
        logits, labels = self.embed(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
        trained = int((labels != IGNORED).sum())
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED), trained

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss, trained = self.loss(batch)
        self.losses.append((float(loss.detach()), trained))
        self.log("accuracy", 0.25)
        self.log("reward", float(batch_idx), prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        loss, trained = self.loss(batch)
        self.validated.append((float(loss), trained))
        self.log("val_loss", loss)
        self.log("val_accuracy", 0.75)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self.norms.append(float(norm))
        self.log("grad_norm", norm)
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Pairs(pl.LightningModule):
    """A regression on (x, y), as a tuple, a list or a bare tensor, where nobody counts tokens."""

    def __init__(self, answer: Callable[[torch.Tensor], Any] = lambda loss: loss) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)
        self.answer = answer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.answer(
            self.linear(batch[0] if isinstance(batch, (list, tuple)) else batch).square().mean()
        )

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(tmp_path: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    options = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 2,
        **options,
    }
    return pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=list(callbacks), **options)


def ready(batches: list[Any]) -> DataLoader[Any]:
    """A loader of batches that are made; a bare list would be a list of loaders to Lightning."""
    return DataLoader(cast(Any, batches), batch_size=None, collate_fn=lambda batch: batch)


def mean(weighted: list[tuple[float, int]]) -> float:
    return math.fsum(loss * tokens for loss, tokens in weighted) / sum(tokens for _, tokens in weighted)


def test_steps_micro_batches_tokens_and_losses_of_an_accumulating_fit_are_exact(
    tmp_path: Path, recordings: Path
) -> None:
    model, data = Model(), Conversations(13)  # 7 batches, the last of one: windows of 3, 3 and 1, twice
    callback = TelemetryCallback(run="a-run", loss_kind="cross_entropy", dataset="chat")
    trainer(tmp_path, callback, max_epochs=2, accumulate_grad_batches=3).fit(model, data.loader())
    seen = only(recordings)
    assert (seen.live.batches, seen.live.samples) == (14, 26)
    assert (seen.live.steps, seen.live.step, seen.live.steps_expected) == (6, 6, 6)
    assert (seen.live.epoch, seen.live.epochs_expected) == (2.0, 2.0)
    assert seen.live.tokens_all == 2 * sum(int(data[index]["attention_mask"].sum()) for index in range(13))
    assert seen.live.tokens_trained == seen.live.loss_tokens == sum(tokens for _, tokens in model.losses)
    assert seen.live.loss_token_sum / seen.live.loss_tokens == pytest.approx(mean(model.losses), rel=1e-6)
    windows = [
        model.losses[start:end] for start, end in [(0, 3), (3, 6), (6, 7), (7, 10), (10, 13), (13, 14)]
    ]
    assert [record.loss for record in seen.steps] == pytest.approx([mean(w) for w in windows], rel=1e-6)
    assert [record.batches for record in seen.steps] == [3, 6, 7, 10, 13, 14]
    assert seen.live.outcome == FINISHED
    assert seen.of("finish")[0]["reason"] == "completed"
    assert seen.live.hook_errors == seen.live.hook_dropped == 0
    assert seen.static.run == "a-run"
    assert seen.static.info["framework"] == f"lightning {pl.__version__}"  # type: ignore[attr-defined]
    assert (seen.static.info["model"], seen.static.info["dataset"]) == ("Model", "chat")
    assert seen.static.info["loss_kind"] == "cross_entropy"


def test_the_learning_rate_is_the_one_a_step_was_made_with(tmp_path: Path, recordings: Path) -> None:
    model = Model()
    trainer(tmp_path, TelemetryCallback()).fit(model, Conversations(10).loader())
    rates = [record.learning_rate for record in only(recordings).steps]
    assert rates == model.rates
    assert rates == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025, 0.02])


def test_what_the_module_logs_is_recorded(tmp_path: Path, recordings: Path) -> None:
    model = Model()
    trainer(tmp_path, TelemetryCallback()).fit(model, Conversations(10).loader())
    seen = only(recordings)
    assert [record.gradient_norm for record in seen.steps] == pytest.approx(model.norms)
    assert seen.live.accuracy == 0.25
    assert [event["name"] for event in seen.of("scalar")] == ["reward"]
    assert seen.live.scalars[0] == 3.0  # of step 4, the last at which Lightning logs


CONVERSION = "lightning.pytorch.trainer.connectors.logger_connector.result.convert_tensors_to_scalars"


@pytest.mark.parametrize("log_every_n_steps", [0, 100])
def test_a_step_does_not_ask_lightning_for_all_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recordings: Path, log_every_n_steps: int
) -> None:
    """Lightning makes numbers of what the progress bar shows on the way, and that waits for a device."""
    conversions: list[Any] = []
    monkeypatch.setattr(CONVERSION, conversions.append)
    options = {"log_every_n_steps": log_every_n_steps}
    trainer(tmp_path, **options).fit(Model(), Conversations(20).loader())
    without = len(conversions)
    trainer(tmp_path, TelemetryCallback(), **options).fit(Model(), Conversations(20).loader())
    assert len(conversions) == 2 * without
    assert only(recordings).live.accuracy == 0.25
    assert not only(recordings).of("scalar")


@pytest.mark.parametrize("stepping", [(0,), (0, 1)], ids=["every other batch", "every batch"])
def test_all_metrics_are_read_when_lightning_logs_whatever_the_optimizers_do(
    tmp_path: Path, recordings: Path, stepping: tuple[int, ...]
) -> None:
    """Lightning counts batches, `trainer.global_step` the steps of both optimizers."""

    class Two(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.log("reward", float(batch_idx))
            if batch_idx % 2 in stepping:
                for optimizer in cast(Any, self.optimizers()):
                    optimizer.zero_grad()
                    self.manual_backward(self.linear(batch).square().mean())
                    optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]

    trainer(tmp_path, TelemetryCallback()).fit(Two(), ready([torch.ones(4, 3)] * 5))
    live = only(recordings).live
    assert live.scalars[0] == 3.0  # of batch 4, the last at which Lightning logs
    assert (live.steps, live.step) == ((3, 6) if stepping == (0,) else (5, 10))
    assert (live.batches, live.hook_errors) == (5, 0)


@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_an_accuracy_logged_in_validation_is_not_the_training_accuracy(
    tmp_path: Path, recordings: Path, name: str
) -> None:
    class Validating(Pairs):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log(name, 0.75)

    batches = ready([torch.ones(4, 3)] * 4)
    trainer(tmp_path, TelemetryCallback(), max_epochs=2).fit(Validating(), batches, batches)
    seen = only(recordings)
    assert seen.live.accuracy is None
    assert not seen.of("scalar")


def test_a_training_accuracy_logged_once_an_epoch_is_recorded(tmp_path: Path, recordings: Path) -> None:
    class Summing(Pairs):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train_acc", float(batch_idx), on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    trainer(tmp_path, TelemetryCallback(), max_epochs=2).fit(Summing(), ready([torch.ones(4, 3)] * 4))
    assert only(recordings).live.accuracy == 1.5


def test_a_gradient_norm_belongs_to_the_step_that_logged_it(tmp_path: Path, recordings: Path) -> None:
    class Sometimes(Pairs):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if self.global_step % 3 == 0:
                self.log("grad_norm", torch.tensor(1.0 + self.global_step))

    trainer(tmp_path, TelemetryCallback(), max_epochs=2).fit(Sometimes(), ready([torch.ones(4, 3)] * 4))
    norms = [record.gradient_norm for record in only(recordings).steps]
    none = math.nan
    assert norms == pytest.approx([1.0, none, none, 4.0, none, none, 7.0, none], nan_ok=True)


@pytest.mark.parametrize("fails", ["LoggedAtSteps.new", "makes_numbers"])
def test_metrics_that_cannot_be_read_cost_no_step(
    tmp_path: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    class Breaking(pl.Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            monkeypatch.setattr(f"trainer_hooks.lightning_fit.{fails}", raises)

    def raises(*arguments: Any) -> Any:
        raise AttributeError("'_ResultMetric' object has no attribute '_forward_cache'")

    model = Model()
    fitting = trainer(tmp_path, TelemetryCallback(), Breaking(), accumulate_grad_batches=2)
    fitting.fit(model, Conversations(10).loader())
    seen = only(recordings)
    assert [record.step for record in seen.steps] == [1, 2, 3]
    assert [record.batches for record in seen.steps] == [2, 4, 5]
    assert seen.live.loss_token_sum / seen.live.loss_tokens == pytest.approx(mean(model.losses), rel=1e-6)
    assert (seen.live.epoch, seen.live.accuracy) == (1.0, None)
    assert (seen.live.hook_errors, seen.live.outcome) == (3, FINISHED)


def test_the_validation_loss_is_weighted_by_tokens(tmp_path: Path, recordings: Path) -> None:
    model, data = Model(), Conversations(9, seed=1)
    trainer(tmp_path, TelemetryCallback()).fit(model, Conversations(6).loader(), data.loader(batch_size=4))
    seen = only(recordings)
    assert len({tokens for _, tokens in model.validated}) == 3
    assert seen.live.validation_loss == pytest.approx(mean(model.validated), rel=1e-6)
    assert seen.live.validation_loss_tokens == sum(tokens for _, tokens in model.validated)
    assert seen.live.validation_accuracy == 0.75
    assert len(seen.of("evaluation")) == 1
    assert seen.live.phase_ns[6] > 0


def test_every_evaluation_within_an_epoch_counts_its_own_batches(tmp_path: Path, recordings: Path) -> None:
    model = Model()
    options = {"val_check_interval": 2, "max_epochs": 2}
    trainer(tmp_path, TelemetryCallback(), **options).fit(
        model, Conversations(8).loader(), Conversations(6, seed=1).loader()
    )
    losses = [event["loss"] for event in only(recordings).of("evaluation")]
    assert len(losses) == 4
    assert losses == pytest.approx([mean(model.validated[at : at + 3]) for at in range(0, 12, 3)], rel=1e-6)
    assert only(recordings).live.validation_loss_best == pytest.approx(min(cast(list[float], losses)))


def test_a_logged_validation_loss_serves_where_none_is_returned(tmp_path: Path, recordings: Path) -> None:
    class Silent(Model):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", 1.5)

    trainer(tmp_path, TelemetryCallback()).fit(Silent(), Conversations(6).loader(), Conversations(4).loader())
    assert only(recordings).live.validation_loss == 1.5
    assert only(recordings).live.validation_loss_tokens == 0  # so there is no perplexity


def test_the_sanity_check_is_no_evaluation(tmp_path: Path, recordings: Path) -> None:
    model = Model()
    trainer(tmp_path, TelemetryCallback(), num_sanity_val_steps=2, limit_val_batches=2, max_epochs=1).fit(
        model, Conversations(4).loader(), Conversations(4, seed=1).loader(batch_size=1)
    )
    seen = only(recordings)
    assert len(model.validated) == 4
    assert len(seen.of("evaluation")) == 1
    assert seen.live.validation_loss == pytest.approx(mean(model.validated[2:]), rel=1e-6)


def test_phases_have_borders_where_lightning_shows_them(tmp_path: Path, recordings: Path) -> None:
    class Slow(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            torch.randn(300, 300).matmul(torch.randn(300, 300))
            return super().training_step(batch, batch_idx)

    trainer(tmp_path, TelemetryCallback()).fit(Slow(), Conversations(8).loader(), Conversations(4).loader())
    seen = only(recordings)
    now = seen.live.end_ns
    seconds = seen.live.phase_seconds(seen.static.start_monotonic_ns, now)
    assert {name for name, value in seconds.items() if value} == {
        "init",
        "data",
        "forward",
        "backward",
        "optimizer",
        "evaluation",
        "other",
    }
    assert sum(seconds.values()) == pytest.approx((now - seen.static.start_monotonic_ns) / 1e9)


def test_a_manual_optimization_records_compute_and_its_steps(tmp_path: Path, recordings: Path) -> None:
    class Manual(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.linear(batch).square().mean()
            optimizer = cast(Any, self.optimizers())
            self.manual_backward(loss / 2)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()
            return {"loss": loss}

    trainer(tmp_path, TelemetryCallback()).fit(
        Manual(), DataLoader(cast(Any, torch.ones(8, 3)), batch_size=2)
    )
    seen = only(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (2, 4, 8)
    assert seen.live.loss is not None
    assert seen.live.learning_rates[0] == 0.01
    assert seen.live.phase_ns[2:4] == (0, 0)  # no border between forward and backward
    assert seen.live.phase_ns[4] > 0
    assert seen.live.hook_errors == 0


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([torch.ones(4, 3)] * 3, id="tensor"),
        pytest.param([(torch.ones(4, 3), torch.ones(4))] * 3, id="tuple"),
        pytest.param([[torch.ones(4, 3), ["a text"] * 4]] * 3, id="list"),
    ],
)
def test_batches_without_tokens_are_counted_in_samples(
    tmp_path: Path, recordings: Path, batches: list[Any]
) -> None:
    trainer(tmp_path, TelemetryCallback()).fit(Pairs(), ready(batches))
    live = only(recordings).live
    assert (live.steps, live.batches, live.samples) == (3, 3, 12)
    assert (live.tokens_all, live.tokens_trained, live.loss_tokens) == (0, 0, 0)
    assert live.loss is not None
    assert (live.hook_errors, live.hook_dropped) == (0, 0)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("kind", [torch.tensor, list])
def test_classes_are_no_tokens_and_their_loss_is_kept(
    tmp_path: Path, recordings: Path, rows: int, kind: Callable[[Any], Any]
) -> None:
    class Classifier(Pairs):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return functional.cross_entropy(
                self.linear(batch["x"]).expand(-1, 2), torch.as_tensor(batch["labels"])
            )

    batch = {"x": torch.ones(rows, 3), "labels": kind([1] * rows)}
    trainer(tmp_path, TelemetryCallback()).fit(Classifier(), ready([batch] * 3))
    live = only(recordings).live
    assert (live.steps, live.samples, live.tokens_all, live.tokens_trained) == (3, 3 * rows, 0, 0)
    assert live.loss == pytest.approx(math.log(2))
    assert live.hook_errors == 0


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        ("BertForTokenClassification", 8),
        ("BertForMaskedLM", 8),
        ("BertForSequenceClassification", 7),
        ("LlamaForCausalLM", 7),
    ],
)
def test_labels_are_shifted_but_for_models_that_do_not(
    tmp_path: Path, recordings: Path, kind: str, trained: int
) -> None:
    configuration = getattr(transformers, f"{kind[: kind.index('For')]}Config")(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )

    class Wrapping(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.Sequential(getattr(transformers, kind)(configuration))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.linear.weight.mean()

    ids = torch.arange(1, 9)[None]
    batch = {"input_ids": ids, "labels": ids}
    trainer(tmp_path, TelemetryCallback()).fit(Wrapping(), ready([batch]))
    live = only(recordings).live
    assert (live.tokens_all, live.tokens_trained, live.hook_errors) == (8, trained, 0)


@pytest.mark.parametrize("answer", [lambda loss: None, lambda loss: {"loss": loss, "text": SECRET}])
def test_modules_may_return_nothing_or_more_than_a_loss(
    tmp_path: Path, recordings: Path, answer: Callable[[torch.Tensor], Any]
) -> None:
    trainer(tmp_path, TelemetryCallback()).fit(Pairs(answer), ready([torch.ones(4, 3)] * 3))
    live = only(recordings).live
    assert (live.batches, live.samples, live.hook_errors) == (3, 12, 0)
    assert (live.loss is None) == (answer(torch.ones(())) is None)
    assert SECRET.encode() not in every_byte(recordings)


def test_tokens_may_be_counted_by_the_user(tmp_path: Path, recordings: Path) -> None:
    def count(batch: Any) -> tuple[Any, Any]:
        return batch.numel(), torch.tensor(batch.shape[0])

    callback = TelemetryCallback(count_tokens=count)
    trainer(tmp_path, callback).fit(Pairs(), ready([torch.ones(4, 3)] * 3))
    live = only(recordings).live
    assert (live.tokens_all, live.tokens_trained, live.loss_tokens) == (36, 12, 12)


class Unreadable(dict[str, Any]):
    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError(SECRET)


def test_a_batch_the_hook_cannot_read_costs_no_step(
    tmp_path: Path, recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Taking(Pairs):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            return batch

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.linear(batch["x"]).square().mean()

    batches = [Unreadable(x=torch.ones(4, 3), input_ids=torch.ones(4, 3))] * 5
    with caplog.at_level(logging.WARNING, logger="trainvitals"):
        trainer(tmp_path, TelemetryCallback(), accumulate_grad_batches=2).fit(Taking(), ready(batches))
    seen = only(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.hook_errors) == (3, 5, 5)
    assert seen.live.outcome == FINISHED
    assert len([record for record in caplog.records if record.name == "trainvitals"]) == 1
    assert SECRET.encode() not in every_byte(recordings)


def test_validate_test_and_predict_open_nothing(tmp_path: Path, recordings: Path) -> None:
    class Complete(Model):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch)[0]

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch)[0]

    model, loader = Complete(), Conversations(4).loader()
    fitting = trainer(tmp_path, TelemetryCallback())
    fitting.validate(model, loader, verbose=False)
    fitting.test(model, loader, verbose=False)
    fitting.predict(model, loader)
    assert not list(find(recordings))
    fitting.fit(model, loader)
    before = every_byte(recordings)
    fitting.validate(model, loader, verbose=False)
    assert every_byte(recordings) == before


def test_a_second_fit_is_the_next_attempt(tmp_path: Path, recordings: Path) -> None:
    model, loader = Model(), Conversations(6).loader()
    fitting = trainer(tmp_path, TelemetryCallback(run="a-run"))
    fitting.fit(model, loader)
    fitting.fit_loop.max_epochs = 2
    fitting.fit(model, loader)
    first, second = recorded(recordings)
    assert [path.name for path in find(recordings)] == ["rank-0.1.steps", "rank-0.2.steps"]
    assert (first.live.steps, first.live.step) == (3, 3)
    assert (second.live.steps, second.live.step, second.live.resumed_from_step) == (3, 6, 3)
    assert [first.live.outcome, second.live.outcome] == [FINISHED, FINISHED]


def test_a_resumed_fit_continues_the_step_number(tmp_path: Path, recordings: Path) -> None:
    model, loader = Model(), Conversations(8).loader()
    fitting = trainer(tmp_path, TelemetryCallback(run="a-run"), max_steps=2, max_epochs=-1)
    fitting.fit(model, loader)
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    again = trainer(tmp_path, TelemetryCallback(run="a-run"), max_steps=7, max_epochs=-1)
    again.fit(Model(), loader, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    first, second = recorded(recordings)
    assert (first.live.step, first.live.checkpoints_ok) == (2, 0)  # it was saved after the fit
    assert (second.live.resumed_from_step, second.live.step, second.live.steps) == (2, 7, 5)
    assert (second.live.steps_expected, second.live.epochs_expected) == (7, 1.75)
    assert [record.step for record in second.steps] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_is_a_reason_to_finish(tmp_path: Path, recordings: Path, patience: int) -> None:
    """With patience 1 it stops in epoch 0, which Lightning's own `stopped_epoch` cannot tell from never."""
    stopping = EarlyStopping("val_accuracy", patience=patience, check_on_train_epoch_end=False)
    options = {"max_epochs": 9, "val_check_interval": 1}
    trainer(tmp_path, TelemetryCallback(), stopping, **options).fit(
        Model(), Conversations(4).loader(), Conversations(4).loader()
    )
    seen = only(recordings)
    assert seen.live.steps == patience + 1
    assert seen.of("finish")[0]["reason"] == "early_stopping"
    assert seen.live.outcome == FINISHED


def test_an_early_stopping_that_did_not_stop_is_no_reason(tmp_path: Path, recordings: Path) -> None:
    stopping = EarlyStopping("val_accuracy", patience=50)
    trainer(tmp_path, TelemetryCallback(), stopping).fit(
        Model(), Conversations(4).loader(), Conversations(4).loader()
    )
    assert only(recordings).of("finish")[0]["reason"] == "completed"


def test_the_time_limit_is_a_reason_to_finish(tmp_path: Path, recordings: Path) -> None:
    options = {"max_time": {"seconds": 0.2}, "max_epochs": -1}
    trainer(tmp_path, TelemetryCallback(), **options).fit(Model(), Conversations(4).loader())
    assert only(recordings).of("finish")[0]["reason"] == "time_limit"


def test_an_exception_goes_on_unchanged_and_leaves_type_and_place(tmp_path: Path, recordings: Path) -> None:
    error = RuntimeError(SECRET)

    def fails(loss: torch.Tensor) -> Any:
        raise error

    fitting = trainer(tmp_path, TelemetryCallback())
    with pytest.raises(RuntimeError) as raised:
        fitting.fit(Pairs(fails), ready([torch.ones(4, 3)]))
    assert raised.value is error
    assert "save_checkpoint" not in fitting.__dict__
    seen = only(recordings)
    assert (seen.live.outcome, seen.live.phase) == (FAILED, "forward")
    assert seen.of("exception")[0]["type"] == "RuntimeError"
    assert str(seen.of("exception")[0]["place"]).endswith(" in fails")
    assert SECRET.encode() not in every_byte(recordings)


@pytest.mark.parametrize(
    ("code", "outcome", "told"),
    [
        (0, FINISHED, {"event": "finish", "reason": "exit"}),
        (3, FAILED, {"event": "fail", "type": "exit code 3"}),
    ],
)
def test_a_script_that_leaves_within_a_fit_has_ended_as_its_exit_code_says(
    tmp_path: Path, recordings: Path, code: int, outcome: int, told: dict[str, str]
) -> None:
    with pytest.raises(SystemExit):
        trainer(tmp_path, TelemetryCallback()).fit(
            Pairs(lambda loss: sys.exit(code)), ready([torch.ones(4, 3)])
        )
    seen = only(recordings)
    assert seen.live.outcome == outcome
    assert told.items() <= seen.events[-1].items()


def test_an_interruption_is_an_end_by_hand(tmp_path: Path, recordings: Path) -> None:
    def interrupts(loss: torch.Tensor) -> Any:
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            trainer(tmp_path, TelemetryCallback()).fit(Pairs(interrupts), ready([torch.ones(4, 3)]))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    seen = only(recordings)
    assert seen.live.outcome == FINISHED
    assert seen.of("finish")[0]["reason"] == "interrupted"
    assert not seen.of("exception")


def test_checkpoints_are_counted_with_their_size(tmp_path: Path, recordings: Path) -> None:
    saving = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=2, save_top_k=-1)
    options = {"enable_checkpointing": True, "max_epochs": 2}
    fitting = trainer(tmp_path, TelemetryCallback(), saving, **options)
    fitting.fit(Model(), Conversations(8).loader())
    files = list((tmp_path / "saved").iterdir())
    seen = only(recordings)
    assert seen.live.checkpoints_ok == len(files) == 4
    assert seen.live.checkpoint_bytes in {file.stat().st_size for file in files}
    assert seen.live.checkpoint_bytes > 0
    assert seen.live.checkpoint_seconds is not None
    assert seen.live.phase_ns[7] > 0
    assert "save_checkpoint" not in fitting.__dict__


def test_a_trainer_gets_its_own_save_checkpoint_back(tmp_path: Path, recordings: Path) -> None:
    saved: list[Any] = []

    def mine(filepath: Any, *arguments: Any, **keywords: Any) -> None:
        saved.append(filepath)

    saving = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=2, save_top_k=-1)
    fitting = trainer(tmp_path, TelemetryCallback(), saving, enable_checkpointing=True)
    fitting.save_checkpoint = mine  # type: ignore[method-assign]
    fitting.fit(Model(), Conversations(8).loader())
    assert only(recordings).live.checkpoints_ok == len(saved) == 2
    assert fitting.save_checkpoint is mine


def test_a_save_checkpoint_put_around_ours_stays(tmp_path: Path, recordings: Path) -> None:
    class Wrapping(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.ours = trainer.save_checkpoint
            trainer.save_checkpoint = self.around  # type: ignore[method-assign]

        def around(self, *arguments: Any, **keywords: Any) -> None:
            self.ours(*arguments, **keywords)

    wrapping = Wrapping()
    fitting = trainer(tmp_path, TelemetryCallback(), wrapping)
    fitting.fit(Model(), Conversations(4).loader())
    assert fitting.save_checkpoint == wrapping.around
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").exists()
    assert only(recordings).live.checkpoints_ok == 0


def test_a_checkpoint_that_fails_is_counted_and_fails_the_fit(tmp_path: Path, recordings: Path) -> None:
    class Full(pl.Callback):
        def on_save_checkpoint(self, *arguments: Any) -> None:
            raise OSError(28, "No space left on device")

    saving = ModelCheckpoint(dirpath=tmp_path / "saved", every_n_train_steps=2)
    options = {"enable_checkpointing": True}
    with pytest.raises(OSError, match="No space left"):
        trainer(tmp_path, TelemetryCallback(), saving, Full(), **options).fit(
            Model(), Conversations(8).loader()
        )
    seen = only(recordings)
    assert (seen.live.checkpoints_failed, seen.live.checkpoints_ok) == (1, 0)
    assert seen.live.outcome == FAILED


def test_workers_of_a_loader_do_not_record(tmp_path: Path, recordings: Path) -> None:
    trainer(tmp_path, TelemetryCallback(), max_epochs=2).fit(Model(), Conversations(8).loader(num_workers=2))
    seen = only(recordings)
    assert (seen.live.steps, seen.live.outcome, seen.static.pid) == (8, FINISHED, os.getpid())
    assert [event["event"] for event in seen.events if event["event"] != "scalar"] == ["start", "finish"]


def test_a_directory_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))
    model = Model()
    with caplog.at_level(logging.WARNING, logger="trainvitals"):
        fitting = trainer(tmp_path, TelemetryCallback())
        fitting.fit(model, Conversations(8).loader(), Conversations(4).loader())
    assert fitting.global_step == 4
    assert [record.levelname for record in caplog.records if record.name == "trainvitals"] == ["WARNING"]
    assert "TRAINVITALS_DIR" in caplog.text


@pytest.mark.parametrize("property_of_trainer", ["precision", "global_rank"])
def test_a_trainer_that_cannot_be_described_is_fit_without_a_recording(
    tmp_path: Path,
    recordings: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    property_of_trainer: str,
) -> None:
    class Describing(TelemetryCallback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(pl.Trainer, property_of_trainer, property(raises))
                super().setup(trainer, pl_module, stage)

    def raises(trainer: pl.Trainer) -> Any:
        raise NotImplementedError(SECRET)

    callback = Describing()
    fitting = trainer(tmp_path, callback)
    with caplog.at_level(logging.WARNING, logger="trainvitals"):
        fitting.fit(Model(), Conversations(8).loader(), Conversations(4).loader())
    assert (fitting.global_step, callback.monitor) == (4, None)
    assert [record.getMessage() for record in caplog.records if record.name == "trainvitals"] == [
        "telemetry is off for this fit: NotImplementedError"
    ]
    assert not list(find(recordings))


def test_the_hook_changes_nothing_a_training_computes(tmp_path: Path) -> None:
    losses = []
    for callbacks in ([], [TelemetryCallback()]):
        torch.manual_seed(0)
        model = Model()
        trainer(tmp_path, *callbacks, accumulate_grad_batches=2).fit(
            model, Conversations(9).loader(shuffle=True), Conversations(4).loader()
        )
        losses.append(model.losses)
    assert losses[0] == losses[1]


@pytest.mark.long
def test_a_killed_fit_has_no_outcome(tmp_path: Path, recordings: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, torch, lightning.pytorch as pl
        from trainer_hooks.lightning import TelemetryCallback
        class Dies(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(3, 1)
            def training_step(self, batch, batch_idx):
                if batch_idx == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.linear(batch).mean()
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[TelemetryCallback()],
        )
        trainer.fit(Dies(), torch.utils.data.DataLoader([torch.ones(4, 3)] * 5, batch_size=None))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    seen = only(recordings)
    assert (seen.live.outcome, seen.live.steps, seen.live.phase, seen.alive) == (0, 2, "forward", False)
