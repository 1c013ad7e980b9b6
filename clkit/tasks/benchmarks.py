"""The named benchmarks: the 15 tasks of the MIGU and O-LoRA papers in their six orders, and the built-in sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clkit.section import did_you_mean
from clkit.tasks.sections import FolderSource, HubSource, SampleSource, TaskRecipe
from clkit.tasks.sources.sample import SAMPLE_TASKS


@dataclass(frozen=True)
class Benchmark:
    """A named set of tasks and the orders in which they are learned, numbered as in the MIGU paper."""

    name: str
    description: str
    orders: dict[int, tuple[str, ...]]


@dataclass(frozen=True)
class BenchmarkTask:
    """One of the papers' tasks: its labels as a prompt lists them, and the public data set that holds the original.

    The released folders were cut from the same public data sets. The templates in ``hub`` write a row as the folders'
    sentences are written, as far as the columns allow: `fancyzhx/ag_news` holds title and text in one column, and a
    part of the released yahoo and dbpedia sentences joins title and text differently.
    """

    group: str
    labels: tuple[str, ...]
    hub: HubSource


# The wording is the published one, grammar included: a trained prompt must not differ from the papers' by a word.
QUESTIONS: dict[str, str | None] = {
    "SC": "What is the sentiment of the following paragraph? Choose one from the option.",
    "TC": "What is the topic of the following paragraph? Choose one from the option.",
    "NLI": 'What is the logical relationship between the "sentence 1" and the "sentence 2"? '
    "Choose one from the option.",
    "QQP": 'Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option.',
    "BoolQA": "According to the following passage, is the question true or false? Choose one from the option.",
    "MultiRC": "According to the following passage and question, is the candidate answer true or false? "
    "Choose one from the option.",
    "WiC": "Given a word and two sentences, whether the word is used with the same sense in both sentence? "
    "Choose one from the option.",
    "COPA": None,  # its sentences ask the question themselves
}

STARS = ("very negative", "negative", "neutral", "positive", "very positive")
FALSE_TRUE = ["False", "True"]


def _hub(
    dataset: str,
    text: str,
    label_names: list[str] | dict[int | str, str],
    *,
    config: str | None = None,
    label: str = "label",
    test_split: str = "test",
) -> HubSource:
    return HubSource(
        kind="hub",
        dataset=dataset,
        config=config,
        test_split=test_split,
        text=text,
        label=label,
        label_names=label_names,
    )


def _glue(config: str, text: str, label_names: list[str], test_split: str = "validation") -> HubSource:
    # The test splits of GLUE and SuperGLUE carry no gold labels (-1), so their validation splits are tested on.
    return _hub("nyu-mll/glue", text, label_names, config=config, test_split=test_split)


def _super_glue(config: str, text: str, label_names: list[str]) -> HubSource:
    return _hub("aps/super_glue", text, label_names, config=config, test_split="validation")


AGNEWS = ("World", "Sports", "Business", "Science or Technology")
DBPEDIA = (
    *("Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation", "Building"),
    *("Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work"),
)
YAHOO = (
    *("Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet"),
    *("Sports", "Business & Finance", "Entertainment & Music", "Family & Relationships", "Politics & Government"),
)

TASKS: dict[str, BenchmarkTask] = {
    "dbpedia": BenchmarkTask(
        "TC", DBPEDIA, _hub("fancyzhx/dbpedia_14", "Title: {title}\nText: {content}", list(DBPEDIA))
    ),
    # The original five-star set (Zhang et al. 2015) has no release of its own on the hub. This one carries its
    # train.csv and test.csv (3,000,000 and 650,000 rows) with the columns class_index (1-5), review_title, review_text,
    # as its repository page and public code that reads it show. `fancyzhx/amazon_polarity` has two classes only, and
    # `amazon_reviews_multi` is another corpus.
    "amazon": BenchmarkTask(
        "SC",
        STARS,
        _hub(
            "yassiracharki/Amazon_Reviews_for_Sentiment_Analysis_fine_grained_5_classes",
            "Title: {review_title}\nText: {review_text}",
            dict(enumerate(STARS, start=1)),
            label="class_index",
        ),
    ),
    "yahoo": BenchmarkTask(
        "TC",
        YAHOO,
        _hub(
            "community-datasets/yahoo_answers_topics",
            "Text: {question_title} {question_content} {best_answer}",
            list(YAHOO),
            label="topic",
        ),
    ),
    "agnews": BenchmarkTask("TC", AGNEWS, _hub("fancyzhx/ag_news", "Text: {text}", list(AGNEWS))),
    "yelp": BenchmarkTask("SC", STARS, _hub("Yelp/yelp_review_full", "Text: {text}", list(STARS))),
    "IMDB": BenchmarkTask("SC", ("Good", "Bad"), _hub("stanfordnlp/imdb", "text", ["Bad", "Good"])),
    "SST-2": BenchmarkTask("SC", ("Good", "Bad"), _glue("sst2", "Text: {sentence}", ["Bad", "Good"])),
    "MNLI": BenchmarkTask(
        "NLI",
        ("neutral", "entailment", "contradiction"),
        _glue(
            "mnli",
            "sentence 1: {premise}\nsentence 2: {hypothesis}",
            ["entailment", "neutral", "contradiction"],
            test_split="validation_matched",
        ),
    ),
    "CB": BenchmarkTask(
        "NLI",
        ("entailment", "contradiction", "neutral"),
        _super_glue(
            "cb", "sentence 1: {premise}\nsentence 2: {hypothesis}", ["entailment", "contradiction", "neutral"]
        ),
    ),
    # GLUE knows only "not entailment" here, which the papers call a contradiction.
    "RTE": BenchmarkTask(
        "NLI",
        ("contradiction", "entailment"),
        _glue("rte", "sentence 1: {sentence1}\nsentence 2: {sentence2}", ["entailment", "contradiction"]),
    ),
    "QQP": BenchmarkTask(
        "QQP",
        ("False", "True"),
        _glue("qqp", "first sentence: {question1}\nsecond sentence: {question2}", FALSE_TRUE),
    ),
    # The column `question` of COPA holds "cause" or "effect".
    "COPA": BenchmarkTask(
        "COPA",
        ("A", "B"),
        _super_glue(
            "copa",
            'Which sentence is the {question} of "{premise}"? Choose one between A and B.\nA: {choice1}\nB: {choice2}',
            ["A", "B"],
        ),
    ),
    "BoolQA": BenchmarkTask(
        "BoolQA", ("True", "False"), _super_glue("boolq", "question: {question}\npassage: {passage}", FALSE_TRUE)
    ),
    "MultiRC": BenchmarkTask(
        "MultiRC",
        ("False", "True"),
        _super_glue("multirc", "paragraph: {paragraph}\nquestion: {question}\ncandidate answer: {answer}", FALSE_TRUE),
    ),
    "WiC": BenchmarkTask(
        "WiC", ("True", "False"), _super_glue("wic", "word: {word}\n{sentence1}\n{sentence2}", FALSE_TRUE)
    ),
}


def _order(tasks: str) -> tuple[str, ...]:
    return tuple(tasks.split())


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "standard_cl",
            "Four text classification tasks (the standard continual-learning benchmark), orders 1-3 of the papers.",
            {
                1: _order("dbpedia amazon yahoo agnews"),
                2: _order("dbpedia amazon agnews yahoo"),
                3: _order("yahoo amazon agnews dbpedia"),
            },
        ),
        Benchmark(
            "long_cl",
            "Fifteen tasks (classification, inference, question answering, word sense), orders 4-6 of the papers.",
            {
                4: _order("MNLI CB WiC COPA QQP BoolQA RTE IMDB yelp amazon SST-2 dbpedia agnews MultiRC yahoo"),
                5: _order("MultiRC BoolQA WiC MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yelp amazon yahoo"),
                6: _order("yelp amazon MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yahoo MultiRC BoolQA WiC"),
            },
        ),
        Benchmark("sample", "Four small tasks built into clkit; nothing is downloaded.", {1: tuple(SAMPLE_TASKS)}),
    )
}


def benchmark_tasks(name: str, order: int, folder: str | Path | None = None) -> list[TaskRecipe]:
    """The tasks of a benchmark in the given order, read from ``folder`` (CL_Benchmark layout) or else from the hub.

    Raises:
        ValueError: the benchmark is unknown, lacks that order, or is the built-in sample and a folder was given.
    """
    if name not in BENCHMARKS:
        hint, known = did_you_mean(name, BENCHMARKS), ", ".join(BENCHMARKS)
        raise ValueError(f"benchmark.name: unknown benchmark '{name}'{hint} (known: {known})")
    orders = BENCHMARKS[name].orders
    if order not in orders:
        owner = next((f"; order {order} is one of '{b.name}'" for b in BENCHMARKS.values() if order in b.orders), "")
        known = ", ".join(map(str, orders))
        raise ValueError(f"benchmark.order: '{name}' has no order {order}{owner} (orders of '{name}': {known})")
    if name == "sample":
        if folder is not None:
            raise ValueError("benchmark.folder: 'sample' is built into clkit; remove the folder or name a benchmark")
        return [_sample_task(task) for task in orders[order]]
    return [_paper_task(task, folder) for task in orders[order]]


def _paper_task(name: str, folder: str | Path | None) -> TaskRecipe:
    task = TASKS[name]
    source = task.hub if folder is None else FolderSource(kind="folder", folder=str(Path(folder) / task.group / name))
    return TaskRecipe(
        name=name, source=source, labels=list(task.labels), instruction=QUESTIONS[task.group], group=task.group
    )


def _sample_task(name: str) -> TaskRecipe:
    sample = SAMPLE_TASKS[name]
    return TaskRecipe(
        name=name,
        source=SampleSource(kind="sample", task=name),
        instruction=sample.instruction,
        group=sample.group,
    )
