"""Addresses given where a file is asked for: named, each with the way to fetch it. Nothing is fetched here."""

from __future__ import annotations

import re
from pathlib import Path

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")  # two letters at least: C:/ is a disk
HOSTS = re.compile(r"(www\.|([a-z0-9-]+\.)*(google|huggingface|hf|github|gitlab|dropbox|onedrive)\.(com|co)/)", re.I)
PAGES = {  # what a browser shows of a file -> the file itself
    "github.com": ("/blob/", "/raw/"),
    "gitlab.com": ("/blob/", "/raw/"),
    "huggingface.co": ("/blob/", "/resolve/"),
}


def address_of(source: str | Path) -> str | None:
    """`source` as an address, whole again where `Path` took a slash from it; None for the name of a file."""
    text = str(source)
    if found := SCHEME.match(text):
        slashes = "///" if found[1].lower() == "file" else "//"
        return f"{found[1]}:{slashes}{text[found.end() :]}"
    return f"https://{text}" if HOSTS.match(text) and not Path(text).exists() else None


def how_to_fetch(address: str) -> str:
    """The remedy: how to make a file of the address."""
    scheme, _, rest = address.partition("://")
    scheme, host = scheme.lower(), rest.partition("/")[0].lower()
    if scheme == "file":
        return f"give its path: /{rest.lstrip('/')}"
    if scheme in ("hf", "huggingface"):
        parts = rest.removeprefix("models/").split("/")
        names = f"{'/'.join(parts[:2])} {'/'.join(parts[2:])}".strip()
        return f"fetch it first (hf download {names}) and give the file"
    if scheme in ("s3", "gs"):
        tool = "aws s3 cp" if scheme == "s3" else "gcloud storage cp"
        return f"fetch it first ({tool} {address} .) and give the file"
    if scheme not in ("http", "https", "ftp", "ftps"):
        return "copy the file to this machine and give its path"
    if host in ("drive.google.com", "docs.google.com", "onedrive.com", "www.dropbox.com", "dropbox.com"):
        return "open it in a browser, download the file, and give that"
    for site, (page, file) in PAGES.items():
        if host == site and page in rest:
            address = f"{scheme}://{rest.replace(page, file, 1)}"
    return f"fetch it first (curl -L -O {address}) and give the file"
