"""A generator, or a run's results, put on the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latentopt.errors import HubError
from latentopt.hub.addresses import HubAddress, check_repo
from latentopt.hub.client import LOG_IN, clear_hub_errors, client
from latentopt.sharing.generators import generator_files
from latentopt.sharing.runs import run_files
from latentopt.watching.phases import phase


@dataclass(frozen=True)
class Package:
    """What is put on the Hub: {name in the repository: file}."""

    repo: str
    files: dict[str, Path]

    @property
    def card(self) -> str:
        return self.files["README.md"].read_text(encoding="utf-8")

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(path.stat().st_size for path in self.files.values())


@contextmanager
def packaged(source: str | Path, repo: str, licence: str | None = None) -> Iterator[Package]:
    """What `push` puts there, prepared on this machine; its own files are gone after the context.

    source: the folder of a run, or a generator as `load_generator` takes it. Raises UsageError for pickles and names
    that are no repository's, CheckpointError for files that are damaged or not there.
    """
    check_repo(repo)
    with tempfile.TemporaryDirectory() as folder:
        if Path(source).is_dir():
            files = run_files(Path(source), repo, licence, Path(folder))
        else:
            files = generator_files(source, repo, licence, Path(folder))
        yield Package(repo, files)


def push(source: str | Path, repo: str, *, private: bool = False, licence: str | None = None) -> str:
    """Put a generator, or the results of a run, on the Hub as one commit, with a card; returns the commit's address.

    source, licence: see `packaged`; without a licence that of the generator's own card is named. The repository is
    made where it is not there: `private` then. What is there under other names stays. Raises what `packaged` raises,
    LatentoptError without the extra `hub`, and HubError without a token or where the Hub refuses.
    """
    check_token()
    with packaged(source, repo, licence) as package:
        return upload(package, private)


def check_token() -> None:
    """Raise HubError, before any work, where nobody is logged in."""
    client()
    from huggingface_hub import get_token

    if not get_token():
        raise HubError(f"nothing can be put on the Hub without a token: {LOG_IN}")


def upload(package: Package, private: bool = False) -> str:
    """Put a package on the Hub. Raises HubError."""
    from huggingface_hub import CommitOperationAdd

    api, address = client(), HubAddress(package.repo)
    operations = [CommitOperationAdd(name, path) for name, path in package.files.items()]
    with phase(f"putting {package.repo} on the Hub", len(operations), "files") as advance, clear_hub_errors(address):
        api.create_repo(package.repo, private=private, exist_ok=True)
        commit = api.create_commit(package.repo, operations, commit_message="Put here by latentopt")
        advance(len(operations))
    return commit.commit_url
