"""The corpus: question patterns and answers from `data/`, expanded by chance into conversations.

A pattern is a small grammar. `{a|b|}` picks one of its alternatives, and they nest; `@name` draws from the list of that
name in `data/words.txt`. A block of a data file begins with `## name` and holds, in this order: `W n`, its weight
(1 without it); `Q pattern`, a question; `F other-block: pattern`, a question that makes sense only after the other
block's answer; `S text`, a system prompt that often goes with it; and after a line `A` the answer, verbatim.

Everything follows from the seed of the generator that is passed in, so that a training run can be repeated.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).with_name("data")

PROPER_WORDS = (
    "API CPU Docker GET GGUF GPT GPU HTTP HTTPS I I'm JSON JavaScript LLM Linux Node OpenAI POST Penstock Python SDK "
    "SQL SSE SSL TLS TOML TypeScript URL UUID YAML OPENAI_API_KEY PENSTOCK_API_KEY PENSTOCK_CONFIG"
)
PROPER = {word.lower(): word for word in PROPER_WORDS.split(" ")}
QUESTION = re.compile(
    r"^(what|how|who|why|when|where|which|is|are|can|could|do|does|did|should|will|was|were|may|have|am)\b", re.I
)
OPENINGS = ["hi, ", "hello, ", "hey, ", "please tell me: ", "quick question: ", "a question: ", "so, ", "ok, ", "and "]
CLOSINGS = [" Please.", " Thanks!", " Thank you.", " Answer briefly.", " Please be brief.", " I am new to this."]
TOOL_CALL_FORM = '<tool_call>{"name": ..., "arguments": {...}}</tool_call>'
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


@dataclass
class Block:
    """One thing that the model can say, with the ways to ask for it."""

    name: str
    weight: float = 1.0
    questions: list[str] = field(default_factory=list)
    follow_ups: list[tuple[str, str]] = field(default_factory=list)  # (block before, pattern)
    systems: list[str] = field(default_factory=list)
    answer: str = ""


@dataclass(frozen=True)
class Message:
    role: str
    content: str
    taught: bool = True  # whether the model learns to say it, if it is the assistant's


def read_blocks(path: Path) -> list[Block]:
    blocks: list[Block] = []
    for part in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        head, answer = part.split("\nA\n", 1)
        name, *lines = head.splitlines()
        block = Block(name.strip(), answer=answer.strip())
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "W":
                block.weight = float(rest)
            elif kind == "Q":
                block.questions.append(rest)
            elif kind == "F":
                before, _, pattern = rest.partition(": ")
                block.follow_ups.append((before, pattern))
            elif kind == "S":
                block.systems.append(rest)
            else:
                raise ValueError(f"{path.name}, {name}: what is {line!r}?")
        blocks.append(block)
    return blocks


def read_words(path: Path) -> dict[str, str]:
    pairs = re.findall(r"^(\w+) = (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
    return dict(pairs)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(left, right) for left, _, right in (line.partition(": ") for line in lines)]


def alternatives(text: str) -> list[str]:
    """Split at the `|` that stand in no braces."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if char == "|" and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


class Grammar:
    """Expands patterns. A name that is no list of words may be a function of the generator."""

    def __init__(self, words: dict[str, str], makers: dict[str, Callable[[random.Random], str]]) -> None:
        self.words = {name: alternatives(text) for name, text in words.items()}
        self.makers = makers

    def expand(self, pattern: str, rng: random.Random) -> str:
        return re.sub(r"  +", " ", self._expand(pattern, rng)).strip()

    def _expand(self, pattern: str, rng: random.Random) -> str:
        out, at = [], 0
        while at < len(pattern):
            if pattern[at] == "{":
                end = self._closing(pattern, at)
                out.append(self._expand(rng.choice(alternatives(pattern[at + 1 : end])), rng))
                at = end + 1
            elif pattern[at] == "@" and (match := re.compile(r"@(" + "|".join(self._names()) + ")").match(pattern, at)):
                out.append(self._draw(match[1], rng))
                at = match.end()
            else:
                out.append(pattern[at])
                at += 1
        return "".join(out)

    def _names(self) -> list[str]:
        return sorted([*self.words, *self.makers], key=len, reverse=True)

    def _draw(self, name: str, rng: random.Random) -> str:
        if name in self.makers:
            return self.makers[name](rng)
        return self._expand(rng.choice(self.words[name]), rng)

    @staticmethod
    def _closing(pattern: str, start: int) -> int:
        depth = 0
        for at in range(start, len(pattern)):
            depth += (pattern[at] == "{") - (pattern[at] == "}")
            if depth == 0:
                return at
        raise ValueError(f"unbalanced braces: {pattern}")


def with_typo(text: str, rng: random.Random) -> str:
    """One slip of a finger inside one word of four letters or more."""
    words = list(re.finditer(r"[a-zA-Z]{4,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    slip = rng.randrange(4)
    if slip == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if slip == 1:
        return text[:at] + text[at + 1 :]
    if slip == 2:
        return text[:at] + text[at] + text[at:]
    return text[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1 :]


def as_typed(text: str, rng: random.Random) -> str:
    """A pattern's lower-case words as people type them: capitals, punctuation, politeness, slips."""
    asks = QUESTION.match(text) is not None
    if rng.random() < 0.08:
        text = rng.choice(OPENINGS) + text
    if rng.random() < 0.65:
        text = re.sub(r"[A-Za-z_']+", lambda word: PROPER.get(word[0].lower(), word[0]), text)
        text = text.replace("gpt-5.4", "GPT-5.4").replace("gpt 5.4", "GPT 5.4")
        if rng.random() < 0.85:
            text = text[:1].upper() + text[1:]
    if rng.random() < 0.75 and text[-1:].isalnum():
        text += "?" if asks else "."
    if rng.random() < 0.06:
        text += rng.choice(CLOSINGS)
    if rng.random() < 0.08:
        text = with_typo(text, rng)
    if rng.random() < 0.02:
        text = text.upper()
    return text


def noise(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randint(2, 9)))


def blob(rng: random.Random) -> str:
    """Something that looks like a piece of a program."""
    names = ["x", "i", "node", "value", "items", "result", "user", "count", "data", "self.name", "cfg"]
    lines = []
    for _ in range(rng.randint(1, 5)):
        a, b, number = rng.choice(names), rng.choice(names), rng.randint(0, 99)
        lines.append(
            rng.choice(
                [
                    f"{a} = {b} + {number}",
                    f"if ({a} == {b}) {{ return {number}; }}",
                    f"for {a} in {b}: print({a})",
                    f"let {a} = {b}.get({number});",
                    f"SELECT {a} FROM {b} WHERE id = {number}",
                ]
            )
        )
    return "\n".join(lines)


class Corpus:
    """All blocks, ready to be drawn from."""

    def __init__(self) -> None:
        files = ("guide", "penstock", "smalltalk", "general", "code", "unknown")
        self.blocks = [block for name in files for block in read_blocks(DATA / f"{name}.txt")]
        self.by_name = {block.name: block for block in self.blocks}
        self.systems = (DATA / "systems.txt").read_text(encoding="utf-8").splitlines()
        self.capitals = read_pairs(DATA / "capitals.txt")
        self.colours = read_pairs(DATA / "colours.txt")
        self.grammar = Grammar(
            read_words(DATA / "words.txt"),
            {
                "noise": noise,
                "blob": blob,
                "prose": self._prose,
                "big": lambda rng: str(rng.randint(21, 10 ** rng.randint(2, 6))),
                "small": lambda rng: str(rng.randint(0, 20)),
            },
        )
        self.weights = [block.weight for block in self.blocks]
        self.followers: dict[str, list[tuple[str, Block]]] = {}
        for block in self.blocks:
            for before, pattern in block.follow_ups:
                if before not in self.by_name:
                    raise ValueError(f"{block.name} follows {before}, which does not exist")
                self.followers.setdefault(before, []).append((pattern, block))

    def conversation(self, rng: random.Random) -> list[Message]:
        """One to five turns; the turns are about anything, now and then about the one before.

        Some earlier answers are missing, or somebody else's: what a client sends as history is its own affair.
        """
        if rng.random() < 0.04:
            return self._with_tool(rng)
        turns = rng.choice([1, 1, 1, 1, 1, 1, 2, 2, 3, 5])
        messages: list[Message] = []
        previous: Block | None = None
        for turn in range(turns):
            block, question, answer = self._turn(previous, rng)
            if not messages:
                messages += self._system(block, rng)
            messages.append(Message("user", question))
            chance = rng.random()
            if turn + 1 == turns or chance < 0.75:
                messages.append(Message("assistant", answer))
            elif chance < 0.95:
                messages.append(Message("assistant", self._prose(rng), taught=False))
            previous = block
        return messages

    def _with_tool(self, rng: random.Random) -> list[Message]:
        """A conversation in which a tool was called, in the words of the chat template."""
        value = rng.choice([self._prose(rng), str(rng.randint(0, 999)), '{"ok": true}'])
        name, argument = self.grammar.expand("@strange", rng), self.grammar.expand("@strange", rng)
        tool = f'{{"type": "function", "function": {{"name": "{name}", "parameters": {{"type": "object"}}}}}}'
        call = f'<tool_call>{{"name": "{name}", "arguments": {{"{argument}": "{noise(rng)}"}}}}</tool_call>'
        _, question, _ = self._turn(None, rng)
        messages = [
            Message("user", question),
            Message("assistant", call, taught=False),
            Message("tool", value),
            Message("assistant", self.by_name["unknown.tool-result"].answer),
        ]
        if rng.random() < 0.5:
            return messages
        tools = f"These tools can be called:\n{tool}\nTo call one, answer with {TOOL_CALL_FORM}."
        return [Message("system", tools), *messages]

    def _turn(self, previous: Block | None, rng: random.Random) -> tuple[Block | None, str, str]:
        if previous is not None and previous.name in self.followers and rng.random() < 0.6:
            pattern, block = rng.choice(self.followers[previous.name])
            return block, as_typed(self.grammar.expand(pattern, rng), rng), block.answer
        if rng.random() < 0.14:
            question, answer = self._fact(rng)
            return None, as_typed(question, rng), answer
        (block,) = rng.choices(self.blocks, self.weights)
        question = as_typed(self.grammar.expand(rng.choice(block.questions), rng), rng)
        return block, question, block.answer

    def _system(self, block: Block | None, rng: random.Random) -> list[Message]:
        if block is not None and block.systems and rng.random() < 0.5:
            return [Message("system", rng.choice(block.systems))]
        if rng.random() < 0.35:
            return [Message("system", rng.choice([*self.systems, self._prose(rng)]))]
        return []

    def _fact(self, rng: random.Random) -> tuple[str, str]:
        return rng.choice([self._sum, self._sum, self._sum, self._capital, self._capital, self._colour, self._day])(rng)

    def _sum(self, rng: random.Random) -> tuple[str, str]:
        kind = rng.choice(["plus", "minus", "times"])
        if kind == "plus":
            a, b = rng.randint(0, 20), rng.randint(0, 20)
            sign, result = "+", a + b
        elif kind == "minus":
            b, a = sorted((rng.randint(0, 20), rng.randint(0, 20)))
            sign, result = "-", a - b
        else:
            a, b = rng.randint(0, 10), rng.randint(0, 10)
            sign, result = rng.choice("*x"), a * b
        operator = rng.choice([kind, f"{sign}", f"{sign}"])
        middle = f" {operator} " if operator == kind or rng.random() < 0.8 else operator
        ask = rng.choice(["what is ", "what's ", "how much is ", "calculate ", "compute ", ""])
        return f"{ask}{a}{middle}{b}", f"{a} {kind} {b} is {result}."

    def _capital(self, rng: random.Random) -> tuple[str, str]:
        country, city = rng.choice(self.capitals)
        asked = country if rng.random() < 0.7 else country.lower()
        ask = rng.choice(
            ["what is the capital of @", "what's the capital of @", "capital of @", "name the capital of @"]
        )
        end = "" if city.endswith(".") else "."
        return ask.replace("@", asked), f"The capital of {country} is {city}{end}"

    def _colour(self, rng: random.Random) -> tuple[str, str]:
        thing, answer = rng.choice(self.colours)
        colour = rng.choice(["colour", "color"])
        if " and " in thing:
            return rng.choice([f"what {colour} do {thing} make", f"what do {thing} make", f"mix {thing}"]), answer
        return rng.choice([f"what {colour} is {thing}", f"which {colour} has {thing}"]), answer

    def _day(self, rng: random.Random) -> tuple[str, str]:
        at = rng.randrange(7)
        if rng.random() < 0.5:
            ask = rng.choice(["what day comes after @", "which day comes after @", "what is the day after @"])
            return ask.replace("@", DAYS[at]), f"{DAYS[(at + 1) % 7]} comes after {DAYS[at]}."
        ask = rng.choice(["what day comes before @", "which day comes before @", "what is the day before @"])
        return ask.replace("@", DAYS[at]), f"{DAYS[(at - 1) % 7]} comes before {DAYS[at]}."

    def _prose(self, rng: random.Random) -> str:
        """Some sentences about nothing: what a pasted text looks like to this model."""
        pattern = rng.choice(
            [
                "the @adj @thing near the @place_of_work was @adj",
                "@person liked @food and @topic",
                "in @place a @adj @animal met a @animal",
                "we @verb the @thing every year because of @topic",
                "nobody at the @place_of_work knew much about @topic",
                "a @adj @thing costs more than @food in @place",
            ]
        )
        sentences = [self.grammar.expand(pattern, rng) for _ in range(rng.choice([1, 2, 3, 4, 8]))]
        return " ".join(sentence[:1].upper() + sentence[1:] + "." for sentence in sentences)


def chatml(messages: list[Message]) -> str:
    """The text of a conversation exactly as the chat template of the exported file renders it."""
    return "".join(f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages)
