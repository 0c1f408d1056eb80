"""What a command can do without weights that are missing, by the options that this very command has."""

from __future__ import annotations

from collections.abc import Sequence

import click

from latentopt.errors import MissingWeightsError

INSTEAD = {  # an option, by the name of its parameter: what to give it instead of a perceptual network that is missing
    "terms": "--terms l2=1",
    "metrics": "--metrics bundled",
    "prior_net": "--prior-net bundled",
    "net": "--net bundled",
    "perceptual_net": "--perceptual bundled",
    "features": "--features image",
}


def meant(group: click.Group, arguments: Sequence[str]) -> click.Command:
    """The command that the words of a command line begin with, the group itself where they name none."""
    command: click.Command = group
    for word in arguments:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        if found is None:
            break
        command = found
    return command


def remedy(error: Exception, command: click.Command) -> str:
    """What `command` can do instead, to be added to the message; "" where there is nothing to say."""
    if not isinstance(error, MissingWeightsError) or not error.network:
        return ""
    options = {param.name: param for param in command.params}
    found = [text for name, text in INSTEAD.items() if name in options and _takes(options[name], text)]
    return f"; or do without: {' '.join(found)}" if found else ""


def _takes(option: click.Parameter, text: str) -> bool:
    """Whether the option is one that can be given that."""
    return not isinstance(option.type, click.Choice) or text.split()[-1] in option.type.choices
