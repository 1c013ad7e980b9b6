"""JSON lists that are read bit by bit: the values and the errors of `json.loads`, whatever the pieces."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clkit.errors import DataError
from clkit.tasks.json_text import Unread
from clkit.tasks.records import json_records


def drawn(draw: random.Random, depth: int = 0) -> Any:
    """A JSON value, whose texts hold what means something elsewhere."""
    makers: list[Callable[[], Any]] = [
        lambda: draw.choice([True, False, None]),
        lambda: draw.randrange(-(10**12), 10**12),
        lambda: draw.random() * 10.0 ** draw.randrange(-20, 20),
        lambda: "".join(draw.choice('a"\\\n é😀]},[{:/u') for _ in range(draw.randrange(12))),
        lambda: [drawn(draw, depth + 1) for _ in range(draw.randrange(4))],
        lambda: {f"k{key}": drawn(draw, depth + 1) for key in range(draw.randrange(4))},
    ]
    return draw.choice(makers if depth < 3 else makers[:4])()


def damaged(draw: random.Random, text: str) -> str:
    at = draw.randrange(1, len(text) + 1)
    return draw.choice([text, text[:at], text[:at] + draw.choice('x"\\ 1-{') + text[at:], text[: at - 1] + text[at:]])


def test_values_and_errors_are_those_of_the_whole_text() -> None:
    draw, broken = random.Random(1), 0
    for _ in range(400):
        values = [drawn(draw) for _ in range(draw.randrange(5))]
        text = damaged(draw, json.dumps(values, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1])))
        whole: Any = None
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            whole, broken = (error.msg, error.lineno, error.colno), broken + 1
        for size in (1, 3, 50):
            unread = Unread(text[start : start + size] for start in range(0, len(text), size))
            try:
                found = unread.value()
                if unread.next():
                    raise unread.fault("Extra data")
            except json.JSONDecodeError as error:
                found = (error.msg, error.lineno, error.colno)
            assert found == whole, (text, size)
    assert 100 < broken < 390


@pytest.mark.parametrize("name", ["list.json", "list.json.gz"])
def test_a_list_on_one_line_is_never_held_whole(name: str, tmp_path: Path) -> None:
    path, count = tmp_path / name, 20_000
    text = json.dumps([{"text": f"{number} " + "word " * 40} for number in range(count)])
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode(), 1) if name.endswith("gz") else text.encode())
    tracemalloc.start()
    found = sum(int(value["text"].split()[0]) for _, value in json_records(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == count * (count - 1) // 2
    assert peak < 2_000_000 < len(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[{"a": 1}, {"a": 1, "a": 2}]', "the key 'a' stands twice"),
        ('[{"a": 1}]]', "Extra data, column 11"),
        ('[{"a": 1}] x', "Extra data, column 12"),
        ("[1,\n 2", "Expecting ',' delimiter, column 3"),
        ("[" * 100_000, "nested too deeply"),
        (f"[{'9' * 5000}]", "a number is too long"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError) as error:
        [*json_records(path)]
    assert f"broken JSON ({fault}); correct the file" in str(error.value)
