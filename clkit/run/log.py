"""The log of a run: one JSON object per line, added while it trains."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkit.run.atomic import write_atomically


@dataclass(frozen=True)
class RunLog:
    """`log.jsonl`, which a crash may leave with a line that is cut short."""

    path: Path

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line to the log and flush it. NaN and infinity, which JSON lacks, become "nan", "inf", "-inf"."""
        written = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in line.items()
        }
        text = json.dumps(written, ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short: keep this one apart from it
                    text = "\n" + text
            file.write(text.encode())

    def read(self) -> list[dict[str, Any]]:
        """The lines of the log, without one that a crash cut short. Empty where nothing was logged."""
        if not self.path.is_file():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def cut(self, stages: Mapping[str, float]) -> None:
        """Remove what the log says of stages that are not finished, before they are gone on with.

        Args:
            stages: for each of them the last step whose line stays. What has no step, as an evaluation, never does.
        """

        def stays(text: str) -> bool:
            try:
                line = json.loads(text)
            except ValueError:  # a crash cut it short
                return False
            stage = line.get("task", line.get("stage"))
            return stage not in stages or ("step" in line and line["step"] <= stages[stage])

        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
            write_atomically(self.path, "".join(f"{line}\n" for line in lines if stays(line)))
