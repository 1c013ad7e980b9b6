"""What the documentation says of architectures is what the loader does with them."""

from __future__ import annotations

from tools.make_architectures import FILE, table


def test_the_table_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == table(), "run: python -m tools.make_architectures"
