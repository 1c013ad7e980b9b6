"""Data sets of the hub, stood in for by local folders, which take the same way through `datasets`."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from clkit.errors import DataError
from clkit.tasks.source import Source, Wanted
from clkit.tasks.sources import hub
from clkit.tasks.sources.hub import HubRows, HubSource


def written(folder: Path, rows: list[dict[str, Any]], parquet: bool = False, **options: Any) -> HubSource:
    for split in ("train", "test"):
        if parquet:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")
        else:
            (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return HubSource(kind="hub", dataset=str(folder), **{"text": "text", "label": "label", **options})


def read(*arguments: Any, **options: Any) -> Source:
    return written(*arguments, **options).read(Wanted("t"))


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {index}", "label": label} for index, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("values", "names", "answers", "labels"),
    [
        ([1, 0, None], ["no", "yes"], ["yes", "no", None], ("no", "yes")),
        ([1, None, 5], {1: "bad", 5: "good"}, ["bad", None, "good"], ("bad", "good")),
        ([1, 2, 1], {1: "2", 2: "1"}, ["2", "1", "2"], ("2", "1")),
        ([0, 1, 0], {"0": "no", "1": "yes"}, ["no", "yes", "no"], ("no", "yes")),
        ([True, False], ["no", "yes"], ["yes", "no"], ("no", "yes")),
        ([1.0, None, 0.0], ["no", "yes"], ["yes", None, "no"], ("no", "yes")),
        (["yes", "", "no"], ["no", "yes"], ["yes", None, "no"], ("no", "yes")),
        (["01", "2020-01-01", 1], None, ["01", "2020-01-01", "1"], None),
        (["World", "Sports"], None, ["World", "Sports"], None),
        ([3, None, 4], None, ["3", None, "4"], None),
    ],
)
def test_label_values_get_their_names(
    tmp_path: Path, values: list[Any], names: Any, answers: list[str | None], labels: tuple[str, ...] | None
) -> None:
    for parquet in (False, True):
        if parquet and len({type(value) for value in values if value is not None}) > 1:
            continue
        source = read(tmp_path, labelled(*values), parquet, label_names=names)
        assert source.train.answers == answers
        assert source.labels == labels
        for split in ("train", "test"):
            (tmp_path / f"{split}.jsonl").unlink(missing_ok=True)


def test_the_data_sets_own_names_are_used(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    source = HubSource(kind="hub", dataset=str(tmp_path), text="text", label="label").read(Wanted("t"))
    assert source.labels == ("no", "yes")
    assert source.train.answers == ["yes", "no", None]


def test_only_wanted_texts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read(tmp_path, labelled(*range(3000)), parquet=True, text="{text}!").train
    assert isinstance(rows, HubRows)
    rendered = []
    render = rows.columns.template.render
    monkeypatch.setattr(
        rows.columns.template, "render", lambda row, where: rendered.append(where) or render(row, where)
    )
    assert len(rows.answers) == 3000
    assert rendered == []
    assert rows.texts([2500, 7]) == ["text 2500!", "text 7!"]
    assert [where.rsplit(maxsplit=1)[-1] for where in rendered] == ["2501", "8"]


def test_part_of_a_split_can_be_named(tmp_path: Path) -> None:
    rows = read(tmp_path, labelled("a", "b", "c", "d"), train_split="train[1:3]").train
    assert rows.answers == ["b", "c"]
    assert rows.texts([0, 1]) == ["text 1", "text 2"]


def test_a_test_split_can_be_cut_off_a_training_split(tmp_path: Path) -> None:
    """As `recipes/llama_magicoder.yaml` does; the shares are exact, and no row is in both."""
    source = read(tmp_path, labelled(*map(str, range(40))), train_split="train[:20%]", test_split="train[95%:]")
    assert source.train.answers == [str(number) for number in range(8)]
    assert source.test.answers == ["38", "39"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            labelled("a"),
            {"text": "txt"},
            r"train(\.jsonl:1|'): no column 'txt', did you mean 'text'\? \(columns: text, label",
        ),
        (labelled("a"), {"text": "{text} {body}"}, "no column 'body'"),
        (labelled("a"), {"label": "labels"}, "no column 'labels', did you mean 'label'"),
        (labelled("a"), {"train_split": "tran"}, r"split 'tran': cannot be loaded \(Unknown split \"tran\""),
        (labelled("a"), {"config": "big"}, r"\(big\), split 'train': cannot be loaded \(.*'big' not found"),
        (labelled(7), {"label_names": ["no", "yes"]}, r"'label' holds 7, which label_names does not name \(.*0, 1\)"),
        (labelled(["a"]), {}, "'label' (holds lists or objects|is a list)"),
        (
            [{"text": None, "label": "a"}, {"text": "b", "label": "a"}],
            {},
            "(row 1|jsonl:1): 'text' is null, not text",
        ),
    ],
)
@pytest.mark.parametrize("parquet", [False, True])
def test_what_does_not_fit_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], message: str, parquet: bool
) -> None:
    def read_all() -> None:
        train = read(tmp_path, rows, parquet, **options).train
        train.texts(range(len(train.answers)))

    with pytest.raises(DataError, match=message) as error:
        read_all()
    assert "\n" not in str(error.value)
    found = written(tmp_path, rows, parquet, **options).lacks(Wanted("t"))
    assert len(found) == 2 - ("train_split" in options) or ("text' is null" in message and parquet)
    assert all(line.startswith("dataset: ") and ("split" in line or "jsonl:1" in line) for line in found)


@pytest.mark.parametrize("parquet", [False, True])
def test_validate_reads_the_beginning_of_a_local_data_set(
    tmp_path: Path, parquet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*labelled(*"ab" * 60), {"text": None, "label": "a"}]
    source = written(tmp_path, rows, parquet, train_split="train[10%:]", test_split="train[:10%]")
    import datasets

    with monkeypatch.context() as patched:
        patched.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the whole data set is read"))
        assert source.lacks(Wanted("t")) == []
    message = "Unrecognized instruction format"
    assert message in written(tmp_path, rows, parquet, train_split="train[:x%]").lacks(Wanted("t"))[0]


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n")
    source = HubSource(kind="hub", dataset=str(tmp_path / "rows.csv"), text="text", label="label")
    assert source.lacks(Wanted("t")) == [
        f"dataset: '{tmp_path}/rows.csv' is a file; read files with source: {{kind: files, train: ..., test: ...}}"
    ]
    with pytest.raises(DataError, match="is a file; read files with"):
        source.read(Wanted("t"))


def test_broken_data_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{broken")
    with pytest.raises(DataError, match=r"train.jsonl:1: broken JSON"):
        HubSource(kind="hub", dataset=str(tmp_path), text="text", label="label").read(Wanted("t"))


def test_without_the_hub_the_other_sources_are_named() -> None:
    with pytest.raises(DataError) as error:
        HubSource(kind="hub", dataset="fancyzhx/ag_news", text="text", label="label").read(Wanted("t"))
    for part in ("fancyzhx/ag_news, split 'train'", "benchmark.folder=PATH", "kind: files", "clkit train quickstart"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "full",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("Not enough disk space. Needed: Unknown size")],
)
def test_a_cache_without_room_is_told_with_its_folder(full: OSError) -> None:
    def load() -> None:
        raise RuntimeError("An error occurred while generating the dataset") from full

    folder = datasets.config.HF_DATASETS_CACHE
    with pytest.raises(DataError, match=rf"^news, split 'train': {folder} has no room for it; make some, or set HF_"):
        hub._loaded("news, split 'train'", load)
