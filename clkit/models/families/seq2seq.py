"""Encoder-decoder models such as T5: the prompt goes into the encoder, the answer comes out of the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from clkit.models.family import UNFINISHED, Batch, Collator, Generating
from clkit.models.greedy import greedily
from clkit.models.likelihood import IGNORED
from clkit.models.weights import read_weights

#: Tokens that the encoder is given at once where there is no accelerator: with more its activations leave the cache.
CPU_TOKENS = 2048


def _encoded(model: PreTrainedModel, source: Batch) -> torch.Tensor:
    """The encoder's last hidden state: batch × sequence × d_model.

    Encoder and decoder want batches of different sizes on a CPU: a decoding step costs nearly the same for many
    examples as for few, while the encoder is fastest when its activations stay in the processor's cache.
    """
    ids = source["input_ids"]
    rows = max(CPU_TOKENS // ids.shape[1], 1) if model.device.type == "cpu" else len(ids)
    parts = zip(torch.split(ids, rows), torch.split(source["attention_mask"], rows), strict=True)
    encoder = model.get_encoder()
    return torch.cat([encoder(input_ids=part, attention_mask=mask).last_hidden_state for part, mask in parts])


def _target_ids(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    """The tokens of each answer; the last is the one that ends it, whether the tokenizer adds it or not."""
    end = tokenizer.eos_token_id
    found = tokenizer(text_target=list(answers), truncation=False)["input_ids"]
    return [ids if ids and ids[-1] == end else [*ids, end] for ids in found]


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

    def load(self, name: str, **arguments: Any) -> PreTrainedModel:
        model = read_weights(AutoModelForSeq2SeqLM, name, **arguments)
        if getattr(model.config, "decoder_start_token_id", None) is None:  # what training shifts the labels by
            model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id
        try:
            _decoder_start(model)
        except (ValueError, TypeError, AttributeError):
            key = "decoder_start_token_id"
            raise ValueError(f"neither its generation_config.json nor its config.json has a {key}") from None
        return model

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        answers: Sequence[str],
        tasks: Sequence[str] = (),
    ) -> dict[str, list[Any]]:
        # Prompts already fit; truncation would cut off "Answer:", so it stays off.
        return {
            "input_ids": tokenizer(list(prompts), truncation=False)["input_ids"],
            "labels": _target_ids(tokenizer, answers),
        }

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        # Given the model, it adds `decoder_input_ids`: the loss is computed outside the model's forward pass.
        collator: Collator = DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=IGNORED)
        return collator

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        # Keys and values of cross-attention are projections of the encoder's output.
        reads_source = layer.startswith("encoder.") or ".EncDecAttention.k" in layer or ".EncDecAttention.v" in layer
        return batch["attention_mask"].bool() if reads_source else batch["labels"] != IGNORED

    @torch.inference_mode()
    def generate(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        source = tokenizer(list(prompts), padding=True, return_tensors="pt").to(model.device)
        with greedily(model, tokenizer, max_new_tokens, _decoder_start(model)) as ends:
            tokens = model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=_encoded(model, source)),
                attention_mask=source["attention_mask"],
            )[:, 1:]
        ended = torch.isin(tokens, torch.tensor(ends, device=tokens.device)).any(dim=1).tolist()
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text if whole else text + UNFINISHED for text, whole in zip(texts, ended, strict=True)]

    @torch.inference_mode()
    def log_likelihood(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        answers: Sequence[str],
    ) -> torch.Tensor:
        source = tokenizer(list(prompts), padding=True, return_tensors="pt").to(model.device)
        encoded = _encoded(model, source)
        scores = []
        for ids in _target_ids(tokenizer, answers):  # one decoder pass per label over the whole batch of prompts
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

    def answer_tokens(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> int:
        return len(_target_ids(tokenizer, [answer])[0])

    def as_written(self, tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[str]:
        texts: list[str] = tokenizer.batch_decode(_target_ids(tokenizer, answers), skip_special_tokens=True)
        return texts
