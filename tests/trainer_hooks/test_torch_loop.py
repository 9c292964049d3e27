# mypy: allow-untyped-calls
from __future__ import annotations

import copy
import io
import math
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from tests.trainer_hooks.recorded import clean, only, recorded
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FAILED, FINISHED

IGNORED = -100
VOCABULARY = 13


@pytest.fixture(autouse=True)
def _anew(recordings: Path) -> None:
    torch.manual_seed(0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x)
        return result


def pairs(batches: int, rows: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(rows, 3, generator=generator), torch.randn(rows, 1, generator=generator))
        for _ in range(batches)
    ]


def conversations(batches: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows of uneven length; the first tokens of each are not trained."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(batches):
        ids = torch.randint(1, VOCABULARY, (2, 6 + index % 3), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, 4 + index % 2 :] = 0
        labels = torch.where(mask == 1, ids, IGNORED)
        labels[:, : 1 + index % 2] = IGNORED
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=16,
        n_embd=8,
        n_layer=1,
        n_head=1,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    )
    return GPT2LMHeadModel(config)


def trained(batch: dict[str, torch.Tensor]) -> int:
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def test_a_plain_loop_is_counted_without_a_word_in_it(recordings: Path) -> None:
    model, losses, norms = Model(), [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    data = TensorDataset(torch.randn(20, 3), torch.randn(20, 1))
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in DataLoader(data, batch_size=8):
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            losses.append(float(loss.detach()))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (3, 3, 20)
    assert [record.loss for record in seen.steps] == losses
    assert [record.gradient_norm for record in seen.steps] == norms
    assert [record.learning_rate for record in seen.steps] == [0.5, 0.5, 0.25]
    assert seen.live.outcome == FINISHED
    age_ns = seen.live.end_ns - seen.static.start_monotonic_ns
    assert sum(seen.live.phase_ns) == age_ns
    init, data_ns, forward, backward, _, optimizer_ns, *_ = seen.live.phase_ns
    assert min(init, data_ns, forward, backward, optimizer_ns) > 0


@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize("multiplied", [True, False])
def test_the_loss_of_an_accumulated_step_is_its_mean_divided_by_the_script_or_not(
    recordings: Path, divided: bool, multiplied: bool
) -> None:
    """Seven batches by four: the last step has three, of which each is divided by four all the same."""
    model, losses = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = pairs(7)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for index, (x, y) in enumerate(batches):
            loss = functional.mse_loss(model(x), y)
            losses.append(float(loss.detach()))
            if divided:
                loss = loss * 0.25 if multiplied else loss / 4
            loss.backward()
            if index % 4 == 3 or index == 6:
                optimizer.step()
                optimizer.zero_grad()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (2, 7, 28)
    expected = [sum(losses[:4]) / 4, sum(losses[4:]) / 3]
    assert [record.loss for record in seen.steps] == pytest.approx(expected, rel=1e-6)


def test_a_division_by_something_else_is_part_of_the_loss(recordings: Path) -> None:
    model, losses = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(3):
            loss = functional.mse_loss(model(x), y, reduction="sum") / len(x)
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()
    assert [record.loss for record in clean(recordings).steps] == losses


def test_the_loss_of_a_language_model_is_exact_over_accumulation_and_uneven_batches(recordings: Path) -> None:
    model = language_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches, losses = conversations(5), []
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for index, batch in enumerate(batches):
            loss = model(**batch).loss
            losses.append(float(loss.detach()))
            (loss / 2).backward()
            if index % 2 or index == len(batches) - 1:
                optimizer.step()
                optimizer.zero_grad()
    seen = clean(recordings)
    weights = [trained(batch) for batch in batches]
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (3, 5, 10)
    assert seen.live.tokens_all == sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert seen.live.tokens_trained == seen.live.loss_tokens == sum(weights)
    assert seen.live.loss_token_sum == pytest.approx(
        sum(loss * weight for loss, weight in zip(losses, weights, strict=True)), rel=1e-6
    )
    assert seen.told("loss_kind") == ["cross_entropy"]


def test_losses_summed_before_one_backward_pass_are_micro_batches_each(recordings: Path) -> None:
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = conversations(4)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for first, second in (batches[:2], batches[2:]):
            ((model(**first).loss + model(**second).loss) / 2).backward()
            optimizer.step()
    live = clean(recordings).live
    assert (live.steps, live.batches) == (2, 4)
    assert live.loss_tokens == sum(map(trained, batches))


def test_a_batch_the_script_leaves_out_is_none(recordings: Path) -> None:
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = conversations(4)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for index, batch in enumerate(batches):
            loss = model(**batch).loss
            if index == 1:
                continue
            (loss / 1).backward()
            optimizer.step()
    live = clean(recordings).live
    assert (live.steps, live.batches) == (3, 3)
    assert live.loss_tokens == sum(trained(batch) for batch in batches) - trained(batches[1])


def test_what_is_wrapped_tells_the_arguments_of_the_wrapper(recordings: Path) -> None:
    model = nn.DataParallel(language_model())  # without GPUs it only calls the model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (batch,) = conversations(1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        model(batch["input_ids"], labels=batch["labels"]).loss.backward()
        optimizer.step()
    seen = clean(recordings)
    assert (seen.live.samples, seen.live.tokens_all) == (2, batch["input_ids"].numel())
    assert seen.live.tokens_trained == trained(batch)
    assert seen.told("loss_kind") == ["cross_entropy"]


def test_the_labels_of_an_encoder_decoder_are_not_shifted(recordings: Path) -> None:
    config = T5Config(vocab_size=VOCABULARY, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=1)
    config.decoder_start_token_id = 0
    model = T5ForConditionalGeneration(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (batch,) = conversations(1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        model(**batch).loss.backward()
        optimizer.step()
    assert clean(recordings).live.tokens_trained == int((batch["labels"] != IGNORED).sum())


def test_arguments_may_be_given_by_place_or_in_one_dictionary(recordings: Path) -> None:
    class Taking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = language_model()

        def forward(self, batch: dict[str, torch.Tensor]) -> Any:
            return self.model(**batch)

    model, taking = language_model(), Taking()
    first, second = conversations(2)
    with Monitor() as monitor:
        optimizer = torch.optim.SGD([*model.parameters(), *taking.parameters()], lr=0.1)
        monitor.watch(model, taking, optimizer)
        model(first["input_ids"], labels=first["labels"]).loss.backward()
        optimizer.step()
        taking(second).loss.backward()
        optimizer.step()
    live = clean(recordings).live
    assert live.tokens_trained == trained(first) + trained(second)
    assert live.tokens_all == first["input_ids"].numel() + int(second["attention_mask"].sum())


def test_a_model_that_returns_logits_and_loss_of_targets_is_understood(recordings: Path) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, VOCABULARY)

        def forward(self, idx: Any, targets: Any = None) -> Any:
            logits = self.embed(idx)
            loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
            return logits, loss

    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.randint(0, VOCABULARY, (2, 9))
    targets = ids[:, 1:].clone()
    targets[0, :3] = -1
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        _, loss = model(ids[:, :-1], targets)
        (loss / 3).backward()
        optimizer.step()
    live = clean(recordings).live
    assert (live.tokens_all, live.tokens_trained) == (16, 13)
    assert live.loss == pytest.approx(float(loss.detach()))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_criterion_tells_the_trained_tokens_where_the_model_is_given_no_labels(
    recordings: Path, reduction: str
) -> None:
    model, criterion = language_model(), nn.CrossEntropyLoss(reduction=reduction)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    batches = conversations(3)
    with Monitor() as monitor:
        monitor.watch(model, criterion, optimizer)
        for batch in batches:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss = criterion(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
            total += float(loss.detach()) * (trained(batch) if reduction == "mean" else 1)
            loss.backward()
            optimizer.step()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches) == (3, 3)
    assert seen.live.tokens_trained == sum(map(trained, batches))
    assert seen.live.loss_token_sum == pytest.approx(total, rel=1e-6)
    assert seen.told("loss_kind") == ["cross_entropy"]


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.full((VOCABULARY,), 2.0)),
        nn.MultiMarginLoss(),
    ],
)
def test_a_loss_that_is_no_plain_cross_entropy_gets_no_perplexity(
    recordings: Path, criterion: nn.Module
) -> None:
    model = nn.Linear(3, VOCABULARY)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, criterion, optimizer)
        criterion(model(torch.ones(4, 3)), torch.arange(4)).backward()
        optimizer.step()
    assert clean(recordings).told("loss_kind") == []


def test_a_loss_kind_that_was_told_stays(recordings: Path) -> None:
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(loss_kind="dpo") as monitor:
        monitor.watch(model, optimizer)
        model(**conversations(1)[0]).loss.backward()
        optimizer.step()
    assert clean(recordings).told("loss_kind") == ["dpo"]


def test_an_evaluation_is_apart_and_weighted_by_tokens(recordings: Path) -> None:
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches, validation, means = conversations(3), conversations(4, seed=7), []
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for batch in batches:
            model.train()
            model(**batch).loss.backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                losses = [(float(model(**each).loss), trained(each)) for each in validation]
            weight = sum(weight for _, weight in losses)
            means.append(sum(loss * weight for loss, weight in losses) / weight)
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches) == (3, 3)
    assert seen.live.loss_tokens == sum(map(trained, batches))
    assert [event["loss"] for event in seen.of("evaluation")] == pytest.approx(means, rel=1e-6)
    assert {event["tokens"] for event in seen.of("evaluation")} == {sum(map(trained, validation))}
    assert seen.live.phase_ns[6] > 0


def test_an_evaluation_ends_when_the_training_waits_for_its_own_data_again(recordings: Path) -> None:
    model, criterion = Model(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training, validation = TensorDataset(*pairs(1, 8)[0]), TensorDataset(*pairs(1, 5)[0])
    expected, phases = [], []
    with Monitor() as monitor:
        monitor.watch(model, criterion, optimizer)
        for _ in range(2):
            model.train()
            for x, y in DataLoader(training, batch_size=4):
                phases.append(only(recordings).live.phase)
                criterion(model(x), y).backward()
                optimizer.step()
            model.eval()
            for x, y in DataLoader(validation, batch_size=2):
                criterion(model(x), y)
                phases.append(only(recordings).live.phase)
            with torch.no_grad():
                x, y = validation.tensors
                expected.append(float(functional.mse_loss(model.linear(x), y)))
    seen = clean(recordings)
    assert phases == ["other", "other", "evaluation", "evaluation", "evaluation"] * 2
    assert [event["loss"] for event in seen.of("evaluation")] == pytest.approx(expected, rel=1e-6)
    assert (seen.live.batches, seen.live.samples) == (4, 16)


def test_an_evaluation_before_the_training_is_one_from_its_first_loss_on(recordings: Path) -> None:
    model = language_model().eval()
    validation = conversations(4)
    with Monitor() as monitor:
        monitor.watch(model, torch.optim.SGD(model.parameters(), lr=0.1))
        with torch.no_grad():
            for batch in validation:
                model(**batch)
    assert clean(recordings).of("evaluation")[0]["tokens"] == sum(map(trained, validation))


def test_a_model_trained_in_evaluation_mode_is_trained(recordings: Path) -> None:
    model = language_model().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = conversations(4)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
        with torch.no_grad():
            model(**batches[0])
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches) == (4, 4)
    assert seen.live.loss_tokens == sum(map(trained, batches))
    assert len(seen.of("evaluation")) == 1


def test_a_frozen_teacher_is_part_of_the_training(recordings: Path) -> None:
    student, teacher = Model(), Model().eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(student, teacher, optimizer)
        for x, _ in pairs(3):
            with torch.no_grad():
                wanted = teacher(x)
            functional.mse_loss(student(x), wanted).backward()
            optimizer.step()
    seen = clean(recordings)
    assert (seen.live.batches, seen.live.samples, seen.live.phase_ns[6]) == (3, 12, 0)


def test_the_first_optimizer_of_an_adversarial_pair_leads(recordings: Path) -> None:
    maker, judge = nn.Linear(2, 3), Model()
    makes = torch.optim.SGD(maker.parameters(), lr=0.2)
    judges = torch.optim.SGD(judge.parameters(), lr=0.1)
    losses = []
    with Monitor() as monitor:
        monitor.watch(maker, judge, makes, judges)
        for x, _ in pairs(4):
            fake = maker(torch.ones(4, 2))
            real_loss, fake_loss = judge(x).square().mean(), judge(fake.detach()).square().mean()
            real_loss.backward()
            fake_loss.backward()
            losses.append(float((real_loss + fake_loss).detach()))
            judges.step()
            judges.zero_grad()
            (-judge(fake).square().mean()).backward()
            makes.step()
            makes.zero_grad()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches) == (4, 4)
    assert [record.loss for record in seen.steps] == pytest.approx(losses)
    assert seen.live.learning_rates[0] == 0.1


def test_another_optimizer_leads_when_the_leader_is_not_used_any_more(recordings: Path) -> None:
    model = Model()
    first, second = (torch.optim.SGD(model.parameters(), lr=rate) for rate in (0.1, 0.2))
    with Monitor() as monitor:
        monitor.watch(model, first, second)
        for optimizer in [first] * 3 + [second] * 20:
            model(torch.ones(4, 3)).mean().backward()
            optimizer.step()
    live = clean(recordings).live
    assert live.steps == 13
    assert live.learning_rates[0] == 0.2


def test_two_optimizers_of_one_backward_make_one_step(recordings: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in model]
    with Monitor() as monitor:
        monitor.watch(model, *optimizers)
        for x, y in pairs(3):
            functional.mse_loss(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
    live = clean(recordings).live
    assert (live.steps, live.batches) == (3, 3)


class Careful(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_step_that_calls_that_of_its_superclass_is_one(recordings: Path) -> None:
    model = Model()
    torch.optim.SGD(model.parameters(), lr=0.1)  # so that the superclass is hooked as well
    optimizer = Careful(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(3):
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
    live = clean(recordings).live
    assert (live.steps, live.batches) == (3, 3)


def test_a_step_that_raised_does_not_hide_those_after_it(recordings: Path) -> None:
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                raise MemoryError
            return super().step(closure)

    model = Model()
    optimizer = Failing(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(3):
            functional.mse_loss(model(x), y).backward()
            try:
                optimizer.step()
            except MemoryError:
                optimizer.fails = False
    live = clean(recordings).live
    assert (live.steps, live.batches) == (2, 3)


def test_steps_within_the_backward_pass_are_one(recordings: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizers = {each: torch.optim.SGD([each], lr=0.1) for each in model.parameters()}

    def step(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    with Monitor() as monitor:
        monitor.watch(model, *optimizers.values())
        for x, y in pairs(3):
            functional.mse_loss(model(x), y).backward()
    live = clean(recordings).live
    assert (live.steps, live.batches, live.learning_rates[0]) == (3, 3, 0.1)


def test_a_closure_makes_one_step_of_many_passes(recordings: Path) -> None:
    model = Model()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    passes = 0
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(2):

            def closure(x: Any = x, y: Any = y) -> torch.Tensor:
                nonlocal passes
                passes += 1
                optimizer.zero_grad()
                loss = functional.mse_loss(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    live = clean(recordings).live
    assert (live.steps, live.batches) == (2, passes)


def test_a_gradient_of_a_gradient_is_no_micro_batch(recordings: Path) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, _ in pairs(3):
            output = model(x.requires_grad_()).sum()
            (gradient,) = torch.autograd.grad(output, x, create_graph=True)
            (output + gradient.square().sum()).backward()
            optimizer.step()
    live = clean(recordings).live
    assert (live.steps, live.batches) == (3, 3)


def test_gradients_that_come_without_a_backward_pass_tell_a_step_and_no_loss(recordings: Path) -> None:
    model = Model()
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(3):
            gradients = torch.autograd.grad(functional.mse_loss(model(x), y), weights)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
        x, y = pairs(1)[0]
        loss = functional.mse_loss(model(x), y)
        loss.backward(inputs=weights)
        optimizer.step()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (4, 4, 4)
    losses = [record.loss for record in seen.steps]
    assert all(math.isnan(each) for each in losses[:3])
    assert losses[3] == float(loss.detach())


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_is_computed_again_in_a_backward_pass_is_no_call(recordings: Path, reentrant: bool) -> None:
    class Saving(Model):
        def forward(self, x: torch.Tensor) -> Any:
            return checkpoint(self.linear, x, use_reentrant=reentrant)

    model, losses = Saving(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, model.linear, optimizer)
        for x, y in pairs(3):
            loss = functional.mse_loss(model(x.requires_grad_()), y)
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches, seen.live.samples) == (3, 3, 12)
    assert [record.loss for record in seen.steps] == losses


def test_what_a_script_packed_for_the_backward_pass_is_unpacked_by_it_alone(recordings: Path) -> None:
    """As of activations that are offloaded: each is handed back once."""
    packed: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> int:
        packed[len(packed)] = tensor
        return len(packed) - 1

    model, losses = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(3):
            for _ in range(2):
                with torch.autograd.graph.saved_tensors_hooks(pack, packed.pop):
                    loss = functional.mse_loss(model(x), y, reduction="none").sum() / torch.tensor(2.0)
                losses.append(float(loss.detach()))
                loss.backward()
            optimizer.step()
            assert not packed
    means = [(first + second) / 2 for first, second in zip(losses[::2], losses[1::2], strict=True)]
    assert [record.loss for record in clean(recordings).steps] == pytest.approx(means)


def test_a_checkpoint_around_the_loss_is_computed_again_no_more_than_it_must(recordings: Path) -> None:
    model, forwards = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        forwards.append(1)
        return functional.mse_loss(model(x), y, reduction="none").sum() / torch.ones(4).sum()

    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(4):
            checkpoint(forward, x, y, use_reentrant=False).backward()
            optimizer.step()
    assert clean(recordings).live.batches == 4
    assert len(forwards) == 2 * 4


def test_what_is_not_finite_is_counted_and_not_kept(recordings: Path) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for index, (x, y) in enumerate(pairs(3)):
            factor = math.nan if index == 1 else 1.0
            (functional.mse_loss(model(x), y) * factor).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if index == 1:
                optimizer.zero_grad()
            optimizer.step()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.nonfinite_loss, seen.live.nonfinite_gradient) == (3, 1, 1)
    assert [math.isnan(record.loss) for record in seen.steps] == [False, True, False]
    assert [math.isnan(record.gradient_norm) for record in seen.steps] == [False, True, False]


def test_two_passes_over_one_graph_are_one_micro_batch(recordings: Path) -> None:
    model, losses = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for x, y in pairs(3):
            output = model(x)
            first, second = functional.mse_loss(output, y), output.square().mean()
            losses.append(float((first + second).detach()))
            first.backward(retain_graph=True)
            second.backward()
            optimizer.step()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.batches) == (3, 3)
    assert [record.loss for record in seen.steps] == pytest.approx(losses)


def test_steps_left_out_by_the_loss_scaler_are_counted_as_such(recordings: Path) -> None:
    model, losses = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for index, (x, y) in enumerate(pairs(4)):
            loss = functional.mse_loss(model(x), y)
            losses.append(float(loss.detach()))
            scaler.scale(loss).backward()
            if index == 1:
                assert model.linear.weight.grad is not None
                model.linear.weight.grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    seen = clean(recordings)
    assert (seen.live.steps, seen.live.steps_skipped, seen.live.batches) == (3, 1, 4)
    assert seen.live.loss_scale == 512.0
    assert seen.steps[0].loss == losses[0]


def test_a_fused_optimizer_that_did_nothing_was_left_out_too(recordings: Path) -> None:
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for index, (x, y) in enumerate(pairs(4)):
            scaler.scale(functional.mse_loss(model(x), y)).backward()
            if index == 1:
                assert model.linear.weight.grad is not None
                model.linear.weight.grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    live = clean(recordings).live
    assert (live.steps, live.steps_skipped, live.batches) == (3, 1, 4)


def test_a_scaled_loss_that_was_divided_is_multiplied_again(recordings: Path) -> None:
    model, losses = Model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        for index, (x, y) in enumerate(pairs(4)):
            loss = functional.mse_loss(model(x), y)
            losses.append(float(loss.detach()))
            scaler.scale(loss / 2).backward()
            if index % 2:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    expected = [sum(losses[:2]) / 2, sum(losses[2:]) / 2]
    assert [record.loss for record in clean(recordings).steps] == pytest.approx(expected)


def test_an_exception_goes_on_unchanged_and_the_pass_it_ended_counts_not(recordings: Path) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            raise MemoryError

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ((x, y),) = pairs(1)

    def train() -> None:
        with Monitor() as monitor:
            monitor.watch(model, optimizer)
            with pytest.raises(MemoryError):
                Fails.apply(model(x)).mean().backward()
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                model(torch.ones(2, 2))
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    live = clean(recordings).live
    assert (live.steps, live.batches, live.outcome) == (1, 1, FAILED)


def test_only_the_thread_that_trains_is_followed(recordings: Path) -> None:
    model, other = Model(), Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    aside = torch.optim.SGD(other.parameters(), lr=0.1)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for x, y in DataLoader(TensorDataset(torch.ones(8, 3), torch.ones(8, 1)), batch_size=4):
            functional.mse_loss(model(x), y).backward()
            optimizer.step()

    def beside() -> None:
        worker = threading.Thread(target=train, args=(other, aside))
        worker.start()
        worker.join()

    with Monitor() as monitor:
        monitor.watch(model, other, optimizer, aside)
        train(model, optimizer)
        beside()
        train(model, optimizer)
    live = clean(recordings).live
    assert (live.steps, live.batches, live.samples) == (4, 4, 16)


def test_the_training_may_run_on_another_thread(recordings: Path) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train() -> None:
        for x, y in pairs(3):
            functional.mse_loss(model(x), y).backward()
            optimizer.step()

    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        worker = threading.Thread(target=train)
        worker.start()
        worker.join()
    assert clean(recordings).live.steps == 3


def test_a_watched_model_can_be_copied_saved_and_scripted(recordings: Path, tmp_path: Path) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ((x, y),) = pairs(1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        twin = copy.deepcopy(model)
        stored = io.BytesIO()
        torch.save(model, stored)
        assert b"_Hook" not in stored.getvalue()
        stored.seek(0)
        loaded = torch.load(stored, weights_only=False)
        for each in (twin, loaded, torch.jit.script(model), torch.jit.trace(model, x)):
            assert torch.equal(each(x), model.linear(x))
        assert copy.deepcopy(optimizer).state_dict() == optimizer.state_dict()
        functional.mse_loss(model(x), y).backward()
        optimizer.step()
    live = clean(recordings).live
    assert (live.steps, live.batches, live.samples) == (1, 1, 4)


def test_after_the_end_torch_is_as_it_was(recordings: Path) -> None:
    def functions() -> list[Any]:
        return [
            torch.autograd.backward,
            torch.nn.utils.clip_grad_norm_,
            torch.utils.data.dataloader._BaseDataLoaderIter.__next__,
            torch.amp.GradScaler.__dict__["step"],
            torch.save,
        ]

    before, model = functions(), Model()
    references = weakref.getweakrefcount(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        assert functions() != before
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert functions() == before
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    # Weak references with callbacks, left to the garbage collector, can crash the process: see `close`.
    assert weakref.getweakrefcount(model) == references


def test_a_compiled_step_is_compiled_whole_and_computes_the_same(recordings: Path) -> None:
    def losses(watched: bool) -> list[float]:
        torch.manual_seed(0)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        inner = Model()
        model = torch.compile(inner, backend="eager", fullgraph=True)
        optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
        found = []
        with Monitor() as monitor:
            if watched:
                monitor.watch(model, optimizer)
            for x, y in pairs(4):
                loss = functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()
                found.append(float(loss.detach()))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        return found

    assert losses(True) == losses(False)
    with_it, _ = recorded(recordings)
    assert (with_it.live.steps, with_it.live.batches, with_it.live.samples) == (4, 4, 16)


def test_the_hook_changes_nothing_a_training_computes(recordings: Path) -> None:
    with Monitor() as monitor:
        weights = _weights(monitor)
    assert all(torch.equal(mine, other) for mine, other in zip(weights, _weights(None), strict=True))
    assert clean(recordings).live.steps == 8


def _weights(monitor: Monitor | None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = TensorDataset(torch.randn(32, 3), torch.randn(32, 1))
    if monitor is not None:
        monitor.watch(model, optimizer)
    for x, y in DataLoader(data, batch_size=4, shuffle=True):
        functional.mse_loss(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    return [each.detach().clone() for each in model.parameters()]


def test_a_fault_within_never_reaches_the_training(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **keywords: Any) -> Any:
        raise ValueError

    monkeypatch.setattr("trainer_hooks.torch_loop.Window.take", fails)
    monkeypatch.setattr("trainer_hooks.torch_calls.Root.read", fails)
    with Monitor() as monitor:
        weights = _weights(monitor)
    assert all(torch.equal(mine, other) for mine, other in zip(weights, _weights(None), strict=True))
    live = only(recordings).live
    assert live.steps == 8
    assert live.hook_errors >= 16


def test_norms_of_parts_of_another_kind_and_of_other_gradients_are_not_the_gradient_norm(
    recordings: Path,
) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor() as monitor:
        monitor.watch(model, optimizer)
        clip, total = torch.nn.utils.clip_grad_norm_, torch.nn.utils.get_total_norm
        norms = []
        for index, (x, y) in enumerate(pairs(6)):
            functional.mse_loss(model(x), y).backward()
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            if index == 0:
                norms.append(float(clip(model.parameters(), 1.0, 2)))
            elif index == 1:
                clip([model.linear.weight], 1.0)
                clip([model.linear.bias], 1.0)
            elif index == 2:
                clip(model.parameters(), 1.0, norm_type=math.inf)
            elif index == 3:
                clip([model.linear.weight], 1.0)
                clip([model.linear.bias], 1.0, math.inf)
            elif index == 4:
                total(gradients, math.inf)
            else:
                norms.append(float(total(gradients)))
            optimizer.step()
            optimizer.zero_grad()
    recorded_norms = [record.gradient_norm for record in clean(recordings).steps]
    assert [recorded_norms[0], recorded_norms[5]] == norms
    assert all(math.isnan(norm) for norm in recorded_norms[1:5])
