"""A model's file on the Hub, and what belongs to it there, in the Hub's cache on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from latentopt.errors import HubError
from latentopt.files.outputs import clear_write_errors
from latentopt.hub.addresses import HubAddress
from latentopt.hub.client import Unreachable, clear_hub_errors, client
from latentopt.watching.phases import phase

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODELS = (".safetensors", ".pkl", ".pt", ".pth")
BESIDE = ("pnorm", "metric", "sigma", "prior", "preflight", "directions")  # statistics, as they are called beside it
BESIDE_LIMIT = 256 << 20  # bytes of such a file
SHOWN = 8  # names in a message


def fetch(address: HubAddress, usual: str) -> Path:
    """The file in the Hub's cache, fetched with its statistics where it is not there; `usual` is its name by default.

    What is fetched is only stored: the caller's readers take it as any foreign file. A fixed address that is in the
    cache asks nobody. Where the Hub cannot be reached, what the cache has of the revision counts. Raises HubError.
    """
    api = client()
    if address.is_fixed and (found := _in_cache(address, usual)) is not None:
        return found
    try:
        return _download(api, address, usual)
    except Unreachable as error:
        if (found := _in_cache(address, usual)) is not None:
            return found
        raise HubError(
            f"{error}, and it is not in the cache; fetch it once while online: hf download {_words(address)}"
        ) from error


def fixed(address: HubAddress, path: Path) -> HubAddress:
    """The address of the very file that `fetch` found at `path`: its commit and its name."""
    commit, *file = _below_snapshots(path)
    return HubAddress(address.repo, commit, "/".join(file))


def _below_snapshots(path: Path) -> tuple[str, ...]:
    """(commit, parts of the file's name) of a path in the cache: `.../models--user--repo/snapshots/<commit>/<file>`."""
    start = path.parts.index("snapshots", next(i for i, part in enumerate(path.parts) if part.startswith("models--")))
    return path.parts[start + 1 :]


def _download(api: HfApi, address: HubAddress, usual: str) -> Path:
    with clear_hub_errors(address):
        info = api.model_info(address.repo, revision=address.revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    chosen = choose(list(sizes), address, usual)
    beside = [name for name in names_beside(chosen) if 0 < sizes.get(name, 0) <= BESIDE_LIMIT]
    total = sum(sizes[name] for name in (chosen, *beside))
    with (
        phase(f"fetching {address.repo}", total, "bytes") as advance,
        clear_write_errors(Path(chosen)),
        clear_hub_errors(address),
    ):
        bar = _bar(advance)
        path = Path(api.hf_hub_download(address.repo, chosen, revision=address.revision, tqdm_class=bar))
        for name in beside:
            api.hf_hub_download(address.repo, name, revision=fixed(address, path).revision, tqdm_class=bar)
    return path


def choose(names: Sequence[str], address: HubAddress, usual: str) -> str:
    """The file that the address means: the one that it names, the usual one, or the only model.

    Raises HubError, with the names that there are.
    """
    wanted = usual if address.file is None else address.file
    if wanted in names:
        return wanted
    models = sorted(name for name in names if name.endswith(MODELS) and PurePosixPath(name).stem not in BESIDE)
    if address.file is None and len(models) == 1:
        return models[0]
    listed = ", ".join(models[:SHOWN]) + (", ..." if len(models) > SHOWN else "")
    if not models:
        raise HubError(f"{address}: {address.repo} has no model file ({', '.join(MODELS)})")
    missing = "name one of its files" if address.file is None else "no such file"
    example = HubAddress(address.repo, address.revision, models[0])
    raise HubError(f"{address}: {missing}; {address.repo} has {listed}: write {example}")


def names_beside(file: str) -> list[str]:
    """What statistics of the model in `file` are called beside it (`latentopt.statistics.at_hand`)."""
    path = PurePosixPath(file)
    stems = [name for word in BESIDE for name in (word, f"{path.stem}.{word}")]
    return [str(path.with_name(f"{stem}.safetensors")) for stem in stems]


def _in_cache(address: HubAddress, usual: str) -> Path | None:
    """The file as the cache has it; None where it has not."""
    folder = _snapshot(address)
    if folder is None:
        return None
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        return folder / choose(names, address, usual)
    except HubError:
        return None


def _snapshot(address: HubAddress) -> Path | None:
    """The folder of the revision in the cache, whole or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(address.repo, revision=address.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        incomplete = getattr(error, "snapshot_path", None)
        return None if incomplete is None else Path(incomplete)


def _bar(advance: Callable[[int], object]) -> type[Any]:
    """A bar of the client's that shows nothing, and tells how much is there."""
    from tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **(settings | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            advance(int(n or 0))
            return super().update(n)

    return Silent


def _words(address: HubAddress) -> str:
    revision = "" if address.revision is None else f" --revision {address.revision}"
    return f"{address.repo}{'' if address.file is None else f' {address.file}'}{revision}"
