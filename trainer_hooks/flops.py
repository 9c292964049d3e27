"""Model FLOPs of a token of training, from the shapes of the modules alone.

A product of a token's features with a weight of N elements is 2·N FLOPs forward, 2·N more for the gradient
of its input where that needs one, and 2·N for the gradient of the weight where that is trained (Kaplan et
al. 2020, arXiv:2001.08361, section 2.1): 6·N where everything is trained, about 4·N where frozen weights
lie above trained ones, 2·N where nothing below is trained. Nothing is computed a second time here:
recomputation is no part of model FLOPs (PaLM, arXiv:2204.02311, appendix B). An embedding is a lookup, 0;
the projection onto the vocabulary is a product also where it shares the embedding's weight. Of routed
experts those a token is sent to count. Norms, biases and activations are left out, as in those papers.

Attention scores, 12 · layers · width · sequence for each token (PaLM, appendix B, which leaves the causal
mask out of account), need the length of every row. A batch does not tell that exactly, so they are counted
only where the caller says that all rows are of one length; see `of_model`.

It reads shapes and `requires_grad`, never a value. A model is known where it is one decoder or encoder made
of layers that each run once a token, with a projection onto its vocabulary; of any other there are no
FLOPs.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import nn

# What takes the same input, by the names of the layers, side by side.
_QUERY = {"q_proj", "query", "q_lin", "q", "q_b_proj"}
_KEY = {"k_proj", "key", "k_lin", "k", "kv_b_proj"}
_VALUE = {"v_proj", "value", "v_lin", "v", "kv_b_proj"}
_SIDE_BY_SIDE = (
    _QUERY | _KEY | _VALUE | {"q_a_proj", "kv_a_proj_with_mqa"},
    {"gate_proj", "up_proj", "w1", "w3", "fc_1", "fc_2"},
)
# Multi-head latent attention (DeepSeek): these take what another layer made of the input.
_FED_BY = {"q_b_proj": "q_a_proj", "kv_b_proj": "kv_a_proj_with_mqa"}
_FUSED_ATTENTION = {"c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv", "in_proj"}
_NORMS_BEFORE = {"input_layernorm", "ln_1", "attention_norm", "norm1", "ln1", "operator_norm"}
# Their attention and feed-forward network take the same input.
_PARALLEL_TYPES = {"gptj", "gpt_neox", "gpt_neox_japanese", "falcon", "phi", "cohere", "cohere2", "codegen"}
_SHARED_LAYER_TYPES = {"albert", "zamba", "zamba2"}
_TOP_K = ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_top_k", "top_k_experts", "moe_k")


class Flops(NamedTuple):
    """Floating-point operations of one token, a multiplication and an addition being two."""

    forward: int
    activation_gradients: int
    weight_gradients: int

    @property
    def total(self) -> int:
        return sum(self)


def of_model(module: nn.Module, *, sequence_length: int | None = None) -> Flops | None:
    """The FLOPs of a token in training as the module is now; None where they are not known.

    Args:
        module: the model, also within DDP, FSDP, DeepSpeed, PEFT or a LightningModule. Sharded and quantised
            layers tell their features; where shapes before sharding cannot be known there is no answer.
        sequence_length: tokens of every row, where all are of one length. Then attention scores are counted,
            unless layers see less than the row (sliding windows) or the width of attention is not told.
    """
    try:
        return _Model(module).flops(sequence_length)
    except _UnknownError:
        return None


class _UnknownError(Exception):
    """A model, or part of one, of which nothing exact can be said."""


class _Product(NamedTuple):
    """A product with a weight; `chained` where its input is the product before, not the layer's input."""

    size: Fraction
    trained: bool
    chained: bool = False


class _Layer(NamedTuple):
    """A module with weights: its products, in the order they run, and whether any other weight is trained."""

    name: str
    stage: str | None  # the element of an outermost list of layers in which it is
    products: tuple[_Product, ...]
    trained: bool
    routed: bool = False


class _Model:
    def __init__(self, module: nn.Module) -> None:
        self._config = _config(module)
        self._vocabularies: set[int] = set()
        self._outputs: list[tuple[str | None, int]] = []
        self._layers = list(self._walk(module, "", None, Fraction(1)))
        heads = [
            out for stage, out in self._outputs if stage is None and out in self._vocabularies
        ]  # a classifier, or two models, or none that takes tokens
        if len(heads) != 1:
            raise _UnknownError

    def _told(self, name: str) -> Any:
        return getattr(self._config, name, None)

    # What there is

    def _walk(self, module: nn.Module, name: str, stage: str | None, share: Fraction) -> Iterator[_Layer]:
        """The layers below a module; `share` of the tokens come by."""
        kind = _kind(module)
        if isinstance(module, (nn.Transformer, nn.TransformerDecoder, nn.EmbeddingBag, nn.modules.RNNBase)):
            raise _UnknownError
        if "Pooler" in kind or "ClassificationHead" in kind or kind == "ParamWrapper":
            raise _UnknownError  # once a row; or weights that are put together before use
        if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
            kept: Any = module.modules_to_save
            used: Any = module.original_module
            for each in _active_adapters(module):
                used = kept[each] if each in kept else used  # noqa: SIM401 - a ModuleDict has no get
            yield from self._walk(used, name, stage, share)
        elif hasattr(module, "base_layer"):
            yield self._adapted(module, name, stage, share)
        elif isinstance(module, nn.Embedding):
            self._vocabularies.add(module.num_embeddings)
            yield _Layer(name, stage, (), _trained(module))
        elif _is_linear(module):
            size, out, trained = _linear(module)
            self._outputs.append((stage, out))
            yield _Layer(name, stage, (_Product(size * share, trained),), _trained(module))
        else:
            yield from self._own(module, name, stage, share)
            if getattr(module, "prompt_encoder", None):
                raise _UnknownError  # tokens that no batch counts
            outermost = stage is None and isinstance(module, (nn.ModuleList, nn.Sequential))
            for child, below in module.named_children():
                part = share
                if isinstance(module, nn.ModuleList) and name == "experts":
                    part = share * Fraction(self._top_k(), len(module))
                yield from self._walk(below, child, f"{id(module)}.{child}" if outermost else stage, part)

    def _own(self, module: nn.Module, name: str, stage: str | None, share: Fraction) -> Iterator[_Layer]:
        """The layer that the module's own parameters make."""
        own = {key: weight for key, weight in module._parameters.items() if weight is not None}
        if not own:
            return
        products: list[_Product] = []
        routed = False
        for key, weight in own.items():
            shape = _shape(weight)
            experts = getattr(module, "num_experts", None)
            if len(shape) <= 1 or ("bias" in key and shape[0] == experts):
                continue
            size = Fraction(_numel(shape)) * share
            if len(shape) == 3 and shape[0] == experts:
                size *= Fraction(self._top_k(), shape[0])
                routed = True
            elif isinstance(module, nn.MultiheadAttention) and key.endswith("proj_weight"):
                key = "in_proj"
            elif len(shape) == 2 and key == "weight" and ("Router" in _kind(module) or name == "gate"):
                routed = True
            else:
                raise _UnknownError
            products.append(_Product(size, weight.requires_grad, chained=routed and len(products) > 0))
        yield _Layer(
            "in_proj" if isinstance(module, nn.MultiheadAttention) else name,
            stage,
            tuple(products),
            any(weight.requires_grad for weight in own.values()),
            routed,
        )

    def _adapted(self, module: Any, name: str, stage: str | None, share: Fraction) -> _Layer:
        """A linear layer with low-rank adapters beside it (LoRA, as peft writes it)."""
        if not hasattr(module, "lora_A") or not _is_linear(module.base_layer):
            raise _UnknownError
        if len(getattr(module, "lora_magnitude_vector", ())) or len(getattr(module, "lora_embedding_A", ())):
            raise _UnknownError
        size, out, trained = _linear(module.base_layer)
        self._outputs.append((stage, out))
        products = [_Product(size * share, trained)]
        if not (getattr(module, "disable_adapters", False) or getattr(module, "merged", False)):
            for each in _active_adapters(module):
                if each in module.lora_A:
                    for down_or_up, chained in ((module.lora_A[each], False), (module.lora_B[each], True)):
                        size, _, adapts = _linear(down_or_up)
                        products.append(_Product(size * share, adapts, chained))
        return _Layer(name, stage, tuple(products), _trained(module))

    def _top_k(self) -> int:
        for source in (self._config, getattr(self._config, "ffn_config", None)):
            for name in _TOP_K:
                top_k = getattr(source, name, None)
                if isinstance(top_k, int) and top_k > 0:
                    return top_k
        raise _UnknownError

    # What a token takes

    def flops(self, sequence_length: int | None) -> Flops:
        forward = Fraction(0)
        activations = Fraction(0)
        weights = Fraction(0)
        flows = False  # whether the layer's input needs a gradient
        for stage in self._stages():
            starts = flows
            if not flows and any(layer.trained for layer in stage):
                inputs = self._inputs_of_the_lowest_trained(stage)
                flows = True
            else:
                inputs = [flows] * len(stage)
            outputs: dict[str, bool] = {}
            for layer, input_flows in zip(stage, inputs, strict=True):
                before = input_flows
                for product in layer.products:
                    needed = before if product.chained else input_flows
                    forward += 2 * product.size
                    activations += 2 * product.size * needed
                    weights += 2 * product.size * product.trained
                    before = needed or product.trained
                outputs[layer.name] = input_flows or layer.trained
            if sequence_length and stage[0].stage is not None:
                scores = self._attention(sequence_length, starts, outputs)
                forward += scores[0]
                activations += scores[1]
        return Flops(round(forward), round(activations), round(weights))

    def _stages(self) -> Iterator[list[_Layer]]:
        """The layers in runs of one stage, in the order of their definition."""
        run: list[_Layer] = []
        for layer in self._layers:
            if run and layer.stage != run[-1].stage:
                yield run
                run = []
            run.append(layer)
        if run:
            yield run

    def _inputs_of_the_lowest_trained(self, stage: list[_Layer]) -> list[bool]:
        """Of each layer of the lowest stage with trained weights, whether its input needs a gradient."""
        in_a_list = stage[0].stage is not None
        if in_a_list and any(layer.trained and not layer.products for layer in stage):  # norms
            if all(layer.trained for layer in stage) and any(layer.name in _NORMS_BEFORE for layer in stage):
                return [True] * len(stage)
            raise _UnknownError
        if in_a_list and (self._told("model_type") in _PARALLEL_TYPES or self._told("parallel_attn")):
            raise _UnknownError
        inputs: list[bool] = []
        trained = {layer.name: layer.trained for layer in stage}
        flows = at_start = False
        group: set[str] | None = None
        for at, layer in enumerate(stage):
            if not layer.products:
                inputs.append(flows)
                flows |= layer.trained
                continue
            if layer.routed and not flows and any(each.trained for each in stage[at:]):
                raise _UnknownError  # which of router, shared and routed experts feed each other is not told
            if group is None or layer.name not in group:
                group = next((names for names in _SIDE_BY_SIDE if layer.name in names), None)
                at_start = flows
            here = at_start if group is not None else flows
            inputs.append(here or trained.get(_FED_BY.get(layer.name, ""), False))
            flows |= layer.trained
        return inputs

    def _attention(
        self, sequence: int, input_flows: bool, outputs: dict[str, bool]
    ) -> tuple[Fraction, Fraction]:
        """Of the scores of one layer: forward, and the gradients of queries, keys, weights and values."""
        widths = self._attention_widths(sequence)
        if widths is None:
            return Fraction(0), Fraction(0)
        scores, mixture = (Fraction(2 * sequence * width) for width in widths)
        if input_flows or not any(outputs.values()):
            query = key = value = input_flows
        else:
            fused = [flag for name, flag in outputs.items() if name in _FUSED_ATTENTION]
            flags = [
                next((flag for name, flag in outputs.items() if name in names), fused[0] if fused else None)
                for names in (_QUERY, _KEY, _VALUE)
            ]
            if any(flag is None for flag in flags):
                raise _UnknownError
            query, key, value = map(bool, flags)
        return scores + mixture, scores * (query + key) + mixture * ((query or key) + value)

    def _attention_widths(self, sequence: int) -> tuple[int, int] | None:
        """Features of all heads in the product of queries and keys, and in that with the values."""
        heads, hidden = self._told("num_attention_heads"), self._told("hidden_size")
        if not isinstance(heads, int) or not isinstance(hidden, int):
            return None
        if any(kind not in ("full_attention",) for kind in self._told("layer_types") or ()):
            return None
        window = self._told("sliding_window")
        if isinstance(window, int) and window < sequence and self._told("use_sliding_window") is not False:
            return None
        rope, nope, value = (
            self._told(name) for name in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
        )
        if isinstance(rope, int) and isinstance(nope, int) and isinstance(value, int):
            return heads * (rope + nope), heads * value
        each = self._told("head_dim")
        width = heads * each if isinstance(each, int) else hidden
        return width, width


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _config(module: nn.Module) -> Any:
    """The configuration of the one transformers model in it; None where there is none."""
    configs: dict[int, Any] = {}
    for each in module.modules():
        config = each.__dict__.get("config")
        if isinstance(getattr(config, "model_type", None), str):
            configs[id(config)] = config
    if len(configs) > 1:
        raise _UnknownError
    config = next(iter(configs.values()), None)
    if (
        getattr(config, "is_encoder_decoder", False)
        or getattr(config, "model_type", "") in _SHARED_LAYER_TYPES
    ):
        raise _UnknownError
    return config


def _is_linear(module: nn.Module) -> bool:
    features = all(isinstance(getattr(module, name, None), int) for name in ("in_features", "out_features"))
    known = isinstance(module, nn.Linear) or "Linear" in _kind(module)  # GPTQ's and AWQ's are their own
    return (features and known) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """transformers' Conv1D of GPT-2, a linear layer whose weight lies the other way round."""
    return _kind(module) == "Conv1D" and hasattr(module, "nf")


def _linear(module: Any) -> tuple[Fraction, int, bool]:
    """Elements of the weight before quantisation and sharding, output features, and whether it is trained."""
    weight = module._parameters.get("weight")
    if weight is None and "qweight" not in module._buffers and "qweight" not in module._parameters:
        raise _UnknownError  # flattened into another's, or computed
    trained = weight is not None and weight.requires_grad
    if weight is not None:
        _refuse_tensor_parallel(weight)
    if _is_conv1d(module):
        shape = _shape(weight)
        if len(shape) != 2:
            raise _UnknownError
        return Fraction(_numel(shape)), module.nf, trained
    if module.in_features <= 0 or module.out_features <= 0:
        raise _UnknownError  # lazy
    return Fraction(module.in_features * module.out_features), module.out_features, trained


def _trained(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def _active_adapters(module: Any) -> list[str]:
    active = getattr(module, "active_adapters", None) or getattr(module, "active_adapter", None) or []
    return [active] if isinstance(active, str) else list(active)


def _shape(weight: Any) -> tuple[int, ...]:
    """The shape before DeepSpeed or FSDP sharded it; of a DTensor it is the whole one already."""
    _refuse_tensor_parallel(weight)
    return tuple(getattr(weight, "ds_shape", weight.shape))


def _refuse_tensor_parallel(weight: Any) -> None:
    """Ranks that share the work on one token would each count all of it."""
    mesh = getattr(weight, "device_mesh", None)
    if mesh is not None and "tp" in (mesh.mesh_dim_names or ()):
        raise _UnknownError


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
