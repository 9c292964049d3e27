"""Builds the model from a preset's shape: nothing is downloaded."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from workload.presets import ModelShape


def build_model(shape: ModelShape, vocabulary_size: int, padding_id: int) -> LlamaForCausalLM:
    """A Llama-type model with fresh weights, its input and output embeddings tied."""
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.sequence_length,
        tie_word_embeddings=True,
        pad_token_id=padding_id,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return LlamaForCausalLM(config)
