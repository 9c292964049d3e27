"""What the number is that a Hugging Face Trainer's `compute_loss` returns.

With N the `num_items_in_batch` of an optimizer step, the loss of one of its micro-batches is mostly not that
micro-batch's mean but its sum over N, and with `average_tokens_across_devices` times the number of ranks; the
mean is not lost, only undone here.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from transformers import Trainer
from transformers.trainer_pt_utils import LabelSmoother

from trainer_hooks.batches import (
    TokenCounter,
    auxiliary_weight,
    count_tokens,
    count_tokens_unshifted,
    kept,
    on_host,
    samples,
)
from trainer_hooks.torch_calls import _LANGUAGE_MODELS, Call, shifts_labels

_DIVIDES_BY_ITEMS = {"loss_function", "LigerForCausalLMLoss"}  # names in the code of a model's forward


class TrainerLoss:
    """The losses of one Trainer's training.

    Args:
        trainer: when its model is what it will train.
        count: of a batch, its tokens without padding and those whose label counts; None for the usual.
    """

    def __init__(self, trainer: Any, count: TokenCounter | None) -> None:
        self._trainer = trainer
        args, model = trainer.args, inner_model(trainer.model)
        name = type(model).__name__
        decoded = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        shifted = getattr(trainer, "_loss_shifts_labels", shifts_labels(model))
        self._count = count or (count_tokens if shifted else count_tokens_unshifted)
        sft = _is_trl_sft(trainer)
        smoothed = getattr(trainer, "label_smoother", None) is not None
        standard = (sft or _computes_as_transformers(trainer)) and trainer.compute_loss_func is None
        self._by_tokens = standard and args.n_gpu <= 1 and _sequence_is_whole(trainer)
        if smoothed:
            self._divides = "num_items_in_batch" in inspect.signature(LabelSmoother.__call__).parameters
        else:
            self._divides = sft or bool(getattr(args, "use_liger_kernel", False)) or _divides(model)
        averaged = args.average_tokens_across_devices and args.n_gpu <= 1
        self._scale = trainer.accelerator.num_processes // _tensor_parallel(trainer) if averaged else 1
        self._items_are_trained = (
            count is None
            and hasattr(trainer, "_loss_shifts_labels")
            and args.gradient_accumulation_steps == 1
            and trainer.accelerator.num_processes == 1
        )
        self.auxiliary = bool(getattr(_text_config(model), "output_router_logits", False))
        self._coefficient = None  # of the auxiliary loss; None where that is not known
        if self.auxiliary:  # TRL's SFTTrainer adds it itself
            told = getattr(trainer, "router_aux_loss_coef", None)
            self._coefficient = told if sft else auxiliary_weight(model)
        self._auxiliary_per_step = sft
        # An encoder-decoder has several auxiliary losses, and tells of none.
        alone = not self.auxiliary or (self._coefficient is not None and not decoded)
        likelihood = not sft or getattr(args, "loss_type", "nll") in ("nll", "chunked_nll")
        plain = self._by_tokens and alone and likelihood and not smoothed and name.endswith(_LANGUAGE_MODELS)
        self.kind = "cross_entropy" if plain else "other"

    def count(self, call: Call, inputs: Any, items: Any, *, training: bool) -> None:
        """Give the call samples and tokens of the batch for `compute_loss`, which may pop its labels."""
        call.samples = samples(inputs)
        labels = inputs.get("labels") if hasattr(inputs, "get") else None
        if getattr(labels, "ndim", 2) != 2:  # classes and the like: no tokens
            inputs, labels = {**inputs, "labels": None}, None
        if training and items is not None and labels is not None and self._items_are_trained:
            call.tokens, _ = self._count({**inputs, "labels": None})
            call.trained_tokens = on_host(items)
        else:
            call.tokens, call.trained_tokens = self._count(inputs)

    def read(self, call: Call, loss: Any, items: Any, auxiliary: Any, *, training: bool) -> bool:
        """Give the call the loss that `compute_loss` returned; whether that is a mean over trained tokens.

        Args:
            items: the `num_items_in_batch` it was given.
            auxiliary: what the model told of its auxiliary loss, before its coefficient.
        """
        if getattr(loss, "ndim", None) != 0:
            return False  # one of several devices
        loss = kept(loss)
        if loss is None:
            return False
        scale = self._scale if items is not None else 1
        window = self._trainer.current_gradient_accumulation_steps if training else 1
        if auxiliary is not None and self._coefficient is not None:
            share = self._coefficient * auxiliary
            if not self._auxiliary_per_step:
                share = share * scale
            elif items is not None:
                share = share / window
            loss = loss - share
        call.loss = loss
        trained = call.trained_tokens
        if not self._by_tokens or trained is None:
            if window != 1 and self._is_share(items):
                call.loss = loss * window
            return False
        if items is not None and self._divides:
            if not self._items_are_trained:
                call.normalizer = on_host(items)
        elif scale != 1:
            call.normalizer = trained
        if scale != 1:
            call.normalizer = call.normalizer / scale
        return True

    def _is_share(self, items: Any) -> bool:
        """Whether the losses of a step's micro-batches add up to the loss of the step."""
        trainer = self._trainer
        told = getattr(trainer, "loss_is_scaled_for_ga", None)
        if told is not None:
            return bool(told)
        return (trainer.model_accepts_loss_kwargs and items is not None) or (
            trainer.compute_loss_func is not None
        )


def inner_model(model: Any) -> Any:
    """The transformers model within a PEFT model, else the model."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def _computes_as_transformers(trainer: Any) -> bool:
    return type(trainer).compute_loss is Trainer.compute_loss and "compute_loss" not in vars(trainer)


def _is_trl_sft(trainer: Any) -> bool:
    sft = getattr(sys.modules.get("trl.trainer.sft_trainer"), "SFTTrainer", None)
    return (
        sft is not None
        and isinstance(trainer, sft)
        and type(trainer).compute_loss is sft.compute_loss
        and "compute_loss" not in vars(trainer)
    )


def _divides(model: Any) -> bool:
    """Whether the model's own loss is divided by `num_items_in_batch`; T5, for one, takes it and does not."""
    forward = inspect.unwrap(type(model).forward)
    return not _DIVIDES_BY_ITEMS.isdisjoint(getattr(getattr(forward, "__code__", None), "co_names", ()))


def _sequence_is_whole(trainer: Any) -> bool:
    """Whether each rank has whole sequences: with context parallelism it has parts, and N is another."""
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    return all(getattr(parallel, name, 1) in (None, 1) for name in ("cp_size", "sp_size"))


def _tensor_parallel(trainer: Any) -> int:
    size = getattr(trainer, "get_tp_size", None)
    return max(1, int(size())) if callable(size) else 1


def _text_config(model: Any) -> Any:
    config = getattr(model, "config", None)
    return getattr(config, "text_config", None) or config
