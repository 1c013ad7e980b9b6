"""python benchmarks/released.py MODEL CL_BENCHMARK OUT --train 16 --test 24 GROUP/TASK GROUP/TASK ...

An order of tasks as the published research code works, written from a description of it, for `speed.py --commands` to
compare clkit with; no part of clkit is in it. A process for each task loads the model that the one before it saved,
trains it, and tests it on all tasks so far:

- a hook on every linear layer, the language model's head included, sums |output| and keeps its graph;
- the threshold of each layer is `torch.quantile` of these sums, and the mask multiplies the whole gradient;
- AdamW is not fused; batches are as they come, and padded to their longest;
- tests generate 50 tokens in the order of the data.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH, TESTED, LONGEST, NEW_TOKENS, SHARE = 8, 64, 512, 50, 0.7
#: What the question of a task's group is about, for the groups of the standard benchmark.
ASKED = {"SC": "sentiment", "TC": "topic"}


def rows(folder: Path, split: str, count: int) -> list[tuple[str, str]]:
    """Prompts and answers, the prompt as published."""
    labels = json.loads((folder / "labels.json").read_text())
    asked = f"What is the {ASKED[folder.parent.name]} of the following paragraph? Choose one from the option."
    head = f"Task:{folder.parent.name}\nDataset:{folder.name}\n{asked}\nOption: {', '.join(labels)}"
    found = json.loads((folder / f"{split}.json").read_text())[:count]
    return [(f"{head} \n{row['sentence']}\nAnswer:", row["label"]) for row in found]


def learn(model: Any, tokenizer: Any, examples: list[tuple[str, str]], masked: bool) -> None:
    import torch

    sums: dict[Any, Any] = {}

    def add(layer: Any, inputs: Any, output: Any) -> None:
        sums[layer] = sums.get(layer, 0) + output.abs().sum(dim=(0, 1))

    for layer in model.modules() if masked else ():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(add)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=False)
    model.train()
    for prompts, answers in batches(examples, BATCH):
        source = tokenizer(prompts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        labels = tokenizer(text_target=answers, padding=True, return_tensors="pt")["input_ids"]
        model(**source, labels=labels.masked_fill(labels == tokenizer.pad_token_id, -100)).loss.backward()
        for layer, score in sums.items():
            layer.weight.grad *= (score > torch.quantile(score, SHARE))[:, None]
        sums.clear()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def right(model: Any, tokenizer: Any, examples: list[tuple[str, str]]) -> float:
    import torch

    model.eval()
    found = 0
    with torch.no_grad():
        for prompts, answers in batches(examples, TESTED):
            source = tokenizer(prompts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            written = model.generate(**source, max_new_tokens=NEW_TOKENS, do_sample=False)
            texts = tokenizer.batch_decode(written, skip_special_tokens=True)
            found += sum(text.lower() == answer.lower() for text, answer in zip(texts, answers, strict=True))
    return found / len(examples)


def batches(examples: list[tuple[str, str]], size: int) -> Iterator[tuple[list[str], list[str]]]:
    for start in range(0, len(examples), size):
        prompts, answers = zip(*examples[start : start + size], strict=True)
        yield list(prompts), list(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--train", type=int, default=16)
    parser.add_argument("--test", type=int, default=24)
    parser.add_argument("--place", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.place is None:
        for place in range(len(arguments.tasks)):
            subprocess.run([sys.executable, *sys.argv, "--place", str(place)], check=True)
        return
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    place, data = arguments.place, arguments.data
    loaded = arguments.out / str(place - 1) if place else arguments.model
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(loaded), AutoTokenizer.from_pretrained(loaded)
    learn(model, tokenizer, rows(data / arguments.tasks[place], "train", arguments.train), masked=place > 0)
    model.save_pretrained(arguments.out / str(place))
    tokenizer.save_pretrained(arguments.out / str(place))
    scores = [
        right(model, tokenizer, rows(data / name, "test", arguments.test)) for name in arguments.tasks[: place + 1]
    ]
    print(arguments.tasks[place], *(f"{score:.2f}" for score in scores), flush=True)


if __name__ == "__main__":
    main()
