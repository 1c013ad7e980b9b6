"""LwF: while a task is learned, the model's answers stay near those it would have given before the task.

Li & Hoiem, "Learning without Forgetting", ECCV 2016 (arXiv 1606.09282).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from clkit.errors import StrategyError
from clkit.lazy import LazyModule
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import StrategyOptions

if TYPE_CHECKING:
    import torch
    from torch.nn import functional
    from transformers import PreTrainedModel

    from clkit.models import layers, packed
    from clkit.models.family import Family
else:
    torch, functional = LazyModule("torch"), LazyModule("torch.nn.functional")
    layers, packed = LazyModule("clkit.models.layers"), LazyModule("clkit.models.packed")


class LwFOptions(StrategyOptions):
    """Learning without Forgetting: distillation from the model as it was before the task, on the data in training."""

    name: Literal["lwf"] = Field(description="Learning without Forgetting.")
    alpha: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Weight α of the distillation beside the task's loss; the paper's λ_o = 1 is α = 1/τ²."
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        2.0, description="Temperature τ of both distributions: above 1 it gives unlikely tokens more weight."
    )


def distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """τ² Σ_t KL(softmax(z_t / τ) ‖ softmax(s_t / τ)), z the teacher's logits and s the student's; in float32 at least.

    Args:
        student, teacher: logits; tokens × vocabulary.
    """
    student, teacher = (
        functional.log_softmax((z if z.dtype == torch.float64 else z.float()) / temperature, dim=-1)
        for z in (student, teacher)
    )
    return temperature**2 * functional.kl_div(student, teacher, reduction="sum", log_target=True)


class LwF(Strategy):
    """L = L_task + α τ² Σ_t KL(p_t^τ ‖ q_t^τ), over the answer tokens t of what the task is trained on (paper
    section 3: its own examples), replayed examples too.

    p_t is the next-token distribution of the teacher, the model as it was before the task, and q_t that of the model in
    training, both given the prompt and the gold answer up to t. A model that generates its answers has one head for all
    tasks, so there is no new head to warm up, and what the paper keeps for the old heads is kept for the vocabulary. A
    classifier's term is summed over the earlier tasks' heads, as in the paper; where the tasks share a head, p and q
    are over the rows of the earlier tasks' labels, so that new rows, which nobody has trained yet, are not held.

    The paper writes the cross-entropy of p^τ and q^τ, which differs from their divergence by the entropy of p^τ: the
    gradient is the same. It has no factor τ², which keeps the gradient's size independent of τ (Hinton et al. 2015), so
    the default α = 1 is four times the paper's weight at its τ = 2; `alpha: 0.25` brings that back.

    The first task has no teacher, and nothing survives between tasks but the model itself: there is no state between
    them. The teacher is taken before a checkpoint is loaded, so an interrupted task goes on with the same one.
    """

    name: ClassVar[str] = "lwf"
    Options = LwFOptions

    options: LwFOptions

    def __init__(self, options: LwFOptions) -> None:
        super().__init__(options)
        self._teacher: dict[str, torch.Tensor] = {}
        #: In how many batches of the task student and teacher answered differently.
        self._differed: torch.Tensor | None = None

    def before_training(self, context: Context) -> None:
        if context.task_index > 0:
            parameters = layers.trained_parameters(context.model)
            self._teacher = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def batch_loss(
        self, context: Context, batch: Mapping[str, torch.Tensor], outputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        if context.task_index == 0:
            return None
        labels = batch["labels"]
        earlier = [task for task in context.family.seen if task != context.task.name]
        students, teachers = (
            context.family.logits_of_tasks(one, labels, earlier)
            for one in (outputs, self._teacher_outputs(context.model, batch))
        )
        distances = [
            distillation(student, teacher, self.options.temperature)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        # Their divergence is no witness: near zero it is lost in rounding, and its gradient is not.
        differ = torch.stack([(student != teacher).any() for student, teacher in zip(students, teachers, strict=True)])
        self._differed = differ.any().long() + (0 if self._differed is None else self._differed)
        return self.options.alpha * torch.stack(distances).sum()

    def after_task(self, context: Context) -> None:
        self._teacher = {}
        differed, self._differed = self._differed, None
        # Zero is right as long as student and teacher are equal: in the first step, and in the second too where warm-up
        # makes the first one's learning rate zero.
        if differed is not None and context.step > 2 and context.sum_over_processes(differed) == 0:
            raise StrategyError(
                f"strategies.lwf: in all {context.step} steps of task '{context.task.name}' the model answered as its "
                "teacher does, so nothing was distilled; check that the task's answers are not empty and that training "
                "moves the model"
            )

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if tasks == 1:
            yield "there is no earlier task whose answers could be kept, so it changes nothing"

    def memory(self, family: Family, tasks: int) -> int:
        return (
            sum(parameter.nbytes for parameter in layers.trained_parameters(family.model).values()) if tasks > 1 else 0
        )

    def kept(self) -> str:
        return "nothing: the model as it is becomes the teacher"

    def task_state_dict(self) -> dict[str, Any]:
        return {} if self._differed is None else {"differed": self._differed}

    def load_task_state_dict(self, state: Mapping[str, Any]) -> None:
        unknown = sorted(state.keys() - {"differed"})
        if unknown:
            raise KeyError(f"lwf keeps a count of batches inside a task only, but was given {unknown}")
        self._differed = state.get("differed")

    def _teacher_outputs(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        inputs = packed.forward_inputs(batch)
        # Without dropout nothing is drawn, so training goes on with the random numbers that it would have drawn.
        with layers.evaluation_mode(model), torch.no_grad():
            outputs: Mapping[str, Any] = torch.func.functional_call(model, self._teacher, kwargs=inputs)
        return outputs
