"""Replay's draws by their properties, its data over a sequence of tasks by counting, its options by their errors."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from clkit.draws import balanced_sample, reservoir_sample, sample
from clkit.errors import RecipeError, StrategyError
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.strategies.builtin.replay import Replay
from clkit.strategies.contract import Context
from clkit.strategies.registry import load_strategy
from clkit.strategies.replay_options import ReplayOptions

# --- draws --------------------------------------------------------------------------------------------------------


@given(population=st.integers(0, 60), count=st.integers(0, 60), seed=st.integers())
def test_a_sample_has_no_repetitions_and_is_repeatable(population: int, count: int, seed: int) -> None:
    drawn = sample(population, count, random.Random(seed))
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(range(population))
    assert len(drawn) == min(count, population)
    assert drawn == sample(population, count, random.Random(seed))


def test_every_index_is_sampled_with_the_same_probability() -> None:
    draws = 4000
    counts = Counter(index for seed in range(draws) for index in sample(10, 3, random.Random(seed)))
    # Binomial with p = 0.3: standard deviation 29; the margin is five of them.
    assert all(abs(counts[index] - 0.3 * draws) < 145 for index in range(10))


@settings(deadline=None)
@given(sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 15), min_size=1), data=st.data())
def test_a_balanced_sample_is_as_even_as_the_answers_allow(sizes: dict[str, int], data: st.DataObject) -> None:
    answers = data.draw(st.permutations([label for label, size in sizes.items() for _ in range(size)]))
    count = data.draw(st.integers(1, len(answers)))
    drawn = balanced_sample(answers, count, random.Random(0))
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    taken = Counter(answers[index] for index in drawn)
    # Every answer is filled to the highest level that all can have together; what is left lifts some by one.
    level = max(level for level in range(16) if sum(min(size, level) for size in sizes.values()) <= count)
    for label, size in sizes.items():
        assert min(size, level) <= taken[label] <= min(size, level + 1)


@pytest.mark.parametrize("sizes", [{"a": 40, "b": 40, "c": 40}, {"a": 4, "b": 20, "c": 400}])
def test_chance_alone_decides_who_gets_the_remainder(sizes: dict[str, int]) -> None:
    answers = [label for label, size in sizes.items() for _ in range(size)]
    draws = 1500
    more: Counter[str] = Counter()
    for seed in range(draws):
        taken = Counter(answers[index] for index in balanced_sample(answers, 10, random.Random(seed)))
        assert sorted(taken.values()) == [3, 3, 4]
        more[max(taken, key=lambda label: taken[label])] += 1
    assert all(abs(more[label] - draws / 3) < 92 for label in "abc")  # five standard deviations


class Given(random.Random):
    """Gives the values that it was given."""

    def __new__(cls, values: Iterable[float]) -> Given:
        return super().__new__(cls)

    def __init__(self, values: Iterable[float]) -> None:
        super().__init__()
        self._values = iter(values)

    def random(self) -> float:
        return next(self._values)


@pytest.mark.parametrize("tasks", [[6], [1, 2, 3], [5, 1]])
def test_over_all_outcomes_of_chance_a_reservoir_is_each_subset_equally_often(tasks: list[int]) -> None:
    """Exactly: example n (from 1) has n equally likely outcomes, so all of them together can be gone through."""
    capacity, total = 2, 6
    outcomes = [[(place + 0.5) / n for place in range(n)] for n in range(capacity + 1, total + 1)]
    subsets: Counter[frozenset[int]] = Counter()
    for values in itertools.product(*outcomes):
        rng = Given(values)
        reservoir: dict[int, int] = {}
        seen = 0
        for size in tasks:
            slots = reservoir_sample(size, seen, capacity, rng)
            reservoir.update({slot: seen + index for slot, index in slots.items()})
            seen += size
        subsets[frozenset(reservoir.values())] += 1
    each = math.prod(map(len, outcomes)) // math.comb(total, capacity)
    assert subsets == {frozenset(pair): each for pair in itertools.combinations(range(total), capacity)}


@pytest.mark.parametrize("tasks", [[40], [3, 5, 32], [20, 1, 1, 18]])
def test_a_reservoir_keeps_every_example_seen_with_the_same_probability(tasks: list[int]) -> None:
    capacity, runs = 8, 3000
    kept: Counter[tuple[int, int]] = Counter()
    for run in range(runs):
        reservoir: dict[int, tuple[int, int]] = {}
        seen = 0
        for task, size in enumerate(tasks):
            slots = reservoir_sample(size, seen, capacity, random.Random(f"{run}/{task}"))
            reservoir.update({slot: (task, index) for slot, index in slots.items()})
            seen += size
        assert sorted(reservoir) == list(range(capacity))
        assert len(set(reservoir.values())) == capacity
        kept.update(reservoir.values())
    expected = runs * capacity / sum(tasks)  # 600, standard deviation 22
    everything = [(task, index) for task, size in enumerate(tasks) for index in range(size)]
    assert all(abs(kept[example] - expected) < 110 for example in everything)


@given(tasks=st.lists(st.integers(0, 12), max_size=6), capacity=st.integers(1, 20), seed=st.integers())
def test_a_reservoir_is_full_as_soon_as_it_can_be(tasks: list[int], capacity: int, seed: int) -> None:
    filled: set[int] = set()
    seen = 0
    rng = random.Random(seed)
    for size in tasks:
        slots = reservoir_sample(size, seen, capacity, rng)
        assert len(set(slots.values())) == len(slots)
        assert all(0 <= index < size for index in slots.values())
        filled |= slots.keys()
        seen += size
        assert filled == set(range(min(seen, capacity)))


# --- over tasks ---------------------------------------------------------------------------------------------------


def options(**values: Any) -> ReplayOptions:
    return ReplayOptions.model_validate({"name": "replay", **values})


def context(index: int, seed: int = 5) -> Context:
    parts: Any = {"family": None, "task": SimpleNamespace(name=f"task{index}")}
    return Context(task_index=index, seed=seed, **parts)


def own_data(index: int, examples: int, labels: int = 3) -> Dataset:
    rows = range(examples)
    return Dataset.from_dict(
        {
            "prompt": [f"task{index} prompt{row}" for row in rows],
            "answer": [f"task{index} label{row % labels}" for row in rows],
        }
    )


def learn(strategy: Replay, index: int, dataset: Dataset, seed: int = 5) -> Dataset:
    """One task as the engine runs it; what was trained on."""
    where = context(index, seed)
    trained = strategy.training_data(where, dataset)
    strategy.before_forward(where, {})
    strategy.after_task(where)
    return trained


def kept(strategy: Replay) -> list[tuple[str, str]]:
    return [(row["task"], row["example"]["prompt"]) for row in strategy.state_dict()["buffer"]]


AMOUNTS: list[dict[str, Any]] = [
    {"share": 0.25},
    {"number": 7},
    {"number": 7, "selection": "balanced"},
    {"selection": "reservoir", "capacity": 9},
    {"share": 0.1, "ratio": 0.5},
    {"number": 3, "ratio": 2},
    {"selection": "reservoir", "capacity": 9, "ratio": 0.1},
]
each_amount = pytest.mark.parametrize("amount", AMOUNTS, ids=lambda amount: "-".join(map(str, amount.values())))


@given(percent=st.integers(1, 100), examples=st.integers(1, 3000))
def test_a_share_is_rounded_and_never_nothing(percent: int, examples: int) -> None:
    count = options(share=percent / 100).kept_of(examples)
    assert 1 <= count <= examples
    assert count == 1 or abs(count - Fraction(percent, 100) * examples) <= Fraction(1, 2)


@given(number=st.integers(1, 50), examples=st.integers(0, 50))
def test_a_number_is_kept_or_all_there_are(number: int, examples: int) -> None:
    assert options(number=number).kept_of(examples) == min(number, examples)


def test_by_default_two_percent_of_every_finished_task_are_each_replayed_once() -> None:
    strategy = Replay(options())
    sizes = [1000, 149, 10]  # 20, 2.98 and 0.2
    for index, size in enumerate(sizes):
        learn(strategy, index, own_data(index, size))
    trained = learn(strategy, 3, own_data(3, 5))
    old = [prompt for prompt in trained["prompt"][:] if not prompt.startswith("task3")]
    assert Counter(prompt.split()[0] for prompt in old) == {"task0": 20, "task1": 3, "task2": 1}
    assert len(set(old)) == len(old)


@each_amount
def test_own_examples_are_untouched_and_there_exactly_once(amount: dict[str, Any]) -> None:
    strategy = Replay(options(**amount))
    for index in range(4):
        own = own_data(index, 20)
        before = own.to_list()
        trained = learn(strategy, index, own)
        assert own.to_list() == before
        assert trained.features == own.features
        assert [row for row in trained.to_list() if row["prompt"].startswith(f"task{index} ")] == before


@each_amount
def test_what_is_replayed_are_true_examples_of_earlier_tasks(amount: dict[str, Any]) -> None:
    strategy = Replay(options(**amount))
    earlier: list[Any] = []
    for index in range(4):
        own = own_data(index, 20)
        replayed = learn(strategy, index, own).to_list()[20:]
        assert bool(replayed) is (index > 0)
        assert all(row in earlier for row in replayed)
        earlier += own.to_list()


@each_amount
def test_old_examples_never_multiply_in_the_buffer(amount: dict[str, Any]) -> None:
    """The buffer is filled from the task's own examples: replayed ones do not enter a second time."""
    strategy = Replay(options(**amount))
    for index in range(5):
        before = kept(strategy)
        learn(strategy, index, own_data(index, 20))
        after = kept(strategy)
        assert len(set(after)) == len(after)
        assert all(prompt.startswith(f"{task} ") for task, prompt in after)
        entered = set(after) - set(before)
        assert {task for task, _ in entered} <= {f"task{index}"}
        if "capacity" in amount:
            assert len(after) == min(amount["capacity"], 20 * (index + 1))
        else:
            assert after[: len(before)] == before
            assert len(after) - len(before) == options(**amount).kept_of(20)
    assert strategy.state_dict()["seen"] == 100


def test_in_the_reservoir_tasks_of_the_same_size_have_the_same_part() -> None:
    own = [own_data(index, 30) for index in range(2)]
    parts: Counter[str] = Counter()
    for seed in range(150):
        strategy = Replay(options(selection="reservoir", capacity=10))
        for index in range(2):
            learn(strategy, index, own[index], seed)
        parts.update(task for task, _ in kept(strategy))
    assert parts.total() == 1500
    assert abs(parts["task0"] - 750) < 90  # five standard deviations


def test_balanced_keeps_the_same_number_of_each_answer() -> None:
    strategy = Replay(options(number=9, selection="balanced"))
    answers = ["a"] * 50 + ["b"] * 10 + ["c"] * 2
    learn(strategy, 0, Dataset.from_dict({"prompt": [str(row) for row in range(62)], "answer": answers}))
    taken = Counter(row["example"]["answer"] for row in strategy.state_dict()["buffer"])
    assert taken["c"] == 2
    assert sorted([taken["a"], taken["b"]]) == [3, 4]


@settings(max_examples=50, deadline=None)
@given(ratio=st.fractions(Fraction(1, 100), 5), number=st.integers(1, 12), examples=st.integers(1, 40))
def test_the_ratio_decides_how_many_are_replayed(ratio: Fraction, number: int, examples: int) -> None:
    strategy = Replay(options(number=number, ratio=float(ratio)))
    learn(strategy, 0, own_data(0, 12))
    trained = learn(strategy, 1, own_data(1, examples))
    replayed = Counter(trained["prompt"][examples:])
    total = sum(replayed.values())
    assert total == 1 or abs(total - float(ratio) * examples) <= 0.5
    assert total >= 1
    # Repeated as a whole, so no example stands more than once oftener than another.
    times = [replayed[prompt] for _, prompt in kept(strategy)[:number]]
    assert sum(times) == total
    assert max(times) - min(times) <= 1


def test_without_a_ratio_the_log_says_how_much_was_replayed_and_nothing_on_the_first_task() -> None:
    strategy = Replay(options(number=5))
    for index, expected in enumerate([{}, {"replay_share": 0.2}, {"replay_share": 1 / 3}]):
        where = context(index)
        strategy.training_data(where, own_data(index, 20))
        for _ in range(2):
            strategy.before_forward(where, {})
        strategy.after_task(where)
        assert where.take_terms() == pytest.approx(expected)


def test_the_first_task_trains_on_the_very_dataset_it_was_given() -> None:
    own = own_data(0, 20)
    assert Replay(options()).training_data(context(0), own) is own


def test_all_columns_and_their_types_survive() -> None:
    # Types that are not those which the values alone would be given.
    columns = {"prompt": Value("large_string"), "weight": Value("float32"), "spans": List(List(Value("int8")))}
    features = Features({**columns, "note": Value("string")})
    rows = [{"prompt": f"ä{row}", "weight": row / 8, "spans": [[row, 1]], "note": None} for row in range(9)]
    strategy = Replay(options(share=1.0))
    learn(strategy, 0, Dataset.from_list(rows, features=features))
    restored = Replay(options(share=1.0))
    restored.load_state_dict(json.loads(json.dumps(strategy.state_dict())))
    trained = restored.training_data(context(1), Dataset.from_list(rows[:2], features=features))
    assert trained.to_list() == rows[:2] + rows
    assert trained.features == features


# --- general data -------------------------------------------------------------------------------------------------

GENERAL: dict[str, Any] = {"source": {"kind": "prose"}, "ratio": 0.25}
each_general = pytest.mark.parametrize(
    "amount", [{"share": None}, {"number": 7}, {"selection": "reservoir", "capacity": 9}], ids=["alone", "7", "9"]
)


def with_general(examples: int = 30, **values: Any) -> Replay:
    strategy = Replay(options(general=GENERAL | values.pop("general", {}), **values))
    strategy.data = {"general": own_data(99, examples)}
    return strategy


@each_general
def test_general_examples_stand_beside_those_of_every_task_and_never_enter_the_buffer(amount: dict[str, Any]) -> None:
    strategy, plain = with_general(**amount), Replay(options(**amount)) if amount != {"share": None} else None
    known, sizes, drawn = own_data(99, 30).to_list(), [20, 3, 41], []
    for index, size in enumerate(sizes):
        own = own_data(index, size)
        trained = learn(strategy, index, own).to_list()
        others = learn(plain, index, own).to_list() if plain else own.to_list()
        assert trained[: len(others)] == others  # the same as without them, and the general ones behind
        general = trained[len(others) :]
        assert all(row in known for row in general)
        assert len(general) == len({row["prompt"] for row in general}) == max(1, round(0.25 * size))
        assert len(trained) - size == strategy.replayed(sizes[: index + 1])
        drawn.append({row["prompt"] for row in general})
    assert drawn[0] != drawn[2]
    assert "task99" not in json.dumps(strategy.state_dict())
    assert bool(kept(strategy)) is (plain is not None)


def test_few_general_examples_are_repeated_as_a_whole() -> None:
    trained = learn(with_general(3, share=None, general={"ratio": 0.8}), 0, own_data(0, 10))
    times = Counter(trained["prompt"][10:]).values()
    assert sorted(times) == [2, 3, 3]


def test_general_examples_are_logged_apart() -> None:
    strategy = with_general(share=0.25)
    for index, expected in enumerate([{"general_share": 5 / 25}, {"general_share": 0.2, "replay_share": 5 / 30}]):
        where = context(index)
        mixed = len(strategy.training_data(where, own_data(index, 20)))
        strategy.before_forward(where, {})
        strategy.after_task(where)
        assert where.take_terms() == pytest.approx(expected | {"general_share": 5 / mixed})


# --- seeds and state ----------------------------------------------------------------------------------------------


@each_amount
def test_draws_depend_on_the_seed_and_on_nothing_else(amount: dict[str, Any]) -> None:
    def runs(seed: int, noise: int) -> list[Any]:
        random.seed(noise)
        strategy = Replay(options(**amount))
        return [learn(strategy, index, own_data(index, 20), seed).to_list() for index in range(3)]

    assert runs(1, noise=1) == runs(1, noise=2)
    assert runs(1, noise=1) != runs(2, noise=1)


@pytest.mark.parametrize("selection", ["random", "balanced"])
def test_each_task_makes_its_own_draws(selection: str) -> None:
    strategy = Replay(options(number=6, selection=selection))
    for index in range(2):
        learn(strategy, index, own_data(index, 60))
    places = [prompt.split()[1] for _, prompt in kept(strategy)]
    assert places[:6] != places[6:]


@each_amount
def test_it_says_before_the_run_how_many_examples_it_will_add(amount: dict[str, Any]) -> None:
    strategy, sizes = Replay(options(**amount)), [20, 3, 40, 9]
    added = [len(learn(strategy, index, own_data(index, size))) - size for index, size in enumerate(sizes)]
    assert added == [strategy.replayed(sizes[: index + 1]) for index in range(len(sizes))]
    assert added[0] == 0 < min(added[1:])


@each_amount
def test_a_resumed_run_draws_what_a_whole_one_draws(amount: dict[str, Any]) -> None:
    whole = Replay(options(**amount))
    for index in range(2):
        learn(whole, index, own_data(index, 20))
    state = json.dumps(whole.state_dict())
    resumed = Replay(options(**amount))
    resumed.load_state_dict(json.loads(state))
    assert json.dumps(resumed.state_dict()) == state
    for index in range(2, 5):
        assert (
            learn(resumed, index, own_data(index, 20)).to_list() == learn(whole, index, own_data(index, 20)).to_list()
        )
    assert resumed.state_dict() == whole.state_dict()


@each_amount
def test_a_saved_state_does_not_change_with_the_strategy(amount: dict[str, Any]) -> None:
    strategy = Replay(options(**amount))
    learn(strategy, 0, own_data(0, 20))
    state = strategy.state_dict()
    before = json.dumps(state)
    other = Replay(options(**amount))
    other.load_state_dict(state)
    for changed in (strategy, other):
        learn(changed, 1, own_data(1, 400))
    assert json.dumps(state) == before


@pytest.mark.parametrize("state", [{}, {"buffer": []}, {"seen": 0}, {"buffer": [], "seen": 0, "more": 1}])
def test_a_state_with_other_names_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="replay has the state buffer and seen"):
        Replay(options()).load_state_dict(state)


@each_amount
def test_what_is_forgotten_is_replayed_no_more(amount: dict[str, Any]) -> None:
    strategy = Replay(options(**amount))
    for index in range(2):
        learn(strategy, index, own_data(index, 20))
    for forgotten in ("task0", "task1", "no task"):
        state = json.loads(json.dumps(strategy.forget_data(strategy.state_dict(), forgotten)))
        strategy = Replay(options(**amount))
        strategy.load_state_dict(state)
        assert forgotten not in dict(kept(strategy))
    assert len(learn(strategy, 2, own_data(2, 20))) == 20  # nothing is left to replay, which is no error
    for index in range(3, 6):
        learn(strategy, index, own_data(index, 20))
    assert not {"task0", "task1"} & dict(kept(strategy)).keys()
    assert len(kept(strategy)) <= amount.get("capacity", 100)


# --- errors -------------------------------------------------------------------------------------------------------


def test_an_empty_buffer_is_an_error_from_the_second_task_on() -> None:
    strategy = Replay(options())
    with pytest.raises(StrategyError, match="no finished task left an example to replay with task 'task1'"):
        strategy.training_data(context(1), own_data(1, 5))
    learn(strategy, 0, own_data(0, 0))
    with pytest.raises(StrategyError, match="no finished task left an example"):
        strategy.training_data(context(1), own_data(1, 5))


def test_a_task_whose_data_never_came_is_an_error() -> None:
    with pytest.raises(StrategyError, match="training data was never seen"):
        Replay(options()).after_task(context(0))


def test_a_tasks_examples_are_not_kept_for_the_next_task_again() -> None:
    strategy = Replay(options())
    learn(strategy, 0, own_data(0, 20))
    with pytest.raises(StrategyError, match="training data was never seen"):
        strategy.after_task(context(1))


def test_balanced_without_answers_is_an_error() -> None:
    strategy = Replay(options(selection="balanced"))
    with pytest.raises(StrategyError, match=r"replay\.selection: balanced needs the column `answer`, .* has text;"):
        learn(strategy, 0, Dataset.from_dict({"text": ["a", "b"]}))


def test_tasks_with_other_columns_are_an_error() -> None:
    strategy = Replay(options())
    learn(strategy, 0, own_data(0, 20))
    with pytest.raises(StrategyError, match=r"'task0' have the columns answer, prompt, those of task 'task1' text;"):
        strategy.training_data(context(1), Dataset.from_dict({"text": ["a"]}))


# --- options ------------------------------------------------------------------------------------------------------


def written(folder: Path, entry: str) -> Path:
    path = folder / "my.yaml"
    head = "name: mine\nmodel: {name: embedded:tiny-t5}\nbenchmark: {name: sample}\nstrategies:\n"
    path.write_text(f"{head}- {{name: replay{entry}}}\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (", share: 0.1, number: 3", "number: remove it, or remove share; only one of them can say"),
        (", share: null", "share: null leaves open how many examples are kept; give share or number"),
        (", capacity: 10", "capacity: remove it, or set selection: reservoir"),
        (", selection: reservoir", "capacity: missing; selection: reservoir needs to know"),
        (", selection: reservoir, capacity: 9, share: 0.1", "share: remove it; with selection: reservoir, capacity"),
        (", selection: reservoir, capacity: 9, number: 1", "number: remove it; with selection: reservoir, capacity"),
        (", share: 0", "share: 0 is out of range (allowed: a number above 0, up to 1 or null)"),
        (", share: 1.1", "share: 1.1 is out of range (allowed: a number above 0, up to 1 or null)"),
        (", number: 0", "number: 0 is out of range (allowed: a whole number from 1 or null)"),
        (", ratio: 0", "ratio: 0 is out of range (allowed: a number above 0 or null)"),
        (", share: null, ratio: 1, general: {source: {kind: prose}}", "ratio: share: null keeps no examples of fin"),
        (", share: null, selection: balanced, general: {source: {kind: prose}}", "selection: share: null keeps no"),
        (", general: {ratio: 0.1}", "general.source: missing (needed: where they come from"),
        (", general: {source: {kind: files, test: a, train: b}}", "general.source.test: nothing is tested on these"),
    ],
)
def test_amounts_that_cannot_work_are_refused(tmp_path: Path, entry: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(written(tmp_path, entry))
    assert len(caught.value.problems) == 1
    assert f"my.yaml:5: strategies.replay.{problem}" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("entry", "share"),
    [("", 0.02), (", share: 0.5", 0.5), (", number: 5", None), (", selection: reservoir, capacity: 9, ratio: 1", None)],
)
def test_a_recipe_written_out_in_full_loads_back_equal(tmp_path: Path, entry: str, share: float | None) -> None:
    """Though its `share` is written then: the default one gives way before, not after."""
    recipe = Recipe.load(written(tmp_path, entry))
    assert recipe.strategies[0].model_dump()["share"] == share
    (tmp_path / "full.yaml").write_text(recipe_yaml(recipe), "utf-8")
    assert Recipe.load(tmp_path / "full.yaml") == recipe


def test_it_is_found_by_its_name() -> None:
    assert load_strategy("replay") is Replay
