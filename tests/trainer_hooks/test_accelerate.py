from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import (
    AcceleratorState,
    GradientState,
    PartialState,
)
from accelerate.utils import ProjectConfiguration
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from tests.trainer_hooks.processes import environment
from tests.trainer_hooks.recorded import clean, every_byte, recorded
from trainer_hooks.accelerate import TelemetryTracker
from trainer_hooks.recording import FINISHED, find

IGNORED = -100
VOCABULARY = 13
SECRET = "the client said that she"


@pytest.fixture(autouse=True)
def _anew(recordings: Path) -> Iterator[None]:
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def conversations(count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows of one length and uneven masks; the first tokens of each are not trained."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        ids = torch.randint(1, VOCABULARY, (8,), generator=generator)
        mask = (torch.arange(8) < 4 + index * 3 % 5).long()
        labels = torch.where((mask == 1) & (torch.arange(8) >= 1 + index % 2), ids, IGNORED)
        rows.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return rows


def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    config.attn_pdrop = config.resid_pdrop = config.embd_pdrop = 0.0
    return GPT2LMHeadModel(config)


class Trained:
    """A training with accumulation, and what a reference computes of it by hand."""

    def __init__(self, accelerator: Accelerator, rows: int = 9, clip: bool = True) -> None:
        self.losses: list[float] = []
        self.weights: list[int] = []
        self.norms: list[float] = []
        self.steps = 0
        self.tokens = 0
        language_model = model()
        optimizer: Any = torch.optim.AdamW(language_model.parameters(), lr=0.01)
        loader: Any = DataLoader(conversations(rows), batch_size=2)  # type: ignore[arg-type]
        self.model, self.optimizer, loader = accelerator.prepare(language_model, optimizer, loader)
        for batch in loader:
            with accelerator.accumulate(self.model):
                loss = self.model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    self.steps += 1
                    if clip:
                        norm = accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                        self.norms.append(float(norm))
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.losses.append(float(loss.detach()))
            self.weights.append(int((batch["labels"][:, 1:] != IGNORED).sum()))
            self.tokens += int(batch["attention_mask"].sum())
        self.parameters = [each.detach().clone() for each in language_model.parameters()]

    @property
    def loss_token_sum(self) -> float:
        return sum(loss * weight for loss, weight in zip(self.losses, self.weights, strict=True))


def accelerator(**options: Any) -> Accelerator:
    return Accelerator(cpu=True, gradient_accumulation_steps=2, **options)


def test_steps_batches_tokens_and_losses_are_exact_over_accumulation(recordings: Path) -> None:
    accelerating = accelerator(log_with="trainvitals")
    accelerating.init_trackers("my project")
    trained = Trained(accelerating)
    accelerating.end_training()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (3, 5, 9) == (trained.steps, 5, 9)
    assert seen.live.tokens_all == trained.tokens
    assert seen.live.tokens_trained == seen.live.loss_tokens == sum(trained.weights)
    assert seen.live.loss_token_sum == pytest.approx(trained.loss_token_sum, rel=1e-6)
    assert [record.gradient_norm for record in seen.steps] == pytest.approx(trained.norms)
    assert seen.live.learning_rates[0] == 0.01
    assert seen.told("loss_kind") == ["cross_entropy"]
    assert seen.static.info["framework"].startswith("accelerate ")
    assert seen.static.run.startswith("my_project")
    assert seen.live.outcome == FINISHED
    assert all(seen.live.phase_ns[code] > 0 for code in (0, 1, 2, 3, 5, 8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("first", [False, True], ids=["prepared later", "prepared first"])
def test_where_nothing_is_mixed_the_precision_is_that_of_the_model(
    recordings: Path, dtype: str, first: bool
) -> None:
    accelerating = accelerator(log_with="trainvitals")
    network = torch.nn.Linear(3, 1, dtype=getattr(torch, dtype))
    prepared = accelerating.prepare(network) if first else None
    accelerating.init_trackers("a-project")
    if prepared is None:
        accelerating.prepare(network)
        accelerating.prepare(torch.optim.SGD(network.parameters()))
    accelerating.end_training()
    assert clean(recordings).told("precision") == [dtype]


def test_a_mixed_precision_is_that_of_the_training(recordings: Path) -> None:
    accelerating = accelerator(log_with="trainvitals", mixed_precision="bf16")
    accelerating.init_trackers("a-project")
    accelerating.prepare(torch.nn.Linear(3, 1))
    accelerating.end_training()
    assert clean(recordings).static.info["precision"] == "bf16"


def test_a_loss_without_tokens_is_that_given_to_backward_before_its_division(recordings: Path) -> None:
    accelerating = accelerator(log_with=TelemetryTracker(name="an-instance"))
    accelerating.init_trackers("a-project")
    linear = torch.nn.Linear(3, 1)
    network, optimizer = accelerating.prepare(linear, torch.optim.SGD(linear.parameters(), lr=0.1))
    losses = []
    for index in range(4):
        with accelerating.accumulate(network):
            loss = network(torch.full((2, 3), float(index))).square().mean()
            accelerating.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    accelerating.end_training()
    seen = clean(recordings)
    expected = [sum(losses[:2]) / 2, sum(losses[2:]) / 2]
    assert [record.loss for record in seen.steps] == pytest.approx(expected)
    assert seen.static.run.startswith("an-instance")


def test_what_was_prepared_before_is_followed_too(recordings: Path) -> None:
    accelerating = accelerator(log_with="trainvitals")
    linear = torch.nn.Linear(3, 1)
    network = accelerating.prepare_model(linear)
    optimizer = accelerating.prepare_optimizer(torch.optim.SGD(linear.parameters(), lr=0.1))
    accelerating.init_trackers("a-project", init_kwargs={"trainvitals": {"run": "a-run", "dataset": "toys"}})
    accelerating.backward(network(torch.ones(2, 3)).mean())
    optimizer.step()
    accelerating.end_training()
    seen = clean(recordings)
    assert (seen.static.run, seen.static.info["dataset"]) == ("a-run", "toys")
    assert (seen.live.steps, seen.live.samples) == (1, 2)


def test_a_step_the_loss_scaler_left_out_is_skipped(recordings: Path) -> None:
    accelerating = Accelerator(cpu=True, log_with="trainvitals")
    accelerating.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    accelerating.init_trackers("a-project")
    linear = torch.nn.Linear(3, 1)
    network, optimizer = accelerating.prepare(linear, torch.optim.SGD(linear.parameters(), lr=0.1))
    skipped, losses = 0, []
    for index in range(4):
        loss = network(torch.ones(2, 3)).square().mean()
        losses.append(float(loss.detach()))
        accelerating.backward(loss)
        if index == 1:
            assert linear.weight.grad is not None
            linear.weight.grad[0, 0] = math.inf
        optimizer.step()
        skipped += optimizer.step_was_skipped
        optimizer.zero_grad()
    accelerating.end_training()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.steps_skipped, seen.live.batches) == (3, skipped, 4) == (3, 1, 4)
    assert seen.live.loss_scale == 32.0
    assert seen.steps[0].loss == losses[0]


def test_saved_states_are_checkpoints(recordings: Path, tmp_path: Path) -> None:
    configuration = ProjectConfiguration(project_dir=str(tmp_path), automatic_checkpoint_naming=True)
    accelerating = accelerator(log_with="trainvitals", project_config=configuration)
    accelerating.init_trackers("a-project")
    Trained(accelerating)
    accelerating.save_state()
    configuration.automatic_checkpoint_naming = False
    accelerating.save_state(str(tmp_path / "mine"))
    accelerating.end_training()
    seen = clean(recordings)
    folders = [tmp_path / "checkpoints" / "checkpoint_0", tmp_path / "mine"]
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
    assert [event["bytes"] for event in seen.of("checkpoint")] == sizes
    assert seen.live.checkpoints_ok == 2


def test_an_evaluation_is_apart(recordings: Path) -> None:
    accelerating = accelerator(log_with="trainvitals")
    accelerating.init_trackers("a-project")
    trained = Trained(accelerating)
    loader = accelerating.prepare(DataLoader(conversations(5, seed=3), batch_size=2))  # type: ignore[arg-type]
    trained.model.eval()
    losses, weights = [], []
    for batch in loader:
        with torch.no_grad():
            losses.append(float(trained.model(**batch).loss))
        weights.append(int((batch["labels"][:, 1:] != IGNORED).sum()))
    accelerating.log({"eval_loss": 1e9, "eval_accuracy": 0.5})
    accelerating.end_training()
    seen = clean(recordings)
    assert seen.live.validation_loss == pytest.approx(
        sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights), rel=1e-6
    )
    assert seen.live.validation_loss_tokens == sum(weights)
    assert seen.live.validation_accuracy == 0.5
    assert seen.live.loss_tokens == sum(trained.weights)


def test_what_a_script_logs_is_kept_unless_it_is_measured(recordings: Path) -> None:
    accelerating = accelerator(log_with="trainvitals")
    accelerating.init_trackers("a-project", config={"prompt": SECRET})
    Trained(accelerating)
    logged = {"train_loss": 1e9, "epoch": 2, "accuracy": 0.75, "reward": torch.tensor(3.0), "text": SECRET}
    accelerating.log(logged, step=7)
    accelerating.log({"eval_loss": 0.5})
    accelerating.end_training()
    seen = clean(recordings)
    assert (seen.live.epoch, seen.live.accuracy, seen.live.validation_loss) == (2.0, 0.75, 0.5)
    assert [event["name"] for event in seen.of("scalar")] == ["reward"]
    assert seen.live.loss_token_sum < 1e9
    assert SECRET.encode() not in every_byte(recordings)


def test_the_tracker_can_be_asked_for(recordings: Path) -> None:
    accelerating = accelerator(log_with=TelemetryTracker())
    accelerating.init_trackers("a-project")
    monitor = accelerating.get_tracker("trainvitals", unwrap=True)
    assert monitor is not None
    assert monitor.run.startswith("a-project")
    accelerating.end_training()
    assert not monitor.recording


def test_an_accelerator_that_does_not_ask_for_it_is_left_alone(recordings: Path) -> None:
    accelerating = accelerator()
    accelerating.init_trackers("a-project")
    Trained(accelerating)
    accelerating.end_training()
    assert not list(find(recordings))
    assert not vars(accelerating).keys() & {"backward", "prepare", "save_state", "end_training"}


def test_after_the_end_the_accelerator_has_its_own_methods_again(recordings: Path) -> None:
    before = set(vars(Accelerator(cpu=True)))
    accelerating = accelerator(log_with="trainvitals")
    accelerating.init_trackers("a-project")
    Trained(accelerating)
    assert "backward" in vars(accelerating)
    accelerating.end_training()
    assert not (set(vars(accelerating)) - before) & {"backward", "prepare", "save_state", "end_training"}
    accelerating.end_training()


def test_the_hook_changes_nothing_a_training_computes(recordings: Path) -> None:
    without = Trained(accelerator())
    accelerating = accelerator(log_with="trainvitals")
    accelerating.init_trackers("a-project")
    with_it = Trained(accelerating)
    accelerating.end_training()
    assert with_it.losses == without.losses
    assert all(
        torch.equal(mine, other) for mine, other in zip(with_it.parameters, without.parameters, strict=True)
    )


def test_a_recording_that_cannot_be_opened_costs_nothing_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINVITALS_DIR", str(tmp_path / "file" / "below"))
    accelerating = accelerator(log_with="trainvitals")
    accelerating.init_trackers("a-project")
    assert Trained(accelerating).steps == 3
    accelerating.log({"loss": 1.0})
    accelerating.end_training()
    assert [record.levelname for record in caplog.records if record.name == "trainvitals"] == ["WARNING"]


TWO_RANKS = """
import json, sys
from pathlib import Path
from accelerate import Accelerator
import trainer_hooks.accelerate
from tests.trainer_hooks.test_accelerate import Trained
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, log_with="trainvitals")
accelerator.init_trackers("two-ranks")
trained = Trained(accelerator, rows=13)
accelerator.log({"reward": 1.0})
said = [trained.steps, trained.losses, trained.weights, trained.tokens, trained.norms]
Path(sys.argv[1], f"{accelerator.process_index}.json").write_text(json.dumps(said))
accelerator.wait_for_everyone()
# The model first: else it ends the group under the GIL, for which a thread of the group may wait.
del trained
accelerator.free_memory()
accelerator.state.destroy_process_group()  # end_training does so on the main process only: the other aborts
accelerator.end_training()
"""


@pytest.mark.long
def test_each_of_two_ranks_records_its_own_share(tmp_path: Path, recordings: Path) -> None:
    """Thirteen rows by two for two ranks: Accelerate gives the last batches rows that were there before."""
    script = tmp_path / "two_ranks.py"
    script.write_text(textwrap.dedent(TWO_RANKS))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *launcher, str(tmp_path)],
        env=environment(TRAINVITALS_DIR=str(recordings), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = recorded(recordings)
    assert [seen.static.rank for seen in ranks] == [0, 1]
    assert {seen.static.world_size for seen in ranks} == {2}
    assert len({seen.static.run for seen in ranks}) == 1
    for seen in ranks:
        steps, losses, weights, tokens, norms = json.loads(
            (tmp_path / f"{seen.static.rank}.json").read_text()
        )
        assert (seen.live.hook_errors, seen.live.hook_dropped) == (0, 0)
        assert (seen.live.steps, seen.live.batches) == (steps, len(losses)) == (2, 4)
        assert seen.live.tokens_all == tokens
        assert seen.live.tokens_trained == seen.live.loss_tokens == sum(weights)
        assert seen.live.loss_token_sum == pytest.approx(
            sum(loss * weight for loss, weight in zip(losses, weights, strict=True)), rel=1e-6
        )
        assert [record.gradient_norm for record in seen.steps] == pytest.approx(norms)
        assert (seen.live.outcome, seen.of("finish")[0]["reason"]) == (FINISHED, "completed")
