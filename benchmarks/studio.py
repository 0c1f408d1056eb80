"""The studio through Chromium: from a slider to its frame, frames while sliding, first paint, size of the extra.

    python benchmarks/studio.py                       # a minute or two
    python benchmarks/studio.py --moves 20 --slides 1  # sooner

The page, its server and the browser share this machine, as they do at home. Every figure is the browser's own clock.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import Distribution, distribution
from pathlib import Path
from statistics import median, quantiles

import click
import torch
from playwright.sync_api import Page, sync_playwright
from tables import markdown_table, provenance, write_report

from latentopt.api import GeneratorInputs, draw, load_generator
from latentopt.protocols import Generator

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from studio_client import Serving, serving

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"]  # fmt: skip
EXTRA = ("starlette", "uvicorn", "wsproto", "h11", "anyio", "idna")  # beside what latentopt needs anyway
SLIDE = """async ([name, seconds]) => {
    const slider = document.getElementById(`slider-${name}`);
    const { stats } = studio;
    const before = { ...stats, latency: stats.latency.length };
    const began = performance.now();
    let moves = 0;
    while (performance.now() - began < 1000 * seconds) {
        slider.value = 2.5 * Math.sin((performance.now() - began) / 400);
        slider.dispatchEvent(new Event('input'));
        moves += 1;
        await new Promise(requestAnimationFrame);
    }
    const took = (performance.now() - began) / 1000;
    return { rate: (stats.frames - before.frames) / took, moves: moves / took };
}"""


@click.command()
@click.option("--moves", default=60, show_default=True, help="Single moves of a slider.")
@click.option("--slides", default=3, show_default=True, help="Slides of three seconds.")
@click.option("--paints", default=5, show_default=True, help="Pages opened.")
@click.option("--chromium", default=shutil.which("chromium"), show_default=True)
def main(moves: int, slides: int, paints: int, chromium: str) -> None:
    generator = load_generator("portraits")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(generator, Path(folder) / "out") as studio,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=ARGS)
        version = f"Chromium {browser.version}, headless"
        paint = [first_paint(browser.new_page(), studio) for _ in range(paints)]
        page = browser.new_page(viewport={"width": 1360, "height": 860})
        page.set_default_timeout(300_000)
        inverted(page, studio)
        page.click("#tab-edit")
        single = [one_move(page, i) for i in range(moves)]
        sliding = [page.evaluate(SLIDE, ["yaw", 3]) for _ in range(slides)]
        browser.close()
    rates = [s["rate"] for s in sliding]
    sizes = {name: size_of(distribution(name)) for name in EXTRA}
    table = markdown_table(
        ["what", "measured", "bound"],
        [
            [f"slider to new frame, median of {moves}", f"{median(single):.0f} ms", "<= 150 ms"],
            ["the same, 95 %", f"{quantiles(single, n=20)[-1]:.0f} ms", ""],
            ["frames a second while sliding", f"{median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})", ">= 10"],
            ["moves a second that the slider made", f"{median([s['moves'] for s in sliding]):.1f}", ""],
            [f"first contentful paint, median of {paints}", f"{median(paint):.0f} ms", "<= 1000 ms"],
            ["CPU time of drawing one picture", f"{1000 * drawing_time(generator):.0f} ms", ""],
            ["the extra's packages, installed", f"{sum(sizes.values()):.1f} MB", "<= 15 MB"],
        ],
    )
    packages = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    text = (
        f"The bundled generator draws {generator.resolution[0]}x{generator.resolution[1]} pixels. Server and browser "
        f"share the machine; {load()}. Moves that come while a frame is drawn replace one another, so that the rate is "
        f"of frames that were seen, not of moves. Packages in MB: {packages}."
    )
    facts = provenance(generator.device, 0, browser=version)
    write_report(Path(__file__).parent / "results" / "studio.md", "The studio's speed", text, table, facts)
    click.echo(table)


def load() -> str:
    """What else the machine did."""
    return f"its load was {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores in the five minutes before the end"


def first_paint(page: Page, studio: Serving) -> float:
    """Milliseconds from the navigation to the first contentful paint."""
    page.set_default_timeout(300_000)
    page.goto(studio.address.url)
    page.wait_for_selector("body[data-ready]")
    found = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    return float(found)


def inverted(page: Page, studio: Serving) -> None:
    """A result to edit, in a few steps."""
    page.goto(studio.address.url)
    page.wait_for_selector("body[data-ready]")
    page.click("[data-picture='samples/portrait-03.png']")
    page.select_option("#recipe", "hybrid-e4e")
    page.fill("#steps", "4")
    page.click("#invert")
    while not page.evaluate("studio.state.look !== null"):
        time.sleep(0.1)
    page.wait_for_timeout(500)


def one_move(page: Page, i: int) -> float:
    """Milliseconds from the slider's event to the picture that shows it, decoded."""
    return float(
        page.evaluate(
            """async (value) => {
                const slider = document.getElementById('slider-smile');
                const shown = new Promise((told) =>
                    document.getElementById('after').addEventListener('load', told, { once: true }));
                const began = performance.now();
                slider.value = value;
                slider.dispatchEvent(new Event('input'));
                await shown;
                const took = performance.now() - began;
                await new Promise((told) => setTimeout(told, 60));
                return took;
            }""",
            (-1) ** i * (0.5 + i / 50),
        )
    )


def drawing_time(generator: Generator, count: int = 20) -> float:
    """Seconds of CPU time for a picture."""
    inputs = GeneratorInputs(generator.broadcast(generator.w_avg[None]))
    draw(generator, inputs)
    began = time.process_time()
    for _ in range(count):
        draw(generator, inputs)
    return (time.process_time() - began) / count


def size_of(found: Distribution) -> float:
    """Megabytes of a package's files, those that Python adds left out."""
    paths = [Path(str(found.locate_file(file))) for file in found.files or () if "__pycache__" not in str(file)]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
