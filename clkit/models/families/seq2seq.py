"""Encoder-decoder models such as T5: the prompt goes into the encoder, the answer comes out of the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from clkit.models.family import UNFINISHED, Batch, Collator, Generating, LabelsOfTasks
from clkit.models.greedy import greedily
from clkit.models.likelihood import IGNORED
from clkit.models.objective import Objective
from clkit.models.weights import Weights

#: Tokens that the encoder is given at once where there is no accelerator: with more its activations leave the cache.
CPU_TOKENS = 2048


def _decoder_start(model: PreTrainedModel) -> int:
    """The token that the decoder begins with, as training shifts the labels."""
    shifted = model.prepare_decoder_input_ids_from_labels(
        labels=torch.zeros((1, 1), dtype=torch.long, device=model.device)
    )
    return int(shifted[0, 0])


class Seq2Seq(Generating):
    """T5 and its relatives (mT5, Flan-T5, UL2, ...)."""

    name: ClassVar[str] = "seq2seq"
    objective_kind: ClassVar[str] = "text_to_text"
    roles: ClassVar[Mapping[str, str]] = {
        "attention": r"\.(SelfAttention|EncDecAttention)\.[qkvo]$",
        "feed_forward": r"\.DenseReluDense\.(wi|wi_0|wi_1|wo)$",
        "lm_head": r"^lm_head$",
    }
    lora_targets: ClassVar[Sequence[Sequence[str]]] = (("q", "v"), ("q_proj", "v_proj"))

    @classmethod
    def recognises(cls, config: Any) -> bool:
        return bool(config.is_encoder_decoder)

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: PreTrainedTokenizerBase, objective: Objective, labels: LabelsOfTasks
    ) -> Self:
        model = weights.read(AutoModelForSeq2SeqLM)
        if getattr(model.config, "decoder_start_token_id", None) is None:  # what training shifts the labels by
            model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id
        try:
            _decoder_start(model)
        except (ValueError, TypeError, AttributeError):
            key = "decoder_start_token_id"
            raise ValueError(f"neither its generation_config.json nor its config.json has a {key}") from None
        return cls(model, tokenizer, objective, labels)

    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        # Prompts already fit; truncation would cut off "Answer:", so it stays off.
        return {
            "input_ids": self.tokenizer(list(prompts), truncation=False)["input_ids"],
            "labels": self._target_ids(answers),
        }

    def collator(self) -> Collator:
        # Given the model, it adds `decoder_input_ids`: the loss is computed outside the model's forward pass.
        collator: Collator = DataCollatorForSeq2Seq(self.tokenizer, model=self.model, label_pad_token_id=IGNORED)
        return collator

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        # Keys and values of cross-attention are projections of the encoder's output.
        reads_source = layer.startswith("encoder.") or ".EncDecAttention.k" in layer or ".EncDecAttention.v" in layer
        return batch["attention_mask"].bool() if reads_source else batch["labels"] != IGNORED

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        source = self._source(prompts)
        with greedily(self, max_new_tokens, _decoder_start(self.model)) as ends:
            tokens = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._encoded(source)),
                attention_mask=source["attention_mask"],
            )[:, 1:]
        ended = torch.isin(tokens, torch.tensor(ends, device=tokens.device)).any(dim=1).tolist()
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text if whole else text + UNFINISHED for text, whole in zip(texts, ended, strict=True)]

    @torch.inference_mode()
    def log_likelihood(self, prompts: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        model, source = self.model, self._source(prompts)
        encoded = self._encoded(source)
        scores = []
        for ids in self._target_ids(answers):  # one decoder pass per label over the whole batch of prompts
            repeated = torch.tensor(ids, device=model.device).expand(len(prompts), -1)
            logits = model(
                encoder_outputs=(encoded,),
                attention_mask=source["attention_mask"],
                decoder_input_ids=model.prepare_decoder_input_ids_from_labels(repeated),
                use_cache=False,
            ).logits.float()
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), repeated, ignore_index=IGNORED, reduction="none"
            )
            scores.append(-losses.sum(dim=1))
        return torch.stack(scores, dim=1)

    def answer_tokens(self, answer: str) -> int:
        return len(self._target_ids([answer])[0])

    def as_written(self, answers: Sequence[str]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(self._target_ids(answers), skip_special_tokens=True)
        return texts

    def _target_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """The tokens of each answer; the last is the one that ends it, whether the tokenizer adds it or not."""
        end = self.tokenizer.eos_token_id
        found = self.tokenizer(text_target=list(answers), truncation=False)["input_ids"]
        return [ids if ids and ids[-1] == end else [*ids, end] for ids in found]

    def _source(self, prompts: Sequence[str]) -> Batch:
        """The prompts as the encoder reads them, on the model's device."""
        batch: Batch = self.tokenizer(list(prompts), padding=True, return_tensors="pt").to(self.model.device)
        return batch

    def _encoded(self, source: Batch) -> torch.Tensor:
        """The encoder's last hidden state: batch × sequence × d_model.

        Encoder and decoder want batches of different sizes on a CPU: a decoding step costs nearly the same for many
        examples as for few, while the encoder is fastest when its activations stay in the processor's cache.
        """
        ids = source["input_ids"]
        rows = max(CPU_TOKENS // ids.shape[1], 1) if self.model.device.type == "cpu" else len(ids)
        parts = zip(torch.split(ids, rows), torch.split(source["attention_mask"], rows), strict=True)
        encoder = self.model.get_encoder()
        return torch.cat([encoder(input_ids=part, attention_mask=mask).last_hidden_state for part, mask in parts])
