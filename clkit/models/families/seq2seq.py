"""Encoder-decoder models such as T5: the prompt goes into the encoder, the answer comes out of the decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from clkit.models.family import UNFINISHED, Batch, Collator, Generating
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
        for key in ("decoder_start_token_id", "eos_token_id"):  # without them no answer begins or ends
            if getattr(model.generation_config, key) is None:
                setattr(model.generation_config, key, getattr(model.config, key, None))
            if getattr(model.generation_config, key) is None:
                raise ValueError(f"neither its generation_config.json nor its config.json has a {key}")
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
            "labels": tokenizer(text_target=list(answers), truncation=False)["input_ids"],
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
        # The Trainer turns the cache off in the model's config; decoding without it is quadratic.
        tokens = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=_encoded(model, source)),
            attention_mask=source["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
        )
        ends = torch.tensor(model.generation_config.eos_token_id, device=tokens.device)
        ended = torch.isin(tokens, ends).any(dim=1).tolist()
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
        target = tokenizer(text_target=list(answers), padding=True, return_tensors="pt").to(model.device)
        labels = target["input_ids"].masked_fill(target["attention_mask"] == 0, IGNORED)
        encoded = _encoded(model, source)
        scores = []
        for answer in labels:  # one decoder pass per label over the whole batch: the encoder runs once
            repeated = answer.expand(len(prompts), -1)
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
        return len(tokenizer(text_target=answer)["input_ids"])
