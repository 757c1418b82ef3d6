"""Looks at an exported file through llama.cpp: tokens and probabilities against the trained weights, answers, speed.

`python training/check.py FILE.gguf --checkpoint FILE.pt` compares; without a checkpoint it only asks.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from corpus import Corpus, Message, chatml
from model import LanguageModel
from tokenizers import Tokenizer

ODD_TEXTS = [
    "What is 12 + 34?",
    "def add(a, b):\n    return a + b\n",
    "¿Qué tal? こんにちは 🙂 naïve",
    "  leading spaces\n\n\nand   runs\t of tabs\r\nCRLF",
    "It's we'll THEY'RE 1234567 3.14 don'T",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a\u0301 combining \u200b zero width \ufeff mark",
    "",
    "\x01\x02 control",
    "x" * 200,
    "\U0001f468‍\U0001f469‍\U0001f467 ǅ ß İ ﬁ Ω ½ ٣",
]


def ask(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def serve(path: Path) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.verbosity = 2048, 1, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def compare(address: str, checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=False)
    tokenizer = Tokenizer.from_str(saved["tokenizer"])
    model = LanguageModel(saved["shape"])
    model.load_state_dict(saved["weights"])
    for text in ODD_TEXTS:
        theirs = ask(address, "/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
        if theirs != tokenizer.encode(text).ids:
            print("tokens differ:", repr(text))
    largest = 0.0
    for question in ("How do I start the server?", "What is a 429?", "Why do cats purr?"):
        tokens = tokenizer.encode(chatml([Message("user", question)]) + "<|im_start|>assistant\n").ids
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.tensor([tokens]))[0, -1], -1)
        body = {"prompt": tokens, "n_predict": 1, "n_probs": 5, "temperature": 0, "post_sampling_probs": False}
        for seen in ask(address, "/completion", body)["completion_probabilities"][0]["top_logprobs"]:
            largest = max(largest, abs(seen["logprob"] - expected[seen["id"]].item()))
    print(f"largest difference of a log-probability among the five likeliest tokens: {largest:.3f}")


def answer(address: str, question: str, temperature: float) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": question}], "temperature": temperature, "max_tokens": 600}
    return ask(address, "/v1/chat/completions", body)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("file", type=Path)
    options.add_argument("--checkpoint", type=Path)
    options.add_argument("--questions", type=Path, help="a file with one question per line")
    options.add_argument("--temperature", type=float, default=0.0)
    chosen = options.parse_args()
    server = serve(chosen.file)
    address = server.listening_address
    if chosen.checkpoint:
        compare(address, chosen.checkpoint)
    if chosen.questions:
        known = {block.answer for block in Corpus().blocks}
        spoken, start = 0, time.monotonic()
        for question in chosen.questions.read_text(encoding="utf-8").splitlines():
            said = answer(address, question, chosen.temperature)
            choice = said["choices"][0]
            spoken += said["usage"]["completion_tokens"]
            mark = " " if choice["message"]["content"] in known else "?"
            print(f"{mark} {question}\n    [{choice['finish_reason']}] {choice['message']['content']}")
        print(f"{spoken / (time.monotonic() - start):.0f} tokens/s")


if __name__ == "__main__":
    main()
