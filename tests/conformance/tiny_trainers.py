"""Trainings of a few steps in every trainer, for `faults`: with and without the hook, their result.

A result holds all that a user could tell one from the other by.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.modules.module import _global_forward_pre_hooks
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import DataLoader, TensorDataset

BATCHES = 3
_SECONDS = re.compile(r"_(runtime|per_second)': [^,}]+")  # among what a Hugging Face Trainer prints
_STAMP = re.compile(r"tfevents\..*")  # of an event file: time, host, process
_TIMED = ("trainer_state.json", "model.zip")  # files that times are in, as text


class Result(NamedTuple):
    """Of a training: everything it computed, said and left behind."""

    ended: str  # the exception that ended it, if one did
    losses: tuple[float, ...]
    weights: tuple[bytes, ...]
    random_state: tuple[bytes, object, bytes]
    output: str
    warnings: tuple[str, ...]
    files: tuple[tuple[str, int], ...]


class Training(NamedTuple):
    """What each trainer is given: the same model, data and folder, and a list for its losses."""

    model: torch.nn.Module
    loader: DataLoader[Any]
    optimizer: torch.optim.Optimizer
    folder: Path
    losses: list[float]


class StoppedError(Exception):
    """Ends a training from within."""


def _replaceable() -> list[tuple[Any, str]]:
    """All that the hook may replace of torch while it follows a training."""
    return [
        (torch, "save"),
        (torch.autograd, "backward"),
        (torch.amp.grad_scaler.GradScaler, "scale"),
        (torch.amp.grad_scaler.GradScaler, "step"),
        (torch.amp.grad_scaler.GradScaler, "update"),
        (torch.jit._recursive, "create_script_module"),
        (torch.nn.utils, "clip_grad_norm_"),
        (torch.nn.utils, "get_total_norm"),
        (torch.nn.utils.clip_grad, "clip_grad_norm_"),
        (torch.nn.utils.clip_grad, "get_total_norm"),
        (torch.optim.Optimizer, "__init__"),
        (torch.utils.data.dataloader._BaseDataLoaderIter, "__next__"),
    ]


_ORIGINALS = [(owner, name, getattr(owner, name)) for owner, name in _replaceable() if hasattr(owner, name)]


def left() -> bool:
    """Whether anything of the hook is in torch."""
    hooks = (_global_forward_pre_hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    return any(hooks) or any(getattr(owner, name) is not original for owner, name, original in _ORIGINALS)


def clear() -> None:
    """Take back what a hook that did not come to its end has left in torch."""
    for owner, name, original in _ORIGINALS:
        setattr(owner, name, original)
    _global_forward_pre_hooks.clear()
    _global_optimizer_pre_hooks.clear()
    _global_optimizer_post_hooks.clear()


def training_of(train: Callable[[Training, bool], None]) -> Callable[[bool], Result]:
    """The function that runs it once: given whether it is hooked, its result."""

    def once(hooked: bool) -> Result:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        data = TensorDataset(torch.randn(2 * BATCHES, 4), torch.arange(2 * BATCHES) % 3)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        ended = ""
        said = io.StringIO()
        with (
            tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("always")
            loader = DataLoader(data, batch_size=2, shuffle=True)
            training = Training(model, loader, optimizer, Path(folder), [])
            try:
                train(training, hooked)
            except Exception as error:
                ended = f"{type(error).__name__}: {error}"
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return Result(
                ended,
                tuple(training.losses),
                tuple(each.detach().numpy().tobytes() for each in model.state_dict().values()),
                (
                    torch.get_rng_state().numpy().tobytes(),
                    random.getstate(),
                    np.random.get_state(legacy=True)[1].tobytes(),  # type: ignore[index]
                ),
                _SECONDS.sub("SECONDS", said.getvalue().replace(str(folder), "FOLDER")),
                tuple(str(each.message).replace(str(folder), "FOLDER") for each in warned),
                tuple(
                    (_STAMP.sub("tfevents", path.name), path.name not in _TIMED and path.stat().st_size)
                    for path in files
                ),
            )

    return once


class _Unhooked:
    """A Monitor's face with nothing behind it."""

    def batches(self, loader: Any) -> Iterator[Any]:
        return iter(loader)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **keywords: contextlib.nullcontext()

    def __enter__(self) -> _Unhooked:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _plain(training: Training, monitor: Any, fails: bool) -> None:
    model, loader, optimizer, folder, losses = training
    monitor.expect(steps=BATCHES, epochs=1)
    for inputs, labels in monitor.batches(loader):
        with monitor.step():
            with monitor.phase("forward"):
                loss: Any = torch.nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            monitor.batch(loss=loss, samples=2, tokens=torch.tensor(2), trained_tokens=2, normalizer=2)
            monitor.learning_rates([0.1, torch.tensor(0.2)])
            monitor.log(gradient_norm=norm, epoch=0.5, reward=loss, loss_scale=2.0)
            losses.append(loss.item())
    monitor.progress()
    monitor.evaluated(loss=loss, tokens=6, accuracy=0.5)
    monitor.skip_step()
    monitor.event("noted", number=1)
    monitor.describe(model="tiny")
    monitor.resume(7)
    with monitor.checkpoint(folder / "model.pt"):
        torch.save(model.state_dict(), folder / "model.pt")
    with monitor.checkpoint(folder):
        if fails:
            raise StoppedError("by the trainer")


def plain(training: Training, hooked: bool, fails: bool = False) -> None:
    from trainer_hooks.monitor import Monitor

    with Monitor(run="plain", loss_kind="cross_entropy") if hooked else _Unhooked() as monitor:
        _plain(training, monitor, fails)


def plain_failing(training: Training, hooked: bool) -> None:
    plain(training, hooked, fails=True)


def plain_without_an_end(training: Training, hooked: bool) -> None:
    from trainer_hooks.monitor import Monitor

    monitor = Monitor(name="plain") if hooked else _Unhooked()
    _plain(training, monitor, False)
    monitor._at_exit()


def _loop(training: Training, fails: bool) -> None:
    model, loader, optimizer, folder, losses = training
    criterion = torch.nn.CrossEntropyLoss()
    for _ in range(2):
        model.train()
        for at, (inputs, labels) in enumerate(loader, 1):
            loss = criterion(model(inputs), labels)
            (loss / 2).backward()
            if at % 2 == 0 or at == BATCHES:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            for inputs, labels in loader:
                losses.append(criterion(model(inputs), labels).item())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for inputs, labels in loader:
        scaled: Any = scaler.scale(torch.nn.functional.cross_entropy(model(inputs), labels))
        scaled.backward()
        scaler.step(optimizer)
        scaler.update()
    torch.save(model.state_dict(), folder / "model.pt")
    if fails:
        raise StoppedError("by the trainer")


def watch(training: Training, hooked: bool, fails: bool = False) -> None:
    from trainer_hooks.monitor import Monitor

    with Monitor(run="watch") if hooked else _Unhooked() as monitor:
        monitor.watch(training.model, training.optimizer)
        _loop(training, fails)


def watch_failing(training: Training, hooked: bool) -> None:
    watch(training, hooked, fails=True)


def unchanged(training: Training, hooked: bool) -> None:
    """A script without a word of ours, as `run` instruments it: once a framework was imported."""
    model, loader, _, folder, losses = training
    (folder / "tiny_framework.py").touch()
    sys.path.insert(0, str(folder))
    finders, leave = list(sys.meta_path), os._exit
    try:
        if hooked:
            from trainer_hooks import imports, monitor

            monitor._current = None  # as in a process of its own
            imports.after_import({"tiny_framework": "trainer_hooks.automatic:torch"})
        import tiny_framework  # type: ignore[import-not-found]  # noqa: F401

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        _loop(Training(model, loader, optimizer, folder, losses), False)
    finally:
        sys.path.remove(str(folder))
        sys.meta_path[:] = finders
        setattr(os, "_exit", leave)  # noqa: B010
        sys.modules.pop("tiny_framework", None)
        (folder / "tiny_framework.py").unlink()
    if hooked and monitor._current is not None:
        monitor._current._at_exit()


def accelerate(training: Training, hooked: bool) -> None:
    from accelerate import Accelerator

    import trainer_hooks.accelerate  # noqa: F401  # makes log_with="trainvitals" known

    model, loader, optimizer, folder, losses = training
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=2, log_with="trainvitals" if hooked else None
    )
    accelerator.init_trackers("tiny")
    network, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for inputs, labels in loader:
        with accelerator.accumulate(network):
            loss = torch.nn.functional.cross_entropy(network(inputs), labels)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        accelerator.log({"acc": 0.5, "reward": loss.item(), "val_loss": 1.0, "lr": 0.1})
    accelerator.save_state(str(folder / "state"))
    accelerator.end_training()


def lightning(training: Training, hooked: bool, fails: bool = False) -> None:
    import lightning.pytorch as pl

    from trainer_hooks.lightning import TelemetryCallback

    model, loader, optimizer, folder, losses = training

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])
            losses.append(loss.item())
            self.log("train_acc", loss)
            if fails and self.global_step:
                raise StoppedError("by the trainer")
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            loss = torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])
            self.log("val_loss", loss)
            self.log("reward", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return optimizer

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        accumulate_grad_batches=2,
        num_sanity_val_steps=1,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[TelemetryCallback(run="lightning")] if hooked else [],
    )

    class SavingCallback(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(folder / "model.ckpt")

    trainer.callbacks.append(SavingCallback())  # type: ignore[attr-defined]
    trainer.fit(Module(), loader, loader)


def lightning_failing(training: Training, hooked: bool) -> None:
    lightning(training, hooked, fails=True)


def lightning_unchanged(training: Training, hooked: bool) -> None:
    """As `run` instruments it."""
    callback_connector: Any = importlib.import_module(
        "lightning.pytorch.trainer.connectors.callback_connector"
    )
    original = callback_connector._load_external_callbacks
    try:
        callback_connector._load_external_callbacks = lambda group: []  # the hook is not installed beside it
        if hooked:
            from trainer_hooks import imports

            imports._install("lightning", "trainer_hooks.automatic:lightning")
            os.environ["TRAINVITALS"] = "1"
        lightning(training, False)
    finally:
        os.environ.pop("TRAINVITALS", None)
        callback_connector._load_external_callbacks = original


def fabric(training: Training, hooked: bool) -> None:
    from lightning.fabric import Fabric

    model, loader, optimizer, folder, losses = training
    callbacks: list[Any] = []
    if hooked:
        from trainer_hooks.fabric import TelemetryCallback

        callbacks = [TelemetryCallback(run="fabric")]
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=callbacks)
    network, optimizer = fabric.setup(model, optimizer)
    for inputs, labels in fabric.setup_dataloaders(loader):
        loss = torch.nn.functional.cross_entropy(network(inputs), labels)
        fabric.backward(loss)
        fabric.clip_gradients(network, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    fabric.save(folder / "model.ckpt", {"model": network})
    for each in callbacks:
        each.close()


def _language_model(training: Training) -> tuple[Any, list[dict[str, list[int]]]]:
    """A model that `training.model` holds from now on, and what it is trained on."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call, unused-ignore]
    config = GPT2Config(
        vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    training.model.add_module("language_model", model)
    return model, [{"input_ids": [at, at + 1, at + 2, 9]} for at in range(2 * BATCHES)]


def _arguments(training: Training) -> dict[str, Any]:
    return {
        "output_dir": str(training.folder / "output"),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2 * BATCHES,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_only_model": True,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }


def transformers(training: Training, hooked: bool, fails: bool = False) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, rows = _language_model(training)
    data: Any = [{**row, "labels": row["input_ids"]} for row in rows]
    callbacks: list[Any] = []
    if hooked:
        from trainer_hooks.transformers import TelemetryCallback

        callbacks = [TelemetryCallback(run="transformers")]

    class Failing(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if fails and state.global_step:
                raise StoppedError("by the trainer")

    trainer = Trainer(
        model=model,
        args=TrainingArguments(**_arguments(training)),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[*callbacks, Failing()],
    )
    trainer.train()
    training.losses.extend(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def transformers_failing(training: Training, hooked: bool) -> None:
    transformers(training, hooked, fails=True)


def trl(training: Training, hooked: bool) -> None:
    from datasets import Dataset, disable_progress_bars
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined, unused-ignore]

    model, rows = _language_model(training)
    disable_progress_bars()
    words = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1}, unk_token="<unknown>"))
    callbacks: list[Any] = []
    if hooked:
        from trainer_hooks.transformers import TelemetryCallback

        callbacks = [TelemetryCallback(run="trl")]
    data = Dataset.from_list(rows)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_arguments(training)),
        train_dataset=data,
        eval_dataset=data,
        processing_class=PreTrainedTokenizerFast(  # type: ignore[no-untyped-call, unused-ignore]
            tokenizer_object=words, eos_token="<end>", pad_token="<end>"
        ),
        callbacks=callbacks,
    )
    trainer.train()
    training.losses.extend(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def stable_baselines3(training: Training, hooked: bool, fails: bool = False) -> None:
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

    class Failing(BaseCallback):
        def _on_step(self) -> bool:
            if fails and self.num_timesteps > 12:
                raise StoppedError("by the trainer")
            return True

    class Short(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.at = 0
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.at += 1
            return np.full(1, self.at / 4, np.float32), float(action), self.at == 4, False, {}

    callbacks: list[Any] = [
        EvalCallback(Short(), eval_freq=8, n_eval_episodes=1, verbose=0, warn=False),
        Failing(),
    ]
    if hooked:
        from trainer_hooks.stable_baselines3 import TelemetryCallback

        callbacks.append(TelemetryCallback(run="stable-baselines3"))
    model = PPO(
        "MlpPolicy",
        Short(),
        n_steps=8,
        batch_size=4,
        n_epochs=1,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [2]},
    )
    training.model.add_module("policy", model.policy)
    model.learn(16, callback=callbacks)
    model.save(training.folder / "model.zip")


def stable_baselines3_failing(training: Training, hooked: bool) -> None:
    stable_baselines3(training, hooked, fails=True)


def tee(training: Training, hooked: bool) -> None:
    """What a script logs is all there is of it; then a Monitor records as well."""
    if hooked:
        from trainer_hooks import monitor
        from trainer_hooks import tee as teeing

        monitor._current = None  # as in a process of its own
        teeing.install(run="tee")
    try:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(training.folder)) as writer:
            for step in range(BATCHES):
                writer.add_scalar("train/loss", torch.tensor(1.0 / (1 + step)), step)
                writer.add_scalar("success_rate", 0.5, step)
                writer.add_scalars("val", {"loss": 0.5}, step)
                writer.add_scalar("a", np.float64(step), np.int64(step))
                writer.add_text("text", "of the test")
            if hooked:
                own = monitor.current()
                with monitor.Monitor(run="beside"):
                    _log_beside(writer)
                if own is not None:
                    own._at_exit()
            else:
                _log_beside(writer)
    finally:
        if hooked:
            teeing.remove()


def _log_beside(writer: Any) -> None:
    writer.add_scalar("train/loss", 0.25, BATCHES)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(writer.add_scalar, "success_rate", 0.25, BATCHES).result()
    writer.add_scalar("lr", 0.25, BATCHES)


TRAINERS: dict[str, Callable[[bool], Result]] = {
    each.__name__: training_of(each)
    for each in (
        plain,
        plain_failing,
        plain_without_an_end,
        watch,
        watch_failing,
        unchanged,
        accelerate,
        lightning,
        lightning_failing,
        lightning_unchanged,
        fabric,
        transformers,
        transformers_failing,
        trl,
        stable_baselines3,
        stable_baselines3_failing,
        tee,
    )
}
