"""The command lines that make what the studio has made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentopt.editing.layers import layers_text
from latentopt.errors import UsageError
from latentopt.files.text import one_line
from latentopt.recipe.recipe import Recipe, recipe_names
from latentopt.studio.places import in_words

if TYPE_CHECKING:
    from latentopt.editing.sequence import Edit


def line(*words: object) -> str:
    """A command of latentopt, each word quoted as a shell needs it; None is left out."""
    texts = [in_words(word) if isinstance(word, Path) else str(word) for word in words if word is not None]
    return one_line(" ".join(["latentopt", *(shlex.quote(text) for text in texts)]))


def option(flag: str, value: object) -> list[object]:
    """An option, where there is a value for it."""
    return [] if value is None else [flag, value]


def editing(base: Path, edits: Sequence[Edit], network: str) -> str:
    """What draws `base` edited."""
    return line("edit", base, *_done(edits), "--network", network)


def mixing(coarse: Path, fine: Path, row: int, to: Path, network: str) -> str:
    """What mixes two."""
    return line("mix", coarse, fine, "--split", row, "--to", to, "--network", network)


def making(folder: Path, record: Mapping[str, Any]) -> str:
    """What makes the result in `folder`, by its run.json: the recipe's name where the shipped one of that name is what
    was run, the recipe beside it otherwise.
    """
    network = record["generator"].get("source", record["generator"]["name"])
    common = ["--network", network, "--seed", record["seed"]]
    start = record.get("tuned_from")
    if record.get("tuned") and start and start.get("folder"):
        return line(
            "tune", Path(start["folder"]), "--method", _recipe(folder, record), *common, "--to", _run(folder, record)
        )
    options = record.get("options", {})
    source = Path(record["source"].get("file") or record["source"]["path"])
    command, given = "invert", option("--fit", options.get("fit", "crop"))
    if "simulate" in options:
        command, given = "restore", option("--fit", options.get("fit")) + ["--simulate"] * bool(options["simulate"])
    return line(command, source, "--recipe", _recipe(folder, record), *given, *common, "--outdir", _run(folder, record))


def _recipe(folder: Path, record: Mapping[str, Any]) -> str | Path:
    name, digest = record["recipe"]["name"], record["recipe"]["digest"]
    try:
        if name in recipe_names() and Recipe.load(name).digest == digest:
            return name
    except UsageError:
        pass
    return folder / "recipe.toml"


def _run(folder: Path, record: Mapping[str, Any]) -> Path:
    """The folder of the run: as far above the result's as its name has parts."""
    return folder.parents[record.get("name", folder.name).count("/")]


def filming(base: Path, done: Sequence[Edit], last: Edit, network: str) -> str:
    """What films the last edit of `base`, after the others."""
    sweep = f"{last.name}=0..{last.strength:g}:2{_rows(last)}"
    return line("edit", base, *_done(done), "--sweep", sweep, "--animate", "--network", network)


def _done(edits: Sequence[Edit]) -> list[str]:
    return [word for edit in edits for word in ("--do", f"{edit.name}={edit.strength:+g}{_rows(edit)}")]


def _rows(edit: Edit) -> str:
    return "" if edit.layers is None else f"@{layers_text(edit.layers)}"
