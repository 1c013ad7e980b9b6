"""What of the tasks' texts does not fit: into the longest prompt or answer, the tokenizer's words, the positions.

What could never be learned or tested is refused, before anything is trained; what is lost of the rest is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

from datasets import Dataset

from clkit.errors import DataError, ModelError
from clkit.models.examples import Texts, encode, task_texts, unwritable
from clkit.models.family import Family, Generating
from clkit.models.lengths import sizes
from clkit.models.packed import rows_of
from clkit.models.positions import positions
from clkit.processes import processes
from clkit.recipe.recipe import Recipe
from clkit.results.answers import refuse_equal
from clkit.results.kinds import UNBOUNDED
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.stored import in_batches, token_counts
from clkit.tasks.task import Split, Task
from clkit.training.arguments import batch_split
from clkit.wording import between

#: What `prompt.max_tokens` is at least.
SHORTEST = 16
#: Tokens by which prompt and answer may be longer together than each by itself.
SPARE = 8
#: So many examples tell what packing spares.
_LOOKED_AT = 200


def checked_texts(family: Family, recipe: Recipe, task: Task, split: Split, *, tested: bool) -> tuple[Texts, list[str]]:
    """The examples of a split, and what the user should know of them, a line each.

    Args:
        tested: whether the model is tested on them, rather than trained.

    Raises:
        ModelError: the model has no positions for one.
        DataError: they cannot be made, or no answer of a test could be right.
    """
    if recipe.objective.kind == "pretraining":
        remarks = [*_longer_blocks(family, recipe.objective.block_tokens)]
        return task_texts(task, split, family, recipe), remarks
    if tested:
        refuse_equal(task.labels or (), task.name, recipe.evaluation.comparison)
    texts = task_texts(task, split, family, recipe)
    return texts, [*_Limits(family, recipe, task, split, texts, tested).remarks()]


def _longer_blocks(family: Family, block_tokens: int) -> Iterator[str]:
    trained = positions(family.model).trained
    if trained is not None and block_tokens > trained:
        yield f"objective.block_tokens: {block_tokens:,} is more than the {trained:,} that the model was trained with"


@dataclass(frozen=True)
class _Limits:
    """A split of a task, held against what its recipe and model allow."""

    family: Family
    recipe: Recipe
    task: Task
    split: Split
    texts: Texts
    tested: bool

    def remarks(self) -> Iterator[str]:
        for remark in (self._learned, self._cut, self._cut_answers, self._spelt, self._misspelt, self._too_long):
            count, said = remark()
            if count:
                share = count / len(self.texts.examples)
                yield (
                    f"task '{self.task.name}': {count:,} of {len(self.texts.examples):,} {self.split} examples "
                    f"({share:.1%}) {said}"
                )
        yield from self._beyond_positions()

    @property
    def _answers_are_compared(self) -> bool:
        return self.tested and isinstance(self.family, Generating) and self.recipe.metric not in UNBOUNDED

    def _learned(self) -> tuple[int, str]:
        """Examples of a test that are trained on, so that knowing them by heart is enough."""
        if not self.tested or self.recipe.protocol == "zero_shot":
            return 0, ""
        tested = set(_inputs(self.task, self.split))  # the fewer, as a rule
        learned = tested.intersection(_inputs(self.task, "train"))
        return sum(text in learned for text in _inputs(self.task, self.split)), "stand in the training examples too"

    def _cut(self) -> tuple[int, str]:
        section = self.recipe.prompt
        whole = section.max_conversation_tokens if self.split == "train" and self.task.labels is None else None
        beyond = f" or prompt.max_conversation_tokens ({whole})" if whole else ""
        turns = "oldest turns and the " if "turns" in self.task.split(self.split).column_names else ""
        return self.texts.cut, (
            f"have prompts longer than prompt.max_tokens ({section.max_tokens}){beyond}, cut at the {turns}sentence's "
            "end"
        )

    def _cut_answers(self) -> tuple[int, str]:
        longest = self.recipe.prompt.max_answer_tokens
        return self.texts.cut_answers, f"have answers longer than prompt.max_answer_tokens ({longest}), cut at the end"

    def _spelt(self) -> tuple[int, str]:
        """Inputs that spell tokens with a meaning of their own, such as the end of a turn."""
        tokenizer = self.family.tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
        pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        inputs = _inputs(self.task, self.split)
        found = [match[0] for match in map(pattern.search, inputs) if match]
        ends = "; it may end a turn" if self.recipe.prompt.chat_template else ""
        return len(found), f"have text that the tokenizer reads as a special token, such as {found[:1]}{ends}"

    def _misspelt(self) -> tuple[int, str]:
        """Answers that the tokenizer, or the chat template, makes something else of."""
        if self.task.labels is not None or not len(self.texts.examples):
            return 0, ""
        comparison = self.recipe.evaluation.comparison
        lost = [pair for answers in self._answers() for pair in unwritable(self.family, answers, comparison)]
        if len(lost) == len(self.texts.examples) and self._answers_are_compared:
            raise DataError(
                f"task '{self.task.name}': the model cannot write any of the {self.split} answers: of {lost[0][0]!r} "
                f"it reads {lost[0][1]!r}; use another model, or other answers"
            )
        shown = f"of {lost[0][0]!r} it reads {lost[0][1]!r}" if lost else ""
        return len(lost), f"have answers that the model's tokenizer cannot spell, and which so cannot be right: {shown}"

    def _too_long(self) -> tuple[int, str]:
        """Answers that need more tokens than a test lets the model write."""
        if self.task.labels is not None or not self._answers_are_compared:
            return 0, ""
        assert isinstance(self.family, Generating)
        allowed = self.recipe.evaluation.max_new_tokens
        needed = [tokens for answers in self._answers() for tokens in self.family.answer_tokens(answers)]
        long = [tokens for tokens in needed if tokens > allowed]
        longest = max(long, default=0)
        if long and len(long) == len(needed):
            raise DataError(
                f"evaluation.max_new_tokens: {allowed} tokens hold none of the {self.split} answers of task "
                f"'{self.task.name}', which take {between(long)}; set it to {longest}"
            )
        return len(long), (
            f"have answers longer than evaluation.max_new_tokens ({allowed}), which so cannot be right; the longest "
            f"takes {longest:,}"
        )

    def _beyond_positions(self) -> Iterator[str]:
        """Examples longer than the model was trained with; those that it has no positions for are refused."""
        read, written, trained = positions(self.family.model)
        name, room = f"task '{self.task.name}'", self._room()
        if written is not None and room > written:
            raise ModelError(
                f"{name}: {self._answer_of(room)} is more than the decoder's {written} positions; "
                f"{self._ways(None, written)}"
            )
        joined = isinstance(self.family, Generating) and not self.family.model.config.is_encoder_decoder
        behind = room - self._answers_are_compared if joined else 0  # a test does not read its last token
        limit = trained if read is None else read
        if limit is None or self.recipe.prompt.max_tokens + behind + SPARE <= limit:
            return
        most = prompt = answer = beyond = 0
        for one in self._sizes(joined):
            taken = one[0] + (behind if self._answers_are_compared else one[1])
            beyond += taken > limit
            if taken > most:
                most, (prompt, answer) = taken, one
        if read is not None and most > read:
            together = f"with {self._answer_of(room if self._answers_are_compared else answer)} " if joined else ""
            raise ModelError(
                f"{name}: a {self.split} prompt of {prompt} tokens {together}takes {most} positions, and "
                f"the model has {read}; {self._ways(read - behind, read - prompt + 1 if joined else None)}"
            )
        if beyond:
            yield (
                f"{name}: {beyond:,} of {len(self.texts.examples):,} {self.split} examples take up to {most:,} tokens, "
                f"more than the {limit:,} that the model was trained with"
            )

    def _answer_of(self, tokens: int) -> str:
        if self.task.labels is not None:
            return f"a label of {tokens} tokens"
        if self._answers_are_compared:
            return f"evaluation.max_new_tokens of {tokens}"
        return f"an answer of {tokens} tokens"

    def _ways(self, prompt: int | None, answer: int | None) -> str:
        """What to change so that prompts of at most so many tokens, or answers, fit; None where that does not help."""
        ways = [f"set prompt.max_tokens to {prompt}"] if prompt is not None and prompt >= SHORTEST else []
        if answer is not None and self.task.labels is not None:
            ways.append("use shorter labels")
        elif answer is not None and not self._answers_are_compared:
            ways.append("shorten the answer or leave it out")
        elif answer is not None and answer > 0:
            ways.append(f"set evaluation.max_new_tokens to {answer}")
        return ", or ".join(ways) or "use a model with more"

    def _room(self) -> int:
        """Tokens of the longest answer that is read or written, its end included."""
        if not isinstance(self.family, Generating):
            return 0
        if self.task.labels is not None:
            return max(self.family.answer_tokens(self.task.labels))
        if self._answers_are_compared:
            return self.recipe.evaluation.max_new_tokens
        batches = (batch["answer"] for batch in in_batches(self.texts.examples, "answer"))
        return max((max(self.family.answer_tokens(answers)) for answers in batches), default=0)

    def _sizes(self, joined: bool) -> Iterator[tuple[int, int]]:
        """Tokens of each prompt, and of its answer where that is read with it."""
        for batch in in_batches(self.texts.examples, "prompt", "answer", "task"):
            for prompt, answer in sizes(self.family, batch["prompt"], batch["answer"], batch["task"]):
                yield prompt, answer if joined else 0

    def _answers(self) -> Iterator[list[str]]:
        """The answers as they stand in the data, some at a time."""
        return (batch["answer"] for batch in in_batches(self.task.split(self.split), "answer"))


def spared(recipe: Recipe, family: Family, examples: Dataset) -> Iterator[str]:
    """A remark on how much padding packing leaves, as the first examples tell."""
    if not recipe.training.packing:
        return
    size, _ = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, processes().num_processes)
    tokens = token_counts(encode(family, examples, range(min(len(examples), _LOOKED_AT))))
    batches = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    alone = sum(max(batch) * len(batch) for batch in batches)
    packed = sum(max(batch) * len(rows_of(batch)) for batch in batches)
    left, before = (1 - sum(tokens) / positions for positions in (packed, alone))
    yield f"training.packing: {left:.0%} of a batch's positions are padding, where {before:.0%} would be"


def _inputs(task: Task, split: Split) -> Iterator[str]:
    """All that each example of a split asks: its text, and what was said before."""
    rows = task.split(split)
    for batch in in_batches(rows, *({"text", "turns"} & {*rows.column_names})):
        for text, turns in zip(batch["text"], batch.get("turns", repeat(NO_TURNS)), strict=False):
            yield "\n".join([text, *(turn["content"] for turn in json.loads(turns))])
