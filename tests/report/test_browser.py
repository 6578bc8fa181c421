"""``report.html`` in a real browser: every plot can be seen, and nothing else is asked for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gfs_dist.cli import main
from gfs_dist.report.facts import Run
from gfs_dist.report.render import page as facts_of
from gfs_dist.report.render import to_html

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: chromium)"),
]

WIDTH, HEIGHT = 1200, 6000
PROBE = """<script>
addEventListener("load", () => {
  const told = document.createElement("script");
  told.type = "application/json"; told.id = "probe";
  told.textContent = JSON.stringify({
    asked: performance.getEntriesByType("resource").map(entry => entry.name),
    wide: document.documentElement.scrollWidth,
    images: [...document.images].map(image => {
      const box = image.getBoundingClientRect();
      return {alt: image.alt, pixels: image.naturalWidth,
              box: [box.left, box.top, box.right, box.bottom].map(Math.round)};
    })});
  document.head.append(told);
});
</script></body>"""


def browse(*words: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--disable-dev-shm-usage", f"--window-size={WIDTH},{HEIGHT}"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += ["--virtual-time-budget=10000", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(page: str, folder: Path) -> dict[str, Any]:
    """What the page asked for and what it shows."""
    file = folder / "probed.html"
    file.write_text(page.replace("</body>", PROBE))
    told = re.search(r'id="probe">(.*?)</script>', browse("--dump-dom", file.as_uri()), re.DOTALL)
    assert told is not None
    return json.loads(told[1])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "run"
    words = ["model.width=50", "data.samples=200", "steps=30", "train.iterations=50"]
    words += ["train.checkpoint_every=25", "runtime=local", "workers=2", f"out={out}"]
    assert main(["prune", *words]) == 0
    return out / "report.html"


def test_every_plot_can_be_seen_and_nothing_else_is_asked_for(report: Path, tmp_path: Path) -> None:
    told = probe(report.read_text(), tmp_path)
    assert [name for name in told["asked"] if not name.startswith("data:")] == []
    assert told["wide"] <= WIDTH
    plots = sorted(file.stem.replace("_", " ") for file in report.parent.glob("plots/*.png"))
    assert len(plots) >= 4
    assert sorted(image["alt"] for image in told["images"]) == plots
    browse(f"--screenshot={tmp_path / 'page.png'}", report.as_uri())
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    for image in told["images"]:
        left, top, right, bottom = image["box"]
        assert image["pixels"] > 300
        assert (right - left, bottom - top) > (300, 200), image
        seen = page[top:bottom, left:right]
        assert seen.shape[:2] == (bottom - top, right - left), "below the end of the screenshot"
        assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 20, f"{image['alt']} is blank"


def test_what_is_wider_than_the_window_scrolls_in_its_own_box(tmp_path: Path) -> None:
    word = "a" * 3000
    layers = [
        {"name": "a", "channels": 1, "kept": 1, "reason": "words " * 500},
        {"name": "b", "channels": 1, "kept": 1, "reason": f"{word} and `{word}`"},
        {"name": "c", "channels": 2, "kept": 1, "macs": 1},
    ]
    content = {
        "job": word, "notes": [word], "command": word,
        "results": [{"name": word, "objective": word, "layers": layers}],
        "tables": {word: [{f"column {i}": 0.123456 for i in range(60)}]},
    }  # fmt: skip
    # Without plots, which have no room for such names.
    page = to_html("report", facts_of(Run.read(content, {}), [], None))
    told = probe(page, tmp_path)
    assert told["wide"] <= WIDTH


def test_the_probe_sees_what_a_page_asks_for_and_a_plot_that_is_none(tmp_path: Path) -> None:
    told = probe('<body><img alt="x" src="http://127.0.0.1:9/x.png"></body>', tmp_path)
    assert told["asked"] == ["http://127.0.0.1:9/x.png"]
    assert told["images"][0]["pixels"] == 0
