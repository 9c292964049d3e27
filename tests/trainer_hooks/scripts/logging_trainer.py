"""Trains in a framework that logs to TensorBoard, and says what came of it: NAME FOLDER [ours].

With `ours` the script asks for the hook itself, by the framework's own way and by the tee; otherwise it does
not know it. Of a training with validation data there are two epochs of four steps and an evaluation each.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from tests.conformance.reference import collate, model, rows

EPOCHS = 2
TRAINED, EVALUATED = rows(1)[:16], rows(2)[16:20]
BATCH = 4


def _loader(data: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=BATCH, collate_fn=collate)


def _say(parameters: Iterable[torch.Tensor], **more: Any) -> None:
    weights = [each.detach().tolist() for each in parameters]
    print(json.dumps({"weights": hashlib.sha256(repr(weights).encode()).hexdigest(), **more}))


def _optimizer(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=0.01)


def transformers(folder: Path, ours: bool) -> None:
    from transformers import Trainer, TrainingArguments

    callbacks: list[Any] = []
    if ours:
        from trainer_hooks.transformers import TelemetryCallback

        callbacks = [TelemetryCallback(name="asked-for")]
    arguments = TrainingArguments(
        output_dir=str(folder / "output"),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=1,
        report_to=["tensorboard"],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    data: Any = TRAINED
    others: Any = EVALUATED
    network: Any = model()
    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=data,
        eval_dataset=others,
        data_collator=collate,
        callbacks=callbacks,
    )
    with open(folder / "logged", "w") as log:  # times are in it
        sys.stdout, said = log, sys.stdout
        trainer.train()
        sys.stdout = said
    history = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    _say(network.parameters(), losses=history)


def lightning(folder: Path, ours: bool) -> None:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    callbacks: list[Any] = []
    if ours:
        from trainer_hooks.lightning import TelemetryCallback

        callbacks = [TelemetryCallback(name="asked-for")]

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = model()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.network(**batch).loss
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.network(**batch).loss
            self.log("val_loss", loss, batch_size=len(batch["labels"]))
            return loss

        def configure_optimizers(self) -> Any:
            return _optimizer(self)

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=TensorBoardLogger(folder / "events"),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    module = Module()
    trainer.fit(module, _loader(TRAINED), _loader(EVALUATED))
    _say(module.parameters(), loss=float(trainer.callback_metrics["val_loss"]))


def _epochs(
    network: Any, train: Any, evaluate: Any, step: Callable[[Any], None], log: Callable[..., None]
) -> None:
    """A loop of one's own that logs the loss of each step and of each evaluation."""
    done = 0
    for epoch in range(EPOCHS):
        network.train()
        for batch in train:
            loss = network(**batch).loss
            step(loss)
            done += 1
            log({"train_loss": loss.item(), "epoch": float(epoch)}, step=done)
        network.eval()
        with torch.no_grad():
            losses = [network(**batch).loss.item() for batch in evaluate]
        log({"val_loss": sum(losses) / len(losses), "success_rate": epoch / 2}, step=done)


def fabric(folder: Path, ours: bool) -> None:
    from lightning.fabric import Fabric
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    callbacks: list[Any] = []
    if ours:
        from trainer_hooks.fabric import TelemetryCallback

        callbacks = [TelemetryCallback(name="asked-for")]
    fabric = Fabric(accelerator="cpu", loggers=TensorBoardLogger(folder / "events"), callbacks=callbacks)
    fabric.launch()
    bare: Any = model()
    network, optimizer = fabric.setup(bare, _optimizer(bare))

    def step(loss: Any) -> None:
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    loaders: Any = fabric.setup_dataloaders(_loader(TRAINED), _loader(EVALUATED))
    _epochs(network, loaders[0], loaders[1], step, fabric.log_dict)
    _say(bare.parameters())


def accelerate(folder: Path, ours: bool) -> None:
    from accelerate import Accelerator

    trackers: list[Any] = ["tensorboard"]
    if ours:
        from trainer_hooks.accelerate import TelemetryTracker

        trackers.append(TelemetryTracker(name="asked-for"))
    accelerator = Accelerator(cpu=True, log_with=trackers, project_dir=folder)
    accelerator.init_trackers("events")
    bare: Any = model()
    network, optimizer, train, evaluate = accelerator.prepare(
        bare, _optimizer(bare), _loader(TRAINED), _loader(EVALUATED)
    )

    def step(loss: Any) -> None:
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    _epochs(network, train, evaluate, step, accelerator.log)
    accelerator.end_training()
    _say(bare.parameters())


def plain(folder: Path, ours: bool) -> None:
    from torch.utils.tensorboard import SummaryWriter

    network: Any = model()
    optimizer = _optimizer(network)
    if ours:
        from trainer_hooks.monitor import Monitor

        Monitor(name="asked-for").watch(network, optimizer)
    writer: Any = SummaryWriter(str(folder / "events"))

    def step(loss: Any) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    _epochs(network, _loader(TRAINED), _loader(EVALUATED), step, log)
    writer.close()
    _say(network.parameters())


def stable_baselines3(folder: Path, ours: bool) -> None:
    from stable_baselines3 import PPO

    callback: Any = None
    if ours:
        from trainer_hooks.stable_baselines3 import TelemetryCallback

        callback = TelemetryCallback(name="asked-for")
    ppo = PPO(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=64,
        batch_size=64,
        n_epochs=2,
        seed=0,
        device="cpu",
        tensorboard_log=str(folder / "events"),
    )
    ppo.learn(4 * EPOCHS * 64 // 2, callback=callback)
    _say(ppo.policy.parameters(), loss=float(ppo.logger.name_to_value["train/loss"]))


if __name__ == "__main__":
    name, folder, *asked = sys.argv[1:]
    if asked:
        from trainer_hooks import tee

        tee.install(name="teed")
    torch.manual_seed(0)
    {each.__name__: each for each in (transformers, lightning, fabric, accelerate, plain, stable_baselines3)}[
        name
    ](Path(folder), bool(asked))
