"""General ability: what a model knew before the first task, measured on a held-out text and by lm-eval."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clkit.errors import DataError, ModelError
from clkit.events import Listener
from clkit.general.lm_eval import lm_eval_scores, load_lm_eval_tasks
from clkit.general.section import BUILTIN, GeneralSection
from clkit.models.family import Family
from clkit.models.objective import Pretraining, TextToText
from clkit.models.positions import positions
from clkit.models.registry import known_families
from clkit.processes import processes
from clkit.results.scores import Likelihoods
from clkit.tasks.blocks import blocks
from clkit.tasks.records import text_lines
from clkit.tasks.sources.prose import built_in_prose
from clkit.testing.examiner import negative_log_likelihoods

#: Tokens that the model reads at once, or fewer where it has no more positions: enough to predict from.
BLOCK_TOKENS = 256
#: Blocks per forward pass, at most: over a vocabulary of 128,000 their logits take 1 GB.
BLOCKS = 8


class General:
    """Measures what the recipe's section asks for, as often as wanted. What it needs is loaded once, at the start.

    With several processes each one measures everything: their models are the same, so what they find is, and none has
    to wait for another longer than it may.

    Raises:
        DataError: the text or a task of lm-eval cannot be read.
        RecipeError: lm-eval is not installed, or does not know a task.
    """

    def __init__(self, section: GeneralSection, batch_size: int) -> None:
        self._section = section
        self._blocks = min(batch_size, BLOCKS)
        self._text = _text(section.texts) if section.texts else None
        self._tests = load_lm_eval_tasks(section.lm_eval) if section.lm_eval else None

    def is_due(self, finished: int, planned: int) -> bool:
        """Whether to measure when so many stages of those planned are finished."""
        if self._section.when == "all":
            return True
        return finished == planned or (finished == 0 and self._section.when == "ends")

    def measure(
        self, family: Family, listener: Listener, between_batches: Callable[[], None] = lambda: None
    ) -> dict[str, float | None]:
        """`held_out_loss` in nats per token, and lm-eval's metrics as `task/metric`; None where one is not finite.

        Training goes on as if nothing had been measured: nothing of the model changes, nor does any generator of random
        numbers.

        Args:
            between_batches: called before each forward pass; it may raise, to stop there.
        """
        found: dict[str, float | None] = {}
        family.model.to(processes().device)  # before the first task nobody else has moved it
        with _undisturbed(family.model):
            family.model.eval()
            if self._text is not None:
                found["held_out_loss"] = self._held_out_loss(family, self._text, listener, between_batches)
            if self._tests is not None:
                assert self._section.lm_eval is not None
                found |= lm_eval_scores(family, self._tests, self._section.lm_eval, listener, between_batches)
        return found

    def _held_out_loss(
        self, family: Family, text: str, listener: Listener, between_batches: Callable[[], None]
    ) -> float | None:
        """Σ −log p / Σ tokens, over the tokens that the family's pre-training objective has the model predict."""
        predicting, rows_of = _predicting(family)
        rows = rows_of(blocks([text], family.tokenizer, positions(family.model).block(BLOCK_TOKENS)))
        collate = predicting.collator()
        listener.evaluating("held-out text", len(rows))
        measured: list[tuple[float, int]] = []
        for first in range(0, len(rows), self._blocks):
            between_batches()
            batch = rows[first : first + self._blocks]
            measured += negative_log_likelihoods(predicting, collate(batch))
            listener.answered(len(batch))
        loss = Likelihoods("held-out text", [nll for nll, _ in measured], [tokens for _, tokens in measured]).loss
        return loss if math.isfinite(loss) else None


def refuse_unmeasurable(section: GeneralSection, family: Family) -> None:
    """Refuse a model that cannot be measured so.

    Raises:
        ModelError: it cannot.
    """
    if section.lm_eval and "text_to_text" not in known_families()[family.name]:
        raise ModelError(
            f"general.lm_eval: lm-eval tests models that write text, and {family.name} models do not; "
            "use general.texts instead"
        )
    if section.texts:
        _predicting(family)


def _text(source: str) -> str:
    if source == BUILTIN:
        return built_in_prose()
    try:
        return "".join(text_lines(Path(source)))
    except DataError as error:
        raise DataError(f"general.texts: {error}") from error


Rows = list[dict[str, Any]]


def _predicting(family: Family) -> tuple[Family, Callable[[Sequence[str]], Rows]]:
    """What predicts a text's tokens: the objective that the family is pre-trained with, whatever the recipe's is.

    A T5 whose tokenizer has no sentinels, as the embedded one, cannot do span corruption; it is measured as a prefix
    language model (Raffel et al. 2020, section 3.2.1): the encoder reads the first half of a block, the decoder
    predicts the second.

    Returns:
        The same model in its family for that objective, and what encodes blocks of text.

    Raises:
        ModelError: the tokenizer lacks a token that this takes.
    """
    classes = known_families()[family.name]
    own = family.model, family.tokenizer
    predicting = classes["pretraining"](*own, Pretraining(kind="pretraining", block_tokens=BLOCK_TOKENS))
    halves = False
    try:
        predicting.collator()
    except ModelError as error:
        if "text_to_text" not in classes:
            raise ModelError(f"general.texts: {error}") from error
        halves = True
        predicting = classes["text_to_text"](*own, TextToText())

    def encode(texts: Sequence[str]) -> Rows:
        pairs = [_halves(text) if halves else ("", text) for text in texts]
        columns = predicting.encode([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    return predicting, encode


def _halves(text: str) -> tuple[str, str]:
    """The text cut in two at the first space behind its middle, or at its middle if there is none."""
    middle = len(text) // 2
    cut = text.find(" ", middle)
    cut = middle if cut < 0 else cut
    return text[:cut], text[cut:].strip()


@contextmanager
def _undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Whatever is measured inside, afterwards every module is in its mode, and the next random numbers are the same."""
    modes = {module: module.training for module in model.modules()}
    python, arrays = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            random.setstate(python)
            np.random.set_state(arrays)
