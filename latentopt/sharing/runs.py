"""What the repository of a run's results holds: each result's latents, weights, recipe, record and pictures; a card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from latentopt.errors import CheckpointError, UsageError
from latentopt.files.kinds import check_file, kind_of, refusal
from latentopt.files.schema import TEXT_LIMIT, read_text
from latentopt.hub.addresses import hub_address
from latentopt.pictures.contact_sheet import contact_sheet
from latentopt.pictures.images import DELTA_FILE, read_png
from latentopt.results.earlier import EarlierResult, find_results
from latentopt.sharing.card import Card, Code, Picture, plain, table

TEXTS = ("recipe.toml", "history.jsonl", "run.json")  # of a result, with folders of this machine taken out
MODELS = ("inputs.safetensors", DELTA_FILE)
PICTURES = ("target.png", "proj.png")
SHOWN = 8  # results in the card's picture
FIGURES = ("psnr", "ssim", "perceptual")
FOLDERS = re.compile(r'"(?:[A-Za-z]:)?[/\\~][^"\n]*[/\\]+([^"\n/\\]+)"')  # a path from the root, as JSON and TOML quote


def run_files(run: Path, repo: str, licence: str | None, folder: Path) -> dict[str, Path]:
    """{name in the repository: file}; what is not put there as it is, is written to `folder`.

    Raises CheckpointError where there are no results, and where a file is not what its name says: nothing but
    safetensors files, pictures and texts is put on the Hub.
    """
    results = find_results(run)
    files: dict[str, Path] = {}
    for result in results:
        files |= _result_files(result, folder)
    shown = [[read_png(result.folder / name) for name in PICTURES] for result in results[:SHOWN]]
    contact_sheet([list(row) for row in zip(*shown, strict=True)], folder / "grid.png")
    (folder / "README.md").write_text(run_card(results, repo, licence).text(), encoding="utf-8")
    return files | {"grid.png": folder / "grid.png", "README.md": folder / "README.md"}


def _result_files(result: EarlierResult, folder: Path) -> dict[str, Path]:
    own = folder / "results" / result.name
    own.mkdir(parents=True)
    models = MODELS if result.record.get("tuned") else MODELS[:1]
    whole = {name: _checked(result.folder / name, "safetensors") for name in models}
    whole |= {name: _checked(result.folder / name, "picture") for name in PICTURES}
    for name in TEXTS:
        try:
            text = read_text(result.folder / name, TEXT_LIMIT)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{result.folder / name}: cannot be read ({error}); invert the image again"
            ) from error
        (own / name).write_text(without_folders(text), encoding="utf-8")
        whole[name] = own / name
    return {f"{result.name}/{name}": path for name, path in whole.items()}


def _checked(path: Path, kind: str) -> Path:
    """The file, which is of the kind. Raises CheckpointError where it is not there, UsageError where it is not."""
    found = kind_of(check_file(path, f"a {kind} file of a result"))
    if found.name != kind:
        raise UsageError(f"{refusal(path, f'a {kind} file', found)}; nothing was put on the Hub")
    return path


def without_folders(text: str) -> str:
    """JSON or TOML in which every path from the root is its last part: how this machine is laid out is nobody's."""
    return FOLDERS.sub(r'"\1"', text)


def run_card(results: Sequence[EarlierResult], repo: str, licence: str | None) -> Card:
    record, network = results[0].record, _network(results[0])
    generator = record["generator"]
    recipes = sorted({result.record["recipe"]["name"] for result in results})
    tuned = bool(record.get("tuned"))
    what = "inverted and tuned" if tuned else "inverted"
    base = hub_address(network)
    return Card(
        title=repo.split("/")[1],
        summary=f"{len(results)} pictures, {what} with latentopt: the latents"
        f"{' and changes of weights' if tuned else ''} that make the generator {plain(generator['name'])} draw them.",
        picture=Picture("grid.png", "pictures that were asked for, above those that were found"),
        facts={
            "recipe": ", ".join(recipes),
            "generator": f"{generator['name']}, fingerprint {generator['fingerprint']}",
            "results": len(results),
            "tuned": "yes" if tuned else "no",
        },
        data="The pictures are in each result's folder as target.png, at the size of the generator.",
        figures=_figures(results),
        uses=(
            (
                "Fetch the results and go on with them:",
                Code("bash", f"pip install 'latentopt[hub]'\nhf download {repo} --local-dir results\n"
                f"latentopt edit results --network {network} --do smile=+2"),
            ),
            (
                "From Python:",
                Code("python", "from pathlib import Path\n\nimport latentopt\nfrom latentopt.api import Inversion\n\n"
                f'g = latentopt.load_generator("{network}")\n'
                f'result = Inversion.load(Path("results/{results[0].name}"))\n'
                "g.synthesis(result.inputs)"),
            ),
        ),
        licence=licence,
        tags=["stylegan", "gan-inversion", *recipes],
        about={} if base is None else {"base_model": base.repo},
    )  # fmt: skip


def _network(result: EarlierResult) -> str:
    """What `--network` takes to load the generator, for others: the name of a file has no folders."""
    source = str(result.record["generator"].get("source") or "GENERATOR")
    return source if hub_address(source) is not None else Path(source).name


def _figures(results: Sequence[EarlierResult]) -> str:
    """Means over the results, and the least and the largest."""
    rows = []
    for name in (*FIGURES, "optimisation seconds"):
        values = [value for value in (_figure(result, name) for result in results) if value is not None]
        if values:
            rows.append((name, fmean(values), min(values), max(values)))
    return table(("figure", "mean", "least", "largest"), rows) if rows else "No figures are on record."


def _figure(result: EarlierResult, name: str) -> float | None:
    record = result.record
    value = record["seconds"].get("optimisation") if name.endswith("seconds") else record["metrics"].get(name)
    return value if isinstance(value, float) else None
