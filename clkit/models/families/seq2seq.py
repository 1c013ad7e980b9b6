"""Encoder-decoder models such as T5: the prompt goes into the encoder, the answer comes out of the decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch.nn import functional
from transformers import (
    AutoModelForSeq2SeqLM,
    Cache,
    DataCollatorForSeq2Seq,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedTokenizerBase,
)
from transformers.utils import ModelOutput

from clkit.models.families.decoder import BLOCK_ROLES
from clkit.models.family import IGNORED, Batch, Collator, Generating, LabelsOfTasks
from clkit.models.greedy import end_ids, greedily, pad_id, texts_written
from clkit.models.objective import Objective
from clkit.models.padding import padded
from clkit.models.side_by_side import MOST_LOGITS, groups, log_probabilities, own_tokens_only, takes_own_masks
from clkit.models.weights import Weights

#: Tokens that the encoder is given at once where there is no accelerator: with more its activations leave the cache.
CPU_TOKENS = 2048
#: Keys and values of cross-attention are projections of the encoder's output.
SOURCE_IN_DECODER = r"\.(EncDecAttention|encoder_attn|cross_attn|cross_attention)\.(k|v|key|value)(_proj)?$"


class Seq2Seq(Generating):
    """T5 and its relatives (mT5, Flan-T5, UL2, T5Gemma, ...), BART and its own (mBART, Pegasus, M2M100, ...)."""

    name: ClassVar[str] = "seq2seq"
    objective_kind: ClassVar[str] = "text_to_text"
    roles: ClassVar[Mapping[str, str]] = {**BLOCK_ROLES, "lm_head": r"^lm_head(\.out_proj)?$|\.output_projection$"}
    lora_targets: ClassVar[Sequence[Sequence[str]]] = (("q", "v"), ("q_proj", "v_proj"))
    auto_class: ClassVar[Any] = AutoModelForSeq2SeqLM

    @classmethod
    def recognises(cls, config: Any) -> bool:
        return bool(config.is_encoder_decoder)

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: PreTrainedTokenizerBase, objective: Objective, labels: LabelsOfTasks
    ) -> Self:
        model = weights.read(cls.auto_class)
        if getattr(model.config, "decoder_start_token_id", None) is None:  # what training shifts the labels by
            model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id
        family = cls(model, tokenizer, objective, labels)
        try:
            family.decoder_start()
        except (ValueError, TypeError, AttributeError):
            key = "decoder_start_token_id"
            raise ValueError(f"neither its generation_config.json nor its config.json has a {key}") from None
        return family

    def usage(self, prompt: str, max_new_tokens: int) -> list[str]:
        return [
            'ids = tokenizer(prompt, return_tensors="pt").input_ids',
            f"answer = model.generate(input_ids=ids, max_new_tokens={max_new_tokens})[0]",
            "print(tokenizer.decode(answer, skip_special_tokens=True))",
        ]

    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        # Prompts already fit; truncation would cut off "Answer:", so it stays off.
        return {
            "input_ids": self._prompt_ids(prompts),
            "labels": self._target_ids(answers),
        }

    def collator(self) -> Collator:
        pad = DataCollatorForSeq2Seq(self.tokenizer, label_pad_token_id=IGNORED)

        def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            # The loss is computed outside the model's forward pass, which would else shift the labels.
            batch = pad(examples)
            return {**batch, "decoder_input_ids": self._decoder_inputs(batch["labels"])}

        return collate

    def _decoder_inputs(self, labels: torch.Tensor) -> torch.Tensor:
        """What the decoder reads to predict the labels: each one position later, as the model itself shifts them."""
        shift = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if shift is not None:
            shifted: torch.Tensor = shift(labels=labels)
            return shifted
        config = self.model.config  # of M2M100 and Blenderbot, for two, which shift only where they compute the loss
        starts = torch.full_like(labels[:, :1], config.decoder_start_token_id)
        return torch.cat([starts, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, config.pad_token_id)], dim=1)

    def decoder_start(self) -> int:
        """The token that the decoder begins with. That of mBART is the one that ends the labels."""
        end = torch.tensor([[self.tokenizer.eos_token_id or 0]])
        return int(self._decoder_inputs(end)[0, 0])

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        reads_source = layer.startswith(f"{self._encoder}.") or re.search(SOURCE_IN_DECODER, layer)
        return batch["attention_mask"].bool() if reads_source else batch["labels"] != IGNORED

    @cached_property
    def _encoder(self) -> str:
        """The encoder's name in the model."""
        encoder = self.base.get_encoder()
        return str(next(name for name, module in self.base.named_modules() if module is encoder))

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        source = self._source(prompts)
        with greedily(self, max_new_tokens) as ends:
            tokens = self.model.generate(
                encoder_outputs=self._encoded(source),
                attention_mask=source["attention_mask"],
            )[:, 1:]
        return texts_written(self.tokenizer, tokens.tolist(), ends)

    @torch.inference_mode()
    def log_likelihood(self, prompts: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        source, targets = self._source(prompts), self._target_ids(answers)
        read = {"encoder_outputs": self._encoded(source), "attention_mask": source["attention_mask"], "use_cache": True}
        widths = [*map(len, targets)]
        packs = self._counts_distances_only and takes_own_masks(self.base)
        most = MOST_LOGITS // (len(prompts) * self.base.config.vocab_size) if packs else 0
        projected: Cache | None = None
        scores: list[torch.Tensor] = []
        for group in groups(widths, most):
            own = [torch.tensor([targets[index]], device=self.model.device) for index in group]
            inputs = torch.cat([self._decoder_inputs(ids) for ids in own], dim=1).expand(len(prompts), -1)
            arguments: dict[str, Any] = {}
            if projected is not None:  # the encoder's output is projected to keys and values once
                arguments["past_key_values"] = EncoderDecoderCache(DynamicCache(), projected)
            if len(group) > 1:
                none = source["attention_mask"][:1, :0]
                arguments["decoder_attention_mask"] = own_tokens_only(
                    [widths[index] for index in group], none, self.model.dtype
                )
            found = self.model(decoder_input_ids=inputs, **read, **arguments)
            projected = found.past_key_values.cross_attention_cache
            each = log_probabilities(found.logits, torch.cat(own, dim=1).expand_as(inputs))
            scores += [part.sum(dim=1) for part in torch.split(each, [widths[index] for index in group], dim=1)]
        return torch.stack(scores, dim=1)

    @property
    def _counts_distances_only(self) -> bool:
        """Whether the decoder knows of places only how far tokens are apart, as T5's does: an answer that others stand
        before is then read as if it stood alone."""
        return hasattr(self.base.config, "relative_attention_num_buckets")

    def answer_tokens(self, answers: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._target_ids(answers)]

    def as_written(self, answers: Sequence[str]) -> list[str]:
        return texts_written(self.tokenizer, self._target_ids(answers), end_ids(self))

    def _target_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """The tokens of each answer; the last is the one that ends it, whether the tokenizer adds it or not."""
        end = self.tokenizer.eos_token_id
        found = self.tokenizer(text_target=list(answers), truncation=False)["input_ids"]
        return [ids if ids and ids[-1] == end else [*ids, end] for ids in found]

    def _source(self, prompts: Sequence[str]) -> Batch:
        """The prompts as the encoder reads them, on the model's device."""
        left = self.tokenizer.padding_side == "left"
        ids, mask = padded(self.prompt_ids(prompts), pad_id(self.tokenizer), left)
        return {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}

    def _encoded(self, source: Batch) -> ModelOutput:
        """The encoder's last hidden state, batch × sequence × d_model.

        Encoder and decoder want batches of different sizes on a CPU: a decoding step costs nearly the same for many
        examples as for few, while the encoder is fastest when its activations stay in the processor's cache. What all
        rows of a part have as padding is left out of it.
        """
        ids, encoder, states = source["input_ids"], self.model.get_encoder(), []
        whole = ids.shape[1]
        rows = max(CPU_TOKENS // whole, 1) if self.model.device.type == "cpu" else len(ids)
        for part, mask in zip(torch.split(ids, rows), torch.split(source["attention_mask"], rows), strict=True):
            width = int(mask.any(dim=0).nonzero().max()) + 1
            read = encoder(input_ids=part[:, :width], attention_mask=mask[:, :width])
            states.append(functional.pad(read.last_hidden_state, (0, 0, 0, whole - width)))
        made: ModelOutput = type(read)(last_hidden_state=torch.cat(states))  # with the fields that the decoder knows
        return made
