"""latentopt evaluate: how good inversions are, and how well they can be edited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands import shared
from latentopt.commands.batches import load_recorded
from latentopt.commands.paths import UserPath
from latentopt.commands.scale_options import chosen_shard, shard_option
from latentopt.errors import UsageError
from latentopt.files.shards import shard_folder
from latentopt.files.text import escape_controls

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from latentopt.evaluation.framework import Evaluation
    from latentopt.evaluation.measure import Measure
    from latentopt.protocols import Generator
    from latentopt.results.inversion import Inversion

KINDS = ("response", "drift", "entanglement")
AMOUNTS = ("samples", "paths", "steps", "lec", "corruption")  # options that say how much is drawn
ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


@click.command("evaluate", short_help="Measure reconstruction and editability of inversions.")
@click.argument("runs", nargs=-1, metavar="[RUN]...", type=UserPath(path_type=Path))
@shared.network(default=None, show_default=shared.LIKE_RUN)
@shared.directions()
@shared.force_directions()
@shared.judge()
@shared.pose()
@click.option("--parts", help="What to measure, comma-separated; all by default (see above).")
@shared.metrics()
@click.option("--interpolate-with", "partners", default="samples", show_default=True,
              type=click.Choice(["samples", "embeddings"]), help="Partners of interpolation.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), help="Only so many images of each run.")
@click.option("--samples", default=64, show_default=True, type=click.IntRange(8),
              help="Pictures of the generator's own.")  # fmt: skip
@click.option("--paths", default=4, show_default=True, type=click.IntRange(1), help="Paths an image and kind.")
@click.option("--pictures", "--steps", "steps", default=5, show_default=True, type=click.IntRange(1),
              help="Pictures an interpolation.")  # fmt: skip
@click.option("--partners", "mates", default=2, show_default=True, type=click.IntRange(1),
              help="Partners of each image in interpolation and mixing.")  # fmt: skip
@shared.lec()
@click.option("--corruption", default=200, show_default=True, type=click.IntRange(0),
              help="Pictures of each tuned image, where none is on record; 0: none.")  # fmt: skip
@shard_option
@shared.outdir()
@shared.to()
@shared.seed()
@shared.device()
@shared.dtype()
@shared.quiet()
def command(
    runs: tuple[Path, ...],
    network: str | None,
    shard: tuple[int, int] | None,
    outdir: Path,
    images: int | None,
    to: Path | None,
    device: str,
    dtype: str,
    quiet: bool,
    **options: Any,
) -> int:
    """Measure finished inversions in each RUN, the folder of latentopt invert, encode or tune (default: the newest).

    Parts: reconstruction (PSNR, SSIM, perceptual, identity ...), latents (P-norm radius, outliers), pose (answer to the
    pose edit), attributes (answer to the other edits, and what else they change), paths (perceptual path length),
    interpolation, mixing, lec (latent editing consistency), corruption (of tuned generators). Every figure has its 95 %
    interval. Writes evaluation.json, evaluation.csv and pnorm-histogram.png into the run's folder.

    \b
    Examples:
      latentopt evaluate
      latentopt evaluate out/ii2s out/i2s --parts reconstruction,pose
      latentopt evaluate out --shard 3/16
      latentopt evaluate out --metrics lpips-vgg,vgg --lec 20 --judge mydomain.judge:make
    """
    if to is not None and len(runs) > 1:
        raise UsageError("--to takes the files of one run; name one RUN, or leave it out")
    from latentopt.evaluation.evaluation_files import save_evaluation

    words = {key: _words(options[key]) for key in ("parts", "metrics") if options[key] is not None}
    done = []
    shard = chosen_shard(shard)
    found = _runs(runs, outdir, images, shard)
    for folder, _ in found:
        _check_writable(shard_folder(to or folder, shard))
    for folder, results in found:
        recorded = str(results[0].manifest["generator"].get("source", "portraits"))
        generator = load_recorded(network, recorded, str(folder), device, dtype)
        evaluation = _evaluate(results, generator, words, options, folder, quiet)
        place = shard_folder(to or folder, shard)
        done.append((folder, place, evaluation, save_evaluation(evaluation, place)))
    _report(done)
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _check_writable(folder: Path) -> None:
    """At once, and not after all is measured."""
    from latentopt.files.outputs import check_outdir

    try:
        check_outdir(folder)
    except UsageError as error:
        raise UsageError(f"{folder}: the figures cannot be written there; name another folder with --to") from error


def _runs(
    runs: tuple[Path, ...], outdir: Path, images: int | None, shard: tuple[int, int] | None
) -> list[tuple[Path, list[Inversion]]]:
    """Each run's folder and its results, by their names in it; all are found before the first is measured."""
    from latentopt.evaluation.runs import find_run, read_results
    from latentopt.results.earlier import newest_run

    found = [(run, find_run(run, shard)) for run in runs]
    if not runs:
        results, folder = newest_run(outdir, shard)
        click.echo(escape_controls(f"evaluating the newest run: {folder} ({len(results)} images)"), err=True)
        found = [(folder, results)]
    return [(folder, read_results(results[:images])) for folder, results in found]


def _evaluate(
    results: list[Inversion],
    generator: Generator,
    words: dict[str, list[str]],
    options: dict[str, Any],
    folder: Path,
    quiet: bool,
) -> Evaluation:
    from latentopt.api import Amounts, evaluate, given_or_found_directions, load_attribute_judge
    from latentopt.commands.progress import Progress
    from latentopt.evaluation.framework import PARTS

    parts = words.get("parts", list(PARTS))
    with Progress(len(parts), f"evaluating {escape_controls(str(folder))}", unit="parts", quiet=quiet) as progress:
        return evaluate(
            results,
            generator,
            directions=given_or_found_directions(generator, options["files"], options["force"]),
            amounts=Amounts(**{name: options[name] for name in AMOUNTS}, partners=options["mates"]),
            seed=options["seed"],
            on_progress=lambda part: progress.advance(part != parts[0], part=part),
            judge=None if options["judge"] is None else load_attribute_judge(options["judge"], generator.device),
            parts=parts,
            metrics=words["metrics"],
            pose=options["pose"],
            partners=options["partners"],
        )


def _report(done: list[tuple[Path, Path, Evaluation, list[Path]]]) -> None:
    from rich.console import Console

    evaluations = {escape_controls(folder.name or str(folder)): evaluation for folder, _, evaluation, _ in done}
    if len(evaluations) < len(done):
        evaluations = {escape_controls(str(folder)): evaluation for folder, _, evaluation, _ in done}
    console = Console(width=None if Console().is_terminal else 120)
    console.print(_measures(evaluations))
    if any("edits" in evaluation.curves for evaluation in evaluations.values()):
        console.print(_edits(evaluations))
    notes = [note for evaluation in evaluations.values() for note in evaluation.notes]
    if len({tuple(sorted(row["name"] for row in evaluation.images)) for evaluation in evaluations.values()}) > 1:
        notes.append("the runs hold different images: their figures do not compare")
    for note in dict.fromkeys(notes):
        click.echo(escape_controls(f"note: {note}"), err=True)
    for _, to, _, written in done:
        click.echo(escape_controls(f"{', '.join(path.name for path in written)} in {to}/"))


def _measures(evaluations: dict[str, Evaluation]) -> Table:
    """All figures but those of the single edits, a column a run."""
    from rich.table import Table

    counts = sorted({evaluation.about["images"] for evaluation in evaluations.values()})
    images = "1 image" if counts == [1] else f"{' to '.join(map(str, counts[:1] + counts[1:][-1:]))} images"
    table = Table("measure", "", title_justify="left", title=f"{images}, 95 % intervals")
    for run in evaluations:
        table.add_column(_plain(run), justify="right")
    names = dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.measures)
    single = {f"{kind}_{edit}" for e in evaluations.values() for edit in e.curves.get("edits", {}) for kind in KINDS}
    for name in (name for name in names if name not in single):
        measures = [evaluation.measures.get(name) for evaluation in evaluations.values()]
        better = next(m.better for m in measures if m is not None)
        table.add_row(_plain(escape_controls(name)), ARROWS[better], *map(_figure, measures))
    return table


def _edits(evaluations: dict[str, Evaluation]) -> Table:
    """The single edits, a row each: response, drift and entanglement of every run."""
    from rich.table import Table

    table = Table("edit", title_justify="left", title="edits: response ↑, drift of other attributes ↓, their ratio ↓")
    for run in evaluations:
        table.add_column(_plain(run), justify="right")
    edits = dict.fromkeys(edit for e in evaluations.values() for edit in e.curves.get("edits", {}))
    for edit in edits:
        cells = []
        for evaluation in evaluations.values():
            found = [evaluation.measures.get(f"{kind}_{edit}") for kind in KINDS]
            cells.append("   ".join("-" if measure is None else f"{measure.value:6.3f}" for measure in found))
        table.add_row(_plain(edit), *cells)
    return table


def _plain(text: str) -> Text:
    """Not to be read as markup."""
    from rich.text import Text

    return Text(text)


def _figure(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    if measure.interval is None:
        return f"{measure.value:.4g}"
    low, high = measure.interval
    return f"{measure.value:.4g} ({low:.3g} to {high:.3g})"
