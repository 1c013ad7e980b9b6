"""An engine that trains nothing: it finishes runs with the scores of a script, and fails those that have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.results.kinds import LOWER_IS_BETTER
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from clkit.suites.engine import Ended, Engine, EngineOptions
from clkit.suites.job import Job
from tests.scored import score

#: What a run learns of each of two tasks, and what it still knows of the first; None: it fails.
Script = Callable[[Recipe], tuple[float, float] | None]


class Scripted(Engine):
    def __init__(self, script: Script) -> None:
        super().__init__(None, EngineOptions())
        self.script = script
        self.remarks: Callable[[Recipe], list[str]] = lambda recipe: []
        self.read: Callable[[Recipe], dict[str, str]] = lambda recipe: {}
        self.carried_out: list[Path] = []

    def side_by_side(self, jobs: int) -> int:
        return jobs

    def carry_out(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        for job in jobs:
            self.carried_out.append(job.run)
            _, source, *overrides, _, _ = job.arguments
            recipe = Recipe.load(source, overrides)
            scores = self.script(recipe)
            if scores is None:
                yield Ended(job, "error: it was written so")
                continue
            learned, kept = scores
            run = RunFolder.create(job.run, recipe_yaml(recipe), {"read": self.read(recipe)})
            run.log.append({"event": "planned", "remarks": self.remarks(recipe)})
            rows, better = [[learned, None], [kept, learned]], recipe.metric not in LOWER_IS_BETTER
            score(run, AccuracyMatrix(["a", "b"], [9, 9], recipe.metric, higher_is_better=better, rows=rows))
            yield Ended(job)
