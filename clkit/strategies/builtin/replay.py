"""Replay: keep some examples of each finished task and mix them into the training data of the next ones, and general
data, which are no task's, into those of all tasks.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (arXiv 1902.10486). The defaults are the replay
baseline of the MIGU paper (arXiv 2406.17245): 2 % of each earlier task's training data, each example once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from clkit.draws import balanced_sample, reservoir_sample, sample, seeded
from clkit.errors import StrategyError
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.replay_options import ReplayOptions
from clkit.tasks.stored import values

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from clkit.models.family import Family


class Replay(Strategy):
    """Trains on each task's own examples, all of them once per epoch, and beside them on some of finished tasks and
    of general data.

    When a task is finished, some of the examples that replay was given, never replayed or general ones, go into the
    buffer: prompt and answer as they were trained on. Those are the task's own, and what strategies before it in the
    list make of them. The next tasks' training data are their own examples and those drawn from the buffer, shuffled.
    So `strategies.json` of every finished task holds training texts; `clkit forget-data` takes them out. Every draw is
    seeded by the recipe's seed, the task's place and the purpose: the same in all processes and resumed.
    """

    name: ClassVar[str] = "replay"
    Options = ReplayOptions
    options: ReplayOptions

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__(options)
        self._buffer: list[dict[str, Any]] = []  # {"task": its name, "example": value by column}
        self._seen = 0  # examples of all finished tasks
        self._own: Dataset | None = None
        self._shares: dict[str, float] = {}

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if tasks == 1 and self.options.keeps:
            yield "there is no earlier task to replay, so it changes nothing"

    def replayed(self, examples: Sequence[int]) -> int:
        *finished, own = examples
        capacity = self.options.capacity
        kept = sum(map(self.options.kept_of, finished)) if capacity is None else min(capacity, sum(finished))
        return self._amount(kept, own) + self._general_amount(own)

    def training_data(self, context: Context, dataset: Dataset) -> Dataset:
        from datasets import concatenate_datasets  # takes a second, which reading a recipe should not cost

        self._own = dataset
        parts = {"replay_share": self._replayed(context, dataset), "general_share": self._general(context, dataset)}
        mixed = concatenate_datasets([dataset, *(part for part in parts.values() if part is not None)])
        self._shares = {name: len(part) / len(mixed) for name, part in parts.items() if part is not None}
        return mixed if self._shares else dataset

    def _general(self, context: Context, dataset: Dataset) -> Dataset | None:
        """The general examples that stand beside a task's own."""
        if self.options.general is None:
            return None
        general = self.data["general"]
        return general.select(self._draw(context, self._general_amount(len(dataset)), len(general), "general"))

    def _replayed(self, context: Context, dataset: Dataset) -> Dataset | None:
        """The examples of finished tasks that stand beside a task's own."""
        if context.task_index == 0 or not self.options.keeps or (self._seen and not self._buffer):  # by `forget_data`
            return None
        if not self._buffer:
            raise StrategyError(
                f"strategies.replay: no finished task left an example to replay with task '{context.task.name}'; "
                "check that the tasks before it have training data"
            )
        from datasets import Dataset

        amount = self._amount(len(self._buffer), len(dataset))
        kept = [self._buffer[index] for index in self._draw(context, amount, len(self._buffer), "mix")]
        columns = sorted(dataset.column_names)
        for row in kept:
            if sorted(row["example"]) != columns:
                raise StrategyError(
                    f"strategies.replay: examples of task '{row['task']}' have the columns "
                    f"{', '.join(sorted(row['example']))}, those of task '{context.task.name}' {', '.join(columns)}; "
                    "all tasks need the same"
                )
        return Dataset.from_list([row["example"] for row in kept], features=dataset.features)

    def before_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        context.log(**self._shares)

    def after_task(self, context: Context) -> None:
        if self._own is None:
            raise StrategyError("strategies.replay: the task's training data was never seen, so none of it can be kept")
        own, self._own = self._own, None
        rng = seeded("replay", context.seed, context.task_index, "keep")
        if self.options.capacity is not None:
            slots = reservoir_sample(len(own), self._seen, self.options.capacity, rng)
        else:
            chosen = self._chosen(own, rng)
            slots = {len(self._buffer) + place: index for place, index in enumerate(chosen)}
        order = sorted(slots)
        examples = own.select([slots[slot] for slot in order]).to_list()
        for slot, example in zip(order, examples, strict=True):
            # Appends, where the slot is the first one after the buffer.
            self._buffer[slot : slot + 1] = [{"task": context.task.name, "example": example}]
        self._seen += len(own)

    def kept(self) -> str:
        if not self._buffer:
            return "no examples"
        return f"{len(self._buffer):,} examples of {', '.join(dict.fromkeys(row['task'] for row in self._buffer))}"

    def state_dict(self) -> dict[str, Any]:
        return {"buffer": list(self._buffer), "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.keys() != {"buffer", "seen"}:
            raise KeyError(f"{self.name} has the state buffer and seen, but was given {sorted(state)}")
        self._buffer, self._seen = list(state["buffer"]), state["seen"]

    def forget_data(self, values: dict[str, Any], task: str) -> dict[str, Any]:
        return {**values, "buffer": [row for row in values["buffer"] if row["task"] != task]}

    def _chosen(self, own: Dataset, rng: random.Random) -> list[int]:
        count = self.options.kept_of(len(own))
        if self.options.selection == "random":
            return sample(len(own), count, rng)
        if "answer" not in own.column_names:
            raise StrategyError(
                "strategies.replay.selection: balanced needs the column `answer`, but the training data has "
                f"{', '.join(sorted(own.column_names))}; use random"
            )
        # Their hashes tell answers apart as well, and take no more memory for long ones.
        return balanced_sample([*map(hash, values(own, "answer"))], count, rng)

    def _amount(self, kept: int, own: int) -> int:
        """How many examples of finished tasks, of which so many are kept, stand beside ``own`` ones."""
        return kept if self.options.ratio is None or not kept else max(1, round(self.options.ratio * own))

    def _general_amount(self, own: int) -> int:
        general = self.options.general
        return 0 if general is None else max(1, round(general.ratio * own))

    def _draw(self, context: Context, amount: int, there: int, purpose: str) -> list[int]:
        """Which of the examples that are there make up that amount: whole repetitions and a draw of the rest."""
        repetitions, rest = divmod(amount, there)
        drawn = sample(there, rest, seeded("replay", context.seed, context.task_index, purpose))
        return [*range(there)] * repetitions + drawn
