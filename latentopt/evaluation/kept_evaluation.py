"""An evaluation that is kept beside its results, and not made again while nothing has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

from torch import Tensor

from latentopt.evaluation.framework import Asked, Evaluation, evaluate
from latentopt.evaluation.stored_evaluation import parse_evaluation
from latentopt.evaluation.subject import Amounts, LatentEdit
from latentopt.files.outputs import clear_write_errors
from latentopt.files.schema import read_text
from latentopt.files.storage import to_json, write_text
from latentopt.files.versions import package_version
from latentopt.protocols import Generator
from latentopt.results.inversion import Inversion
from latentopt.types import GeneratorInputs

EVALUATION_FILE = "compared.json"


def kept_evaluation(
    results: Sequence[Inversion],
    generator: Generator,
    folder: Path,
    *,
    directions: Mapping[str, LatentEdit],
    amounts: Amounts,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
    **asked: Unpack[Asked],
) -> Evaluation:
    """`evaluate`, kept in `folder` and not done again while results, directions, amounts and `asked` are the same.

    An evaluation with a judge of the user's is always made anew: their code may have changed.
    """

    def anew() -> Evaluation:
        return evaluate(
            results, generator, directions=directions, amounts=amounts, seed=seed, on_progress=on_progress, **asked
        )

    if asked.get("judge") is not None:
        return anew()
    described = {"amounts": asdict(amounts), "seed": seed, "directions": _fingerprints(directions, generator)}
    described |= {name: value for name, value in asked.items() if name != "judge"}
    described["version"] = package_version("latentopt")
    described["results"] = [[result.name, result.manifest["key"], _digest(result)] for result in results]
    key = hashlib.sha256(to_json(described).encode()).hexdigest()
    path = Path(folder) / EVALUATION_FILE
    if (found := _read(path, key)) is not None:
        return found
    made = anew()
    with clear_write_errors(path):
        write_text(path, to_json({"key": key} | made.to_dict(), indent=1) + "\n")
    return made


def _read(path: Path, key: str) -> Evaluation | None:
    """What `kept_evaluation` wrote, or None where it is of something else or damaged."""
    try:
        return parse_evaluation(read_text(path), "key", key)
    except (OSError, ValueError):
        return None


def _digest(result: Inversion) -> str:
    """Of the latents and of the changed weights: a dial's points share a manifest."""
    digest = hashlib.sha256(_bytes(result.inputs.ws))
    for name, delta in sorted((result.inputs.deltas or {}).items()):
        digest.update(name.encode() + _bytes(delta))
    return digest.hexdigest()[:16]


def _fingerprints(directions: Mapping[str, LatentEdit], generator: Generator) -> dict[str, str]:
    """What each edit does to the centre: two directions of one name may differ."""
    centre = GeneratorInputs(generator.broadcast(generator.w_avg[None]))
    return {
        name: hashlib.sha256(_bytes(edit.edit(centre, 1.0).ws)).hexdigest()[:16] for name, edit in directions.items()
    }


def _bytes(x: Tensor) -> bytes:
    return x.detach().float().cpu().contiguous().numpy().tobytes()
