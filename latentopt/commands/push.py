"""`latentopt push`."""

from __future__ import annotations

import click

from latentopt.commands.paths import UserPath
from latentopt.files.text import escape_controls, one_line


@click.command("push")
@click.argument("source", metavar="RUN|GENERATOR", type=UserPath())
@click.argument("repo", metavar="USER/REPO")
@click.option("--private", is_flag=True, help="Where the repository is made: for you alone.")
@click.option(
    "--licence", help="Licence to name in the card, as apache-2.0.  [default: that of the generator's own card]"
)
@click.option("--dry-run", "-n", is_flag=True, help="Print the card and the files, and put nothing on the Hub.")
def command(source: str, repo: str, private: bool, licence: str | None, dry_run: bool) -> None:
    """Put a generator, or a run's results, on the Hugging Face Hub, with a card (extra `hub`).

    Of a generator: its safetensors file, the statistics that belong to it, samples. Of a run: each result's latents,
    tuned weights, recipe, record and pictures, THE TARGETS AMONG THEM; folders of this machine are taken out of the
    records. Pickles are refused: `latentopt convert` makes a safetensors file of one.

    What is there is then used by its name, --network hf:USER/REPO. You must be logged in: hf auth login, or HF_TOKEN.

    \b
    Example:
      latentopt push ffhq.safetensors someone/faces --licence apache-2.0 --private
      latentopt push out/ someone/my-inversions --dry-run
      latentopt invert photos/ --network hf:someone/faces
    """
    from latentopt.api import check_token, packaged, upload

    if not dry_run:
        check_token()
    with packaged(source, repo, licence) as package:
        if dry_run:
            click.echo(escape_controls(package.card))
            click.echo("\n".join(one_line(f"{p.stat().st_size:>12,}  {name}") for name, p in package.files.items()))
            return
        address = upload(package, private)
        click.echo(one_line(f"{len(package.files)} files ({package.size / 1e6:.1f} MB) in {repo}: {address}"))
        if "license:" not in package.card:
            click.echo("note: no licence is on record, and the card names none; say one with --licence", err=True)
