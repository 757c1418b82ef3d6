"""Writes small GGUF models that recite a script: weights made by hand, so that a test knows every token to come.

Every token's embedding is its own axis and the blocks add nothing, so the last token alone decides: row f(t) of the
output matrix looks along the axis of t. After the template's end ("assistant" and a line feed) comes the script,
token by token, then the end of turn, or the script again. At temperature 0 the recital is exact; at high
temperatures other tokens come through, so that seeds show.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

END = "<|im_end|>"
SPECIALS = ("<|endoftext|>", "<|im_start|>", END)
WIDTH = 512  # tokens and embedding axes
TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}{%- if m.content %}{{- m.content }}{%- endif %}"
    "{%- for call in m.tool_calls or [] %}{{- call.function.name + call.function.arguments | string }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# Templates in the field raise on roles they do not know and on turns that do not alternate.
STRICT_TEMPLATE = (
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set turns = messages %}{%- endif %}{%- for m in turns %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('roles must alternate user/assistant') }}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [""] * 256
    for byte in printable:
        letters[byte] = chr(byte)
    for shift, byte in enumerate(b for b in range(256) if not letters[b]):
        letters[byte] = chr(256 + shift)
    return letters


def write_recital(
    path: Path,
    script: Sequence[bytes],
    *,
    loop: bool = False,
    template: str = TEMPLATE,
    context: int = 4096,
    layers: int = 1,
    feed_forward: int = 32,
) -> Path:
    """Write a model that recites `script`, whose pieces must differ from each other; more `layers` make it slower."""
    letters = byte_letters()
    tokens = [*SPECIALS, *letters]
    chain = []
    for piece in script:
        text = "".join(letters[b] for b in piece)
        if text not in tokens:
            tokens.append(text)
        chain.append(tokens.index(text))
    if len(set(chain)) != len(chain) or len(tokens) > WIDTH:
        raise ValueError("the pieces of a script must differ and be few")
    used = len(tokens)
    tokens += [f"[unused{i}]" for i in range(used, WIDTH)]
    follows = dict(zip([tokens.index(letters[10]), *chain], [*chain, chain[0] if loop else 2], strict=True))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WIDTH)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (used - 3)
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * (WIDTH - used))
    writer.add_token_merges([f"{letters[32]} {letters[32]}"])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)

    def put(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))

    head = np.zeros((WIDTH, WIDTH), np.float32)
    for token, following in follows.items():
        head[following, token] = 10 / WIDTH**0.5  # a logit of 10 over zeros: certain at 0, seldom at 2
    put("token_embd.weight", np.eye(WIDTH, dtype=np.float32))
    put("output.weight", head)
    put("output_norm.weight", np.ones(WIDTH, np.float32))
    small = WIDTH // 4
    for layer in range(layers):
        block = f"blk.{layer}."
        put(block + "attn_norm.weight", np.ones(WIDTH, np.float32))
        put(block + "ffn_norm.weight", np.ones(WIDTH, np.float32))
        put(block + "attn_q.weight", np.zeros((WIDTH, WIDTH), np.float32))
        put(block + "attn_k.weight", np.zeros((small, WIDTH), np.float32))
        put(block + "attn_v.weight", np.zeros((small, WIDTH), np.float32))
        put(block + "attn_output.weight", np.zeros((WIDTH, WIDTH), np.float32))
        put(block + "ffn_gate.weight", np.zeros((feed_forward, WIDTH), np.float32))
        put(block + "ffn_up.weight", np.zeros((feed_forward, WIDTH), np.float32))
        put(block + "ffn_down.weight", np.zeros((WIDTH, feed_forward), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
