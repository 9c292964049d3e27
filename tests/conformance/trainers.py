"""The training of `reference`, in one trainer: `python -m tests.conformance.trainers NAME`."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from tests.conformance.reference import (
    ACCUMULATION,
    BATCH,
    EPOCHS,
    LEARNING_RATE,
    PADDING,
    collate,
    model,
    rows,
)

WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))


def _loader(**options: Any) -> DataLoader[Any]:
    data: Any = rows(WORLD_SIZE)
    return DataLoader(data, batch_size=BATCH, collate_fn=collate, **options)


def _optimizer(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)


def lightning() -> None:
    import lightning.pytorch as pl

    from trainer_hooks.lightning import TelemetryCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = model()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.network(**batch).loss

        def configure_optimizers(self) -> Any:
            return _optimizer(self)

    pl.Trainer(
        accelerator="cpu",
        strategy="ddp" if WORLD_SIZE > 1 else "auto",
        devices=WORLD_SIZE,
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATION,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TelemetryCallback(loss_kind="cross_entropy")],
    ).fit(Module(), _loader())


def transformers() -> None:
    from transformers import Trainer, TrainingArguments

    import trainer_hooks.transformers  # noqa: F401  # makes report_to="trainvitals" known

    with tempfile.TemporaryDirectory() as folder:
        data: Any = rows(WORLD_SIZE)
        collator: Any = collate
        arguments = TrainingArguments(**_arguments(folder), report_to="trainvitals")
        Trainer(model=model(), args=arguments, train_dataset=data, data_collator=collator).train()


def trl() -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    from trainer_hooks.transformers import TelemetryCallback

    data = Dataset.from_list(
        [
            {
                "input_ids": row.prompt + row.completion,
                "completion_mask": [0] * len(row.prompt) + [1] * len(row.completion),
            }
            for row in rows(WORLD_SIZE)
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        SFTTrainer(
            model=model(),
            args=SFTConfig(**_arguments(folder), report_to="none", completion_only_loss=True, bf16=False),
            train_dataset=data,
            processing_class=_tokenizer(),
            callbacks=[TelemetryCallback()],
        ).train()


def accelerate() -> None:
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    import trainer_hooks.accelerate  # noqa: F401  # makes log_with="trainvitals" known

    set_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION, log_with="trainvitals")
    accelerator.init_trackers("conformance")
    network = model()
    network, optimizer, loader = accelerator.prepare(network, _optimizer(network), _loader())
    for _ in range(EPOCHS):
        for batch in loader:
            with accelerator.accumulate(network):
                loss = network(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
    accelerator.wait_for_everyone()
    # A model that holds the group last ends it under the GIL, for which a thread of the group may wait.
    network, optimizer, loader = accelerator.free_memory(network, optimizer, loader)
    # `end_training` does so on the main process only, and the other may wait for it for ever.
    accelerator.state.destroy_process_group()
    accelerator.end_training()


def fabric() -> None:
    from lightning.fabric import Fabric

    from trainer_hooks.fabric import TelemetryCallback

    fabric = Fabric(
        accelerator="cpu",
        devices=WORLD_SIZE,
        strategy="ddp" if WORLD_SIZE > 1 else "auto",
        callbacks=[TelemetryCallback()],
    )
    fabric.launch()
    network: Any = model()
    network, optimizer = fabric.setup(network, _optimizer(network))
    for _ in range(EPOCHS):
        for batch, ends_step in _windows(fabric.setup_dataloaders(_loader())):
            with fabric.no_backward_sync(network, enabled=not ends_step):
                fabric.backward(network(**batch).loss / ACCUMULATION)
            if ends_step:
                optimizer.step()
                optimizer.zero_grad()


def plain() -> None:
    from trainer_hooks.monitor import Monitor

    network, loader, optimizer = _plain()
    with Monitor(loss_kind="cross_entropy") as monitor:
        for _ in range(EPOCHS):
            for batch, ends_step in _windows(monitor.batches(loader)):
                loss = network(**batch).loss
                (loss / ACCUMULATION).backward()
                monitor.batch(
                    loss=loss,
                    samples=len(batch["labels"]),
                    tokens=batch["attention_mask"].sum(),
                    trained_tokens=(batch["labels"][:, 1:] != -100).sum(),
                )
                if ends_step:
                    optimizer.step()
                    optimizer.zero_grad()
                    monitor.end_step()


def watch() -> None:
    from trainer_hooks.monitor import Monitor

    network, loader, optimizer = _plain()
    with Monitor() as monitor:
        monitor.watch(network, optimizer)
        _train(network, loader, optimizer)


def unchanged() -> None:
    """Without a word of ours, for `run`."""
    _train(*_plain())


def _train(network: Any, loader: Any, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(EPOCHS):
        for batch, ends_step in _windows(loader):
            (network(**batch).loss / ACCUMULATION).backward()
            if ends_step:
                optimizer.step()
                optimizer.zero_grad()


def _plain() -> tuple[Any, DataLoader[Any], torch.optim.Optimizer]:
    """The model, its rank's batches and the optimizer of a loop of one's own."""
    network: Any = model()
    if WORLD_SIZE == 1:
        return network, _loader(), _optimizer(network)
    torch.distributed.init_process_group("gloo")
    network = torch.nn.parallel.DistributedDataParallel(network)
    data: Any = rows(WORLD_SIZE)
    return network, _loader(sampler=DistributedSampler(data, shuffle=False)), _optimizer(network)


def _windows(loader: Any) -> Iterator[tuple[Any, bool]]:
    """The batches, and whether the optimizer steps after each: the last of an epoch ends its step early."""
    batches = -(-len(rows(WORLD_SIZE)) // WORLD_SIZE // BATCH)
    for at, batch in enumerate(loader, 1):
        yield batch, at % ACCUMULATION == 0 or at == batches


def _arguments(folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "num_train_epochs": EPOCHS,
        "learning_rate": LEARNING_RATE,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": PADDING, "<bos>": 1, "<eos>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


TRAINERS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (lightning, transformers, trl, accelerate, fabric, plain, watch, unchanged)
}

if __name__ == "__main__":
    TRAINERS[sys.argv[1]]()
    if torch.distributed.is_initialized():
        gc.collect()  # models that are part of cycles: see accelerate's
        torch.distributed.destroy_process_group()
