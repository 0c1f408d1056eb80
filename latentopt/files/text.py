"""Text from foreign files and names, made fit for a terminal and for a spreadsheet."""

from __future__ import annotations

import shlex

FORMULA = ("=", "+", "-", "@")  # a cell that begins so is computed by a spreadsheet


def to_run(command: str, network: str) -> str:
    """What to type to run a command of latentopt for the generator `network`, for the remedies of messages."""
    return f"latentopt {command} --network {shlex.quote(network)}"


def as_unicode(text: str) -> str:
    """What UTF-8 can hold of a text: a file name need not be valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def escape_controls(text: str) -> str:
    """`text` with every character that is not printable escaped, such as `\\x1b`: no colours, no moved cursor.

    Escaped too are characters that turn the direction of writing and halves of surrogate pairs; letters of any script
    and line breaks stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`escape_controls` with line breaks escaped too, for a name within a line of ours."""
    return escape_controls(text).replace("\n", "\\n")


def cell(text: str) -> str:
    """A cell of a CSV file: controls escaped (a line break is quoted by the writer), and no formula: a text that would
    be one begins with an apostrophe, which a spreadsheet does not show.
    """
    shown = escape_controls(text)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def in_lines(text: str) -> str:
    """A message of several lines: no longer than a screen, those after the first indented, so that a name with a line
    break in it cannot look like a line of ours.
    """
    return escape_controls(shortened(text)).replace("\n", "\n  ")


def shortened(text: str, length: int = 4000) -> str:
    """At most so many characters of a text that somebody else has made as long as it is."""
    return text if len(text) <= length else f"{text[:length]} ..."
