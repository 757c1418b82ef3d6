"""Trains the demo model and writes its GGUF file: `python training/train.py --out src/penstock/engine/demo.gguf`.

Each row of a batch is filled with whole conversations. The loss counts only what the assistant says, with the token
that ends its turn. The run stops at `--tokens`; where the machine is too slow for that, `--minutes` bounds it, and the
learning rate falls to its end value either way.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
from corpus import Corpus, Message, chatml
from export import export
from model import LanguageModel, Shape
from tokenizer import END_OF_TEXT, TURN_END, TURN_START, train_tokenizer
from tokenizers import Tokenizer

IGNORED = -100
REPORT_STEPS = 25
MATRIX_RATE = 0.02  # of Muon, for the matrices of the blocks
VECTOR_RATE = 4e-3  # of AdamW, for the embedding and the norms
RISE_TOKENS = 150_000
END_RATE = 0.03  # of the peak


class Encoder:
    """Conversations to tokens and targets. A target is the next token, or IGNORED where it is not the assistant's."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.separator = tokenizer.token_to_id(END_OF_TEXT)

    def encode(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        tokens: list[int] = []
        spoken: list[bool] = []
        for message in messages:
            head = self.tokenizer.encode(f"{TURN_START}{message.role}\n").ids
            said = self.tokenizer.encode(f"{message.content}{TURN_END}").ids
            tail = self.tokenizer.encode("\n").ids
            tokens += head + said + tail
            spoken += (
                [False] * len(head) + [message.role == "assistant" and message.taught] * len(said) + [False] * len(tail)
            )
        following = [*tokens[1:], self.separator]
        targets = [token if counts else IGNORED for token, counts in zip(following, [*spoken[1:], False], strict=True)]
        return tokens, targets


class Batches:
    """Rows of `length` tokens made of whole conversations; one that does not fit opens the next row."""

    def __init__(self, corpus: Corpus, encoder: Encoder, rng: random.Random, length: int) -> None:
        self.corpus, self.encoder, self.rng, self.length = corpus, encoder, rng, length
        self.waiting: tuple[list[int], list[int]] | None = None

    def row(self) -> tuple[list[int], list[int]]:
        tokens: list[int] = []
        targets: list[int] = []
        while True:
            new_tokens, new_targets = self.waiting or self.encoder.encode(self.corpus.conversation(self.rng))
            self.waiting = None
            if len(new_tokens) > self.length:
                continue
            if len(tokens) + len(new_tokens) > self.length:
                self.waiting = new_tokens, new_targets
                break
            tokens += new_tokens
            targets += new_targets
        missing = self.length - len(tokens)
        return tokens + [self.encoder.separator] * missing, targets + [IGNORED] * missing

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, targets = zip(*(self.row() for _ in range(rows)), strict=True)
        return torch.tensor(tokens), torch.tensor(targets)


def rate(seen: int, progress: float) -> float:
    """The part of the peak learning rate at a progress of 0 to 1: a short rise, then half a cosine."""
    rise = min(1.0, (seen + 1) / RISE_TOKENS)
    return rise * max(END_RATE, 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def optimizers(model: LanguageModel) -> list[torch.optim.Optimizer]:
    """Muon learns the matrices in about half the tokens that AdamW needs; it is not meant for the rest."""
    matrices = [weights for weights in model.blocks.parameters() if weights.dim() == 2]
    others = [
        weights for name, weights in model.named_parameters() if weights.dim() == 1 or name.startswith("embedding")
    ]
    muon = torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.05, adjust_lr_fn="original")
    return [muon, torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.0)]


def train(model: LanguageModel, batches: Batches, rows: int, tokens: int, seconds: float) -> int:
    """The number of tokens seen."""
    running = optimizers(model)
    peaks = [group["lr"] for optimizer in running for group in optimizer.param_groups]
    groups = [group for optimizer in running for group in optimizer.param_groups]
    start, seen, step, total = time.monotonic(), 0, 0, 0.0
    while True:
        elapsed = time.monotonic() - start
        progress = max(seen / tokens, elapsed / seconds)
        if progress >= 1:
            return seen
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * rate(seen, progress)
        inputs, targets = batches.batch(rows)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(inputs, targets, IGNORED)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in running:
            optimizer.step()
        seen += inputs.numel()
        total += loss.item()
        step += 1
        if step % REPORT_STEPS == 0:
            print(f"step {step}, {seen:,} tokens, {elapsed:.0f} s, loss {total / REPORT_STEPS:.3f}", flush=True)
            total = 0.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--tokens", type=int, default=4_500_000)
    options.add_argument("--minutes", type=float, default=28.0)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--vocabulary", type=int, default=3072)
    options.add_argument("--rows", type=int, default=6)
    options.add_argument("--row-length", type=int, default=512)
    options.add_argument("--seed", type=int, default=5)
    options.add_argument("--checkpoint", type=Path, help="also save the weights and the tokenizer, for comparisons")
    chosen = options.parse_args()

    torch.manual_seed(chosen.seed)
    torch.set_num_threads(chosen.threads)
    corpus, rng = Corpus(), random.Random(chosen.seed)
    tokenizer = train_tokenizer((chatml(corpus.conversation(rng)) for _ in range(10_000)), chosen.vocabulary)
    shape = Shape(vocabulary=math.ceil(tokenizer.get_vocab_size() / 32) * 32)
    model = LanguageModel(shape)
    print(f"{sum(weights.numel() for weights in model.parameters()):,} parameters, {shape}", flush=True)

    start = time.monotonic()
    batches = Batches(corpus, Encoder(tokenizer), rng, chosen.row_length)
    seen = train(model, batches, chosen.rows, chosen.tokens, chosen.minutes * 60)
    print(f"{seen:,} tokens in {time.monotonic() - start:.0f} s", flush=True)
    export(model, tokenizer, chosen.out)
    if chosen.checkpoint:
        torch.save({"shape": shape, "weights": model.state_dict(), "tokenizer": tokenizer.to_str()}, chosen.checkpoint)


if __name__ == "__main__":
    main()
