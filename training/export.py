"""Writes a trained model as one GGUF file: weights in Q8_0, tokenizer, chat template.

Matrices are quantized in blocks of 32 numbers along a row, so every width must be a multiple of 32; the vectors of the
norms stay in 32 bits. The output layer is left out: llama.cpp then uses the embedding table.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from model import LanguageModel, Shape
from tokenizer import END_OF_TEXT, SPECIAL_TOKENS, TURN_END
from tokenizers import Tokenizer
from torch import Tensor

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
NAME = "penstock-demo"


def export(model: LanguageModel, tokenizer: Tokenizer, path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    _add_description(writer)
    _add_shape(writer, model.shape)
    _add_tokenizer(writer, tokenizer, model.shape.vocabulary)
    for name, weights in _tensors(model).items():
        _add_tensor(writer, name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_description(writer: GGUFWriter) -> None:
    writer.add_type("model")
    writer.add_name(NAME)
    writer.add_description("The demo model built into Penstock, trained from scratch on text written for it")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_shape(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, vocabulary: int) -> None:
    """The vocabulary is filled up to the model's with tokens that are never produced."""
    bpe = json.loads(tokenizer.to_str())["model"]
    by_id = {number: text for text, number in bpe["vocab"].items()}
    texts, types = [], []
    for number in range(vocabulary):
        text = by_id.get(number)
        if text is None:
            texts.append(f"[unused{number}]")
            types.append(TokenType.UNUSED)
        else:
            texts.append(text)
            types.append(TokenType.CONTROL if text in SPECIAL_TOKENS else TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    writer.add_bos_token_id(bpe["vocab"][END_OF_TEXT])
    writer.add_pad_token_id(bpe["vocab"][END_OF_TEXT])
    writer.add_eos_token_id(bpe["vocab"][TURN_END])
    writer.add_eot_token_id(bpe["vocab"][TURN_END])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE.read_text(encoding="utf-8"))


def _tensors(model: LanguageModel) -> dict[str, Tensor]:
    """Our weights under llama.cpp's names."""
    tensors = {"token_embd": model.embedding.weight, "output_norm": model.norm.weight}
    for number, block in enumerate(model.blocks):
        parts = {
            "attn_norm": block.attention_norm,
            "attn_q": block.attention.q,
            "attn_k": block.attention.k,
            "attn_v": block.attention.v,
            "attn_output": block.attention.out,
            "ffn_norm": block.feed_forward_norm,
            "ffn_gate": block.feed_forward.gate,
            "ffn_up": block.feed_forward.up,
            "ffn_down": block.feed_forward.down,
        }
        tensors |= {f"blk.{number}.{name}": part.weight for name, part in parts.items()}
    return tensors


def _add_tensor(writer: GGUFWriter, name: str, weights: Tensor) -> None:
    values = np.ascontiguousarray(weights.detach().float().numpy())
    if values.ndim == 1:
        writer.add_tensor(f"{name}.weight", values)
        return
    quantized = gguf.quants.quantize(values, GGMLQuantizationType.Q8_0)
    writer.add_tensor(f"{name}.weight", quantized, raw_dtype=GGMLQuantizationType.Q8_0)
