"""python benchmarks/evaluation.py RUN [--batch 64]

Evaluation of a whole run by clkit against naive `generate` (50 new tokens, batches in the order of the data): the
zero-shot row and the row after each task, on the tasks that the run itself tested there. Prints seconds, the ratio
naive / clkit per row and in all, and how many predictions agree.

RUN must have kept the model of every stage (saving.models: all). Order 1 on real data, for example:

    clkit train t5_order1 model.name=T5 benchmark.folder=CL_Benchmark data.train_per_task=200 --run RUN

Naive text that runs on past clkit's limit is compared as far as clkit generated: with fewer tokens greedy decoding
gives the beginning of what it gives with more.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch

from clkit.engine.evaluate import learned_stages
from clkit.models.examples import task_texts
from clkit.models.family import Family
from clkit.models.loading import load_model
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.report.console import quiet_libraries
from clkit.results.answers import UNFINISHED, normalise
from clkit.results.scores import Answers
from clkit.run.folder import RunFolder
from clkit.tasks.task import Task
from clkit.testing.examiner import Examiner


@torch.inference_mode()
def naive(loaded: Family, task: Task, recipe: Recipe, batch_size: int) -> list[str]:
    """What most research code does."""
    prompts = task_texts(task, "test", loaded, recipe).prompts
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = loaded.tokenizer(prompts[start : start + batch_size], padding=True, return_tensors="pt")
        tokens = loaded.model.generate(**batch, max_new_tokens=50, do_sample=False, use_cache=True)
        answers += loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return answers


def agreement(fast: str, slow: str, gold: str) -> Counter[str]:
    """How far two predictions agree."""
    return Counter(
        examples=1,
        same_text=fast == slow,
        same_up_to_limit=slow.startswith(fast.removesuffix(UNFINISHED)),
        same_verdict=(normalise(fast) == normalise(gold)) == (normalise(slow) == normalise(gold)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--batch", type=int, default=64, help="batch size of both")
    arguments = parser.parse_args()

    quiet_libraries()
    run = RunFolder.open(arguments.run)
    recipe = Recipe.load(run.recipe_path, [f"evaluation.batch_size={arguments.batch}"])
    tasks = load_tasks(recipe)
    examiner = Examiner(tasks, recipe)
    matrix = run.read_matrix()
    rows = {"0": matrix.zero_shot} if matrix.zero_shot else {}
    rows |= {str(index): row for index, row in enumerate(matrix.rows, 1)}

    total_fast = total_slow = 0.0
    total: Counter[str] = Counter()
    for stage, row in rows.items():
        loaded = load_model(recipe.model, recipe.tuning, learned_stages(run, stage))
        loaded.model.eval()
        row_fast = row_slow = 0.0
        for task, score in zip(tasks, row, strict=True):
            if score is None:
                continue
            started = time.perf_counter()
            fast = examiner.test(loaded, task.name)
            between = time.perf_counter()
            assert isinstance(fast, Answers), "the run's metric needs no answers"
            slow = naive(loaded, task, recipe, arguments.batch)
            row_fast, row_slow = row_fast + between - started, row_slow + time.perf_counter() - between
            for pair in zip(fast.predictions, slow, fast.gold, strict=True):
                total += agreement(*pair)
        name = f"after {tasks[int(stage) - 1].name}" if stage != "0" else "zero-shot"
        print(
            f"{name:16} naive {row_slow:6.1f} s  clkit {row_fast:6.1f} s  ratio {row_slow / row_fast:.2f}", flush=True
        )
        total_fast, total_slow = total_fast + row_fast, total_slow + row_slow
    print(f"{'all rows':16} naive {total_slow:6.1f} s  clkit {total_fast:6.1f} s  ratio {total_slow / total_fast:.2f}")
    print(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in total.items()))


if __name__ == "__main__":
    main()
