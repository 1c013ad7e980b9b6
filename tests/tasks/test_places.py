"""Each row's place leads back to the row, for every source; what holds no example is named or dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from clkit.errors import DataError
from clkit.tasks.loading import load_task
from clkit.tasks.sections import DataSection, TaskRecipe
from clkit.tasks.sources.sample import sample_rows

ROWS = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(40)]
LIMITS = DataSection(train_per_task=5, test_per_task=4)


def quoted_csv(folder: Path, mark: str) -> None:
    for split in ("train", "test"):
        body = "".join(f'"text\n{row["text"]}"{mark}{row["label"]}\r\n' for row in ROWS)
        (folder / f"{split}.{'csv' if mark == ',' else 'tsv'}").write_text(f"text{mark}label\n{body}", newline="")


def write(folder: Path, kind: str) -> dict[str, Any]:
    for split in ("train", "test"):
        if kind == "folder":
            pretty = [{"sentence": row["text"], "label": row["label"]} for row in ROWS]
            (folder / f"{split}.json").write_text(json.dumps(pretty, indent=1))
        elif kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / f"{split}.parquet")
        elif kind == "jsonl":
            (folder / f"{split}.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)))
    if kind == "folder":
        (folder / "labels.json").write_text('["a", "b"]')
        return {"kind": "folder", "folder": str(folder)}
    if kind in ("csv", "tsv"):
        quoted_csv(folder, "," if kind == "csv" else "\t")
    if kind == "parquet":
        return {"kind": "hub", "dataset": str(folder), "text": "text", "label": "label"}
    return {"kind": "files", "train": str(folder / f"train.{kind}"), "test": str(folder / f"test.{kind}")}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "folder", "parquet"])
def test_a_place_leads_back_to_the_row(tmp_path: Path, kind: str) -> None:
    task = load_task(TaskRecipe(name="t", source=write(tmp_path, kind)), LIMITS, seed=1)  # type: ignore[arg-type]
    assert (len(task.train), len(task.test)) == (5, 4)
    for row in [*task.train, *task.test]:
        if kind in ("parquet", "folder"):
            number = row["place"].rsplit(", row " if kind == "parquet" else ", record ", 1)[1]
            assert ROWS[int(number) - 1] == {"text": row["text"], "label": row["answer"]}
            continue
        file, line = row["place"].rsplit(":", 1)
        stands = Path(file).read_text("utf-8").split("\n")[int(line) - 1 :]
        assert row["text"].split("\n")[-1] in "".join(stands[:2])
        assert (row["text"].split("\n")[0]) in stands[0]


def test_the_sample_has_places_too() -> None:
    recipe = TaskRecipe.model_validate({"name": "t", "source": {"kind": "sample", "task": "topics"}})
    row = load_task(recipe, LIMITS, seed=0).test[0]
    number = int(row["place"].rsplit(" ", 1)[1])
    assert sample_rows("topics", "test")[number - 1] == (row["text"], row["answer"])


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("kind", ["files", "hub", "folder"])
@pytest.mark.parametrize(
    "bad",
    ["{broken", '"text"', '{"txt": "x", "label": "a"}', '{"text": " ", "label": "a"}', '{"text": 3, "label": "a"}',
     '{"text": "x", "label": ["a"]}', '{"text": "\\ud83d", "label": "a"}', "null"],
)  # fmt: skip
def test_what_holds_no_example_is_named_or_dropped(tmp_path: Path, kind: str, bad: str, drop: bool) -> None:
    content = "\n".join([json.dumps(ROWS[0]), json.dumps(ROWS[1]), bad, json.dumps(ROWS[2])])
    suffix = "json" if kind == "folder" else "jsonl"
    for split in ("train", "test"):
        text = content.replace('"text":', '"sentence":') if kind == "folder" else content
        (tmp_path / f"{split}.{suffix}").write_text(text)
    (tmp_path / ("labels.json" if kind == "folder" else "notes")).write_text('["a", "b"]')
    source: dict[str, Any] = {
        "files": {"kind": "files", "train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
        "hub": {"kind": "hub", "dataset": str(tmp_path), "text": "text", "label": "label"},
        "folder": {"kind": "folder", "folder": str(tmp_path)},
    }[kind]
    source["on_bad_record"] = "drop" if drop else "error"
    recipe = TaskRecipe.model_validate({"name": "t", "source": source})
    if drop:
        task = load_task(recipe, DataSection(), seed=0)
        assert task.train["text"][:] == ["text 0", "text 1", "text 2"]
        assert task.dropped == {"unusable train": 1, "unusable test": 1}
    else:
        with pytest.raises(DataError) as error:
            load_task(recipe, DataSection(), seed=0)
        assert str(error.value).startswith(f"{tmp_path / 'train'}.{suffix}:3")


def test_rows_of_parquet_are_dropped_too(tmp_path: Path) -> None:
    rows = [*ROWS[:4], {"text": "", "label": "a"}, {"text": None, "label": "b"}]
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    source = {"kind": "hub", "dataset": str(tmp_path), "text": "text", "label": "label", "on_bad_record": "drop"}
    task = load_task(TaskRecipe.model_validate({"name": "t", "source": source}), DataSection(), seed=0)
    assert len(task.train) == 4
    assert task.dropped == {"unusable train": 2, "unusable test": 2}
    assert task.train["place"][3].endswith("split 'train', row 4")
