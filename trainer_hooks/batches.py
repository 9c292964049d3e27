"""What a batch and a model's outputs tell without being told: samples, tokens, the loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trainer_hooks import readback

IGNORED = -100  # the label that torch's cross_entropy leaves out

# Of a batch: its tokens without padding, and those whose label counts in the loss; numbers, tensors or None.
TokenCounter = Callable[[Any], "tuple[Any, Any]"]


def count_tokens(batch: Any) -> tuple[Any, Any]:
    """The tokens of a batch of a causal model: from `attention_mask` or `input_ids`, and `labels`.

    A label is that of the token before it, so the first of each row counts nowhere. None where the batch
    does not tell: ids and labels are integers, a row a sequence.
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
        # Of zeros and ones; `count_nonzero` takes a third of the time of `sum`.
        tokens = on_host(mask.count_nonzero())
    elif _are_rows_of_ids(ids):
        tokens = ids.numel()
    if not _are_rows_of_ids(labels):  # classes, for one: no tokens
        return tokens, None
    return tokens, on_host(labels[:, first_label:].ne(IGNORED).count_nonzero())


def _are_rows_of_ids(value: Any) -> bool:
    return getattr(value, "ndim", 0) == 2 and _is_integral(value.dtype)


@functools.lru_cache(maxsize=32)
def _is_integral(dtype: Any) -> bool:
    return "int" in str(dtype)


def on_host(value: Any) -> Any:
    """The value's number where reading it costs no wait, else the tensor."""
    number = readback.read_now(value)
    return value if number is None else number


def kept(loss: Any) -> Any:
    """A loss to hold on to: detached, a number where reading it costs no wait, and no view of more.

    None where a CUDA graph is being captured: there is nothing to read before it is replayed.
    """
    if not hasattr(loss, "detach"):
        return loss
    value = on_host(loss.detach())
    if not hasattr(value, "detach"):
        return value
    if readback.capturing(value):
        return None
    plain = not hasattr(value, "to_local")  # a DTensor's storage is elsewhere
    is_view = plain and value.untyped_storage().nbytes() > value.element_size()
    return value.clone() if is_view else value


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


# What a model of experts calls the weight of its `aux_loss` in its loss; and the parts that others mix in.
_COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
_MIXED_IN = ("encoder_aux_loss", "decoder_aux_loss", "encoder_z_loss", "decoder_z_loss")
_DEEPEST_WRAPPING = 8


class Losses(NamedTuple):
    """A model's loss without its auxiliary part, which stands beside it, unweighted, where there is one.

    Not `apart` where the loss still holds it, since nothing tells its weight.
    """

    loss: Any
    auxiliary: Any
    apart: bool


def split_auxiliary(outputs: Any, loss: Any, model: Any) -> Losses:
    """Take the balancing loss of the experts out of `loss`, which `model` returned among its `outputs`.

    Models of transformers return the sum `cross_entropy + router_aux_loss_coef * aux_loss`. Results are
    as `kept` makes them.
    """
    loss = kept(loss)
    auxiliary = getattr(outputs, "aux_loss", None)
    if auxiliary is None or loss is None:
        return Losses(loss, None, all(getattr(outputs, name, None) is None for name in _MIXED_IN))
    auxiliary = kept(auxiliary)
    coefficient = auxiliary_weight(model)
    if coefficient is None:
        return Losses(loss, auxiliary, False)
    if hasattr(loss, "device") and hasattr(auxiliary, "device"):
        return Losses(loss - coefficient * auxiliary.to(loss.device, non_blocking=True), auxiliary, True)
    return Losses(loss - coefficient * auxiliary, auxiliary, True)


def auxiliary_weight(model: Any) -> float | None:
    """The weight of the auxiliary loss: of the model, else of its configuration; None where none is found."""
    for _ in range(_DEEPEST_WRAPPING):
        config = getattr(model, "config", None)
        for owner in (model, getattr(config, "text_config", None), config):
            for name in _COEFFICIENTS:
                coefficient = getattr(owner, name, None)
                if isinstance(coefficient, (int, float)):
                    return coefficient
        model = getattr(model, "module", None)
        if model is None:
            break
    return None
