"""Texts that stand where another file was meant to be: web pages, pointers of git-LFS, answers of servers."""

from __future__ import annotations

import codecs
import re

from latentopt.files.signatures import CONVERT, Kind
from latentopt.files.text import one_line

DOWNLOAD = "download the file itself"


def text_kind(start: bytes) -> Kind | None:
    """Web pages, pointers and messages of servers; None for what is no text."""
    text = _decoded(start)
    if text is None:
        return None
    head = text.lstrip("\ufeff \t\r\n")
    low = head[:4096].lower()
    if found := re.match(r"version https?://(?:git-lfs|hawser)\S*\n(?:.*\n)*?size (\d+)", head[:1024]):
        words = f"a git-LFS pointer (to a file of {int(found[1]):,} bytes)"
        return Kind("pointer", words, "run git lfs pull where it came from, or download the file itself")
    if head.startswith(("version https://git-lfs", "# xet version")):
        return Kind("pointer", "a git-LFS pointer", "run git lfs pull where it came from, or download the file itself")
    if head.startswith("/annex/objects/") or re.match(r"(\.\./)*\.git/annex/", head):
        return Kind("pointer", "a git-annex pointer", "run git annex get where it came from")
    if re.match(r"outs:\n- (md5|hash|etag)", head):
        return Kind("pointer", "a DVC pointer", "run dvc pull where it came from")
    if low.startswith("<") and "<svg" in low[:1024] and "<html" not in low[:1024]:
        return Kind("other-picture", "a picture (SVG)", CONVERT)
    marked = low.startswith("<") and re.search(r"<(!doctype html|html|head|body|script|meta)[\s>]", low)
    if marked or "mime-version:" in low[:512]:
        title = re.search(r"<title[^>]*>([^<]{1,200})", head, re.I)
        about = f" ({one_line(' '.join(title[1].split()))[:80]!r})" if title and title[1].strip() else ""
        return Kind(
            "web-page", f"a web page{about}", f"open the address in a browser (a login, a quota?) and {DOWNLOAD}"
        )
    shown = one_line(" ".join(head[:60].split()))
    if low.startswith(("<?xml", "<error", "http/")) or re.match(r"""\{\s*["}]|\[\s*[{"\d]""", low):
        form = "XML" if low.startswith("<") else "JSON" if low[0] in "{[" else "HTTP"
        return Kind("message", f"a text in {form} ({shown!r} ...)", "a server's answer, perhaps; " + DOWNLOAD)
    return Kind("text", f"a text ({shown!r} ...)" if shown else "a text of nothing but spaces")


def _decoded(start: bytes) -> str | None:
    """As text, where it is one: UTF-8 (which may be cut at the end), or UTF-16 with its mark."""
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return _latin(start)
    return text if _is_text(text) else None


def _latin(start: bytes) -> str | None:
    """A page in an old encoding."""
    text = start.decode("latin-1")
    return text if _is_text(text) and "<" in text[:256] else None


def _is_text(text: str) -> bool:
    return not any(ord(c) < 32 and c not in "\t\n\r\f\x1b" for c in text[:4096])
