"""python benchmarks/speed.py [--threads 1] [--only t5-base] [--pairs 15] [--precision fp32] [--memory]

What a training step costs with each strategy, beside plain fine-tuning with the fused AdamW: ratios of whole steps
(forward, backward, mask or penalty, clipping, optimizer) as the engine makes them. Each strategy and plain tuning step
in turns in one process (plain, strategy, strategy, plain, ...), so that drift of the machine hits both alike; a line
tells the median and the quartiles of the pairs' ratios.

`--only` takes parts of the names of shapes and strategies, such as `t5-base` or `t5-base/migu`. `--memory` tells the
peak memory of three steps instead, of each in a process of its own. `--profile` tells where a step's time goes.
`--commands MODEL CL_BENCHMARK` measures whole commands instead: start-up, the quickstart, order 1 of the paper beside
the way of the published research code (`released.py`), and its tests alone.

With one thread, the time is that of the processor, which other processes change little; with more, that of the clock.

Shapes have the widths of the models that they are named after and random weights; of T5-base, Llama and RoBERTa one
layer (of the encoder and of the decoder) and as small a share of the words, so that every part keeps its share. There
is no dropout.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

BATCH, SOURCE, TARGET = 8, 128, 8
#: The threads are read before torch is imported.
THREADS = argparse.ArgumentParser(add_help=False)
THREADS.add_argument("--threads", type=int, default=None, help="of torch; as many as there are cores without it")
if (chosen := THREADS.parse_known_args()[0].threads) is not None:
    os.environ["OMP_NUM_THREADS"] = str(chosen)

import clkit  # noqa: E402, F401  # before torch, whose threads wait as clkit has them wait

# isort: split
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    TrainingArguments,
)
from whole_commands import table  # noqa: E402

from clkit.events import Listener  # noqa: E402
from clkit.models.adapters import add_adapter  # noqa: E402
from clkit.models.families.decoder import Decoder  # noqa: E402
from clkit.models.families.masked_tokens import MaskedTokens  # noqa: E402
from clkit.models.families.seq2seq import Seq2Seq  # noqa: E402
from clkit.models.family import Family  # noqa: E402
from clkit.models.loading import begin_task  # noqa: E402
from clkit.models.objective import Pretraining, TextToText  # noqa: E402
from clkit.models.sections import IncrementalLoraTuning, LoraTuning  # noqa: E402
from clkit.strategies.contract import Context, Steps, Strategy  # noqa: E402
from clkit.strategies.hooks import call_all  # noqa: E402
from clkit.strategies.registry import load_strategy  # noqa: E402
from clkit.training.trainer import TaskTrainer  # noqa: E402


def t5(width: int, inner: int, heads: int, layers: int, words: int) -> Family:
    config = T5Config(
        vocab_size=words,
        d_model=width,
        d_ff=inner,
        num_heads=heads,
        num_layers=layers,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    return Seq2Seq(T5ForConditionalGeneration(config), None, TextToText())  # type: ignore[arg-type]


def llama() -> Family:
    config = LlamaConfig(
        vocab_size=2000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=1, num_attention_heads=16
    )
    return Decoder(LlamaForCausalLM(config), None, TextToText())  # type: ignore[arg-type]


def smollm2() -> Family:
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return Decoder(LlamaForCausalLM(config), None, TextToText())  # type: ignore[arg-type]


def roberta() -> Family:
    config = RobertaConfig(
        vocab_size=4189, num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return MaskedTokens(RobertaForMaskedLM(config), None, Pretraining(kind="pretraining"))  # type: ignore[arg-type]


SHAPES: dict[str, Callable[[], Family]] = {
    "t5-small": lambda: t5(512, 2048, 8, 6, 32128),
    "t5-base": lambda: t5(768, 3072, 12, 1, 2677),
    "llama": llama,
    "roberta": roberta,
    "smollm2": smollm2,
}
LORA = LoraTuning(method="lora", rank=8, alpha=32.0, dropout=0.0)
INCREMENTAL = IncrementalLoraTuning(method="incremental_lora", rank=8, alpha=32.0, dropout=0.0)
UPDATE = {"name": "migu", "mask": "update"}
#: Strategies, tuning, whether rows may be computed alone, task, and beside what the ratio is taken.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, unfused AdamW": {"optimizer": "adamw_torch"},
    "migu gradient": {"strategies": [{"name": "migu"}]},
    "migu update": {"strategies": [UPDATE]},
    "migu update, padding counted": {"strategies": [{**UPDATE, "count_padding": True}]},
    "migu update, held rows": {"strategies": [{**UPDATE, "hold": 100, "moments": "held"}]},
    "migu gradient, dense": {"strategies": [{"name": "migu"}], "dense": True},
    "migu update, dense": {"strategies": [UPDATE], "dense": True},
    "random rows, update": {"strategies": [{**UPDATE, "source": "random"}]},
    "ewc": {"strategies": [{"name": "ewc"}]},
    "lwf": {"strategies": [{"name": "lwf"}]},
    "osf": {"strategies": [{"name": "osf", "preserved": 0.5}]},
    "lora": {"tuning": LORA},
    "lora, matmul medium": {"tuning": LORA, "precision": "medium", "beside": "lora"},
    "lora, matmul medium, eager": {"tuning": LORA, "precision": "medium", "attention": "eager", "beside": "lora"},
    "lora, bf16": {"tuning": LORA, "precision": "bf16", "half": True, "beside": "lora"},
    "lora, bf16, eager": {"tuning": LORA, "precision": "bf16", "half": True, "attention": "eager", "beside": "lora"},
    "lora + migu": {"tuning": LORA, "strategies": [{"name": "migu"}], "beside": "lora"},
    "olora, task 2": {"tuning": INCREMENTAL, "strategies": [{"name": "olora"}]},
    "olora, task 15": {"tuning": INCREMENTAL, "strategies": [{"name": "olora"}], "task": 15, "beside": "olora, task 2"},
}


def random_batch(family: Family, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Eight examples, half of them padded to twice their length; of a decoder, the last tokens are the answer."""
    words = int(family.model.config.vocab_size)
    mask = torch.ones(BATCH, SOURCE, dtype=torch.long)
    mask[: BATCH // 2, SOURCE // 2 :] = 0
    inputs = torch.randint(3, words, (BATCH, SOURCE), generator=generator)
    if family.name == "seq2seq":
        labels = torch.randint(3, words, (BATCH, TARGET), generator=generator)
        further = {"decoder_input_ids": torch.nn.functional.pad(labels[:, :-1], (1, 0))}
    elif family.name == "decoder":
        left = mask.flip(1).cumsum(1).flip(1)  # tokens from here to the end
        labels = inputs.masked_fill((mask == 0) | (left > TARGET), -100)
        kept = (labels != -100).any(dim=0).nonzero().flatten()
        labels, further = labels[:, kept], {"logits_to_keep": kept}
    else:
        labels = inputs.masked_fill(torch.rand(inputs.shape, generator=generator) > 0.15, -100)
        labels, further = labels.masked_fill(mask == 0, -100), {}
    return {"input_ids": inputs, "attention_mask": mask, "labels": labels, **further}


def clock() -> float:
    """Seconds, from some moment."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Run:
    """A model in training on the second task, or a later one."""

    def __init__(self, shape: str, case: str, precision: str) -> None:
        settings = CASES[case]
        precision = settings.get("precision", precision)
        torch.manual_seed(0)
        self.family, task = SHAPES[shape](), settings.get("task", 2)
        if "attention" in settings:
            self.family.base.set_attn_implementation(settings["attention"])
        tuning = settings.get("tuning")
        if tuning is not None:
            add_adapter(self.family, tuning)
        for parameter in self.family.model.parameters() if settings.get("half") else ():
            if not parameter.requires_grad:  # as `model.dtype: bfloat16` holds them
                parameter.data = parameter.data.bfloat16()
        self.strategies = [_made(entry, dense=settings.get("dense", False)) for entry in settings.get("strategies", [])]
        for index in range(task):
            if tuning is not None:
                begin_task(self.family, tuning, index, seed=index)
            self.context = Context(self.family, SimpleNamespace(name=str(index)), index, seed=0)  # type: ignore[arg-type]
            if index == 0 and settings.get("strategies") == [{"name": "ewc"}]:
                _keep_any_fisher(self.strategies[0], self.family)
                continue
            call_all(self.strategies, "before_task", self.context)
            if index + 1 < task:
                call_all(self.strategies, "after_task", self.context)
        self.trainer = TaskTrainer(
            context=self.context,
            strategies=self.strategies,
            listener=Listener(),
            matmul="medium" if precision == "medium" else "highest",
            model=self.family.model.train(),
            args=TrainingArguments(
                output_dir="unused",
                use_cpu=not torch.accelerator.is_available(),
                bf16=precision == "bf16",
                optim=settings.get("optimizer", "adamw_torch_fused"),
                learning_rate=1e-4,
                report_to="none",
            ),
        )
        call_all(self.strategies, "before_training", self.context)
        trainer: Any = self.trainer
        trainer.create_optimizer()
        self.model, self.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """Seconds that one whole step takes."""
        started = clock()
        trainer: Any = self.trainer
        trainer.training_step(self.model, dict(batch))
        trainer._clip_grad_norm(self.model)
        self.optimizer.step()
        call_all(self.strategies, "after_step", self.context)
        self.context.step += 1
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.context.pending.clear()
        trainer._step_losses.clear()
        return clock() - started


def _made(entry: dict[str, Any], dense: bool) -> Strategy:
    kind = load_strategy(entry["name"])
    strategy = kind(kind.Options.model_validate(entry))
    # Of two micro-batches, rows are known too late; one is made.
    strategy.steps = Steps(1 + dense, 1, "" if not torch.accelerator.is_available() else "this device")
    return strategy


def _keep_any_fisher(strategy: Strategy, family: Family) -> None:
    weights = {name: parameter.detach() for name, parameter in family.model.named_parameters()}
    fishers = {f"fisher/{name}": 1e-6 * torch.rand_like(weight) for name, weight in weights.items()}
    strategy.load_state_dict({**fishers, **{f"center/{name}": weight.clone() for name, weight in weights.items()}})


def ratio(shape: str, case: str, precision: str, pairs: int) -> str:
    """A line of the table."""
    beside = CASES[case].get("beside", "plain")
    plain, ours = Run(shape, beside, precision), Run(shape, case, precision)
    generator = torch.Generator().manual_seed(1)
    ratios, seconds = [], []
    for pair in range(-2, pairs):  # two pairs to warm up
        batch = random_batch(plain.family, generator)
        order = [plain, ours] if pair % 2 else [ours, plain]
        times = {id(run): run.step(batch) for run in order}
        if pair >= 0:
            ratios.append(times[id(ours)] / times[id(plain)])
            seconds.append(times[id(plain)])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return (
        f"| {shape} | {precision} | {case} | {beside} | **{middle:.3f}** | {low:.3f} – {high:.3f} | "
        f"{statistics.median(seconds):.3f} s |"
    )


def peak(shape: str, case: str, precision: str) -> float:
    """MiB that a process needs for three steps, beyond what it needs to be there."""
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = Run(shape, case, precision)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        run.step(random_batch(run.family, generator))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started) / 1024


def _peak_elsewhere(shape: str, case: str, arguments: argparse.Namespace) -> float:
    child = [sys.executable, __file__, "--child", f"{shape}/{case}", "--precision", arguments.precision]
    threads = ["--threads", str(arguments.threads)] if arguments.threads else []
    return float(subprocess.run([*child, *threads], check=True, capture_output=True, text=True).stdout.split()[-1])


def profile(shape: str, case: str, precision: str) -> str:
    """The operators in which a step spends its time."""
    run = Run(shape, case, precision)
    batches = [random_batch(run.family, torch.Generator().manual_seed(seed)) for seed in range(4)]
    for batch in batches[:2]:
        run.step(batch)
    with torch.profiler.profile() as found:
        for batch in batches[2:]:
            run.step(batch)
    return str(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[THREADS]
    )
    parser.add_argument("--only", nargs="*", default=[""], help="parts of SHAPE/STRATEGY")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--precision", choices=["fp32", "bf16", "medium"], default="fp32", help="medium: of matmul")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--commands", nargs=2, type=Path, metavar=("MODEL", "CL_BENCHMARK"))
    parser.add_argument("--examples", nargs=2, type=int, default=(16, 24), help="of --commands: trained, tested a task")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if arguments.child:
        shape, _, case = arguments.child.partition("/")
        print(peak(shape, case, arguments.precision))
        return

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(
        f"{device}, {torch.get_num_threads()} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}, {versions}, "
        f"{arguments.pairs} pairs, batch {BATCH} × {SOURCE}\n"
    )
    if arguments.commands:
        model, data = arguments.commands
        for line in table(model, data, arguments.pairs, arguments.examples, arguments.only):
            print(line, flush=True)
        return
    chosen = [(shape, case) for shape in SHAPES for case in CASES]
    chosen = [one for one in chosen if any(part in "/".join(one) for part in arguments.only)]
    if arguments.memory:
        print("| shape | precision | strategy | peak memory | of plain |\n|---|---|---|---|---|")
    elif not arguments.profile:
        print(
            "| shape | precision | strategy | beside | ratio | quartiles | a step of the latter |\n" + "|---" * 7 + "|"
        )
    plain: dict[str, float] = {}
    for shape, case in chosen:
        if arguments.memory:
            plain[shape] = plain.get(shape) or _peak_elsewhere(shape, "plain", arguments)
            own = plain[shape] if case == "plain" else _peak_elsewhere(shape, case, arguments)
            line = f"| {shape} | {arguments.precision} | {case} | {own:.0f} MiB | {own / plain[shape]:.2f} |"
        elif arguments.profile:
            line = f"{shape}, {case}\n{profile(shape, case, arguments.precision)}"
        else:
            line = ratio(shape, case, arguments.precision, arguments.pairs)
        print(line, flush=True)


if __name__ == "__main__":
    main()
