"""A sweep carries out what its folder lacks, and nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clkit.errors import RunError, UsageError
from clkit.recipe.recipe import Recipe
from clkit.run.comparison import open_runs
from clkit.run.lock import locked
from clkit.suites.planning import PlannedSuite
from clkit.suites.rates import Choice
from clkit.suites.sweep import Failed, SweepListener, Swept, sweep
from tests.suites.scripted import Script, Scripted

SUITE = """\
name: mine
recipe: quickstart
seeds: [1, 2]
methods:
  plain: {set: {strategies: []}}
  masked: {}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Heard(SweepListener):
    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.due: list[int] = []
        self.choices: dict[str, Choice | None] = {}

    def noted(self, remark: str) -> None:
        self.remarks.append(remark)

    def started(self, runs: object, due: int) -> None:
        self.due.append(due)

    def chosen(self, method: str, choice: Choice | None) -> None:
        self.choices[method] = choice


def swept(script: Script, text: str = SUITE, listener: SweepListener | None = None) -> tuple[Swept, list[str]]:
    """What a sweep came to, and the runs that it carried out."""
    Path("mine.yaml").write_text(text, "utf-8")
    engine = Scripted(script)
    outcome = sweep(PlannedSuite.load("mine.yaml"), Path("runs"), engine, listener or SweepListener())
    return outcome, [str(run.relative_to(Path("runs").resolve())) for run in engine.carried_out]


def well(recipe: Recipe) -> tuple[float, float]:
    return 0.8, 0.5


EVERY = ["plain/seed1", "masked/seed1", "plain/seed2", "masked/seed2"]


def test_finished_runs_are_not_begun_again() -> None:
    heard = Heard()
    outcome, carried_out = swept(well, listener=heard)
    assert (carried_out, outcome.failed) == (EVERY, [])
    shutil.rmtree("runs/plain/seed2")
    assert swept(well, listener=heard)[1] == ["plain/seed2"]
    assert swept(well, listener=heard)[1] == []
    assert swept(well, SUITE.replace("[1, 2]", "[1, 2, 3]"))[1] == ["plain/seed3", "masked/seed3"]
    assert heard.due == [4, 1, 0]


def test_a_failure_stops_no_other_and_is_tried_again() -> None:
    outcome, carried_out = swept(lambda recipe: None if recipe.name == "plain" and recipe.seed == 1 else (0.8, 0.5))
    assert carried_out == EVERY
    (failed,) = outcome.failed
    log = Path("runs/plain/seed1.log").resolve()
    assert failed == Failed(outcome.runs[0], log, "error: it was written so")
    assert swept(well)[1] == ["plain/seed1"]


def test_what_runs_remark_on_is_told_once_and_not_in_their_logs_alone() -> None:
    Path("mine.yaml").write_text(SUITE, "utf-8")
    engine, heard = Scripted(well), Heard()
    engine.remarks = lambda recipe: (
        ["all prompts are cut", *(["masks nothing"] if recipe.strategies else [f"{recipe.seed} rows"])]
    )
    sweep(PlannedSuite.load("mine.yaml"), Path("runs"), engine, heard)
    assert heard.remarks == [
        "plain/seed1: all prompts are cut",
        "plain/seed1: 1 rows",
        "masked/seed1: masks nothing",
    ]


def test_a_run_that_found_other_data_is_told_of() -> None:
    Path("mine.yaml").write_text(SUITE, "utf-8")
    engine, heard = Scripted(well), Heard()
    engine.read = lambda recipe: {
        "tasks.a.train": f"drawn by {recipe.seed}",
        "tasks.a.test": "new" if recipe.seed == 2 and recipe.strategies else "old",
    }
    sweep(PlannedSuite.load("mine.yaml"), Path("runs"), engine, heard)
    (remark,) = heard.remarks
    assert remark.startswith("masked/seed2 and plain/seed1: what they read was changed in between (tasks.a.test), so")


def test_runs_of_another_recipe_are_refused_before_any_is_begun() -> None:
    swept(well)
    with pytest.raises(
        UsageError, match=r"masked/seed1 is the run of another recipe.* strategies\.migu\.threshold: rem"
    ):
        swept(well, SUITE.replace("masked: {}", "masked: {set: {strategies.migu.threshold: 0.5}}"))


def test_runs_of_a_clkit_that_knew_fewer_keys_count_with_todays_defaults() -> None:
    swept(well)
    path = Path("runs/masked/seed1/recipe.yaml")
    lines = path.read_text("utf-8").splitlines(keepends=True)
    fewer = [line for line in lines if "moments: all" not in line]
    assert len(fewer) == len(lines) - 1
    path.write_text("".join(fewer), "utf-8")
    assert swept(well)[1] == []


def test_one_sweep_writes_a_folder() -> None:
    with locked(Path("runs")), pytest.raises(RunError, match="runs is being written by process"):
        swept(well)


RATED = SUITE.replace(
    "seeds:", "rates: {values: [1e-4, 1e-3, 1e-2], seeds: [7]}\nset: {data.validation_share: 0.1}\nseeds:"
)


def by_rate(recipe: Recipe) -> tuple[float, float]:
    """The higher the rate, the more is learned and the less kept; plain tuning is best at 1e-3, masked at 1e-4."""
    rate = recipe.training.learning_rate
    place = [1e-4, 1e-3, 1e-2].index(rate)
    kept = {"plain": (0.3, 0.4, 0.1), "masked": (0.45, 0.3, 0.1)}[recipe.name][place]
    return (0.5, 0.6, 0.7)[place], kept


def test_rates_are_chosen_by_the_average_on_validation_before_anything_is_tested() -> None:
    heard = Heard()
    outcome, carried_out = swept(by_rate, RATED, heard)
    assert carried_out[:6] == [
        f"validation/{method}/rate{rate}/seed7"
        for method in ("plain", "masked")
        for rate in ("0.0001", "0.001", "0.01")
    ]
    assert carried_out[6:] == EVERY
    assert {method: choice.rate for method, choice in outcome.rates.items()} == {"plain": 1e-3, "masked": 1e-4}
    assert [run.recipe.training.learning_rate for run in outcome.runs] == [1e-3, 1e-4, 1e-3, 1e-4]
    assert {run.recipe.evaluation.split for run in outcome.runs} == {"test"}
    assert {method: choice.beyond for method, choice in outcome.rates.items()} == {"plain": "", "masked": "lower"}
    assert swept(by_rate, RATED)[1] == []


def test_the_suites_folder_shows_what_is_tested_and_not_what_rates_were_chosen_by() -> None:
    swept(by_rate, RATED)
    assert sorted(str(run.path) for run in open_runs([Path("runs")])[0]) == sorted(f"runs/{name}" for name in EVERY)
    assert len(open_runs([Path("runs/validation")])[0]) == 6


def test_at_equal_learning() -> None:
    like = RATED.replace("seeds: [7]", "choose: equal_learning, like: plain, seeds: [7]")
    outcome, _ = swept(by_rate, like)
    assert {method: choice.rate for method, choice in outcome.rates.items()} == {"plain": 1e-3, "masked": 1e-3}


@pytest.mark.parametrize(("rule", "tried"), [("seeds: [7]", 3), ("choose: equal_learning, like: plain, seeds: [7]", 4)])
def test_a_method_with_one_rate_is_not_tried_unless_others_are_to_learn_like_it(rule: str, tried: int) -> None:
    one = RATED.replace("seeds: [7]", rule).replace("plain: {", "plain: {rates: [1e-3], ")
    outcome, carried_out = swept(by_rate, one)
    assert sum(place.startswith("validation/") for place in carried_out) == tried
    assert {method: choice.rate for method, choice in outcome.rates.items()} == {
        "plain": 1e-3,
        "masked": 1e-4 if tried == 3 else 1e-3,
    }
    assert outcome.rates["plain"].beyond == ""


def test_all_rates_are_points_of_a_curve() -> None:
    outcome, carried_out = swept(by_rate, RATED.replace("seeds: [7]", "choose: all"))
    assert len(carried_out) == len(outcome.runs) == 12
    assert carried_out[0] == "plain/rate0.0001-seed1"


def test_of_losses_the_lowest_is_best() -> None:
    def loss(recipe: Recipe) -> tuple[float, float]:
        return {1e-4: (0.5, 0.9), 1e-3: (0.4, 0.5), 1e-2: (0.3, 2.0)}[recipe.training.learning_rate]

    outcome, _ = swept(loss, RATED.replace("set: {", "set: {evaluation.metric: loss, "))
    assert [choice.rate for choice in outcome.rates.values()] == [1e-3, 1e-3]
    assert [one.average for one in outcome.rates["plain"].tried.values()] == pytest.approx([0.7, 0.45, 1.15])


def test_without_all_its_validation_runs_a_method_is_not_tested() -> None:
    heard = Heard()

    def one_fails(recipe: Recipe) -> tuple[float, float] | None:
        return None if recipe.name == "plain" and recipe.training.learning_rate == 1e-2 else by_rate(recipe)

    outcome, carried_out = swept(one_fails, RATED, heard)
    assert carried_out[6:] == ["masked/seed1", "masked/seed2"]
    assert heard.choices["plain"] is None
    assert [str(failed.run.place) for failed in outcome.failed] == ["validation/plain/rate0.01/seed7"]


def test_the_average_is_of_all_seeds_that_choose() -> None:
    def noisy(recipe: Recipe) -> tuple[float, float]:
        better = {7: {1e-4: 0.9, 1e-3: 0.5, 1e-2: 0.4}, 8: {1e-4: 0.0, 1e-3: 0.5, 1e-2: 0.4}}
        return 0.9, better.get(recipe.seed, {}).get(recipe.training.learning_rate, 0.5)

    outcome, _ = swept(noisy, RATED.replace("[7]", "[7, 8]"))
    assert {choice.rate for choice in outcome.rates.values()} == {1e-3}
