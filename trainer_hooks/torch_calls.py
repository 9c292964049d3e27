"""What one call of an outermost module tells: its loss, samples and tokens."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.nn.modules.loss import _Loss

from trainer_hooks import readback
from trainer_hooks.batches import (
    count_tokens,
    count_tokens_unshifted,
    kept,
    loss_of,
    on_host,
    samples,
    split_auxiliary,
)

_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")  # DDP and the like; torch.compile; FSDP
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSeq2SeqLM")
_UNSHIFTED = ("ForMaskedLM", "ForTokenClassification", "ForPreTraining")
_IDS = ("input_ids", "idx", "tokens", "token_ids")
_TARGETS = ("targets", "target")
_TELLING = {*_IDS, *_TARGETS, "labels", "attention_mask", "num_items_in_batch"}
_SCALING = ("DivBackward0", "MulBackward0")
_SUM = 2  # the reduction, as torch's own losses remember it
_MOST_OUTPUTS = 3  # of a tuple; a loss stands in front
_DEEPEST_WRAPPING = 8


class Call:
    """One call of a model or a criterion. Losses are detached, and numbers where they were on the host.

    `loss`, without its `auxiliary` part, is a mean over `normalizer` tokens where that is known, else over
    `trained_tokens`. One that is the `plain` mean of the cross-entropy per token, in nats, has a perplexity.
    It may have been divided by `divisor`, `summed` if it was a sum before.
    """

    auxiliary: Any = None
    criterion: bool = False
    divisor: float | None = None
    function: str = ""  # the kind of the function whose gradient the loss has
    loss: Any = None
    normalizer: Any = None
    plain: bool = False
    samples: int = 0
    summed: bool = False
    tokens: Any = None
    trained_tokens: Any = None
    with_gradients: bool = False


class Root:
    """What is known of an outermost module, or of a criterion, from call to call."""

    __slots__ = ("_names", "_plain", "_shifted", "_tells", "criterion", "trained", "trains_in_eval")

    def __init__(self, module: Any) -> None:
        inner = _unwrapped(module)
        name = type(inner).__name__
        self.criterion = isinstance(inner, _Loss)
        self.trained = False
        self.trains_in_eval = False
        self._shifted = shifts_labels(inner)
        self._plain = (
            _is_plain(inner)
            if self.criterion
            else name.endswith(_LANGUAGE_MODELS)
            and hasattr(inner, "config")
            and not getattr(inner, "z_loss_coefficient", 0)
        )
        self._names = _positions(inner.forward)
        self._tells = self.criterion or not _TELLING.isdisjoint(self._names)

    def read(self, module: Any, args: Any, kwargs: Mapping[str, Any] | None, output: Any) -> Call:
        """The call that returned `output`. Raises what a stranger's arguments raise."""
        call = Call()
        call.criterion = self.criterion
        loss = _own_loss(output)
        apart = True
        if is_grad_enabled():
            call.with_gradients = has_gradients(output)
        # Where gradients are kept and it has none, nothing is trained on it.
        if loss is not None and (loss.requires_grad or not is_grad_enabled()):
            call.loss, call.auxiliary, apart = split_auxiliary(output, loss, module)
            call.function = function_of(loss)
        if not kwargs and args:
            first = args[0]
            if first.__class__ is Tensor and not self._tells:
                call.samples = first.shape[0] if first.ndim else 0
                return call
        given = self._given(args, kwargs or {})
        call.samples = samples(args) or samples(given)
        if self.criterion:
            self._count_targets(call, _unwrapped(module), given)
        elif not readback.capturing(*given.values()):
            self._count(call, given, apart)
        return call

    def _given(self, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name."""
        if len(args) == 1 and isinstance(args[0], Mapping):
            return {**args[0], **kwargs}
        return {**dict(zip(self._names, args, strict=False)), **kwargs} if args else dict(kwargs)

    def _count(self, call: Call, given: Mapping[str, Any], apart: bool) -> None:
        labels = given.get("labels")
        ids = next((given[name] for name in _IDS if _is_row_of_ids(given.get(name))), None)
        told = {"input_ids": ids, "attention_mask": given.get("attention_mask"), "labels": None}
        if _is_row_of_ids(labels):
            told["labels"] = labels
            count = count_tokens if self._shifted else count_tokens_unshifted
            call.tokens, call.trained_tokens = count(told)
            call.normalizer = kept(given.get("num_items_in_batch"))
            call.plain = self._plain and apart
            return
        call.tokens, _ = count_tokens(told)
        targets = next((given[name] for name in _TARGETS if _is_row_of_ids(given.get(name))), None)
        if targets is not None and ids is not None and targets.shape == ids.shape:
            call.trained_tokens = on_host(targets.ge(0).count_nonzero())

    def _count_targets(self, call: Call, criterion: Any, given: Mapping[str, Any]) -> None:
        target: Any = given.get("target")
        if hasattr(criterion, "ignore_index") and _is_integer(target) and not readback.capturing(target):
            call.trained_tokens = on_host(target.ne(criterion.ignore_index).count_nonzero())
            call.plain = self._plain
        if criterion.reduction == "sum":
            call.normalizer = 1


def shifts_labels(module: Any) -> bool:
    """Whether the label at a place is that of the token before it: not with encoder-decoders and taggers."""
    decoded = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
    return not decoded and not type(module).__name__.endswith(_UNSHIFTED)


def shifts_labels_within(module: Any) -> bool:
    """As `shifts_labels`, of the first of transformers' models within a module; True where there is none."""
    for each in module.modules():
        if not hasattr(getattr(each, "config", None), "is_encoder_decoder"):
            continue
        if not shifts_labels(each):
            return False
        if type(each).__name__.endswith(_LANGUAGE_MODELS):
            return True
    return True


def precision(mixed: Any, models: Iterable[Any]) -> str:
    """The mixed precision, or where there is none ("no") that of the models; empty where they differ."""
    if str(mixed) != "no":
        return str(mixed)
    first = (
        next((each.dtype for each in model.parameters() if each.is_floating_point()), "") for model in models
    )
    dtypes = {str(dtype).removeprefix("torch.") for dtype in first}
    return dtypes.pop() if len(dtypes) == 1 else ""


def has_gradients(output: Any) -> bool:
    """Whether a backward pass could be taken of what a module returned."""
    if isinstance(output, Tensor):
        return output.requires_grad
    if isinstance(output, Mapping):
        return any(has_gradients(each) for each in output.values())
    if isinstance(output, (list, tuple)):
        return any(has_gradients(each) for each in output)
    return hasattr(output, "__dict__") and any(
        isinstance(each, Tensor) and each.requires_grad for each in vars(output).values()
    )


def divisor(loss: Any) -> float | None:
    """What this scalar was last divided by, as its gradient function remembers; None where it was not.

    None also where only somebody's saved_tensors_hooks know (never so of a Python number): to ask them would
    recompute a checkpoint, or take what the backward pass is to get. None too where torch tells of no hooks.
    """
    function: Any = getattr(loss, "grad_fn", None)
    name = type(function).__name__
    if name not in _SCALING:
        return None
    saved = function._raw_saved_other
    if saved is None or getattr(saved, "unpack_hook", saved) is not None:
        return None
    other = saved.data
    if other is None or not other.is_cpu or other.numel() != 1:
        return None
    value = float(other.item())
    if name == "MulBackward0":
        value = 1 / value if value else 0.0
    return value if value > 1 else None


def function_of(loss: Any) -> str:
    """The kind of the function whose gradient a loss has, before it was divided or multiplied."""
    return type(_before_scaling(loss)).__name__


def is_sum(loss: Any) -> bool:
    """Whether a loss was a sum before it was divided or multiplied."""
    function = _before_scaling(loss)
    return type(function).__name__.startswith("SumBackward") or (
        getattr(function, "_saved_reduction", None) == _SUM
    )


def _before_scaling(loss: Any) -> Any:
    function: Any = getattr(loss, "grad_fn", None)
    for _ in range(_DEEPEST_WRAPPING):
        if type(function).__name__ not in _SCALING:
            break
        function = next((before for before, _ in function.next_functions if before is not None), None)
    return function


def _own_loss(output: Any) -> Any:
    """The loss a module returned, alone or among its outputs; None where it has none."""
    if isinstance(output, Tensor):
        return output if output.ndim == 0 and output.is_floating_point() else None
    if isinstance(output, (list, tuple)) and not hasattr(output, "loss"):
        return next((each for each in output[:_MOST_OUTPUTS] if _is_scalar(each)), None)
    loss = loss_of(output)
    return loss if _is_scalar(loss) else None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def _is_integer(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32)


def _is_row_of_ids(value: Any) -> bool:
    return _is_integer(value) and value.ndim == 2


def _is_plain(criterion: Any) -> bool:
    return (
        type(criterion) is torch.nn.CrossEntropyLoss
        and criterion.weight is None
        and criterion.label_smoothing == 0.0
        and criterion.reduction in ("mean", "sum")
    )


def _unwrapped(module: Any) -> Any:
    for _ in range(_DEEPEST_WRAPPING):
        inner = next((module._modules[name] for name in _WRAPPERS if name in module._modules), None)
        if inner is None or len(module._modules) > 1:  # more than a wrapper
            break
        module = inner
    return module


def _positions(forward: Any) -> tuple[str, ...]:
    """The names of the arguments that may be given by their place."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(each.name for each in parameters if each.kind in kinds)
