"""Text from foreign files, made fit to be printed: see `latentopt.files.text`."""

from latentopt.files.text import escape_controls as escape_controls
from latentopt.files.text import one_line as one_line
