"""What messages tell people to do can be typed as it stands, in every command, and it helps."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from conftest import make_encoder, make_tiny_generator

from latentopt.api import invert
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.commands import cli
from latentopt.commands.remedies import meant
from latentopt.encoders.files import save_encoder
from latentopt.files.storage import load_metadata
from latentopt.recipe.recipe import Recipe


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Less to measure than for use."""
    monkeypatch.setattr("latentopt.statistics.linear_prior.MOST_FEATURES", 1)
    monkeypatch.setattr("latentopt.statistics.pnorm_measure.SAMPLES", 1000)
    monkeypatch.setattr("latentopt.preflight.warm_start.FEWEST", 8)
    monkeypatch.setattr("latentopt.preflight.warm_start.MOST", 8)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setattr("lpips.LPIPS", fail)  # which builds the whole network before it looks for its weights


NETWORK = ("--network", "net/tiny.safetensors")
NEED_LPIPS = {
    "invert": ("invert", "photos/a.png", *NETWORK, "--recipe", "i2s", "--steps", "1", "--no-preflight", "-q"),
    "invert, two stages": (
        "invert",
        "photos/a.png",
        *NETWORK,
        "--recipe",
        "pti",
        "--steps",
        "1",
        "--no-preflight",
        "-q",
    ),
    "tune": ("tune", "made", *NETWORK, "--method", "pti", "--steps", "1", "--corruption", "0", "-q"),
    "compare": (
        "compare",
        "photos/a.png",
        *NETWORK,
        "--recipes",
        "i2s",
        "--steps",
        "1",
        "--lec",
        "0",
        "--no-preflight",
        "-q",
    ),
    "evaluate": ("evaluate", "made", *NETWORK, "--parts", "reconstruction", "-q"),
    "encode": ("encode", "photos/a.png", *NETWORK, "--encoder", "psp.safetensors", "-q"),
    "fit-pnorm": ("fit-pnorm", *NETWORK, "--samples", "2000", "--prior", "--prior-samples", "200", "-q"),
    "fit-metric": ("fit-metric", *NETWORK, "--probes", "8", "--layers", "convs:1", "-q"),
    "fit-sigma": ("fit-sigma", *NETWORK, "--samples", "2", "--layers", "convs:1", "--features", "perceptual", "-q"),
}


@pytest.mark.parametrize("name", NEED_LPIPS)
@pytest.mark.filterwarnings("ignore")
def test_without_the_weights_of_lpips(name, folder, made, latentopt, offline):
    """The message names options that this very command has, and they do help."""
    shutil.copytree(made / "made", folder / "made")
    if name == "encode":
        save_encoder(make_encoder(load_generator("net/tiny.safetensors"), "psp"), folder / "psp.safetensors")
    code, _, err = latentopt(*NEED_LPIPS[name])
    assert code == 1 and "could not be downloaded" in err
    instead = shlex.split(re.search(r"or do without: (.*)", err)[1])
    command = meant(cli, NEED_LPIPS[name])
    known = {flag for param in command.params for flag in param.opts}
    assert {word for word in instead if word.startswith("--")} <= known
    code, _, err = latentopt(*NEED_LPIPS[name], *instead)
    assert code == 0, err


@pytest.fixture
def twins(folder):
    """Two generators of one name, in folders whose names need quoting."""
    for seed, run in ((3, "run A"), (4, "run B")):
        save_generator(make_tiny_generator(seed, channels=(8, 6, 4)), folder / run / "snapshot.safetensors")
    return [f"{run}/snapshot.safetensors" for run in ("run A", "run B")]


MAKE = {
    "P-norm": (("fit-pnorm", "--samples", "500", "--batch", "250", "-q"), "pnorm_stats"),
    "sigma": (("fit-sigma", "--samples", "2", "--layers", "convs:1", "-q"), "sigma"),
    "directions": (("directions", "find", "--method", "sefa", "--no-sheet", "-q"), "directions"),
    "prior": (
        (
            "fit-pnorm",
            "--samples",
            "500",
            "--batch",
            "250",
            "--prior",
            "--prior-net",
            "bundled",
            "--prior-samples",
            "200",
            "-q",
        ),
        "pnorm_stats",
    ),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.filterwarnings("ignore")
def test_two_generators_of_one_name(kind, twins, folder, latentopt):
    """By default each has a file of its own, which a second call finds again; nothing is refused or replaced."""
    arguments, place = MAKE[kind]
    for network in twins:
        code, _, err = latentopt(*arguments, "--network", network)
        assert code == 0, err
    files = sorted((folder / place).glob("snapshot*.safetensors"))
    before = [load_metadata(path)["fingerprint"] for path in files]
    assert len(files) == (4 if kind == "prior" else 2)
    for network in reversed(twins):
        assert latentopt(*arguments, "--network", network)[0] == 0
    assert [load_metadata(path)["fingerprint"] for path in files] == before and len(set(before)) == 2
    assert sorted((folder / place).glob("snapshot*.safetensors")) == files


@pytest.mark.filterwarnings("ignore")
def test_shards_of_two_generators_of_one_name(twins, folder, latentopt):
    fit = ("fit-pnorm", "--samples", "500", "--batch", "100", "-q", "--network")
    for shard in ("0/2", "1/2"):
        for network in twins:
            assert latentopt(*fit, network, "--shard", shard)[0] == 0
    for network in twins:
        assert latentopt(*fit, network, "--merge")[0] == 0
    assert len(list((folder / "pnorm_stats").glob("snapshot*.safetensors"))) == 2


NEEDED = {  # what lacks something, and what must be there for it when the remedy was followed
    "P-norm": ("invert", "photos/a.png", "--recipe", "ii2s", "--terms", "l2=1", "--steps", "1", "--no-preflight", "-q"),
    "linear prior": ("invert", "photos/a.png", "--recipe", "i2s", "--init", "linear", "--terms", "l2=1", "--steps", "1",
                     "--no-preflight", "-q"),
    "directions": ("directions", "list"),
}  # fmt: skip
QUICK = {
    "fit-pnorm": ("--samples", "2000", "--prior-samples", "200", "--prior-net", "bundled", "-q"),
    "directions": ("-q", "--samples", "500"),
}


@pytest.mark.parametrize("kind", NEEDED)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.filterwarnings("ignore")
def test_what_a_message_says_to_run_helps(kind, which, twins, folder, latentopt):
    """Also where another generator of that name has its files there, and the path must be quoted."""
    for path in (folder / "pnorm_stats").glob("*"):
        path.unlink()
    network = ("--network", twins[which])
    code, _, err = latentopt(*NEEDED[kind], *network)
    if code == 0:
        assert kind == "P-norm", "it is measured on the spot"
        return
    words = shlex.split(re.search(r"run:? latentopt (.*)", err)[1])
    code, _, err = latentopt(*words, *QUICK.get(words[0], ()))
    assert code == 0, err
    code, _, err = latentopt(*NEEDED[kind], *network)
    assert code == 0, err


# ---- a generator that has moved


@pytest.fixture(scope="module")
def made(prepared, tmp_path_factory):
    """The folder of an inversion."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe = Recipe.load("i2s").in_every_stage(steps=1, terms=[{"name": "l2"}])
        invert(load_generator("net/tiny.safetensors"), ["photos/a.png", "photos/b.png"], recipe, out="made")
    return folder


@pytest.fixture
def moved(folder, made):
    """A run whose generator is at another place now."""
    shutil.copytree(made / "made", folder / "made")
    (folder / "net").rename(folder / "moved")
    return folder


GO_ON = {
    "edit": ("edit", "made"),
    "mix": ("mix", "made"),
    "interpolate": ("interpolate", "made", "--pictures", "3"),
    "sample": ("sample", "--latents", "made"),
    "tune": ("tune", "made", "--method", "pti", "--steps", "1", "--terms", "l2=1", "--corruption", "0", "-q"),
    "evaluate": ("evaluate", "made", "--parts", "reconstruction", "--metrics", "bundled", "-q"),
    "a file": ("edit", "made/a/inputs.safetensors"),
}


@pytest.mark.parametrize("name", [name for name in GO_ON if name != "a file"])
def test_a_moved_generator_is_told_alike_and_found_where_it_is_named(name, moved, latentopt):
    code, _, err = latentopt(*GO_ON[name])
    assert code == 1
    assert re.search(r"net/tiny\.safetensors: no such file.*\. It is what made\S* was made with; if it has moved, say "
                     r"where: --network FILE", err), err  # fmt: skip
    code, _, err = latentopt(*GO_ON[name], "--network", "moved/tiny.safetensors")
    assert code == 0, err


@pytest.mark.parametrize("name", GO_ON)
def test_another_generator_in_its_place_is_told_alike(name, moved, latentopt):
    save_generator(make_tiny_generator(9, channels=(8, 6, 4)), moved / "net" / "tiny.safetensors")
    code, _, err = latentopt(*GO_ON[name], "--network", "net/tiny.safetensors")
    assert code == 1
    told = r"(made\S*|a): made with generator 'tiny' \(\w+\), not with 'tiny' \(\w+\); name the one it was made with"
    assert re.search(rf"{told} \(--network FILE\)", err), err
