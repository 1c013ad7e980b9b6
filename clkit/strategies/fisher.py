"""The diagonal of the Fisher information, from single examples' scores ∂ log p / ∂θ, and the penalty it weighs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedConfig

from clkit.draws import sample, seeded, torch_seeded
from clkit.errors import StrategyError
from clkit.models.family import IGNORED, summed_cross_entropy
from clkit.models.layers import evaluation_mode
from clkit.strategies.contract import Context

Labels = Literal["data", "model"]

#: Numbers of a parameter that the penalty works on at once on a CPU: what it reads and writes then stays in the cache.
CPU_CHUNK = 2**18


def precision_of(parameters: Iterable[torch.Tensor]) -> torch.dtype:
    """The dtype that holds what is kept of these parameters: float32 at least, since squares of scores are tiny."""
    return reduce(torch.promote_types, (parameter.dtype for parameter in parameters), torch.float32)


def estimate(
    context: Context, parameters: Mapping[str, nn.Parameter], examples: int | None, labels: Labels
) -> dict[str, torch.Tensor]:
    """The mean of squared scores over examples of the task, by the parameters' names, in their shapes.

    Args:
        examples: how many are drawn at random, which the processes share out; None takes all.

    Raises:
        StrategyError: there is no example, or the mean is zero everywhere or not finite.
    """
    if not context.examples:
        raise StrategyError("strategies.ewc: the task has no training example to estimate the Fisher from")
    available = len(context.examples)
    drawn = sample(available, examples or available, seeded("ewc", context.seed, context.task_index))
    own = drawn[context.process_index :: context.num_processes]
    with evaluation_mode(context.model), _without_cache(context.family.base.config):
        total = sum_of_squared_scores(parameters, answer_log_likelihoods(context, own, labels))
    fisher = context.sum_over_processes(total) / len(drawn)
    if not fisher.isfinite().all() or not fisher.any():
        found = "zero everywhere" if fisher.isfinite().all() else "not finite"
        raise StrategyError(
            f"strategies.ewc: the Fisher information of task '{context.task.name}' is {found}, so it would protect "
            "nothing; use training.precision: fp32, a lower training.learning_rate or more strategies.ewc.examples"
        )
    return unflatten(fisher, parameters)


@contextmanager
def _without_cache(config: PreTrainedConfig) -> Iterator[None]:
    """Inside, a model keeps nothing for tokens to come; RWKV's state would be changed in place, under its gradients."""
    before = getattr(config, "use_cache", None)
    if before is not None:
        config.use_cache = False
    try:
        yield
    finally:
        if before is not None:
            config.use_cache = before


def sum_of_squared_scores(
    parameters: Mapping[str, nn.Parameter], log_likelihoods: Iterable[torch.Tensor]
) -> torch.Tensor:
    """Σ_n (∂ log p_n / ∂θ_i)² for every number θ_i in the parameters; no `.grad` is touched.

    Args:
        log_likelihoods: log p_n of one example each, scalars with a graph; taken one by one, so that a generator
            keeps one graph in memory at a time.

    Returns:
        One flat tensor with the parameters' entries in their order, so that one reduction adds it over processes;
        zero where an example's score does not reach a parameter. `unflatten` takes it apart.
    """
    tensors = list(parameters.values())
    total = torch.zeros(
        sum(tensor.numel() for tensor in tensors), dtype=precision_of(tensors), device=tensors[0].device
    )
    sums = list(unflatten(total, parameters).values())
    for log_likelihood in log_likelihoods:
        scores = torch.autograd.grad(log_likelihood, tensors, allow_unused=True)
        for own, score in zip(sums, scores, strict=True):
            if score is not None:
                own.addcmul_(score.to(own), score.to(own))
    return total


def unflatten(flat: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Views into the flat tensor by the parameters' names, in their shapes."""
    parts = torch.split(flat, [parameter.numel() for parameter in parameters.values()])
    return {name: part.view(parameter.shape) for (name, parameter), part in zip(parameters.items(), parts, strict=True)}


def answer_log_likelihoods(context: Context, chosen: Sequence[int], labels: Labels) -> Iterator[torch.Tensor]:
    """log p(answer | prompt) of each chosen example of the task, summed over the answer's tokens; scalars with a graph.

    Args:
        chosen: indices of `context.examples`.
        labels: `data`: the gold answer; `model`: each of its tokens drawn from the model's own distribution given the
            gold tokens before it, so that the mean of squared scores is the Fisher information in expectation. The
            draw depends on the seed, the task and the example only, not on which process makes it.
    """
    assert context.examples is not None
    for index in chosen:
        example = context.collate([context.examples[index]])
        batch = {name: tensor.to(context.model.device) for name, tensor in example.items()}
        answer = batch.pop("labels")
        logits = context.family.logits(context.model(**batch), answer)
        if labels == "model":
            generator = torch_seeded("fisher", context.seed, context.task_index, index)
            answer = drawn_answer(logits.detach(), answer, generator)
        yield -summed_cross_entropy(logits, answer)


def drawn_answer(logits: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The labels with every token replaced by one drawn from the model's distribution at its position.

    Args:
        logits: batch × sequence × vocabulary.
        labels: batch × sequence; `IGNORED` stays where it is.
        generator: on the CPU, so that every device draws the same.
    """
    due = labels != IGNORED
    probabilities = logits[due].softmax(dim=-1, dtype=torch.float64).cpu()
    drawn = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return labels.masked_scatter(due, drawn.to(labels))


@dataclass
class Anchor:
    """One quadratic: by a parameter's name its diagonal Fisher F and its centre θ*, both in the parameter's shape."""

    fisher: dict[str, torch.Tensor]
    center: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> Anchor:
        """The anchor on that device; in main memory pinned where there is CUDA, which then copies without waiting."""
        return Anchor(_placed(self.fisher, device), _placed(self.center, device))

    def grown(self, parameters: Mapping[str, torch.Tensor]) -> Anchor:
        """The anchor of a model whose head has more rows since: no finished task depends on the new ones."""
        fisher, center = dict(self.fisher), dict(self.center)
        for name, parameter in parameters.items():
            if parameter.shape != center[name].shape:
                new = parameter.detach()[len(center[name]) :]
                fisher[name] = torch.cat([fisher[name], torch.zeros_like(new).to(fisher[name])])
                center[name] = torch.cat([center[name], new.to(center[name])])
        return Anchor(fisher, center)


def _placed(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    pin = device.type == "cpu" and torch.cuda.is_available()
    return {name: tensor.pin_memory() for name, tensor in moved.items()} if pin else moved


class QuadraticPenalty(torch.autograd.Function):
    """λ/2 · Σ_k Σ_i F_ki (θ_i − θ*_ki)², and from the same pass its gradient λ · Σ_k F_ki (θ_i − θ*_ki).

    Called as ``apply(strength, anchors, gradients, *parameters)``: λ; for each parameter its pairs (F_k, θ*_k), of its
    shape and on any device; for each parameter a contiguous tensor of its shape and device, which the gradient is
    written to and given back in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        strength: float,
        anchors: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]],
        gradients: Sequence[torch.Tensor],
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        terms = []
        for parameter, kept, gradient in zip(parameters, anchors, gradients, strict=True):
            theta, out, device = parameter.reshape(-1), gradient.view(-1), parameter.device
            # One parameter's at a time, since what is kept in main memory may not fit on the device.
            pairs = [(_flat(fisher, device), _flat(center, device)) for fisher, center in kept]
            chunk = CPU_CHUNK if device.type == "cpu" else theta.numel()
            for start in range(0, theta.numel(), chunk):
                part = slice(start, start + chunk)
                own = out[part].zero_()
                for fisher, center in pairs:
                    distance = theta[part] - center[part]
                    pull = fisher[part] * distance
                    terms.append(torch.dot(pull, distance))
                    own.add_(pull, alpha=strength)
        ctx.save_for_backward(*gradients)
        return strength / 2 * torch.stack(terms).sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = ctx.saved_tensors
        # Mixed precision's scale; where it is 1 and reading it costs nothing, a pass over all parameters is saved.
        if scale.device.type != "cpu" or scale != 1:
            gradients = [gradient.mul_(scale) for gradient in gradients]
        return None, None, None, *gradients


def _flat(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device, non_blocking=True).reshape(-1)
