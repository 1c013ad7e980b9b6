"""The page as a file: complete in itself, sound HTML, nothing of the data taken for a part of it."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from clkit.errors import UsageError
from clkit.report.page.report import Report
from clkit.results.matrix import AccuracyMatrix
from clkit.run.folder import RunFolder
from tests.report.page.synthetic import MIGU, PLAIN, make_run
from tests.scored import score

VOID = frozenset({"meta", "link", "br", "input", "img", "hr"})
HOSTILE = (
    "</p></li><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\"' &amp; {{ 7*7 }} \x00\x1b[2J"
)


class Parsed(HTMLParser):
    """Elements with their attributes; fails where one is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {tag} {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.elements if attribute in attributes]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The HTML of one run and of four, with hostile names and texts."""
    folder = tmp_path_factory.mktemp("pages")
    tasks = ("<b>bold", "a & b", "'quoted\"")
    runs = [
        make_run(folder / f"{name}-{seed}", tasks, seed=seed, strategies=strategies, text=HOSTILE, keep=keep)
        for name, strategies, keep in (("plain", PLAIN, 0.3), ("migu", MIGU, 0.8))
        for seed in (1, 2, 3)
    ]
    return {"one": Report.of(runs[:1]).html, "six": Report.of(runs).html}


@pytest.mark.parametrize("which", ["one", "six"])
def test_the_html_is_sound(pages: dict[str, str], which: str):
    page = Parsed(pages[which])
    assert max(Counter(page.values("id")).values()) == 1
    targets = {link.removeprefix("#") for link in page.values("href") if link.startswith("#")}
    assert len(targets) > 5
    assert targets <= set(page.values("id"))
    tags = Counter(tag for tag, _ in page.elements)
    assert (tags["h1"], tags["main"], tags["nav"]) == (1, 1, 1)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")


@pytest.mark.parametrize("which", ["one", "six"])
def test_nothing_leads_out_of_the_page(pages: dict[str, str], which: str):
    page = Parsed(pages[which])
    assert all(link.startswith("#") or link == "data:," for link in page.values("href"))
    for attribute in ("src", "srcset", "action", "formaction", "data", "poster", "background"):
        assert page.values(attribute) == []
    style = re.search(r"<style>(.*?)</style>", pages[which], re.DOTALL)[1]  # type: ignore[index]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("which", ["one", "six"])
def test_texts_of_the_data_stay_texts(pages: dict[str, str], which: str):
    page = Parsed(pages[which])
    assert Counter(tag for tag, _ in page.elements)["script"] == 1
    assert not {"img", "b", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert r"\x00\x1b[2J" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", pages[which])
    assert "<b>bold" in page.text


def test_only_its_own_script_may_run(pages: dict[str, str]):
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>\n</body>", pages["one"], re.DOTALL)[1]  # type: ignore[index]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(
        attributes["content"] for tag, attributes in Parsed(pages["one"]).elements if "http-equiv" in attributes
    )
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{allowed}';" in policy


def test_one_run(pages: dict[str, str]):
    text = Parsed(pages["one"]).text
    for part in (
        "After three tasks it still answers 8.1",
        "zero-shot",
        "90.0",
        "mean_j R[T][j]",
        "held-out loss",
        "task_loss",
    ):
        assert part in text
    assert "lost in a & b" in text
    assert "What differs from its defaults is unknown" in text  # no recipe has such names
    assert "0123abcd" in text  # a fingerprint
    assert "3.11.7" in text


def test_the_settings_of_a_run(tmp_path: Path):
    text = Parsed(Report.of([make_run(tmp_path / "run")]).html).text
    assert "training.batch_size 16 64" in text
    assert "training.epochs" not in text.partition("The whole recipe")[0]


def test_several_runs(pages: dict[str, str]):
    text = Parsed(pages["six"]).text
    for part in (
        "Of two methods migu ends best",
        "migu against plain",
        "Means over seeds",
        "3 pairs of runs",
        "plain-2",
    ):
        assert part in text


def test_the_same_runs_give_the_same_bytes(tmp_path: Path):
    run = make_run(tmp_path / "run")
    assert Report.of([run]).html == Report.of([run]).html


def test_a_text_that_is_no_utf8_is_spelt_out(tmp_path: Path):
    run = make_run(tmp_path / "run", text="half a pair HALF and a whole one 😀")
    for answers in run.path.glob("tasks/*/predictions.jsonl"):
        answers.write_text(answers.read_text("utf-8").replace("HALF", "\\ud83d"), "utf-8")
    saved = Report.of([run]).save(tmp_path / "page.html").read_text("utf-8")
    assert r"half a pair \ud83d and a whole one 😀" in saved


@pytest.mark.parametrize("learned", [0, 1, 2])
def test_runs_in_progress(tmp_path: Path, learned: int):
    page = Parsed(Report.of([make_run(tmp_path / "run", learned=learned)]).html)
    assert ["Nothing is learned so far", "After one task it answers 90.0", "After two tasks it still answers 45.0"][
        learned
    ] in page.text
    assert page.text.count(f"run in progress: {learned} of 3 tasks learned") == 1


@pytest.mark.parametrize(
    ("protocol", "rows", "said"),
    [
        ("multi_task", [[0.5, 0.75]], "learned its two tasks together"),
        ("multi_task", [], "not finished"),
        ("per_task", [[0.5, None], [None, 0.75]], "a model of its own"),
        ("per_task", [[0.5, None]], "1 of 2 are trained"),
        ("zero_shot", [], "Nothing was learned"),
    ],
)
def test_baselines(tmp_path: Path, protocol: str, rows: list[list[float | None]], said: str):
    run = RunFolder.create(tmp_path / "run", f"name: x\nprotocol: {protocol}\n", {})
    matrix = AccuracyMatrix(["a", "b"], [10, 10], zero_shot=[0.125, 0.25], rows=rows, protocol=protocol)  # type: ignore[arg-type]
    page = Parsed(Report.of([score(run, matrix)]).html)
    assert said in page.text
    assert "25.0" in page.text


@pytest.mark.parametrize("metric", ["perplexity", "loss", "macro_f1", "rouge_l"])
def test_other_scores(tmp_path: Path, metric: str):
    lower = metric in ("perplexity", "loss")
    rows = [[3.0, None], [4.5, 2.0]] if lower else [[0.9, None], [0.25, 0.75]]
    matrix = AccuracyMatrix(["a", "b"], [10, 10], metric, higher_is_better=not lower, rows=rows)
    page = Parsed(Report.of([score(RunFolder.create(tmp_path / "run", "name: x\n", {}), matrix)]).html)
    now = {
        "perplexity": "perplexity of 4.50",
        "loss": "loss of 4.500",
        "macro_f1": "macro F1 of 25.0",
        "rouge_l": "ROUGE-L of 25.0",
    }
    assert f"After two tasks it still has a {now[metric]}" in page.text


def test_damage_is_told_on_the_page(tmp_path: Path):
    run = make_run(tmp_path / "run")
    done = run.path / "tasks/02-green/done.json"
    done.write_text(done.read_text().replace("0.9", "1.0"))
    (run.path / "tasks/03-blue/predictions.jsonl").write_text("{broken\n")
    (run.path / "log.jsonl").write_text('{"event": "step"\n[]\n')
    made = Report.of([run])
    assert "02-green" in made.remarks[0]
    assert made.remarks[0] in Parsed(made.html).text


def test_examples_that_cannot_be_read_are_told(tmp_path: Path):
    run = make_run(tmp_path / "run")
    assert Report.of([run]).remarks == []
    (run.path / "tasks/02-green/predictions.jsonl").write_text("garbage\n")
    (remark,) = Report.of([run]).remarks
    assert "no examples of run" in remark
    assert "02-green/predictions.jsonl:1" in remark


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("env.json", '{"format": 1, "command": "x", "started": 4}'),
        ("recipe.yaml", "name: [\n"),
        ("recipe.yaml", "strategies: 3\nmodel: []\nobjective: {}\n"),
        ("tasks/03-blue/predictions.jsonl", '{"task": "red", "index": 0, "prediction": "yes"}\n'),
        ("tasks/03-blue/predictions.jsonl", '"task index"\n'),
        ("log.jsonl", '{"event": "step", "task": "red", "step": 1, "task_loss": "word", "flag": true}\n'),
        ("inspect/magnitudes.json", "[1"),
    ],
)
def test_a_file_that_was_edited_spoils_its_part_alone(tmp_path: Path, file: str, text: str):
    run = make_run(tmp_path / "run")
    (run.path / file).parent.mkdir(exist_ok=True)
    (run.path / file).write_text(text)
    assert "After three tasks it still answers" in Parsed(Report.of([run]).html).text


def test_files_are_replaced_when_asked_and_no_run_is_written_into(tmp_path: Path):
    run = make_run(tmp_path / "run")
    report = Report.of([run])
    path = report.save(tmp_path / "page.html")
    with pytest.raises(UsageError, match="exists; --force replaces it"):
        report.save(path)
    assert report.save(path, replace=True).read_text("utf-8") == report.html
    with pytest.raises(UsageError, match="lies in the run"):
        report.save(run.path / "page.html")


def test_python_shows_no_page_as_text_and_needs_a_run(tmp_path: Path):
    assert len(repr(make_run(tmp_path / "run").report())) < 100
    with pytest.raises(UsageError, match="needs a run or more"):
        Report.of([])


def test_a_notebook_shows_it_in_a_frame(tmp_path: Path):
    html = make_run(tmp_path / "run").report()._repr_html_()
    ((tag, attributes),) = Parsed(html).elements
    assert tag == "iframe"
    assert attributes["srcdoc"].startswith("<!doctype html>")  # type: ignore[union-attr]
    assert attributes["sandbox"] == "allow-scripts"


def test_ten_runs_of_fifteen_tasks_are_small_and_quick(tmp_path: Path):
    tasks = [f"task number {number}" for number in range(1, 16)]
    text = "what a customer wrote, at some length and with some feeling " * 12
    for seed in range(10):
        make_run(
            tmp_path / f"runs/r-{seed}", tasks, seed=seed, examples=20, text=text, steps=200, keep=0.9, strategies=MIGU
        )
    code = (
        "import sys\nfrom clkit.cli.app import app\napp(['report', 'runs'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'peft'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5  # of computing, whoever else waits
    assert done.stdout == "[]\n"
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
