"""Writes a tokenizer so that readers other than the transformers installed here understand it too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

#: The name that transformers 4, which llama.cpp's converter is pinned to, and 5 both know, for one that only 5 knows.
KNOWN_EVERYWHERE = {"TokenizersBackend": "PreTrainedTokenizerFast"}


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer: as `save_pretrained` does, and what transformers 5 leaves out and others need.

    That is the model of sentencepiece that it was made from, which llama.cpp's converter reads for Llama 2, Gemma or
    T5, the tokens that were added to it, and names of class and special tokens that transformers 4 knows.
    """
    tokenizer.save_pretrained(folder)
    source = Path(getattr(tokenizer, "vocab_file", None) or "")
    if source.suffix == ".model" and source.is_file() and not (folder / source.name).exists():
        shutil.copyfile(source, folder / source.name)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8"))
    config["tokenizer_class"] = KNOWN_EVERYWHERE.get(config["tokenizer_class"], config["tokenizer_class"])
    if isinstance(config.get("extra_special_tokens"), list):  # a mapping to transformers 4
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["added_tokens_decoder"] = {
        str(index): token.__getstate__() for index, token in tokenizer.added_tokens_decoder.items()
    }
    file.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
