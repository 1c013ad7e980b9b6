"""Replay: keep some examples of each finished task and mix them into the training data of the next ones.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (arXiv 1902.10486). The defaults are the replay
baseline of the MIGU paper (arXiv 2406.17245): 2 % of each earlier task's training data, each example once.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from clkit.draws import balanced_sample, reservoir_sample, sample, seeded
from clkit.errors import StrategyError
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import StrategyOptions

if TYPE_CHECKING:
    from datasets import Dataset

    from clkit.models.family import Family


class ReplayOptions(StrategyOptions):
    """Experience replay: some examples of each finished task are trained on again with the next tasks."""

    name: Literal["replay"] = Field(description="Experience replay.")
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.02,
        description="Share of each finished task's examples that is kept, at least one example; "
        "in force where neither `number` nor `capacity` is given.",
    )
    number: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Examples that are kept of each finished task, all where it has fewer; replaces `share`."
    )
    selection: Literal["random", "balanced", "reservoir"] = Field(
        "random",
        description="How the kept examples are drawn: at `random`; `balanced`, as many of each answer as far as there "
        "are; or by `reservoir` sampling, which gives every example of all finished tasks the same chance.",
    )
    capacity: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Examples that are kept of all finished tasks together, with `selection: reservoir`."
    )
    ratio: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Replayed examples per example of the task at hand, repeated or drawn from the kept ones: "
        "0.25 adds one to four. Without it, every kept example is replayed once.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_share_gives_way(cls, value: Any) -> Any:
        # Only to what is written: a `share` that is written beside another amount is a contradiction.
        if isinstance(value, Mapping) and (value.get("number") is not None or value.get("selection") == "reservoir"):
            return {"share": None, **value}
        return value

    @model_validator(mode="after")
    def _one_amount(self) -> ReplayOptions:
        if self.selection == "reservoir":
            for key in ("share", "number"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: remove it; with selection: reservoir, capacity says how many are kept")
            if self.capacity is None:
                raise ValueError("capacity: missing; selection: reservoir needs to know how many examples are kept")
            return self
        if self.capacity is not None:
            raise ValueError("capacity: remove it, or set selection: reservoir")
        if self.share is not None and self.number is not None:
            raise ValueError("number: remove it, or remove share; only one of them can say how many examples are kept")
        if self.share is None and self.number is None:
            raise ValueError("share: null leaves open how many examples are kept; give share or number")
        return self

    def contradictions(self, tasks: Sequence[str], unlabelled: Collection[str]) -> Iterator[str]:
        if self.selection == "balanced" and unlabelled:
            yield (
                "selection: balanced keeps as many examples of each label, and task "
                f"'{min(unlabelled, key=tasks.index)}' has no labels; use random"
            )

    def kept_of(self, examples: int) -> int:
        """How many of a finished task's examples `share` or `number` keeps: at least one, at most all."""
        wanted = self.number or round((self.share or 0.0) * examples)
        return min(max(wanted, 1), examples)


class Replay(Strategy):
    """Trains on each task's own examples, all of them once per epoch, and beside them on some of finished tasks.

    When a task is finished, some of its own examples, never replayed ones, go into the buffer: prompt and answer as
    they were trained on. The next tasks' training data are their own examples and those drawn from the buffer,
    shuffled. So `strategies.json` of every finished task holds training texts; `clkit forget-data` takes them out.
    Every draw is seeded by the recipe's seed, the task's place and the purpose: the same in all processes and resumed.
    """

    name: ClassVar[str] = "replay"
    Options = ReplayOptions
    options: ReplayOptions

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__(options)
        self._buffer: list[dict[str, Any]] = []  # {"task": its name, "example": value by column}
        self._seen = 0  # examples of all finished tasks
        self._own: Dataset | None = None
        self._replayed_share = 0.0

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if tasks == 1:
            yield "there is no earlier task to replay, so it changes nothing"

    def replayed(self, examples: Sequence[int]) -> int:
        *finished, own = examples
        if not finished:
            return 0
        capacity = self.options.capacity
        kept = sum(map(self.options.kept_of, finished)) if capacity is None else min(capacity, sum(finished))
        return self._amount(kept, own)

    def training_data(self, context: Context, dataset: Dataset) -> Dataset:
        self._own = dataset
        if context.task_index == 0 or (self._seen and not self._buffer):  # which `forget_data` left empty
            return dataset
        if not self._buffer:
            raise StrategyError(
                f"strategies.replay: no finished task left an example to replay with task '{context.task.name}'; "
                "check that the tasks before it have training data"
            )
        from datasets import Dataset, concatenate_datasets  # takes a second, which reading a recipe should not cost

        kept = [self._buffer[index] for index in self._draw(context, len(dataset))]
        columns = sorted(dataset.column_names)
        for row in kept:
            if sorted(row["example"]) != columns:
                raise StrategyError(
                    f"strategies.replay: examples of task '{row['task']}' have the columns "
                    f"{', '.join(sorted(row['example']))}, those of task '{context.task.name}' {', '.join(columns)}; "
                    "all tasks need the same"
                )
        self._replayed_share = len(kept) / (len(dataset) + len(kept))
        replayed = Dataset.from_list([row["example"] for row in kept], features=dataset.features)
        return concatenate_datasets([dataset, replayed])

    def before_step(self, context: Context) -> None:
        if self._replayed_share > 0:
            context.log(replay_share=self._replayed_share)

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
        return balanced_sample(own["answer"][:], count, rng)

    def _amount(self, kept: int, own: int) -> int:
        return kept if self.options.ratio is None else max(1, round(self.options.ratio * own))

    def _draw(self, context: Context, own: int) -> list[int]:
        """Which places of the buffer are replayed beside ``own`` examples: whole repetitions and a draw of the rest."""
        kept = len(self._buffer)
        repetitions, rest = divmod(self._amount(kept, own), kept)
        drawn = sample(kept, rest, seeded("replay", context.seed, context.task_index, "mix"))
        return [*range(kept)] * repetitions + drawn
