"""What whole commands cost: the second table of `speed.py`, with `--commands MODEL CL_BENCHMARK`.

Ratios of the processor's time, start-up included; each pair runs in turns (one, other, other, one, ...).
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from released import right

from clkit.models.examples import task_texts
from clkit.models.loading import load_model
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.testing.examiner import Examiner

#: Order 1 of the paper.
TASKS = ("TC/dbpedia", "SC/amazon", "TC/yahoo", "TC/agnews")
CLKIT, TESTS = ("-m", "clkit"), "tests of t5_order1"
#: What any training by transformers loads.
LIBRARIES = "from transformers import Trainer, T5ForConditionalGeneration; import datasets"


def order_1(model: Path, data: Path, train: int, test: int) -> list[str]:
    """Its settings as the released way has them in one process."""
    return [
        "t5_order1",
        f"model.name={model}",
        f"benchmark.folder={data}",
        f"data={{train_per_task: {train}, test_per_task: {test}}}",
        "training.batch_size=8",
        "evaluation.zero_shot=false",
    ]


def table(model: Path, data: Path, pairs: int, examples: Sequence[int], only: Sequence[str]) -> Iterator[str]:
    """Its lines, each as soon as it is measured.

    Args:
        examples: trained and tested of each task of order 1.
        only: parts of the commands' names.
    """
    yield "| command | beside | ratio | from | to | the latter |\n" + "|---" * 6 + "|"
    ours = order_1(model, data, *examples)
    with tempfile.TemporaryDirectory() as out:
        theirs = [str(Path(__file__).parent / "released.py"), str(model), str(data), f"{out}/released", *TASKS]
        theirs += ["--train", str(examples[0]), "--test", str(examples[1])]
        plain = ["train", "quickstart", "strategies=[]", "--overwrite", "--run", f"{out}/plain"]
        for name, command, beside, other in (
            ("clkit ls", [*CLKIT, "ls"], "python", ["-c", "0"]),
            (
                "clkit train quickstart --dry-run",
                [*CLKIT, "train", "quickstart", "--dry-run", "--run", f"{out}/none"],
                "importing the libraries",
                ["-c", LIBRARIES],
            ),
            (
                "clkit train quickstart",
                [*CLKIT, "train", "quickstart", "--overwrite", "--run", f"{out}/migu"],
                "without MIGU",
                [*CLKIT, *plain],
            ),
            (
                "clkit train t5_order1",
                [*CLKIT, "train", *ours, "--overwrite", "--run", f"{out}/order1"],
                "the released way",
                theirs,
            ),
        ):
            if any(part in name for part in only):
                measured = [_pair(partial(_child, command), partial(_child, other), place) for place in range(pairs)]
                yield _line(name, beside, measured)
    if any(part in TESTS for part in only):
        measured = [*_tests(Recipe.load(ours[0], ours[1:]), pairs)]
        yield _line(TESTS, "50 tokens in the order of the data", measured)


def _child(command: list[str]) -> float:
    """Seconds of the processor that a process and its own took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _tests(recipe: Recipe, pairs: int) -> Iterator[tuple[float, float]]:
    family, tasks = load_model(recipe.model, recipe.tuning), load_tasks(recipe)
    family.model.eval()
    examiner = Examiner(tasks, recipe)
    rows = {}
    for task in tasks:
        prompts = task_texts(task, "test", family, recipe).prompts
        rows[task.name] = [*zip(prompts, task.test["answer"][:], strict=True)]

    def fast() -> float:
        started = time.process_time()
        for name in rows:
            examiner.test(family, name)
        return time.process_time() - started

    def naive() -> float:
        started = time.process_time()
        for own in rows.values():
            right(family.model, family.tokenizer, own)
        return time.process_time() - started

    for place in range(pairs):
        yield _pair(fast, naive, place)


def _pair(one: Callable[[], float], other: Callable[[], float], place: int) -> tuple[float, float]:
    if place % 2:
        later = other()
        return one(), later
    return one(), other()


def _line(name: str, beside: str, measured: list[tuple[float, float]]) -> str:
    ratios = [one / other for one, other in measured]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    theirs = statistics.median(other for _, other in measured)
    return f"| {name} | {beside} | **{middle:.2f}** | {low:.2f} | {high:.2f} | {theirs:.1f} s |"
