"""The client of the Hub, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from latentopt.errors import HubError, LatentoptError
from latentopt.files.text import one_line, shortened
from latentopt.files.versions import package_version
from latentopt.hub.addresses import HubAddress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def client() -> HfApi:
    """The Hub's own client; it goes by HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. Raises LatentoptError without it."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise LatentoptError("the Hub's client is not installed: pip install 'latentopt[hub]'") from error
    return HfApi(library_name="latentopt", library_version=package_version())


class Unreachable(HubError):
    """The Hub cannot be reached, or is not to be: what is in the cache may still do."""


@contextmanager
def clear_hub_errors(address: HubAddress) -> Iterator[None]:
    """Turn the client's errors into HubError, which names the repository and the remedy."""
    from huggingface_hub import errors

    revision = "main" if address.revision is None else address.revision
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{address}: its owner must let you in: ask on the page of {address.repo}, and {LOG_IN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{address}: no repository {address.repo} that you may see; check its name or, if it is private, {LOG_IN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{address}: {address.repo} has no revision {revision!r}; name a branch, tag or commit"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise Unreachable(f"{address}: the Hub cannot be reached") from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{address}: {address.repo} has no such file at revision {revision!r}") from error
    except errors.HfHubHTTPError as error:
        raise _refused(address, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise Unreachable(f"{address}: the Hub is not asked, since HF_HUB_OFFLINE is set") from error
    except (RuntimeError, ValueError) as error:  # of an upload in parts, and of a card that the Hub does not take
        raise HubError(f"{address}: {_first_line(error)}; try again") from error
    except (errors.HTTPError, ConnectionError, TimeoutError) as error:  # of the client's own library
        raise Unreachable(f"{address}: the Hub cannot be reached ({_first_line(error)})") from error


def _refused(address: HubAddress, error: Exception) -> HubError:
    """For an answer of the Hub that is an error: by its status."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status in (401, 403):
        return HubError(f"{address}: the Hub forbids that ({status}); {LOG_IN}, with a token that may write")
    if status >= 500 or status == 429:
        return Unreachable(f"{address}: the Hub cannot answer now ({status}); try again later")
    return HubError(f"{address}: the Hub answered {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return one_line(shortened(str(error).strip().partition("\n")[0] or type(error).__name__, 300))
