"""python benchmarks/where_migu_helps.py --model T5 --data CL_Benchmark [--runs FOLDER] [--seeds 1] [AXIS ...]

Where does MIGU help? Learning against keeping, one point per setting, for plain tuning, MIGU, and as many random rows.

Each axis changes one thing around the base: full tuning of order 1 with the embeddings (and the head tied to them)
frozen, rows masked with `mask: update`, T = 0.95, rate 1e-3, three passes over 128 examples a task in batches of 8.
Scores are of the validation split. Of each method the setting with the best average accuracy there is then tested on
the test split, over three other seeds. A finished run in FOLDER is not repeated. Prints both tables, and draws
FOLDER/learning_against_keeping.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from real_table import SEEDS as TEST_SEEDS
from real_table import SHOWN as TEST_SHOWN
from real_table import SMALL, TEST, TRAIN
from runs import Job, markdown, means, slug, train_all

from clkit.results.spread import Aggregate, aggregate

SHOWN = ("average_accuracy", "learning_accuracy", "forgetting")
SEEDS = (7, 8, 9)
BASE_THRESHOLD = 0.95
SOURCES = {"MIGU": "magnitude", "random rows": "random"}


@dataclass(frozen=True)
class Setting:
    """One point: which method, what is different from the base, and the overrides that say so."""

    method: str
    change: str
    overrides: tuple[str, ...]


def masked(
    change: str, *more: str, threshold: float = BASE_THRESHOLD, mask: str = "update", layers: str | None = None
) -> list[Setting]:
    """MIGU and its random control with the same options."""
    options = f"threshold: {threshold}, mask: {mask}" + (f", layers: {layers}" if layers else "")
    return [
        Setting(method, change, (f"strategies=[{{name: migu, source: {source}, {options}}}]", *more))
        for method, source in SOURCES.items()
    ]


def all_three(change: str, *more: str) -> list[Setting]:
    """Plain tuning, MIGU and random rows with the same overrides."""
    return [Setting("plain", change, ("strategies=[]", *more)), *masked(change, *more)]


THRESHOLDS = (0.3, 0.5, 0.7, 0.9, 0.95, 0.99)
AXES: dict[str, list[Setting]] = {
    "threshold": [
        Setting("plain", "base", ("strategies=[]",)),
        *(setting for t in THRESHOLDS for setting in masked(f"T {t}", threshold=t)),
    ],
    "mask": [setting for t in (0.7, 0.95) for setting in masked(f"gradient, T {t}", threshold=t, mask="gradient")],
    "frozen": [
        *all_three("nothing frozen", "tuning.freeze=[]"),
        *all_three("only norms frozen", "tuning.freeze=[norms]"),
        *all_three("embeddings, norms frozen", "tuning.freeze=[embeddings, norms, position_bias]"),
    ],
    "head": [
        setting
        for t in (0.7, 0.95)
        for setting in masked(
            f"head and embeddings masked, T {t}",
            "tuning.freeze=[]",
            threshold=t,
            layers="[attention, feed_forward, lm_head]",
        )
    ],
    "rate": [
        setting for rate in (3e-4, 3e-3) for setting in all_three(f"rate {rate:g}", f"training.learning_rate={rate:g}")
    ],
    "steps": [setting for epochs in (1, 6) for setting in all_three(f"{epochs} epochs", f"training.epochs={epochs}")],
}


Point = tuple[Setting, dict[str, Aggregate]]


class Study:
    """The runs of all settings."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._runs = arguments.runs
        self._jobs = arguments.jobs
        self._base = (
            *SMALL,
            f"data.train_per_task={TRAIN}",
            f"data.test_per_task={TEST}",
            "training.learning_rate=1e-3",
            "tuning.freeze=[embeddings]",
            f"model.name={arguments.model}",
            f"benchmark.folder={arguments.data}",
        )

    def points(self, settings: Iterable[Setting], seeds: Sequence[int], split: str) -> list[Point]:
        """What each setting reached on a split, over the seeds."""
        jobs = {setting: [self._job(setting, seed, split) for seed in seeds] for setting in settings}
        matrices = train_all((job for own in jobs.values() for job in own), self._jobs)
        return [(setting, aggregate([matrices[job.folder] for job in own])) for setting, own in jobs.items()]

    def _job(self, setting: Setting, seed: int, split: str) -> Job:
        folder = self._runs / split / f"{slug(setting.method)}-{slug(setting.change)}-{seed}"
        overrides = (*self._base, *setting.overrides, f"seed={seed}", f"evaluation.split={split}")
        return Job(folder, "t5_order1", overrides)


def draw(points: list[Point], path: Path) -> None:
    """Learning accuracy against forgetting, one point per setting; up and left is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    numbers = {change: n for n, change in enumerate(dict.fromkeys(setting.change for setting, _ in points), 1)}
    figure, axes = pyplot.subplots(figsize=(11, 6.5), layout="constrained")
    for method, marker, colour in (("plain", "s", "0.35"), ("MIGU", "o", "C0"), ("random rows", "^", "C1")):
        places = [
            (100 * (metrics["forgetting"].mean or 0), 100 * (metrics["learning_accuracy"].mean or 0), setting.change)
            for setting, metrics in points
            if setting.method == method
        ]
        axes.scatter(
            [x for x, _, _ in places], [y for _, y, _ in places], marker=marker, color=colour, label=method, zorder=3
        )
        for x, y, change in places:
            axes.annotate(
                str(numbers[change]), (x, y), fontsize=8, color=colour, xytext=(5, 2), textcoords="offset points"
            )
    key = "\n".join(f"{n:2}  {change}" for change, n in numbers.items())
    axes.annotate(key, (1.02, 0.98), xycoords="axes fraction", va="top", fontsize=8)
    axes.set_xlabel("forgetting (percent; less is better)")
    axes.set_ylabel("learning accuracy (percent; more is better)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"of: {', '.join(AXES)}")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=1, choices=range(1, len(SEEDS) + 1))
    parser.add_argument("--runs", type=Path, default=Path("runs/where_migu_helps"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    arguments = parser.parse_args()
    if unknown := set(arguments.axes) - set(AXES):
        parser.error(f"unknown axis {unknown.pop()!r} (choose from: {', '.join(AXES)})")

    study = Study(arguments)
    settings = [setting for axis in arguments.axes or AXES for setting in AXES[axis]]
    points = study.points(settings, SEEDS[: arguments.seeds], "validation")
    rows = [[setting.change, setting.method, *means(metrics, SHOWN)] for setting, metrics in points]
    print(markdown(["setting", "method", *SHOWN], rows), flush=True)
    draw(points, arguments.runs / "learning_against_keeping.png")
    best = {setting.method: setting for setting, _ in sorted(points, key=_score)}
    rows = [
        [setting.method, setting.change, *means(metrics, TEST_SHOWN)]
        for setting, metrics in study.points(best.values(), TEST_SEEDS, "test")
    ]
    print("\nThe best of each, on the test split:\n")
    print(markdown(["method", "setting", *TEST_SHOWN], rows))


def _score(point: Point) -> float:
    return point[1]["average_accuracy"].mean or 0.0


if __name__ == "__main__":
    main()
