"""Makes the README's pictures anew, from the quickstart without a strategy: the commands under them, and nothing else.

    python benchmarks/pictures.py

Takes two minutes. The picture of the page needs Chromium (Debian's package chromium), and stays as it is without.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "docs/pictures"
WIDTH = 76
CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run of it that is there, rather than a new one")
    run = parser.parse_args().run
    PICTURES.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        if run is None:
            clkit(place, "train", "quickstart", "strategies=[]", "--run", "runs/plain")
        else:
            shutil.copytree(run, place / "runs/plain")
        terminal("matrix", clkit(place, "matrix", "runs/plain"))
        clkit(place, "inspect-magnitudes", "runs/plain")
        small(place / "runs/plain/inspect/distribution.png", "magnitudes")
        clkit(place, "report", "runs/plain")
        screenshot(place / "report.html", "report")
    for picture in sorted(PICTURES.iterdir()):
        print(f"{picture}: {picture.stat().st_size:,} bytes")


def clkit(folder: Path, *arguments: str) -> str:
    """What a command prints, coloured as in a terminal; with one thread, so that every machine rounds alike."""
    colours = {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "COLUMNS": str(WIDTH), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "clkit", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | colours, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def terminal(name: str, printed: str) -> None:
    """Save what was printed as SVG; without rich's fonts, which would come from the network."""
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(Text.from_ansi(printed.rstrip()))
    svg = console.export_svg(title="clkit matrix runs/plain", unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
    (PICTURES / f"{name}.svg").write_text(svg, "utf-8")


def screenshot(page: Path, name: str) -> None:
    """The top of a page as Chromium shows it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium: the picture of the page stays as it is", file=sys.stderr)
        return
    with TemporaryDirectory() as profile:
        shot = Path(profile) / "page.png"
        size = ("--window-size=1180,960", f"--screenshot={shot}", f"--user-data-dir={profile}")
        subprocess.run([chromium, *CHROMIUM, *size, page.as_uri()], check=True, capture_output=True)
        small(shot, name)


def small(picture: Path, name: str) -> None:
    """Save a picture with as few colours as it needs: below 100 kB each."""
    Image.open(picture).convert("RGB").quantize(64).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
