"""Tokenizers are written so that transformers 4 and llama.cpp's converter read them, and are the same to this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from clkit.models.embedded import embedded_model_folder
from clkit.models.tokenizers import save_tokenizer

TEXT = "w1 w2 <|end|> w3 <|tool|>"


def test_what_others_do_not_know_or_find_is_put_right(toy_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy_llama)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|end|>"]})
    tokenizer.add_tokens([AddedToken("<|tool|>", lstrip=True)])
    save_tokenizer(tokenizer, tmp_path / "first")
    save_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "first"), tmp_path / "second")  # from stage to export
    for name in ("first", "second"):
        config = json.loads((tmp_path / name / "tokenizer_config.json").read_text("utf-8"))
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert "extra_special_tokens" not in config
        assert config["additional_special_tokens"] == ["<|end|>"]
        added = {int(index): token for index, token in config["added_tokens_decoder"].items()}
        for token, special, lstrip in [("<|end|>", True, False), ("<|tool|>", False, True)]:
            own = added[tokenizer.convert_tokens_to_ids(token)]
            assert (own["content"], own["special"], own["lstrip"]) == (token, special, lstrip)
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again(TEXT).input_ids == tokenizer(TEXT).input_ids
        assert again.extra_special_tokens == ["<|end|>"]
        assert again.all_special_ids == tokenizer.all_special_ids


@pytest.mark.parametrize(("family", "file"), [("t5", "spiece.model"), ("llama", "tokenizer.model")])
def test_the_model_of_sentencepiece_goes_along(family: str, file: str, tmp_path: Path) -> None:
    base, once, twice = (tmp_path / name for name in ("base", "once", "twice"))
    shutil.copytree(embedded_model_folder(f"tiny-{family}"), base)
    config = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
    if family == "t5":
        (base / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "T5Tokenizer"}), "utf-8")
    (base / file).write_bytes(b"pieces")
    save_tokenizer(AutoTokenizer.from_pretrained(base), once)
    save_tokenizer(AutoTokenizer.from_pretrained(once), twice)
    assert (twice / file).read_bytes() == b"pieces"
