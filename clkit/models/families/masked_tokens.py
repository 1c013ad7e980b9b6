"""Pre-training of encoders: tokens of a text are masked, and the model says which they were.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL 2019, section
3.1 (arXiv 1810.04805).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from transformers import AutoModelForMaskedLM, DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from clkit.draws import drawn_from
from clkit.errors import ModelError
from clkit.models.families.encoder import Encoder
from clkit.models.family import Collator, LabelsOfTasks
from clkit.models.heads import HEAD_DRAWN, in_head
from clkit.models.objective import Objective, Pretraining
from clkit.models.weights import Weights

#: The paper's share of tokens that are masked.
MASKED_SHARE = 0.15


class MaskedTokens(Encoder):
    """−log p(token | the text with masks), over the masked tokens.

    Each token but the special ones is chosen with the same probability (`objective.masked_share`), and of every text at
    least one, as in the paper's own data. Of the chosen, 80 % become the mask, 10 % a token drawn at random, and 10 %
    stay as they are.

    What is drawn follows from the batch (`clkit.draws`): in training the masks are new in every epoch, since
    its batches hold other examples together (RoBERTa's dynamic masking); in a test they are the same for every model
    and at every time, as long as `evaluation.batch_size` is. Drawn per example, they would be the same in every epoch.
    Another `micro_batch_size` or number of processes draws other masks too.
    """

    objective_kind: ClassVar[str] = "pretraining"
    roles: ClassVar[Mapping[str, str]] = {
        **Encoder.roles,
        "lm_head": r"^(lm_head|cls|vocab_\w+|generator_\w+|head|decoder|predictions|pred_layer)(\.|$)",
    }

    has_no: ClassVar[Mapping[str, str]] = {"span_length": "an encoder masks single tokens, only T5 spans"}
    objective: Pretraining
    auto_class: ClassVar[Any] = AutoModelForMaskedLM

    @classmethod
    def load(
        cls, weights: Weights, tokenizer: PreTrainedTokenizerBase, objective: Objective, labels: LabelsOfTasks
    ) -> Self:
        """The pre-trained model; a head for masked tokens that it comes without (MiniLM) is drawn at random.

        Beside LoRA adapters that head is trained whole, but for its bias over the vocabulary, which stays zero: peft
        trains copies of modules, and one of the head's last layer would no longer be tied to the word embeddings.
        """
        assert isinstance(objective, Pretraining)
        model, drawn = weights.read_but(
            cls.auto_class,
            # The config says which class saved it: such a model had its head, and must have it still.
            lambda model, weight: (
                type(model).__name__ not in (model.config.architectures or ()) and in_head(model, weight)
            ),
        )
        family = cls(model, tokenizer, objective, labels)
        embeddings = model.get_input_embeddings().weight
        owners = dict.fromkeys(weight.rpartition(".")[0] for weight in drawn)
        family.trained_whole = tuple(
            owner for owner in owners if all(one is not embeddings for one in model.get_submodule(owner).parameters())
        )
        family.remarks = (HEAD_DRAWN,) if drawn else ()
        return family

    def usage(self, prompt: str, max_new_tokens: int) -> list[str]:
        return [
            'ids = tokenizer(prompt + tokenizer.mask_token, return_tensors="pt").input_ids',
            "print(tokenizer.decode(model(input_ids=ids).logits[0].argmax(dim=1)))",
        ]

    def encode(self, prompts: Sequence[str], answers: Sequence[str], tasks: Sequence[str] = ()) -> dict[str, list[Any]]:
        return {"input_ids": self.tokenizer(list(answers), truncation=False)["input_ids"]}

    def collator(self) -> Collator:
        if self.tokenizer.mask_token_id is None:
            raise ModelError("the tokenizer has no mask token, which objective.kind: pretraining needs for an encoder")
        special = torch.tensor(self.tokenizer.all_special_ids)
        share = self.objective.masked_share or MASKED_SHARE
        replace = DataCollatorForLanguageModeling(
            self.tokenizer, mlm_probability=1.0
        )  # of the tokens that are chosen here

        def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            texts = [example["input_ids"] for example in examples]
            batch = self.pad(texts)
            replace.generator = torch.Generator().manual_seed(int(drawn_from(texts).random() * 2**53))
            chosen = choose(~torch.isin(batch["input_ids"], special), share, replace.generator)
            batch["input_ids"], labels = replace.torch_mask_tokens(batch["input_ids"], special_tokens_mask=~chosen)
            return {**batch, "labels": labels}

        return collate


def choose(possible: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Each possible position with probability ``share``; where a text would have none, one of its possible positions.

    Args:
        possible: bool, texts × sequence.

    Returns:
        bool, texts × sequence.
    """
    draws = torch.rand(possible.shape, generator=generator).masked_fill(~possible, 2.0)
    chosen = draws < share
    without = ~chosen.any(dim=1) & possible.any(dim=1)
    # Given that no draw is below the share, each position is equally likely to have the lowest.
    chosen[without, draws[without].argmin(dim=1)] = True
    return chosen
