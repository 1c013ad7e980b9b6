"""The methods that the tables compare: every row of the MIGU paper's T5 table, each with MIGU, and what it lacks.

A method is a list of overrides of a recipe. Thresholds with MIGU are the paper's: 0.7; O-LoRA 0.05, LoRA replay 0.4.
Replay keeps 10 % of each task rather than the paper's 2 %: of the few examples here that is less than one a label.
"""

from __future__ import annotations

from dataclasses import dataclass

FULL_RATES = (1e-4, 3e-4, 1e-3)
LORA_RATES = (1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Method:
    """Overrides of a recipe, and the learning rates to choose from."""

    overrides: tuple[str, ...]
    rates: tuple[float, ...] = FULL_RATES


def _migu(threshold: float, **options: str) -> str:
    extra = "".join(f", {key}: {value}" for key, value in options.items())
    return f"{{name: migu, threshold: {threshold}{extra}}}"


def _full(*strategies: str) -> Method:
    return Method((f"strategies=[{', '.join(strategies)}]",))


def _lora(method: str, *strategies: str) -> Method:
    return Method((f"tuning.method={method}", f"strategies=[{', '.join(strategies)}]"), LORA_RATES)


_REPLAY = "{name: replay, share: 0.1}"
_EWC = "{name: ewc}"
_OLORA = "{name: olora, lambda1: 0.5}"

METHODS: dict[str, Method] = {
    "FT": _full(),
    "FT + MIGU": _full(_migu(0.7)),
    "FT + MIGU, mask: update": _full(_migu(0.7, mask="update")),
    "FT + random rows": _full(_migu(0.7, source="random")),
    "FT + random rows, mask: update": _full(_migu(0.7, mask="update", source="random")),
    "replay": _full(_REPLAY),
    "replay + MIGU": _full(_REPLAY, _migu(0.7)),
    "replay + random rows": _full(_REPLAY, _migu(0.7, source="random")),
    "EWC": _full(_EWC),
    "EWC + MIGU": _full(_EWC, _migu(0.7)),
    "EWC + random rows": _full(_EWC, _migu(0.7, source="random")),
    "EWC + replay": _full(_EWC, _REPLAY),
    "LwF": _full("{name: lwf}"),
    "LwF + MIGU": _full("{name: lwf}", _migu(0.7)),
    "LwF + random rows": _full("{name: lwf}", _migu(0.7, source="random")),
    "OSF": _full("{name: osf}"),
    "LoRA": _lora("lora"),
    "LoRA + MIGU": _lora("lora", _migu(0.7)),
    "LoRA + random rows": _lora("lora", _migu(0.7, source="random")),
    "LoRA replay": _lora("lora", _REPLAY),
    "LoRA replay + MIGU": _lora("lora", _REPLAY, _migu(0.4)),
    "LoRA replay + random rows": _lora("lora", _REPLAY, _migu(0.4, source="random")),
    "IncLoRA": _lora("incremental_lora"),
    "IncLoRA + MIGU": _lora("incremental_lora", _migu(0.7)),
    "IncLoRA + random rows": _lora("incremental_lora", _migu(0.7, source="random")),
    "O-LoRA": _lora("incremental_lora", _OLORA),
    "O-LoRA + MIGU": _lora("incremental_lora", _OLORA, _migu(0.05)),
    "O-LoRA + random rows": _lora("incremental_lora", _OLORA, _migu(0.05, source="random")),
    "per-task FT": Method(("strategies=[]", "protocol=per_task")),
    "multi-task": Method(("strategies=[]", "protocol=multi_task")),
}
