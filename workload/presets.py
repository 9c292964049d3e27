"""The sizes and settings a training can be started with."""

from __future__ import annotations

from dataclasses import dataclass

from workload import WorkloadError


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Shape of a Llama-type model; the vocabulary is at most so large, less where the data has less."""

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    attention_heads: int
    key_value_heads: int
    sequence_length: int


@dataclass(frozen=True, slots=True)
class Preset:
    """One way to train.

    An optimizer step sees `accumulation` micro-batches of `micro_batch_size` windows of tokens.
    Validation looks at the first `validation_windows` windows of its split, by hash order of the content.
    """

    name: str
    shape: ModelShape
    micro_batch_size: int
    accumulation: int
    max_steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    validation_share: float
    validation_windows: int
    validate_every_steps: int
    checkpoint_every_steps: int
    seed: int


# A few minutes on two CPU cores, from data reading to the last evaluation.
TINY = Preset(
    name="tiny",
    shape=ModelShape(
        vocabulary_size=4096,
        hidden_size=128,
        intermediate_size=352,
        layers=3,
        attention_heads=4,
        key_value_heads=2,
        sequence_length=128,
    ),
    micro_batch_size=8,
    accumulation=2,
    max_steps=400,
    learning_rate=3e-3,
    warmup_steps=40,
    weight_decay=0.01,
    clip_norm=1.0,
    validation_share=0.05,
    validation_windows=256,
    validate_every_steps=50,
    checkpoint_every_steps=50,
    seed=20180501,
)

PRESETS = {preset.name: preset for preset in (TINY,)}


def preset_named(name: str) -> Preset:
    """The preset of that name; `WorkloadError` names those there are."""
    if name not in PRESETS:
        raise WorkloadError(f"no preset {name!r}; --preset takes {', '.join(PRESETS)}")
    return PRESETS[name]
