"""The model card of an exported model: what it learned and how, its scores, and how it is asked, ready to run."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from clkit import __version__
from clkit.engine.exporting import TEXT, Exported, Use
from clkit.report.tables import name_of, show_score

#: The class of `peft` for a class of `transformers`; any other adapter is loaded by `AutoPeftModel`.
PEFT_CLASSES = {
    name: name.replace("AutoModel", "AutoPeftModel")
    for name in ("AutoModelForSeq2SeqLM", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
}
PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForMaskedLM": "fill-mask",
}


def model_card(exported: Exported) -> str:
    """The text of README.md, as the hub shows it; each example of Python is a program of its own."""
    recipe = exported.recipe
    base = exported.base_on_hub or recipe.model.name.rpartition("/")[2]  # of a folder its name alone
    kind = "merged weights" if exported.rank is None else f"one LoRA adapter of rank {exported.rank} on `{base}`"
    lines = [
        "---",
        yaml.safe_dump(_front_matter(exported), sort_keys=False).rstrip(),
        "---\n",
        f"# {recipe.name}\n",
        f"`{base}` after it learned {_listed(exported.learned)}"
        f"{' together' if recipe.protocol == 'multi_task' else ', in this order' if len(exported.learned) > 1 else ''}"
        f"; {kind}. Trained and exported with clkit {__version__}.",
        "",
        *_scores(exported),
        *_training(exported),
        *_data(exported),
        "## Using it\n",
        *_reading(exported),
    ]
    for use in exported.uses:
        lines += [*_use(exported, use), ""]
    return "\n".join(lines)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def _front_matter(exported: Exported) -> dict[str, object]:
    merged = exported.rank is None
    found: dict[str, object] = {}
    if exported.base_on_hub is not None:
        found = {"base_model": exported.base_on_hub, "base_model_relation": "finetune" if merged else "adapter"}
    found["library_name"] = "transformers" if merged else "peft"
    if exported.auto_class in PIPELINES:
        found["pipeline_tag"] = PIPELINES[exported.auto_class]
    own = [options.name for options in exported.recipe.strategies]
    found["tags"] = ["clkit", "continual-learning", *own, *([] if merged else ["lora"])]
    return found


def _scores(exported: Exported) -> Iterator[str]:
    matrix = exported.matrix
    unit = ", percent" if matrix.is_fraction else "" if matrix.higher_is_better else ", lower is better"
    yield f"## Scores ({matrix.metric}{unit})\n"
    yield _row("", *matrix.tasks)
    yield "|---" + "|---:" * len(matrix.tasks) + "|"
    rows = {"before training": matrix.zero_shot} if matrix.zero_shot is not None else {}
    names = exported.learned if matrix.protocol == "sequential" else [exported.stage]
    rows |= {f"after {name}": row for name, row in zip(names, matrix.rows, strict=False)}
    for name, row in rows.items():
        yield _row(name, *(show_score(score, matrix.metric) for score in row))
    yield ""
    known = {name: metric.value for name, metric in matrix.metrics().items() if metric.value is not None}
    shown = [
        f"{name_of(name, matrix.metric).replace('_', ' ')} {show_score(value, matrix.metric)}"
        for name, value in known.items()
    ]
    if shown:
        yield ", ".join(shown) + f" (over {sum(matrix.counts):,} test examples).\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _training(exported: Exported) -> Iterator[str]:
    """The part of the recipe that says how it was trained; no path of the machine is in it."""
    recipe = exported.recipe
    sections = {"objective": recipe.objective, "tuning": recipe.tuning, "training": recipe.training}
    said: dict[str, object] = {"protocol": recipe.protocol, "seed": recipe.seed}
    said |= {name: section.model_dump(mode="json", exclude_none=True) for name, section in sections.items()}
    said["strategies"] = [options.model_dump(mode="json", exclude_none=True) for options in recipe.strategies]
    yield f"## Training\n\n```yaml\n{yaml.safe_dump(said, sort_keys=False).rstrip()}\n```\n"


def _data(exported: Exported) -> Iterator[str]:
    """Fingerprints of the tasks' data, as far as the run recorded them."""
    rows = [
        (name, split, exported.read[key])
        for name in exported.learned
        for split in ("train", "validation", "test")
        if (key := f"tasks.{name}.{split}") in exported.read
    ]
    if rows:
        yield "## Data\n"
        yield _row("task", "split", "fingerprint")
        yield "|---|---|---|"
        yield from (_row(*row) for row in rows)
        yield ""


def _reading(exported: Exported) -> Iterator[str]:
    recipe = exported.recipe
    notes = []
    if recipe.objective.kind != "pretraining":
        notes.append(f"Prompts of more than {recipe.prompt.max_tokens} tokens were cut at the end of their text.")
    if recipe.prompt.chat_template:
        notes.append("Each prompt is a user's turn in the tokenizer's chat template, here written out.")
    if recipe.evaluation.answer == "rank" and recipe.objective.kind == "text_to_text":
        notes.append("The scores are of the likeliest label, not of written answers.")
    if exported.auto_class == "AutoModelForCausalLM":
        rank = f"`--max-lora-rank {max(8, 1 << (exported.rank - 1).bit_length())}`, and " if exported.rank else ""
        notes.append(f"For vLLM: {rank}`temperature: 0` in requests, for it draws answers otherwise.")
    if notes:
        yield " ".join(notes) + "\n"


def _use(exported: Exported, use: Use) -> Iterator[str]:
    yield f"### {use.task}\n"
    if use.labels:
        yield f"Answers: {', '.join(f'`{label}`' for label in use.labels)}\n"
    if use.other_turns:
        way = "turns of their own" if exported.recipe.prompt.chat_template else "lines above it, `role: content`"
        yield f"Its inputs stood in conversations: the turns before `text`, which are left out here, were {way}.\n"
    yield "```python"
    yield from _loading(exported)
    yield ""
    yield f"text = {TEXT!r}"
    yield f"prompt = {_literal(use)}"
    yield from use.lines
    yield "```"


def _loading(exported: Exported) -> Iterator[str]:
    name, more = exported.auto_class, ""
    if exported.rank is None:
        yield f"from transformers import {name}, AutoTokenizer"
    else:
        further = {"AutoModelForSequenceClassification": "AutoConfig, "}.get(name, "")
        further += (
            "AutoTokenizer" if exported.recipe.objective.kind != "text_to_text" else "AutoTokenizer, GenerationConfig"
        )
        more = ", id2label=config.id2label, label2id=config.label2id" if "AutoConfig" in further else ""
        name = PEFT_CLASSES.get(name, "AutoPeftModel")
        yield f"from peft import {name}"
        yield f"from transformers import {further}"
    yield ""
    yield 'folder = "."  # where this file is'
    yield "tokenizer = AutoTokenizer.from_pretrained(folder)"
    if more:
        yield "config = AutoConfig.from_pretrained(folder)"
    yield f"model = {name}.from_pretrained(folder{more})"
    if exported.rank is not None and exported.recipe.objective.kind == "text_to_text":
        yield "model.generation_config = GenerationConfig.from_pretrained(folder)"  # peft takes that of the base


def _literal(use: Use) -> str:
    """The prompt as an expression of Python, a line of it on each line."""
    prompt = use.prompt
    before = "\n".join(f"    {line!r}" for line in prompt.before.splitlines(keepends=True))
    if not before:
        return f"text + {prompt.after!r}" if prompt.after else "text"
    return f"(\n{before}\n    + text{f' + {prompt.after!r}' if prompt.after else ''}\n)"
