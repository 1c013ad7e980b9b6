"""Kills a run with SIGKILL at random moments, resumes it, and compares all bytes with those of a run left in peace.

::

    python benchmarks/kill_and_resume.py                           25 runs of each method: half an hour on a CPU
    python benchmarks/kill_and_resume.py --kills 3 --methods ewc
    python benchmarks/kill_and_resume.py --grow --kills 10         runs of one task that are grown by the second
    python benchmarks/kill_and_resume.py --cost                    the share of the time that checkpoints take

Each run is a process of its own, forked from one that has imported everything and used nothing of it. It learns two
tasks of the quickstart with the embedded model, with dropout, and a checkpoint every three steps. Compared are matrix,
metrics, weights, strategies' states, predictions and log terms. `--cost` trains a T5-small (60 million parameters, all
of them trained: 730 MB a checkpoint) and says what share its checkpoints would take at the default interval.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what the tests compare
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from transformers import T5Config, T5ForConditionalGeneration

from clkit.engine.sequence import train
from clkit.models.embedded import embedded_model_folder
from clkit.recipe.recipe import Recipe
from clkit.report.console import quiet_libraries
from clkit.run.folder import RunFolder
from clkit.run.place import is_empty
from clkit.training.sections import SavingSection
from tests.interrupting import outcome

METHODS = {
    "migu+replay": ["strategies=[{name: migu}, {name: replay, share: 0.5}]"],
    "ewc": ["strategies=[{name: ewc, examples: 20}]"],
    "olora": ["strategies=[{name: olora}]", "tuning={method: incremental_lora, rank: 4}"],
}
SMALL = ["data.train_per_task=48", "data.test_per_task=20", "training.epochs=2", "training.log_every=4"]


def with_dropout(folder: Path) -> Path:
    """The embedded model, made to draw random numbers while it is trained."""
    shutil.copytree(embedded_model_folder("tiny-t5"), folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.1}), "utf-8")
    return folder


def first_tasks(recipe: Recipe, number: int) -> Recipe:
    tasks = [task.model_dump() for task in recipe.task_recipes()[:number]]
    return Recipe.model_validate(recipe.model_dump() | {"benchmark": None, "tasks": tasks})


def start(recipe: Recipe, folder: Path, *, resume: bool = False) -> int:
    """Train in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(recipe, folder, resume=resume and not is_empty(folder))  # killed before it wrote anything
        code = 0
    finally:
        os._exit(code)


def ended_well(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def progress(folder: Path) -> str:
    """How far a killed run came."""
    stages = sorted((folder / "tasks").glob("*-*"))
    if not stages:
        return "before the first stage"
    last = stages[-1]
    for marker in ("done", "trained"):
        if (last / f"{marker}.json").exists():
            return f"{last.name} {marker}"
    steps = [int(entry.name) for entry in (last / "checkpoints").glob("[0-9]*")]
    saving = ", saving" if any((last / "checkpoints/.partial").glob("*/*")) else ""
    return f"{last.name} with checkpoint {max(steps, default='none')}{saving}"


def same_after_kills(recipe: Recipe, folder: Path, kills: int, draw: random.Random, *, grow: bool) -> int:
    """How many of so many runs, each killed at a random moment and then resumed, came to the outcome of a whole one.

    Args:
        grow: kill them while they grow by the last task.
    """
    whole, begun, run = folder / "whole", folder / "begun", folder / "killed"
    well = ended_well(start(recipe, whole)) and (not grow or ended_well(start(first_tasks(recipe, 1), begun)))
    started = time.monotonic()
    if grow:
        shutil.copytree(begun, run)
    if not (well and ended_well(start(recipe, run, resume=grow))):
        raise SystemExit("the run failed without being killed")
    seconds = time.monotonic() - started
    wanted = outcome(RunFolder.open(whole))
    right = 0
    for _ in range(kills):
        shutil.rmtree(run)
        if grow:
            shutil.copytree(begun, run)
        child = start(recipe, run, resume=grow)
        moment = draw.uniform(0, seconds)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        came = progress(run)
        same = ended_well(start(recipe, run, resume=True)) and outcome(RunFolder.open(run)) == wanted
        right += same
        print(f"  killed after {moment:.2f} s of {seconds:.2f} ({came}): {'same' if same else 'DIFFERENT'}", flush=True)
    return right


def print_cost(folder: Path) -> None:
    """Train a T5-small for four steps with a checkpoint after each but the last."""
    model = with_dropout(folder / "model")
    T5ForConditionalGeneration(T5Config(decoder_start_token_id=0)).save_pretrained(model)
    changes = [f"model.name={model}", "strategies=[]", "evaluation.zero_shot=false", "evaluation.tasks=final"]
    changes += ["data.train_per_task=8", "data.test_per_task=2", "training.batch_size=2", "training.epochs=1"]
    recipe = first_tasks(Recipe.load("quickstart", [*changes, "saving.checkpoint_steps=1"]), 2)
    payload: dict[str, Any] = train(recipe, folder / "run").stages()[-1].payload
    each = payload["saving_seconds"] / (payload["steps"] - 1)
    interval = 60 * (SavingSection().checkpoint_minutes or 0)
    print(
        f"T5-small: {each:.2f} s a checkpoint, {each / (interval + each):.2%} of the time at {interval / 60:g} minutes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--grow", action="store_true", help="kill runs that grow by their second task")
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    quiet_libraries()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.cost:
            print_cost(Path(temporary))
            return
        model = with_dropout(Path(temporary, "model"))
        for method in arguments.methods:
            changes = [f"model.name={model}", *SMALL, *METHODS[method], "saving.checkpoint_steps=3"]
            if arguments.grow:  # what a run of one task could not measure of the second
                changes += ["evaluation.tasks=seen", "evaluation.zero_shot=false"]
            recipe = first_tasks(Recipe.load("quickstart", changes), 2)
            draw = random.Random(f"{arguments.seed}/{method}")
            folder = Path(temporary, method)
            right = same_after_kills(recipe, folder, arguments.kills, draw, grow=arguments.grow)
            print(f"{method}: {right} of {arguments.kills} the same to the last bit", flush=True)
            failed = failed or right < arguments.kills
    sys.exit(failed)


if __name__ == "__main__":
    main()
