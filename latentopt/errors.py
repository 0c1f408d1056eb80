"""Every error that latentopt raises on purpose, each with the exit code that the command line returns for it."""

from __future__ import annotations

from collections.abc import Mapping


class LatentoptError(Exception):
    """Fatal: the work cannot go on. The message names the file or option and the remedy."""

    exit_code = 1


class UsageError(LatentoptError):
    """A command line, recipe or option that cannot be carried out; found before any weight is read."""

    exit_code = 2


class CheckpointError(LatentoptError):
    """A model file that is damaged, of another kind, or does not fit."""


class UntrustedFileError(LatentoptError):
    """A file that asks for code to be run, or names a global outside the allow-list. Nothing was run."""

    exit_code = 4


class ImageError(LatentoptError):
    """A picture that cannot be read, or is not usable as a target."""


class StatisticsError(LatentoptError):
    """Statistics of a generator (P-norm, sigma) that are damaged, missing or belong to another one."""


class MissingWeightsError(LatentoptError):
    """Weights that would have to be downloaded, and are not there.

    `network`: the network of a perceptual distance that they are of, "" for others. What goes without it depends on
    what was asked: a command names its own options (`latentopt.commands.remedies`).
    """

    def __init__(self, message: str, network: str = "") -> None:
        super().__init__(message)
        self.network = network


class HubError(LatentoptError):
    """What was asked of the Hub cannot be had: not there, not allowed, or out of reach and not in the cache."""


class InversionFailed(LatentoptError):
    """Some images finished, others failed; `results` holds the finished ones by name."""

    exit_code = 3

    def __init__(self, message: str, results: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.results = dict(results or {})
