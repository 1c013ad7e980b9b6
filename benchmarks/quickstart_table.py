"""python benchmarks/quickstart_table.py [--seeds 5] [--runs FOLDER] [METHOD ...]

Every method on the quickstart over several seeds: the table of the README. A finished run in FOLDER is not repeated.
About a minute per run on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import clkit
from clkit.cli.output import quiet_libraries
from clkit.seeds import Aggregate, aggregate

METHODS = {
    "plain": "strategies=[]",
    "MIGU": "strategies=[{name: migu, threshold: 0.7, mask: gradient}]",
    "MIGU, mask: update": "strategies=[{name: migu, threshold: 0.7, mask: update}]",
    "random rows": "strategies=[{name: migu, threshold: 0.7, mask: gradient, source: random}]",
}
SHOWN = ("average_accuracy", "bwt", "forgetting", "learning_accuracy")


def cell(value: Aggregate) -> str:
    """Mean ± sample standard deviation, in percent."""
    if value.mean is None:
        return "–"
    return f"{100 * value.mean:.1f}" + (f" ± {100 * value.std:.1f}" if value.std is not None else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of: {'; '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart_table"))
    arguments = parser.parse_args()
    unknown = set(arguments.methods) - set(METHODS)
    if unknown:
        parser.error(f"unknown method {unknown.pop()!r} (choose from: {'; '.join(METHODS)})")

    quiet_libraries()
    print(f"| method | {' | '.join(SHOWN)} |\n|---|{'---|' * len(SHOWN)}", flush=True)
    for method in arguments.methods or METHODS:
        matrices = []
        for seed in range(1, arguments.seeds + 1):
            recipe = clkit.Recipe.load("quickstart", [METHODS[method], f"seed={seed}", "saving.models=last"])
            folder = arguments.runs / f"{method.replace(',', '').replace(':', '').replace(' ', '-')}-{seed}"
            matrices.append(clkit.train(recipe, folder, resume=True).read_matrix())
        metrics = aggregate(matrices)
        print(f"| {method} | {' | '.join(cell(metrics[name]) for name in SHOWN)} |", flush=True)


if __name__ == "__main__":
    main()
