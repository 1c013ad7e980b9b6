"""Decoder-only models such as Llama: the prompt and its answer are one sequence, read from left to right."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerBase

from clkit.models.chat import ChatTemplate
from clkit.models.family import IGNORED, PROBE, TOKENS, Batch, Collator, Generating, LabelsOfTasks
from clkit.models.greedy import end_ids, greedily, pad_id, texts_written
from clkit.models.layers import evaluation_mode
from clkit.models.objective import Objective
from clkit.models.padding import padded, places
from clkit.models.precision import is_rounding
from clkit.models.side_by_side import (
    MOST_LOGITS,
    groups,
    keeps_all,
    log_probabilities,
    own_tokens_only,
    takes_own_masks,
)
from clkit.models.weights import Weights

_PARTS = r"(\w*mlp|ff|ffn|feed_forward|DenseReluDense|block_sparse_moe)"
#: Inside such modules every linear layer belongs to the attention (Q, K, V and O, be they separate or fused) or to the
#: feed-forward network, but for a router or gate of experts.
BLOCK_ROLES = {
    "attention": r"(^|\.)\w*([aA]ttn|[aA]ttention)\w*\.",
    "feed_forward": rf"(^|\.)({_PARTS}\.((?!\w*router\.)\w+\.)*(?!\w*(gate|router)$)\w+|fc1|fc2)$",
}

#: Of SmolLM2, rounding is 0.0003 of what another prompt changes of an answer's likelihood, and 0.04 in bfloat16; of
#: models that read a prompt otherwise, the difference is 0.4 of it and more.
_ROUNDING = {"fine": 0.01, "coarse": 0.25}


class Decoder(Generating):
    """Llama, Qwen, SmolLM, GPT-2 and all others that `AutoModelForCausalLM` loads, but for encoders in that guise.

    A projection that is fused (`qkv_proj`, `c_attn`, `gate_up_proj`) is one layer.
    """

    name: ClassVar[str] = "decoder"
    objective_kind: ClassVar[str] = "text_to_text"
    roles: ClassVar[Mapping[str, str]] = {**BLOCK_ROLES, "lm_head": r"(^|\.)(lm_head(\.dense)?|embed_out)$|^head$"}
    auto_class: ClassVar[Any] = AutoModelForCausalLM
    lora_targets: ClassVar[Sequence[Sequence[str]]] = (
        ("q_proj", "v_proj"),
        ("qkv_proj",),
        ("query_key_value",),
        ("c_attn",),
        ("Wqkv",),
    )

    def __init__(self, *made: Any, **by_name: Any) -> None:
        super().__init__(*made, **by_name)
        self._answers: dict[tuple[str, str], list[int] | None] = {}

    @classmethod
    def recognises(cls, config: Any) -> bool:
        if config.is_encoder_decoder:
            return False
        if type(config) in AutoModelForMaskedLM._model_mapping:  # such as BERT, whose attention looks ahead
            return bool(getattr(config, "is_decoder", False))
        own_code = getattr(config, "auto_map", None) or {}
        return type(config) in AutoModelForCausalLM._model_mapping or "AutoModelForCausalLM" in own_code

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: PreTrainedTokenizerBase, objective: Objective, labels: LabelsOfTasks
    ) -> Self:
        return cls(weights.read(cls.auto_class), tokenizer, objective, labels)

    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        pairs = self._pairs(prompts, answers)
        return {
            "input_ids": [head + tail for head, tail in pairs],
            "labels": [[IGNORED] * len(head) + tail for head, tail in pairs],
        }

    def learn_turns(
        self,
        columns: dict[str, list[Any]],
        prompts: Sequence[str],
        answers: Sequence[str],
        learned: Sequence[Sequence[Sequence[int]]],
    ) -> None:
        assert self.chat is not None
        marks = self.chat.also_learned(prompts, answers, learned)
        for ids, labels, marked in zip(columns["input_ids"], columns["labels"], marks, strict=True):
            for at, mark in enumerate(marked):
                if mark is not None:
                    labels[at] = ids[at] if mark else IGNORED

    def collator(self) -> Collator:
        """Pads on the right. Labels are shifted by one, since the logits at a token are for the token after it.

        Where the model can leave out logits, those at positions without a label in any example are, and the labels
        there too: with a large vocabulary they would cost more than the layers below.
        """
        pad = pad_id(self.tokenizer)
        chooses = "logits_to_keep" in self._forward_parameters()

        def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            ids, mask = padded([example["input_ids"] for example in examples], pad)
            labels, _ = padded([[*example["labels"][1:], IGNORED] for example in examples], IGNORED)
            batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            if chooses:
                kept = (labels != IGNORED).any(dim=0).nonzero().flatten()
                batch |= {"labels": labels[:, kept], "logits_to_keep": kept}
            return batch

        return collate

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        mask = batch[TOKENS if TOKENS in batch else "attention_mask"].bool()
        is_head = re.search(self.roles["lm_head"], layer) is not None
        return mask[:, batch["logits_to_keep"]] if is_head and "logits_to_keep" in batch else mask

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        if len(prompts) > 1 and not self._reads_behind_padding:  # of equal lengths too, RWKV mixes up the states
            return [text for prompt in prompts for text in self.generate([prompt], max_new_tokens)]
        ids, mask = self._left_padded(self.prompt_ids(prompts))
        with greedily(self, max_new_tokens) as ends:
            whole = self.model.generate(input_ids=ids, attention_mask=mask)
        texts = texts_written(self.tokenizer, whole[:, ids.shape[1] :].tolist(), ends)
        if self.chat is not None:
            return [text.lstrip() for text in texts]
        return [text.removeprefix(_separator(prompt)) for prompt, text in zip(prompts, texts, strict=True)]

    @torch.inference_mode()
    def log_likelihood(self, prompts: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        if not self._goes_on:
            return torch.stack([self._log_likelihood_of_whole(prompts, answer) for answer in answers], dim=1)
        tails = {answer: self._answer_ids(prompts, answer) for answer in answers}
        found = self._log_likelihoods_behind(prompts, {key: tail for key, tail in tails.items() if tail is not None})
        for answer in answers:
            if answer not in found:  # white space at its beginning joined the end of a prompt
                found[answer] = self._log_likelihood_of_whole(prompts, answer)
        return torch.stack([found[answer] for answer in answers], dim=1)

    @cached_property
    def _reads_behind_padding(self) -> bool:
        """Whether a prompt behind padding is read as without it. BART's decoder counts places from the padding on; RWKV
        and RecurrentGemma take it into their state.
        """
        long, short = self.prompt_ids(PROBE)
        alone, (ids, mask) = self._left_padded([short]), self._left_padded([long, short])
        with evaluation_mode(self.model), torch.inference_mode():
            right, found, wrong = (
                self._read(some, seen, places(seen)).logits[-1, -1]
                for some, seen in (alone, (ids, mask), (ids, torch.ones_like(mask)))
            )
        return is_rounding(found, right, wrong, self.base, **_ROUNDING)

    @cached_property
    def _goes_on(self) -> bool:
        """Whether answers behind prompts that were read before get what they get when both are read at once. Jamba, for
        one, then begins with another state, and Mamba shows none.
        """
        tails = {answer: self._answer_ids(PROBE, answer) for answer in PROBE}
        with evaluation_mode(self.model), torch.inference_mode():
            try:
                behind = self._log_likelihoods_behind(PROBE, {key: tail for key, tail in tails.items() if tail})
                found = torch.stack([*behind.values()])
            except Exception:  # no narrower: a model's own code can raise anything
                return False
            right = torch.stack([self._log_likelihood_of_whole(PROBE, answer) for answer in behind])
        return is_rounding(found, right, right.flip(1), self.base, **_ROUNDING)

    def _log_likelihoods_behind(
        self, prompts: Sequence[str], tails: Mapping[str, Sequence[Sequence[int]]]
    ) -> dict[str, torch.Tensor]:
        """log p(answer | prompt) by answer, of which these are the tokens behind each prompt; float32, one per prompt.

        The prompts are read once, whatever the number of answers, and these in one pass if the model can.
        """
        pad, device = pad_id(self.tokenizer), self.model.device
        ids, mask = self._left_padded(self.prompt_ids(prompts))
        read = self._read(ids, mask, places(mask), use_cache=True)
        cache, begun = read.past_key_values, read.logits[:, -1].float().log_softmax(dim=1)
        targets = {key: [part.to(device) for part in padded(rows, pad)] for key, rows in tails.items()}
        found = {key: begun.gather(1, target[:, :1])[:, 0] for key, (target, _) in targets.items()}
        longer = [key for key, (target, _) in targets.items() if target.shape[1] > 1]
        most = MOST_LOGITS // begun.numel() if self._reads_side_by_side(cache) else 0
        for group in groups([targets[key][0].shape[1] - 1 for key in longer], most):
            keys = [longer[index] for index in group]
            target, known = ([targets[key][part] for key in keys] for part in (0, 1))
            fed = [part[:, :-1] for part in known]
            of_fed = [places(torch.cat([mask, part], dim=1))[:, mask.shape[1] :] for part in fed]
            widths = [part.shape[1] for part in fed]
            alone = len(keys) == 1
            further = self.model(
                input_ids=torch.cat([part[:, :-1] for part in target], dim=1),
                attention_mask=torch.cat([mask, *fed], dim=1)
                if alone
                else own_tokens_only(widths, mask, self.model.dtype),
                past_key_values=copy.deepcopy(cache),  # which the pass appends to
                use_cache=True,
                **self._accepted(position_ids=torch.cat(of_fed, dim=1)),
            )
            each = log_probabilities(further.logits, torch.cat([part[:, 1:] for part in target], dim=1))
            each = each * torch.cat([part[:, 1:] for part in known], dim=1)
            for key, own in zip(keys, torch.split(each, widths, dim=1), strict=True):
                found[key] += own.sum(dim=1)
        return found

    def _reads_side_by_side(self, cache: Any) -> bool:
        """Whether the model can read answers behind others as if each stood alone behind the prompt."""
        # Falcon's ALiBi and GPT-Neo's windows go by where a token stands among all, not by the position it is given.
        by_order = any(getattr(self.base.config, name, None) for name in ("alibi", "window_size"))
        told = "position_ids" in self._forward_parameters() and not by_order
        return told and takes_own_masks(self.base) and keeps_all(cache)

    def _log_likelihood_of_whole(self, prompts: Sequence[str], answer: str) -> torch.Tensor:
        """log p(answer | prompt) of one answer, the prompts read with it; float32, one per prompt."""
        encoded = self.encode(prompts, [answer] * len(prompts))
        rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(*encoded.values(), strict=True)]
        batch = {name: part.to(self.model.device) for name, part in self.collator()(rows).items()}
        labels = batch.pop("labels")
        logits = self.model(**batch).logits.float().transpose(1, 2)
        return -functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").sum(dim=1)

    def as_written(self, answers: Sequence[str]) -> list[str]:
        pairs = self._behind("Answer:", answers)
        texts = texts_written(self.tokenizer, [tail for _, tail in pairs], end_ids(self))
        return [text.strip() for text in texts]

    def answer_tokens(self, answers: Sequence[str]) -> list[int]:
        # After white space an answer may begin with other tokens. What a template writes behind the end is not needed.
        end = self.tokenizer.eos_token_id if self.chat is None else self.chat.end_id
        begun = [self._behind(prompt, answers) for prompt in ("Answer:", "Answer:\n")]
        return [max(tail.index(end) + 1 for _, tail in pairs) for pairs in zip(*begun, strict=True)]

    def converse(self, wanted: bool) -> None:
        self.chat = ChatTemplate(self.tokenizer) if wanted else None
        self._tokens.clear()
        self._answers.clear()

    def _behind(self, prompt: str, answers: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each answer behind some prompt."""
        if self.chat is not None:
            return self.chat.ids(*self.chat.alone(answers))
        return self._pairs([prompt] * len(answers), answers)

    def usage(self, prompt: str, max_new_tokens: int) -> list[str]:
        (ours,) = self._prompt_ids([prompt])
        usual: list[int] = self.tokenizer(prompt)["input_ids"]
        ends = usual[:-1] == ours  # a token that ends a sequence, behind the prompt
        special = "" if ends or usual == ours else ", add_special_tokens=False"  # a chat template spells them itself
        return [
            f'ids = tokenizer(prompt, return_tensors="pt"{special}).input_ids{"[:, :-1]" if ends else ""}',
            f"answer = model.generate(input_ids=ids, max_new_tokens={max_new_tokens})[0, ids.shape[1] :]",
            "print(tokenizer.decode(answer, skip_special_tokens=True).strip())",
        ]

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of the prompts, each at least one: an answer's first token must be predicted from something."""
        if self.chat is not None:
            return self.chat.prompt_ids(prompts)
        return [ids or [first_id(self.tokenizer)] for ids in token_ids(self.tokenizer, prompts)]

    def _pairs(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each prompt, and those of its answer with the token that ends it.

        Prompt and answer are read together; where they grow together at the seam, the answer is read by itself.
        Prompts already fit; truncation would cut off the answer, so it stays off.
        """
        if self.chat is not None:
            return self.chat.ids(prompts, answers)
        both = (prompt + _separator(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True))
        found = []
        heads = token_ids(self.tokenizer, prompts)
        for head, whole, answer in zip(heads, token_ids(self.tokenizer, both), answers, strict=True):
            tail = whole[len(head) :]
            if whole[: len(head)] != head:
                tail = self.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
            found.append((head or [first_id(self.tokenizer)], [*tail, self.tokenizer.eos_token_id]))
        return found

    def _answer_ids(self, prompts: Sequence[str], answer: str) -> list[list[int]] | None:
        """The tokens of an answer behind each prompt, read once; None where a prompt is read otherwise with it."""
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, answer) not in self._answers]
        if new:
            pairs = zip(new, self.prompt_ids(new), self._pairs(new, [answer] * len(new)), strict=True)
            known = {prompt: tail if list(ids) == head else None for prompt, ids, (head, tail) in pairs}
            self._answers |= {(prompt, answer): tail for prompt, tail in known.items()}
        found = [tail for prompt in prompts if (tail := self._answers[prompt, answer]) is not None]
        return found if len(found) == len(prompts) else None

    def _left_padded(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The tokens of prompts behind their padding, and 1 where they are tokens; on the model's device."""
        return [part.to(self.model.device) for part in padded(rows, pad_id(self.tokenizer), left=True)]

    def _read(self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, **arguments: Any) -> Any:
        """What the model puts out, with the logits of the last token at least."""
        wanted = self._accepted(position_ids=places, logits_to_keep=1)
        return self.model(input_ids=ids, attention_mask=mask, **arguments, **wanted)

    def _accepted(self, **arguments: Any) -> dict[str, Any]:
        """Those of the arguments that the model knows. Bloom, for one, goes by the mask and has no positions."""
        known = self._forward_parameters()
        return {name: value for name, value in arguments.items() if name in known}

    def _forward_parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.base.forward).parameters


def _separator(prompt: str) -> str:
    """What stands between a prompt and its answer."""
    return "" if not prompt or prompt[-1].isspace() else " "


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[list[int]]:
    """The tokens of texts that something follows: with the token that begins a sequence where the tokenizer adds one,
    even if the text spells it too, as chat templates do; without the one that ends it.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    found = []
    for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]:
        twice = begin is not None and ids[:2] == [begin, begin]
        found.append(ids[twice : -1 if ids and ids[-1] == end != begin else None])
    return found


def first_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands first where nothing else does: begin of sequence or, without one, its end."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    chosen: int = end if begin is None else begin
    return chosen
