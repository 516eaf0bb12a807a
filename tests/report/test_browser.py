"""The page in a real browser: in a narrow window, in dark mode, and printed."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from blendprune.report.page import prune_page

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
DARK = "--blink-settings=preferredColorScheme=0"
LAYERS = {f"backbone.bottom_up.res{i}.conv1": {"before": 64, "after": 32} for i in range(80)}
REPORT = {
    "flops": {"before": 1_000_000_000, "after": 450_000_000},
    "params": {"before": 10_000_000, "after": 3_000_000},
    "latency_ms_by_form": {"deployed": {"before": 30.0, "after": 15.0}},
    "ap": {"dense": {"segm": 36.6}, "pruned": {"segm": 36.1}},
    "layers": LAYERS,
    "notes": ["a_name_without_any_space." * 12],
}


@pytest.fixture
def page(tmp_path):
    command = "blendprune export --config-file " + "a-long-path/" * 12
    path = tmp_path / "report.html"
    path.write_text(prune_page({"pruned": REPORT}, commands=[("Export:", command)]), "utf-8")
    return path


def browse(page, *flags):
    return subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *flags]
        + [page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def screenshot(page, *flags, size="900,1200"):
    path = page.with_name("page.png")
    browse(page, f"--screenshot={path}", f"--window-size={size}", *flags)
    return np.asarray(Image.open(path).convert("L")).astype(int)


def test_light_and_dark_have_paper_and_ink_of_their_own(page):
    light, dark = screenshot(page), screenshot(page, DARK)
    assert np.median(light) > 240 and np.median(dark) < 40
    assert light.min() < 60 and dark.max() > 200
    # The same page: what is drawn covers about as much of it.
    covered = [(abs(each - np.median(each)) > 40).mean() for each in (light, dark)]
    assert 0.02 < covered[0] == pytest.approx(covered[1], rel=0.3)


@pytest.mark.parametrize("width", [500, 1400])
def test_nothing_is_wider_than_the_window(page, width):
    script = "<script>document.title = document.documentElement.scrollWidth + '/' + innerWidth"
    page.write_text(page.read_text().replace("</body>", f"{script}</script></body>"))
    found = browse(page, "--dump-dom", f"--window-size={width},900")
    scrolled, inner = map(int, re.search(r"<title>(\d+)/(\d+)</title>", found).groups())
    assert scrolled <= inner <= width


def test_it_prints(page):
    path = page.with_name("page.pdf")
    browse(page, f"--print-to-pdf={path}")
    assert path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 10_000
