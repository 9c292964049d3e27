"""What a batch and a model's outputs tell without being told: samples, tokens, the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer_hooks import readback

IGNORED = -100  # the label that torch's cross_entropy leaves out

# Of a batch: its tokens without padding, and those whose label counts in the loss; numbers, tensors or None.
TokenCounter = Callable[[Any], "tuple[Any, Any]"]


def count_tokens(batch: Any) -> tuple[Any, Any]:
    """The tokens of a batch of a causal model: from `attention_mask` or `input_ids`, and `labels`.

    A label is that of the token before it, so the first of each row counts nowhere. None where the batch
    does not tell.
    """
    return _count_tokens(batch, first_label=1)


def count_tokens_unshifted(batch: Any) -> tuple[Any, Any]:
    """As `count_tokens`, for models whose labels stand at their own place: encoder-decoders, taggers."""
    return _count_tokens(batch, first_label=0)


def _count_tokens(batch: Any, first_label: int) -> tuple[Any, Any]:
    if not hasattr(batch, "keys"):
        return None, None
    ids, mask, labels = batch.get("input_ids"), batch.get("attention_mask"), batch.get("labels")
    tokens = None
    if mask is not None and getattr(mask, "ndim", 0) == 2:
        tokens = on_host(mask.sum())
    elif ids is not None:
        tokens = ids.numel()
    trained = None if labels is None else on_host((labels[..., first_label:] != IGNORED).sum())
    return tokens, trained


def on_host(value: Any) -> Any:
    """The value's number where reading it costs no wait, else the tensor."""
    number = readback.read_now(value)
    return value if number is None else number


def samples(batch: Any) -> int:
    """Rows of a batch: the length of its first tensor; 0 where it has none."""
    while isinstance(batch, (list, tuple)) and batch:
        batch = batch[0]
    if not getattr(batch, "ndim", 0) and hasattr(batch, "keys"):  # in this order: a tensor is slow to say no
        batch = next((value for value in batch.values() if getattr(value, "ndim", 0)), None)
    return int(batch.shape[0]) if getattr(batch, "ndim", 0) else 0


def loss_of(outputs: Any) -> Any:
    """The loss among what a step or a model returned; None where there is none."""
    if outputs.__class__ is dict or isinstance(outputs, Mapping):
        return outputs.get("loss")
    loss = getattr(outputs, "loss", None)
    return outputs if loss is None and getattr(outputs, "ndim", None) == 0 else loss
