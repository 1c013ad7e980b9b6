"""Parts of a model for images and sound: no text reaches them, so they are neither trained nor masked nor adapted."""

from __future__ import annotations

from transformers import PreTrainedModel

#: What `transformers` calls the part for text where it stands beside others.
_TEXT = ("language_model", "text_model")


def beside_text(model: PreTrainedModel) -> list[str]:
    """The names of these parts, such as Gemma's `model.vision_tower` and `model.multi_modal_projector`."""
    head, found = model.get_output_embeddings(), []
    for name, module in model.named_modules():
        parts = dict(module.named_children())
        if hasattr(getattr(module, "config", None), "text_config") and not parts.keys().isdisjoint(_TEXT):
            others = (part for part in parts if part not in _TEXT and parts[part] is not head)
            found += [f"{name}.{part}".removeprefix(".") for part in others]
    return found


def freeze_beside_text(model: PreTrainedModel) -> None:
    """Take these parts out of training: they would have no gradient, and count as if they were learned."""
    for name in beside_text(model):
        model.get_submodule(name).requires_grad_(False)
