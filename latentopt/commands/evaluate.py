"""latentopt evaluate: how good inversions are, and how well they can be edited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from latentopt.commands.batches import load_network
from latentopt.errors import CheckpointError, UsageError
from latentopt.terminal import escape_controls

if TYPE_CHECKING:
    from latentopt.evaluation.framework import Evaluation
    from latentopt.evaluation.measure import Measure
    from latentopt.generators.stylegan2 import StyleGAN2
    from latentopt.inversion import Inversion

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


@click.command("evaluate", short_help="Measure reconstruction and editability of inversions.")
@click.argument("runs", nargs=-1, metavar="[RUN]...", type=click.Path(path_type=Path))
@click.option("--network", help="Generator; by default the one that the run was made with.")
@click.option("--directions", "files", multiple=True, metavar="FILE", help="Directions; by default the bundled ones.")
@click.option("--force", is_flag=True, help="Also take directions of another generator.")
@click.option(
    "--judge",
    help="What reads attributes: a bundled domain's name, a file, or package.module:function, which imports and runs "
    "your own code.",
)
@click.option("--pose", default="yaw", show_default=True, help="Attribute and direction of the pose response.")
@click.option("--parts", help="What to measure, comma-separated; all by default (see below).")
@click.option(
    "--metrics",
    default="perceptual",
    show_default=True,
    help="Perceptual distances, comma-separated: perceptual, bundled, lpips-vgg, lpips-alex, vgg.",
)
@click.option("--interpolate-with", "partners", default="samples", show_default=True,
              type=click.Choice(["samples", "embeddings"]), help="Partners of interpolation.")  # fmt: skip
@click.option("--images", type=click.IntRange(1), help="Only so many images of each run.")
@click.option(
    "--samples", default=64, show_default=True, type=click.IntRange(8), help="Pictures of the generator's own."
)
@click.option("--paths", default=4, show_default=True, type=click.IntRange(1), help="Paths an image and kind.")
@click.option("--steps", default=5, show_default=True, type=click.IntRange(1), help="Pictures an interpolation.")
@click.option("--partners", "mates", default=2, show_default=True, type=click.IntRange(1),
              help="Partners of each image in interpolation and mixing.")  # fmt: skip
@click.option(
    "--lec", default=4, show_default=True, type=click.IntRange(0), help="Images inverted again for LEC; 0: none."
)
@click.option("--corruption", default=200, show_default=True, type=click.IntRange(0),
              help="Pictures of each tuned image, where none is on record; 0: none.")  # fmt: skip
@click.option("--outdir", default="out", show_default=True, type=click.Path(path_type=Path),
              help="Where the newest run is looked for.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), help="Folder of the files of a single run, instead of its own.")
@click.option("--seed", default=0, show_default=True, type=int, help="Random seed.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    runs: tuple[Path, ...],
    network: str | None,
    outdir: Path,
    images: int | None,
    to: Path | None,
    device: str,
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
      latentopt evaluate out --metrics lpips-vgg,vgg --lec 20 --judge mydomain.judge:make
    """
    if to is not None and len(runs) > 1:
        raise UsageError("--to takes the files of one run; name one RUN, or leave it out")
    words = {key: _words(options.pop(key)) for key in ("parts", "metrics")}
    done = []
    for folder, results in _runs(runs, outdir, images):
        source = network or results[0].manifest["generator"].get("source", "portraits")
        generator = load_network(source, device, "float32", False)
        evaluation = _evaluate(results, generator, words, options, folder, quiet)
        done.append((folder, to or folder, evaluation))
    _report(done)
    return 0


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _runs(runs: tuple[Path, ...], outdir: Path, images: int | None) -> list[tuple[Path, list[Inversion]]]:
    """Each run's folder and its results; all are found before the first is measured."""
    from latentopt.inversion import Inversion
    from latentopt.tuning import find_results, newest_run

    found = []
    for run in runs:
        if not run.is_dir():
            raise CheckpointError(f"{run}: no such folder; name one that latentopt invert wrote")
        found.append((run, find_results(run)))
    if not runs:
        if not outdir.is_dir():
            raise CheckpointError(f"{outdir}: no such folder; run latentopt invert first, or name a run")
        results = newest_run(outdir)
        first = results[0]
        above = first.folder.parents[len(Path(first.name).parts) - 1]
        folder = first.folder if first.folder == outdir else above
        click.echo(escape_controls(f"evaluating the newest run: {folder} ({len(results)} images)"), err=True)
        found = [(folder, results)]
    return [(folder, [Inversion.load(r.folder) for r in results[:images]]) for folder, results in found]


def _evaluate(
    results: list[Inversion],
    generator: StyleGAN2,
    words: dict[str, list[str] | None],
    options: dict[str, Any],
    folder: Path,
    quiet: bool,
) -> Evaluation:
    from latentopt.editing.files import find_directions, load_directions
    from latentopt.evaluation.framework import PARTS, evaluate
    from latentopt.evaluation.judge_protocol import load_attribute_judge
    from latentopt.evaluation.subject import Amounts
    from latentopt.progress import Progress

    directions: dict[str, Any] = {}
    for file in options["files"]:
        directions |= load_directions(file, generator, options["force"])
    judge = None if options["judge"] is None else load_attribute_judge(options["judge"], generator.device)
    amounts = Amounts(
        options["samples"], options["paths"], options["steps"], options["mates"], options["lec"], options["corruption"]
    )
    parts = list(PARTS) if words["parts"] is None else words["parts"]
    with Progress(len(parts), f"evaluating {escape_controls(str(folder))}", unit="parts", quiet=quiet) as progress:
        return evaluate(
            results,
            generator,
            judge=judge,
            directions=directions or find_directions(generator),
            parts=parts,
            metrics=words["metrics"],
            amounts=amounts,
            pose=options["pose"],
            partners=options["partners"],
            seed=options["seed"],
            on_progress=lambda part: progress.advance(part != parts[0], part=part),
        )


def _report(done: list[tuple[Path, Path, Evaluation]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from latentopt.evaluation.evaluation_files import save_evaluation

    evaluations = [evaluation for _, _, evaluation in done]
    table = Table("measure", "", title_justify="left", title=f"{evaluations[0].about['images']} images, 95 % intervals")
    for folder, _, _ in done:
        table.add_column(Text(escape_controls(folder.name or str(folder))), justify="right")
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.measures)
    for name in names:
        measures = [evaluation.measures.get(name) for evaluation in evaluations]
        better = next(m.better for m in measures if m is not None)
        table.add_row(name, ARROWS[better], *map(_figure, measures))
    Console(width=None if Console().is_terminal else 120).print(table)
    for note in dict.fromkeys(note for evaluation in evaluations for note in evaluation.notes):
        click.echo(escape_controls(f"note: {note}"), err=True)
    for _, to, evaluation in done:
        written = save_evaluation(evaluation, to)
        click.echo(escape_controls(f"{', '.join(path.name for path in written)} in {to}/"))


def _figure(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    if measure.low is None:
        return f"{measure.value:.4g}"
    return f"{measure.value:.4g} ({measure.low:.3g} to {measure.high:.3g})"
