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
        """The lines of the log, without those that are no JSON objects. Empty where nothing was logged."""
        return [line for line in map(_parsed, self._texts()) if line is not None]

    def unreadable(self) -> list[int]:
        """The numbers, from 1, of the lines that are no JSON objects."""
        return [number for number, text in enumerate(self._texts(), start=1) if text and _parsed(text) is None]

    def cut(self, stages: Mapping[str, float]) -> None:
        """Remove what the log says of stages that are not finished, before they are gone on with, and unreadable lines.

        Args:
            stages: for each of them the last step whose line stays. What has no step, as an evaluation, never does.
        """

        def stays(line: dict[str, Any] | None) -> bool:
            if line is None:
                return False
            stage, step = line.get("task", line.get("stage")), line.get("step")
            return stage not in [*stages] or (isinstance(step, int) and step <= stages[str(stage)])

        if self.path.is_file():
            write_atomically(self.path, "".join(f"{text}\n" for text in self._texts() if stays(_parsed(text))))

    def _texts(self) -> list[str]:
        return self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.is_file() else []


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None
