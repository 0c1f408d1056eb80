"""The options of all commands, by introspection: one flag means one thing, and paths are taken as people write them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from latentopt.commands import cli
from latentopt.commands.paths import UserPath
from latentopt.commands.remedies import INSTEAD


def commands(command: click.Command = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from commands(command.get_command(context, name), (*words, name))


ALL = dict(commands())
RUN_A_RECIPE = ("invert", "restore", "tune", "compare", "encode")
WITHOUT = ("info", "convert", "align", "paste", "push", "merge")  # commands that draw nothing
OTHERS = {  # flags that mean something else in some commands, where no other word will do: flag -> those commands
    "--steps": ("encode", "evaluate", "interpolate", "directions find", "train encoder", "train judge",
                "train perceptual", "train refiner", "train flow"),
    "--batch": ("fit-pnorm", "fit-sigma", "fit-metric", "train encoder", "train generator", "train wrangan",
                "train refiner", "train flow"),
    "--lr": ("train encoder", "train generator", "train wrangan", "train refiner", "train flow"),
    "--kind": ("train refiner",),
    "--discriminator": ("train refiner",),
    "--force": ("encode", "convert", "train refiner"),
    "--overwrite": ("align", "fit-pnorm", "fit-sigma", "fit-metric"),
    "--shard": ("fit-pnorm", "fit-metric"),
    "--probes": ("fit-metric",),
    "--size": ("fit-metric", "align"),
    "--sigma": ("train wrangan",),
    "--pictures": ("interpolate",),
    "--layers": ("tune", "edit", "directions find", "fit-metric", "train wrangan"),
    "--space": ("invert", "interpolate"),
    "--method": ("tune",),
    "--name": ("directions find", "drag"),
    "--do": ("compare",),
    "--animate": ("edit",),
    "--class": ("directions channels", "directions find"),
    "--trunc": ("directions find", "drag"),
    "--corruption": ("tune",),
    "--samples": ("evaluate", "directions channels", "directions find", "fit-pnorm"),
    "--fit": ("restore",),
    "--recipe": ("restore", "drag"),
    "--seed": ("drag",),
    "--dry-run": ("push",),
    "--images": ("evaluate", "train judge", "train perceptual"),
    "--features": ("fit-sigma",),
    "--data": ("train encoder", "train wrangan", "train refiner", "train flow"),
    "--drawn": ("train generator", "train wrangan"),
    "--start": ("train encoder", "train wrangan", "train refiner"),
    "--precision": ("train encoder", "train refiner", "train flow"),
}  # fmt: skip


def described(option: click.Option) -> tuple[object, ...]:
    kind = option.type
    limits = (getattr(kind, "min", None), getattr(kind, "max", None), tuple(getattr(kind, "choices", ())))
    return option.help, type(kind), *limits, option.multiple, option.is_flag, option.name


def options(flag: str) -> dict[str, click.Option]:
    return {name: p for name, c in ALL.items() for p in c.params if isinstance(p, click.Option) and flag in p.opts}


FLAGS = sorted(
    {o for c in ALL.values() for p in c.params if isinstance(p, click.Option) for o in p.opts if o[:2] == "--"}
)


@pytest.mark.parametrize("flag", FLAGS)
def test_one_flag_means_one_thing(flag):
    """Same words, same type, same limits, in every command that has it."""
    same = {name: described(option) for name, option in options(flag).items() if name not in OTHERS.get(flag, ())}
    assert len(set(same.values())) <= 1, same
    assert all(words and words[0] for words in same.values()), "it is explained"


def test_the_exceptions_are_ones():
    for flag, names in OTHERS.items():
        found = {name: described(option) for name, option in options(flag).items()}
        assert set(names) <= set(found), flag
        assert len(set(found.values())) > 1, f"{flag}: no exception is needed"


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        ("--set", RUN_A_RECIPE),
        ("--terms", RUN_A_RECIPE),
        ("--steps", ("invert", "restore", "tune", "compare")),
        ("--dtype", (*RUN_A_RECIPE, "evaluate")),
        ("--seed", ("invert", "tune", "compare", "evaluate", "directions find", "fit-pnorm", "fit-sigma")),
        ("--seed", [name for name in ALL if name.startswith("train ")]),
        ("--device", [name for name in ALL if name not in (*WITHOUT, "directions list")]),
        ("--network", [n for n in ALL if n not in WITHOUT and not n.startswith("train ")]),
        ("--align", ("align", "invert", "encode")),
        ("--init", ("invert", "tune")),
        ("--directions", ("edit", "evaluate", "compare")),
        ("--force", ("edit", "evaluate", "compare")),
        ("--dry-run", ("invert", "tune", "encode")),
    ],
)
def test_options_are_wherever_they_make_sense(flag, names):
    assert set(names) <= set(options(flag)), set(names) - set(options(flag))


# ---- what the options of recipes do


@pytest.mark.parametrize(
    ("command", "stages"),
    [
        (("invert", "photos/a.png", "--recipe", "pti"), 2),
        (("tune", "photos", "--method", "pti"), 1),
        (("tune", "photos", "--method", "wrangan", "--sigma", "s.safetensors"), 1),
    ],
)
def test_steps_and_terms_are_those_of_every_stage(folder, latentopt, command, stages):
    code, out, err = latentopt(*command, "--steps", "3", "--terms", "l2=2", "--set", "stages.0.lr=0.5", "-n")
    assert code == 0, err
    assert out.count("[[stages]]") == out.count("steps = 3") == stages
    assert out.count('terms = [{ name = "l2", weight = 2.0 }]') == stages
    assert out.count("lr = 0.5\n") == 1 and "stop = " not in out, "there is no such term to stop by"


def test_compare_takes_the_options_of_recipes(folder, latentopt):
    code, out, err = latentopt(
        "compare", "photos/a.png", "--network", "net/tiny.safetensors", "--recipes", "i2s,pti", "--steps", "1",
        "--terms", "l2=1", "--set", "stages.0.lr=0.125", "--metrics", "bundled", "--lec", "0", "--no-preflight", "-q",
    )  # fmt: skip
    assert code == 0, err + out
    for name, stages in (("i2s", 1), ("pti", 2)):
        text = (folder / "compared" / name / "a" / "recipe.toml").read_text()
        assert text.count("steps = 1\n") == text.count('terms = [{ name = "l2", weight = 1.0 }]') == stages
        assert "lr = 0.125\n" in text


def test_encode_takes_the_options_of_recipes(latentopt):
    code, out, _ = latentopt("encode", "--terms", "l2=1", "--set", "stages.0.init.kind=psp", "-n")
    assert code == 0 and '"l2"' in out and 'kind = "psp"' in out and "perceptual" not in out
    for setting in ("stages.0.steps=3", "stages.0.init=mean"):
        code, _, err = latentopt("encode", "--set", setting, "-n")
        assert code == 2 and "optimises nothing" in err


# ---- paths


PLAIN = {  # options that are texts and no paths
    "--space", "--terms", "--set", "--layers", "--do", "--sweep", "--parts", "--metrics", "--pose", "--dial",
    "--device", "--attributes", "--attribute", "--name", "--condition", "--layer", "--operator", "--host",
    "--align", "--detector", "--point", "--blend", "--ray", "--ledger",
    "repo", "--licence",
}  # fmt: skip
TEXTS = [
    (name, p)
    for name, c in ALL.items()
    for p in c.params
    if isinstance(p.type, click.types.StringParamType) and not PLAIN & set(p.opts)
]
PATHS = [(name, p) for name, c in ALL.items() for p in c.params if isinstance(p.type, click.Path)]


def test_every_text_that_is_no_path_is_known():
    assert not TEXTS, [(name, p.opts) for name, p in TEXTS]


@pytest.mark.parametrize(("name", "param"), PATHS, ids=[f"{name} {p.opts[0]}" for name, p in PATHS])
def test_the_home_folder_in_every_path(name, param, monkeypatch, tmp_path):
    """A leading ~ is expanded, environment variables are not, and other names stay as they are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$HOME").mkdir()
    for folder in (tmp_path, tmp_path / "$HOME") if param.type.exists else ():
        (folder / "x.toml").touch()
    assert isinstance(param.type, UserPath)
    context = click.Context(ALL[name])
    assert os.fspath(param.type.convert("~/x.toml", param, context)) == f"{tmp_path}/x.toml"
    for text in ("$HOME/x.toml", "x.toml", "./x.toml", str(tmp_path / "x.toml")):
        assert os.fspath(param.type.convert(text, param, context)) == str(Path(text)) or text.startswith("./")


@pytest.mark.parametrize(
    ("within", "text", "expected"),
    [
        ("", "~", "HOME"),
        ("", "~/a~/b", "HOME/a~/b"),
        ("", "a/~/b", "a/~/b"),
        ("", "portraits", "portraits"),
        ("", "package.module:function", "package.module:function"),
        ("", "~/spaces and ü.png", "HOME/spaces and ü.png"),
        ("", "~x", "~x"),  # a file of that name is there
        (":", "file:~/w.npz", "file:HOME/w.npz"),
        (":", "e4e", "e4e"),
        (":", "~/w.npz", "HOME/w.npz"),
        (",", "i2s,~/a.toml,~/b.toml", "i2s,HOME/a.toml,HOME/b.toml"),
        (",", "i2s", "i2s"),
    ],
)
def test_where_a_path_may_begin(within, text, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~x").touch()
    assert UserPath(within).convert(text, None, None) == expected.replace("HOME", str(tmp_path))


def test_a_user_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.BadParameter, match=r"'~nobody-of-that-name' is no user's home folder; write \./~"):
        UserPath().convert("~nobody-of-that-name/out", None, None)


def test_files_of_recipes_too(folder, monkeypatch, latentopt):
    monkeypatch.setenv("HOME", str(folder))
    start = '{name = "file", path = "~/w.npz"}'
    for arguments in (
        ("--init", "file:~/w.npz"),
        ("--init", start),
        ("--set", "stages.0.init.path=~/w.npz", "--init", "file:x"),
    ):
        code, out, err = latentopt("invert", *arguments, "-n")
        assert code == 0 and f'path = "{folder}/w.npz"' in out, err


def test_results_go_to_the_home_folder_and_none_is_called_tilde(folder, monkeypatch, latentopt, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (folder / "photos" / "a.png").rename(home / "a.png")
    (folder / "net").rename(home / "net")
    monkeypatch.setenv("HOME", str(home))
    code, _, err = latentopt(
        "invert", "~/a.png", "--network", "~/net/tiny.safetensors", "--outdir=~/results", "--steps", "1",
        "--terms", "l2=1", "--recipe", "i2s", "--no-preflight", "-q",
    )  # fmt: skip
    assert code == 0, err
    assert (home / "results" / "a" / "run.json").is_file() and not (folder / "~").exists()
    assert latentopt("info", "~/net/tiny.safetensors")[0] == 0


def test_every_remedy_is_an_option_of_some_command():
    known = defaultdict(set)
    for command in ALL.values():
        for param in command.params:
            known[param.name] |= set(param.opts)
    assert all(text.split()[0] in known[name] for name, text in INSTEAD.items())
