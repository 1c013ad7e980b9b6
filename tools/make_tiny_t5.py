"""python tools/make_tiny_t5.py OUT

Makes the model in `clkit/models/embedded/tiny-t5`: a Unigram tokenizer and a T5 of 0.97 million parameters, pre-trained
on the unlabelled corpus of the built-in sample (its test texts left out, no label ever an answer). Its embeddings start
as word vectors, then span corruption trains the whole. Takes two minutes on one core. The same seed gives the same
tokenizer and the same examples; the weights differ a little between machines, as all training does.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from clkit.tasks.sources.sample import corpus, sample_tasks

SEED = 42
PIECES = 1400
SENTINELS = 24
SPAN_LENGTH = 2
NOISE_SHARE = 0.2  # more than T5's 15 %: the texts are short


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer like T5's: pieces of the texts and of the sample's prompts, printable ASCII, then the sentinels."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=PIECES,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=[sign for sign in string.printable if not sign.isspace()],
        show_progress=False,
    )
    prompts = [
        f"Task: {task.group} Dataset: {task.name} {task.instruction} Option: {', '.join(task.labels)} Answer: {label}"
        for task in sample_tasks().values()
        for label in task.labels
    ]
    lines = [*texts, *prompts * (len(texts) // 200)]
    # The trainer takes a word as a candidate piece only where it ends in two ways; with commas every word does.
    tokenizer.train_from_iterator([*lines, *(line.replace(" ", ", ") for line in lines)], trainer)
    # The trainer gives signs that it never uses alone a place and a score that change a little from run to run.
    pieces = [(piece, round(score, 1)) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    pieces[3:] = sorted(pieces[3:], key=lambda entry: (-entry[1], entry[0]))
    tokenizer.model = models.Unigram(pieces, unk_id=2)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=[f"<extra_id_{number}>" for number in range(SENTINELS)],
        model_max_length=512,
    )


def make_model(vocab_size: int) -> T5ForConditionalGeneration:
    """The model before pre-training."""
    config = T5Config(
        vocab_size=vocab_size,
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5ForConditionalGeneration(config)


def word_vectors(texts: Sequence[Sequence[int]], vocab_size: int, size: int) -> torch.Tensor:
    """A vector per piece from which pieces share texts: the factors of their positive pointwise mutual information.

    From random embeddings, 2,000 steps of pre-training did not teach this small a model which words belong together.
    """
    present = torch.zeros(len(texts), vocab_size)
    for row, ids in enumerate(texts):
        present[row, list(ids)] = 1.0
    together = present.T @ present
    alone = together.diagonal().clamp(min=1.0)
    information = (together * len(texts) / (alone[:, None] * alone)).clamp(min=1.0).log()
    values, vectors = torch.linalg.eigh(information.fill_diagonal_(0.0))
    factors: torch.Tensor = vectors[:, -size:] * values[-size:].clamp(min=0.0).sqrt()
    lengths = factors.norm(dim=1, keepdim=True)
    factors *= size**0.5 / lengths.clamp(min=1e-6)  # as long as T5's initial embeddings
    return factors.masked_fill(lengths < 1e-3, 0.0)


def corrupt(ids: Sequence[int], sentinels: Sequence[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """Span corruption (Raffel et al. 2020, §3.1.4): spans become sentinels, and the target spells the spans out.

    Args:
        ids: a text without its end token.
    """
    wanted = max(1, round(len(ids) * NOISE_SHARE / SPAN_LENGTH))
    source: list[int] = []
    target: list[int] = []
    position = 0
    free = iter(sentinels)
    for start in sorted(rng.sample(range(len(ids)), wanted)):
        if start < position:
            continue  # it would begin inside the span before it
        sentinel = next(free)
        end = start + rng.randint(1, 2 * SPAN_LENGTH - 1)
        source += [*ids[position:start], sentinel]
        target += [sentinel, *ids[start:end]]
        position = end
    return [*source, *ids[position:], 1], [*target, 1]


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """The rows as one tensor, filled up with the value on the right."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def pretrain(
    model: T5ForConditionalGeneration, texts: Sequence[Sequence[int]], sentinels: Sequence[int], steps: int
) -> None:
    """Span corruption with a fresh corruption of 16 texts in each step; the rate warms up and decays to zero."""
    rng = random.Random(f"clkit-pretraining-{SEED}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    warm_up = 100
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up))
    )
    model.train()
    for step in range(steps):
        pairs = [corrupt(rng.choice(texts), sentinels, rng) for _ in range(16)]
        inputs = pad([source for source, _ in pairs], 0)
        labels = pad([target for _, target in pairs], -100)
        loss = model(input_ids=inputs, attention_mask=inputs.ne(0).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tiny T5 that comes with clkit.")
    parser.add_argument("out", type=Path, help="folder to write the model and its tokenizer to")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--texts", type=int, default=20_000)
    arguments = parser.parse_args()

    torch.set_num_threads(1)  # layers this small gain little from a second thread
    torch.manual_seed(SEED)
    texts = list(corpus(arguments.texts, SEED))
    tokenizer = make_tokenizer(texts)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    model = make_model(len(tokenizer))
    vectors = word_vectors(ids, *model.shared.weight.shape)
    with torch.no_grad():
        known = vectors.any(dim=1)  # the labels' pieces are in no text and stay random
        model.shared.weight[known] = vectors[known]
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(SENTINELS)])
    pretrain(model, ids, sentinels, arguments.steps)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
