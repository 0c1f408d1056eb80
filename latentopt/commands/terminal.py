"""Text from foreign files, made fit to be printed."""

from __future__ import annotations


def escape_controls(text: str) -> str:
    """`text` with every character that is not printable escaped, such as `\\x1b`: no colours, no moved cursor.

    Escaped too are characters that turn the direction of writing and halves of surrogate pairs; letters of any script
    and line breaks stay.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
