"""The command line. One module per command; each is imported only when it is used, and torch only when it works."""

from __future__ import annotations

import importlib
import io
import sys

import click

from latentopt.commands.remedies import meant, remedy
from latentopt.errors import LatentoptError
from latentopt.files.text import in_lines
from latentopt.files.versions import package_version

COMMANDS = {  # name: (module, one line of help)
    "invert": ("invert", "Find the latents of images by optimisation."),
    "restore": ("restore", "Restore pictures of which only a measurement is known."),
    "encode": ("encode", "Find the latents of images by an encoder, without optimisation."),
    "tune": ("tune", "Tune the generator's weights to inverted images."),
    "merge": ("merge", "Make one summary and packed results of the parts of a run."),
    "evaluate": ("evaluate", "Measure reconstruction and editability of inversions."),
    "align": ("align", "Cut the faces out of photographs, aligned as FFHQ's."),
    "edit": ("edit", "Edit inverted images along directions."),
    "paste": ("paste", "Put edited faces back in their photographs."),
    "drag": ("drag", "Drag points of a picture to where they shall be."),
    "mix": ("mix", "Mix the styles of inverted images."),
    "interpolate": ("interpolate", "Interpolate between inverted images."),
    "directions": ("directions", "Find directions for editing, and list them."),
    "compare": ("compare", "Compare methods on the same images: one report.html."),
    "studio": ("studio", "Invert, edit and compare in the browser."),
    "fit-pnorm": ("fit_pnorm", "Measure a generator's latent distribution (P-norm statistics)."),
    "fit-sigma": ("fit_sigma", "Estimate how far a generator's weights may be moved in tuning."),
    "fit-metric": ("fit_metric", "Measure how pictures change with latents and weights, for the fast recipes."),
    "sample": ("sample", "Draw images from a generator."),
    "info": ("info", "Say what a model file is."),
    "convert": ("convert", "Write a generator as safetensors or rosinality .pt."),
    "push": ("push", "Put a generator or results on the Hugging Face Hub."),
    "train": ("train", "Train the bundled kinds of models."),
}


class LazyGroup(click.Group):
    """A group whose commands are modules of `latentopt.commands`, each holding a click command named `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"latentopt.commands.{COMMANDS[name][0]}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from latentopt.registry import nearest

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no such command {args[0]!r}{nearest(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_version(), prog_name="latentopt")
def cli() -> None:
    """Invert real images into a StyleGAN's latent space by optimisation.

    \b
    Example, on the bundled model and sample pictures:
      latentopt fit-pnorm --samples 1e6
      latentopt invert --space pnorm+ --clip 2
      latentopt tune --method wrangan
    """


def main() -> None:
    """Run the command line; errors end in one line on stderr and the exit code of their kind."""
    from latentopt.commands.allocation import keep_freed_memory
    from latentopt.commands.interrupting import stopped_by_terminate
    from latentopt.commands.progress import Terminal
    from latentopt.watching.phases import listening

    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter must not end the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with stopped_by_terminate(), listening(Terminal()):
            code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        vars(error)["message"] = in_lines(error.message)
        error.show()
        sys.exit(error.exit_code)
    except LatentoptError as error:
        click.echo(in_lines(f"latentopt: {error}{remedy(error, meant(cli, sys.argv[1:]))}"), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
