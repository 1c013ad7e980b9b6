"""Classification with a decoder: a head on the text's last token, before which stands all that it was read for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

import torch
from transformers import PreTrainedTokenizerBase

from clkit.errors import ModelError
from clkit.models.classifying import Classifying
from clkit.models.families.decoder import BLOCK_ROLES, Decoder, first_id
from clkit.models.family import Batch, LabelsOfTasks
from clkit.models.greedy import pad_id
from clkit.models.objective import Objective
from clkit.models.padding import padded
from clkit.models.weights import Weights


class DecoderClassifier(Classifying):
    """Llama, Qwen, SmolLM, GPT-2 and all others that `transformers` has such a head for."""

    name: ClassVar[str] = Decoder.name
    objective_kind: ClassVar[str] = "classification"
    roles: ClassVar[Mapping[str, str]] = {**BLOCK_ROLES, "head": r"^(score|classifier)(\.|$)"}
    lora_targets: ClassVar[Sequence[Sequence[str]]] = Decoder.lora_targets
    recognises = Decoder.recognises

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: PreTrainedTokenizerBase, objective: Objective, labels: LabelsOfTasks
    ) -> Self:
        config = weights.config()
        if type(config) not in cls.auto_class._model_mapping:
            raise ModelError(f"transformers has no classifier of type '{config.model_type}'; use another model")
        if pad_id(tokenizer) is None:
            raise ModelError("its tokenizer has neither a pad_token nor an eos_token, so texts cannot be padded")
        family = super().load(weights, tokenizer, objective, labels)
        # The model takes the last token that is no padding, and reads here which that is.
        family.model.config.get_text_config().pad_token_id = pad_id(tokenizer)
        return family

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return [ids or [first_id(self.tokenizer)] for ids in super()._prompt_ids(prompts)]

    def pad(self, texts: Iterable[Sequence[int]]) -> dict[str, torch.Tensor]:
        ids, mask = padded(list(texts), pad_id(self.tokenizer))
        return {"input_ids": ids, "attention_mask": mask}

    def token_mask(self, layer: str, batch: Batch) -> torch.Tensor:
        mask = batch["attention_mask"].bool()
        if layer.partition(".")[0] not in self._head:
            return mask
        last = mask.sum(dim=1, keepdim=True) - 1  # of whose outputs one is used
        return torch.arange(mask.shape[1], device=mask.device) == last
