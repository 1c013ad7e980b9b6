"""What the tasks' texts are used for: what the model learns from an example, and what it is scored by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clkit.results.kinds import MetricName
from clkit.section import Section


class TextToText(Section):
    """The model writes an answer to a prompt; encoder-decoder and decoder models."""

    kind: Literal["text_to_text"] = Field(
        "text_to_text", description="Write the answer to a prompt; encoder-decoder and decoder models."
    )
    loss_on: Literal["last", "all_turns"] = Field(
        "last",
        description="What is learned of a conversation: its `last` answer, or `all_turns` of the assistant's, for "
        "which `prompt.chat_template` must be true: what the template marks by `{% generation %}` or, where it marks "
        "nothing, each turn's text with what ends it. Tests ask for the last answer.",
    )


class Classification(Section):
    """A head on the model chooses one of the labels; encoder and decoder models."""

    kind: Literal["classification"] = Field(
        description="Choose a label with a head on the model; encoder and decoder models."
    )
    heads: Literal["shared", "per_task"] = Field(
        "shared",
        description="`shared`: one head over the labels of all tasks seen, as where the task of an input is not known "
        "(class-incremental). `per_task`: each task has its own head, which is told which task it answers.",
    )


class Pretraining(Section):
    """The model goes on learning from plain text: continual pre-training over domains; every family."""

    kind: Literal["pretraining"] = Field(
        description="Go on learning from plain text: the next token (decoder), masked tokens (encoder), masked spans "
        "(T5). Each task is a domain; its labels and instruction are not used."
    )
    block_tokens: Annotated[int, Field(ge=8)] = Field(
        512, description="Texts are joined, in the order of the data, and cut into blocks of at most so many tokens."
    )
    masked_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Share of the tokens that are masked; encoder models and T5, where null is 0.15."
    )
    span_length: Annotated[float, Field(ge=1)] | None = Field(
        None, description="Mean length of a masked span in tokens; T5, where null is 3."
    )


#: What each kind of `heads` means for a result.
HEADS = {
    "shared": "one head over the labels of all tasks seen",
    "per_task": "one head per task: the task is known at test time",
}

Objective = Annotated[TextToText | Classification | Pretraining, Field(discriminator="kind")]

#: What each objective can be scored by; the first unless the recipe says otherwise.
METRICS_OF: dict[str, tuple[MetricName, ...]] = {
    "text_to_text": ("exact_match", "macro_f1", "token_f1", "rouge_l", "loss", "perplexity"),
    "classification": ("exact_match", "macro_f1"),
    "pretraining": ("perplexity", "loss"),
}
