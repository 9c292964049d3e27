"""FLOPs of a token from the module alone, beside what torch counts while it runs the model."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import peft
import pytest
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer_hooks import flops

VOCABULARY, HIDDEN, LAYERS, ROWS, LENGTH = 211, 64, 3, 2, 16
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "llama tied": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen3 with wide heads": lambda: transformers.Qwen3Config(**SHAPE, head_dim=32),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=LAYERS, n_head=4, n_positions=64
    ),
    "mixtral": lambda: transformers.MixtralConfig(**SHAPE, **EXPERTS, sliding_window=None),
    "qwen2 moe": lambda: transformers.Qwen2MoeConfig(
        **SHAPE,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=80,
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(
        **SHAPE, **EXPERTS, head_dim=16, layer_types=["full_attention"] * LAYERS
    ),
    "deepseek": lambda: transformers.DeepseekV3Config(
        **{**SHAPE, "num_key_value_heads": 4},
        **EXPERTS,
        n_routed_experts=4,
        moe_intermediate_size=48,
        n_group=2,
        topk_group=1,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=12,
        first_k_dense_replace=1,
    ),
}


def model(config: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    made = CONFIGS[config]()
    for name, value in changes.items():
        setattr(made, name, value)
    built: Any = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        made, attn_implementation="eager"
    )
    built.set_experts_implementation("eager")
    return built.train()


def with_lora(built: Any, *targets: str) -> Any:
    return peft.get_peft_model(
        built, peft.LoraConfig(r=4, target_modules=list(targets), task_type="CAUSAL_LM", lora_dropout=0.1)
    )


def freeze(built: Any, *, but: Callable[[str], bool]) -> Any:
    for name, weight in built.named_parameters():
        weight.requires_grad = but(name)
    return built


def measured(built: Any) -> tuple[float, float]:
    """FLOPs of a token as torch counts them, forward and in all; the angles of rotary embeddings left out."""
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    with FlopCounterMode(display=False) as counter:
        loss = built(input_ids=ids, labels=ids).loss
        forward = counter.get_total_flops()
        loss.backward()
    angles = sum(
        sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.endswith("rotary_emb")
    )
    tokens = ROWS * LENGTH
    return (forward - angles) / tokens, (counter.get_total_flops() - angles) / tokens


TRAININGS: dict[str, Callable[[Any], Any]] = {
    "everything": lambda built: built,
    "all but the embeddings": lambda built: freeze(
        built, but=lambda name: not any(part in name for part in ("embed_tokens", "wte", "wpe"))
    ),
    "the last layer": lambda built: freeze(built, but=lambda name: f".{LAYERS - 1}." in name),
    "the head": lambda built: freeze(built, but=lambda name: "lm_head" in name),
    "adapters of attention": lambda built: with_lora(
        built,
        *{"gpt2": ["c_attn"], "deepseek_v3": ["q_a_proj", "kv_b_proj"]}.get(
            built.config.model_type, ["q_proj", "v_proj"]
        ),
    ),
    "adapters of the output": lambda built: with_lora(
        built, "attn.c_proj" if built.config.model_type == "gpt2" else "o_proj"
    ),
}


HEAD_IS_EMBEDDING = ("llama tied", "gpt2")  # so it is not trained alone


@pytest.mark.parametrize(
    ("config", "training"),
    [
        (config, training)
        for config in CONFIGS
        for training in TRAININGS
        if not (training == "the head" and config in HEAD_IS_EMBEDDING)
    ],
)
def test_the_flops_of_a_token_are_those_torch_counts(config: str, training: str) -> None:
    built = TRAININGS[training](model(config))
    known = flops.of_model(built, sequence_length=LENGTH)
    assert known is not None
    assert (known.forward, known.total) == measured(built)


@pytest.mark.parametrize(
    "targets", [["gate_proj", "down_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]]
)
def test_adapters_anywhere_in_a_dense_model_are_counted_as_torch_does(targets: list[str]) -> None:
    built = with_lora(model("llama"), *targets)
    known = flops.of_model(built, sequence_length=LENGTH)
    assert known is not None
    assert (known.forward, known.total) == measured(built)


def weights(built: Any) -> int:
    """Elements of all weights but the embeddings'."""
    elements: int = sum(each.numel() for each in built.parameters() if each.ndim == 2)
    return elements - VOCABULARY * HIDDEN


def test_a_dense_model_takes_six_for_each_weight_and_a_frozen_one_with_adapters_about_four() -> None:
    dense = model("llama")
    assert flops.of_model(dense) == (2 * weights(dense),) * 3
    total = 6 * weights(dense)
    adapted = flops.of_model(with_lora(dense, "q_proj", "v_proj"))
    assert adapted is not None
    assert 0.6 < adapted.total / total < 0.7


def test_attention_scores_are_counted_where_rows_are_said_to_be_of_one_length() -> None:
    built = model("llama")
    without, known = flops.of_model(built), flops.of_model(built, sequence_length=LENGTH)
    assert without is not None
    assert known is not None
    assert known.total - without.total == 12 * LAYERS * HIDDEN * LENGTH


def test_scores_of_layers_that_see_less_than_the_row_are_left_out() -> None:
    built = model("llama", layer_types=["sliding_attention"] * LAYERS)
    assert flops.of_model(built, sequence_length=LENGTH) == flops.of_model(built)


def test_recomputation_is_no_part_of_it() -> None:
    built = model("llama")
    before = flops.of_model(built)
    built.gradient_checkpointing_enable()
    assert flops.of_model(built) == before


def test_shapes_suffice_and_no_value_is_read() -> None:
    with torch.device("meta"):
        nowhere = model("mixtral")
    assert flops.of_model(nowhere) == flops.of_model(model("mixtral")) is not None


def test_of_experts_in_a_list_those_a_token_is_sent_to_count() -> None:
    class Experts(nn.Module):
        """As in transformers 4: a gate, and a network for each expert."""

        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(8, 4, bias=False)
            self.experts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(4))

    built: Any = nn.Module()
    built.embed, built.layers = nn.Embedding(50, 8), nn.ModuleList([Experts()])
    built.head = nn.Linear(8, 50, bias=False)
    assert flops.of_model(built) is None  # to how many is not told
    built.config = types.SimpleNamespace(model_type="own", num_experts_per_tok=2)
    assert flops.of_model(built) == (2 * (8 * 4 + 2 * 8 * 8 + 8 * 50),) * 3


class OwnModel(nn.Module):
    """A language model as people write it for themselves."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2))
        self.more = nn.ModuleList(more)
        self.head = nn.Linear(8, 50)


OWN = 2 * (2 * (4 * 8 * 8 + 2 * 8 * 16) + 8 * 50)


def test_a_model_of_ones_own_is_known_where_it_projects_onto_its_vocabulary() -> None:
    assert flops.of_model(OwnModel()) == (OWN,) * 3


class Quantised(nn.Linear):
    """As bitsandbytes' Linear4bit: two elements of the weight to a byte, in a column."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        packed = torch.zeros(inputs * outputs // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)


def test_quantised_layers_count_by_their_features() -> None:
    built = OwnModel(Quantised(8, 6))
    assert flops.of_model(built) == (OWN + 2 * 48, OWN + 2 * 48, OWN)


def test_shards_count_by_the_features_of_their_layer_or_by_the_shape_they_were_cut_from() -> None:
    whole = model("gpt2")
    sharded = model("gpt2")
    for weight in sharded.parameters():
        weight.ds_shape = weight.shape
        weight.data = torch.empty(0)
    assert flops.of_model(sharded) == flops.of_model(whole) is not None
    for weight in sharded.parameters():
        del weight.ds_shape
    assert flops.of_model(sharded) is None


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda built: torch.compile(built, backend="eager"),
        lambda built: nn.DataParallel(built),
        lambda built: Wrapped(built),
    ],
    ids=["compiled", "data parallel", "lightning"],
)
def test_a_wrapper_changes_nothing(wrapped: Callable[[Any], Any]) -> None:
    built = model("qwen2 moe")
    assert flops.of_model(wrapped(built)) == flops.of_model(built) is not None


class Wrapped(pl.LightningModule):
    def __init__(self, built: nn.Module) -> None:
        super().__init__()
        self.model = built
        self.criterion = nn.CrossEntropyLoss()


def classifier() -> Any:
    config = transformers.BertConfig(**{**SHAPE, "num_hidden_layers": 1})
    return transformers.BertForSequenceClassification(config)


def encoder_decoder() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )


class WithAStrangersWeight(OwnModel):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(10, 8))


@pytest.mark.parametrize(
    "unknown",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10)),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)),
        lambda: OwnModel(nn.LSTM(8, 8)),
        lambda: OwnModel(nn.Conv1d(8, 8, 3)),
        lambda: nn.ModuleList([OwnModel(), OwnModel()]),
        lambda: OwnModel(nn.Transformer(8, 2, 1, 1, 16)),
        WithAStrangersWeight,
        classifier,
        encoder_decoder,
        lambda: peft.get_peft_model(
            model("mixtral"),
            peft.LoraConfig(target_modules=[], target_parameters=["experts.gate_up_proj"], r=4),
        ),
        lambda: peft.get_peft_model(
            model("llama"), peft.LoraConfig(target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
        ),
        lambda: peft.get_peft_model(
            model("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        ),
    ],
    ids=[
        "convolutions",
        "no tokens",
        "recurrent",
        "a convolution between",
        "two models",
        "encoder and decoder in torch",
        "a weight of unknown use",
        "a classifier",
        "encoder and decoder",
        "adapters of fused experts",
        "dora",
        "prompt tuning",
    ],
)
def test_of_a_model_that_is_not_known_there_are_no_flops(unknown: Callable[[], Any]) -> None:
    assert flops.of_model(unknown()) is None
