"""A page about runs: one file of HTML that needs nothing else, to be saved or shown in a notebook."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clkit import __version__
from clkit.errors import UsageError
from clkit.report.page.heat import GROUNDS, shades
from clkit.report.page.views import Page, gather
from clkit.report.tables import show_score
from clkit.run.atomic import write_atomically
from clkit.run.baselines import Reference
from clkit.run.folder import RunFolder
from clkit.run.layout import check_target

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Report:
    """A page about runs.

    Attributes:
        html: all of it; nothing in it leads to another file or to the network.
        remarks: what its reader should know of damage and later changes.
    """

    html: str = field(repr=False)
    remarks: list[str]

    @classmethod
    def of(
        cls, runs: Iterable[RunFolder], *, references: Sequence[Reference] = (), metric: str | None = None
    ) -> Report:
        """The page of one run, or of several side by side.

        Args:
            references: runs of baselines to compare with (`clkit.run.baselines.open_references`).
            metric: what tasks are scored by, if not by each run's own metric.

        Raises:
            RunError: a run has no scores, or is damaged so that none can be read.
            UsageError: there is no run, a run has none of that metric, or a reference does not fit.
        """
        found = list(runs)
        if not found:
            raise UsageError("a report needs a run or more, and got none")
        page = gather(found, references, metric)
        return cls(_rendered(page), page.remarks)

    def save(self, path: str | Path, *, replace: bool = False) -> Path:
        """Write the page into a file.

        Raises:
            UsageError: the file exists and is not to be replaced, lies in a run, or cannot be written.
        """
        path = Path(path)
        check_target(path, "", replace=replace)
        write_atomically(path, self.html)
        return path

    def _repr_html_(self) -> str:
        """The page in a notebook: in a frame of its own, so that neither changes how the other looks."""
        style = "width: 100%; height: 80vh; border: 1px solid #8884; border-radius: 6px"
        frame = f'<iframe title="clkit report" sandbox="allow-scripts" style="{style}"'
        return f'{frame} srcdoc="{escape(self.html)}"></iframe>'


def _rendered(page: Page) -> str:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_printed,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["score"] = lambda value, matrix: show_score(value, matrix.metric)
    script = (TEMPLATES / "page.js").read_text("utf-8")
    return templates.get_template("page.html").render(
        page=page,
        version=__version__,
        style=(TEMPLATES / "page.css").read_text("utf-8"),
        script=script,
        # Only this script may run: should a text ever get past the escaping, the browser still refuses it.
        script_sha256=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        shades={ground: shades(ground) for ground in GROUNDS},
    )


def _printed(value: Any) -> Any:
    """A text of the data as it can be shown: what HTML has no place for is spelt out."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(ascii(mark)[1:-1] if _unfit(ord(mark)) else mark for mark in value)


def _unfit(point: int) -> bool:
    """Control characters but those that part lines, halves of pairs, and what is no character."""
    control = point < 0x20 or 0x7F <= point < 0xA0
    return (control and point not in (0x09, 0x0A)) or 0xD800 <= point < 0xE000 or point & 0xFFFE == 0xFFFE
