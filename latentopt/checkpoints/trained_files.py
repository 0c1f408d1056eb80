"""Networks that are trained for one generator, encoders and refiners: the file that is meant, or the bundled one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from latentopt.checkpoints.model_files import BUNDLED
from latentopt.errors import MissingWeightsError
from latentopt.files.kinds import check_file
from latentopt.files.storage import load_metadata
from latentopt.files.text import to_run
from latentopt.hub.addresses import hub_address
from latentopt.hub.fetching import fetch
from latentopt.protocols import Generator


def trained_file(source: str | Path, what: str, kinds: Collection[str], generator: Generator | None) -> Path:
    """The file that `source` means: one of `kinds` stands for the bundled network of that kind, `./e4e` for a file,
    `hf:user/repo[@revision][/file]` for one on the Hub.

    what: encoder or refiner. Without a generator, a bundled one of any counts.
    Raises MissingWeightsError where none is bundled, CheckpointError where there is no such file.
    """
    if (address := hub_address(source)) is not None:
        return fetch(address, f"{what}.safetensors")
    article = "an" if what[0] in "aeiou" else "a"
    if not isinstance(source, str) or source not in kinds:
        return check_file(source, f"{article} {what}'s file or one of {', '.join(kinds)} for a bundled {what}")
    for path in sorted(BUNDLED.glob(f"*/{what}-{source}.safetensors")):
        if generator is None or load_metadata(path).get("generator") == generator.fingerprint:
            return path
    whom = "" if generator is None else f" for generator {generator.name!r} ({generator.fingerprint})"
    network = "NETWORK" if generator is None else generator.source
    raise MissingWeightsError(
        f"no bundled {source} {what}{whom}; give {article} {what}'s file, or train one: "
        f"{to_run(f'train {what} --kind {source}', network)}, and name its file"
    )
