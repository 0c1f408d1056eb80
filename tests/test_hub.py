"""Models on the Hub, against a stand-in for it on this machine: no test asks anybody else."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path

import pytest
import torch

import latentopt as package
from latentopt.api import Inversion
from latentopt.checkpoints.networks import load_generator, save_generator
from latentopt.errors import HubError, LatentoptError, UntrustedFileError, UsageError
from latentopt.hub import client, fetching
from latentopt.hub.addresses import HubAddress, check_repo, hub_address
from latentopt.sharing.card import plain
from latentopt.sharing.generators import KINDS
from latentopt.sharing.push import packaged, push
from latentopt.sharing.runs import without_folders
from latentopt.statistics.at_hand import files_of
from latentopt.statistics.pnorm import PNORM
from tests.conftest import make_tiny_generator
from tests.hub_server import TOKEN, serving

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, with a cache of its own and nobody logged in; any other host is out of reach."""
    plain_lookup = socket.getaddrinfo

    def lookup(host, *arguments, **settings):
        assert host in ("127.0.0.1", b"127.0.0.1"), f"a test asked {host}"
        return plain_lookup(host, *arguments, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as hub:
        set_endpoint(monkeypatch, hub.url)
        yield hub


def set_endpoint(monkeypatch, url: str) -> None:
    """As HF_ENDPOINT does where it is set before the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """Two tiny generators, and what cannot be one."""
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("one", "two")):
        save_generator(make_tiny_generator(seed, channels=(8, 6)), folder / f"{name}.safetensors", {"data": "blocks"})

    class Evil:
        def __reduce__(self):
            return (print, ("code was run",))

    held = {path.stem: path.read_bytes() for path in folder.iterdir()}
    return held | {"evil": pickle.dumps(Evil())}


def weights(generator) -> torch.Tensor:
    return torch.cat([p.flatten() for p in generator.parameters()])


ADDRESSES = {
    "hf:a/b": HubAddress("a/b"),
    "hf://a/b": HubAddress("a/b"),
    "hf:/a/b": HubAddress("a/b"),  # as Path leaves it
    "HF:a/b": HubAddress("a/b"),
    "hf:a/b@v1.0": HubAddress("a/b", "v1.0"),
    "hf:a/b@v1.0/x/y.pkl": HubAddress("a/b", "v1.0", "x/y.pkl"),
    "hf:a/b/ffhq.pkl": HubAddress("a/b", None, "ffhq.pkl"),
    "hf:a/b@refs/pr/3/x.pt": HubAddress("a/b", "refs/pr/3", "x.pt"),
    "ffhq.pkl": None,
    "portraits": None,
    "https://huggingface.co/a/b": None,
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_says_repository_revision_and_file(text):
    assert hub_address(text) == ADDRESSES[text] == (text and hub_address(Path(text)))
    if ADDRESSES[text]:
        assert hub_address(str(ADDRESSES[text])) == ADDRESSES[text]


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a", "hf:a/", "hf:a/b@", "hf:a/b/../x", "hf:a/b//x", "hf:a b/c", "hf:a/b@v 1"]
)
def test_what_is_no_address_is_told_with_the_form(text):
    with pytest.raises(UsageError, match=r"write hf:user/repo\[@revision\]\[/file\]"):
        hub_address(text)


def test_a_file_called_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hf:x").touch()
    assert hub_address("hf:x") is None


@pytest.mark.parametrize(
    ("text", "name"), [("hf:a/b", "b"), ("hf:a/b@v1", "b"), ("hf:a/b/ffhq.pkl", "ffhq"), ("hf:a/b@x/generator.pt", "b")]
)
def test_a_model_is_called_after_its_repository_or_file(text, name):
    assert hub_address(text).name == name


# ---- loading


def test_a_generator_is_loaded_by_its_name(hub, files):
    repo = hub.repo("someone/faces", {"generator.safetensors": files["one"], "README.md": b"faces"})
    generator = package.load_generator("hf:someone/faces")
    assert torch.equal(weights(generator), weights(make_tiny_generator(0, channels=(8, 6))))
    assert generator.name == "faces"
    assert generator.source == f"hf:someone/faces@{repo.branches['main']}/generator.safetensors"
    assert ("HEAD", "/someone/faces/resolve/main/generator.safetensors") in hub.requests


def test_what_is_on_record_asks_nobody_and_stays_the_same(hub, files):
    repo = hub.repo("someone/faces", {"generator.safetensors": files["one"]})
    first = load_generator("hf:someone/faces")
    repo.commit({"generator.safetensors": files["two"]})
    hub.requests.clear()
    again = load_generator(first.source)
    assert hub.requests == [] and again.name == "faces"
    assert again.fingerprint == first.fingerprint != load_generator("hf:someone/faces").fingerprint


def test_revisions_and_files_are_told_apart(hub, files):
    repo = hub.repo("someone/faces", {"generator.safetensors": files["one"], "more/two.safetensors": files["two"]})
    repo.branches["v1"] = repo.branches["main"]
    repo.commit({"generator.safetensors": files["two"]})
    one, two = (load_generator(f"hf:someone/faces@{name}").fingerprint for name in ("v1", "main"))
    assert one != two == load_generator("hf:someone/faces@v1/more/two.safetensors").fingerprint


def test_the_only_model_needs_no_name(hub, files):
    hub.repo("someone/faces", {"mine.safetensors": files["one"], "pnorm.safetensors": b"x" * (1 << 10), "a.txt": b""})
    hub.repo("someone/both", {"a.safetensors": files["one"], "b.pkl": files["evil"]})
    assert fetching.fetch(HubAddress("someone/faces"), "generator.safetensors").name == "mine.safetensors"
    with pytest.raises(
        HubError, match=r"name one of its files; .* has a.safetensors, b.pkl: write hf:someone/both/a.saf"
    ):
        load_generator("hf:someone/both")


def test_statistics_come_along_and_are_found(hub, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from latentopt.statistics.pnorm_fit import fit_pnorm

    fit_pnorm(make_tiny_generator(0, channels=(8, 6)), 1000, batch=500).save(tmp_path / "made" / "p.safetensors")
    statistics = (tmp_path / "made" / "p.safetensors").read_bytes()
    hub.repo(
        "someone/faces", {"generator.safetensors": files["one"], "pnorm.safetensors": statistics, "judge.pt": b"x"}
    )
    (found,) = files_of(PNORM, load_generator("hf:someone/faces"))
    assert found.read_bytes() == statistics and "snapshots" in found.parts
    assert not any("judge" in path for _, path in hub.requests)


def test_the_names_of_statistics_are_those_that_are_looked_for():
    assert set(fetching.BESIDE) == {kind.word for kind in KINDS}


def test_a_file_of_the_hub_is_as_untrusted_as_any(hub, files, capsys):
    hub.repo("someone/evil", {"evil.pkl": files["evil"]})
    with pytest.raises(UntrustedFileError):
        load_generator("hf:someone/evil")
    assert "code was run" not in capsys.readouterr().out
    hub.repo("someone/broken", {"generator.safetensors": files["one"][:-100]})
    with pytest.raises(LatentoptError, match="not whole"):
        load_generator("hf:someone/broken")


def test_every_command_takes_it_with_network(hub, files, latentopt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.repo("someone/faces", {"generator.safetensors": files["one"]})
    code, out, err = latentopt("sample", "--network", "hf:someone/faces", "--seeds", "0", "--outdir", "drawn")
    assert code == 0 and Path("drawn/seed0000.png").is_file(), err
    code, out, err = latentopt("info", "hf:someone/faces", "--json")
    assert code == 0 and json.loads(out)["kind"] == "StyleGAN2 generator", err
    code, out, err = latentopt("convert", "hf:someone/faces", "copy.safetensors")
    assert code == 0 and load_generator("copy.safetensors").num_ws == 4, err


# ---- what cannot be had


REFUSED = {
    "hf:someone/nothing": "no repository someone/nothing that you may see",
    "hf:someone/secret": "if it is private, log in with `hf auth login`",
    "hf:someone/gated": "its owner must let you in",
    "hf:someone/faces@v9": "has no revision 'v9'",
    "hf:someone/faces/x.pkl": "no such file; someone/faces has generator.safetensors",
    "hf:someone/texts": "has no model file",
}


@pytest.mark.parametrize("address", REFUSED)
def test_what_the_hub_does_not_give_is_told(hub, files, address, latentopt):
    hub.repo("someone/faces", {"generator.safetensors": files["one"]})
    hub.repo("someone/secret", {"generator.safetensors": files["one"]}, private=True)
    hub.repo("someone/gated", {"generator.safetensors": files["one"]}, gated=True)
    hub.repo("someone/texts", {"README.md": b""})
    with pytest.raises(HubError) as caught:
        load_generator(address)
    assert REFUSED[address] in str(caught.value) and address in str(caught.value)


def test_a_private_one_with_a_token(hub, files, monkeypatch):
    hub.repo("someone/secret", {"generator.safetensors": files["one"]}, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert load_generator("hf:someone/secret").num_ws == 4


@pytest.mark.parametrize("how", ["offline", "refused", "failing"])
def test_without_the_hub_the_cache_does_or_it_is_said(hub, files, how, monkeypatch):
    hub.repo("someone/faces", {"generator.safetensors": files["one"]})
    hub.repo("someone/named", {"mine.safetensors": files["two"]})
    before = [load_generator(f"hf:someone/{name}").fingerprint for name in ("faces", "named")]
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "failing":
        hub.failing = 500
    else:
        set_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert [load_generator(f"hf:someone/{name}").fingerprint for name in ("faces", "named")] == before
    for address in ("hf:someone/faces@v2", "hf:someone/other", "hf:someone/faces/more.pkl"):
        with pytest.raises(HubError, match=r"not in the cache; fetch it once while online: hf download someone/"):
            load_generator(address)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(LatentoptError, match=r"pip install 'latentopt\[hub\]'"):
        client.client()


# ---- putting there


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def test_a_generator_is_put_there_and_used_by_its_name(hub, logged_in, folder, latentopt):
    code, out, err = latentopt("push", "net/tiny.safetensors", "someone/tiny", "--private", "--licence", "CC-BY-4.0")
    assert code == 0 and "someone/tiny" in out and "/commit/" in out, err
    held = hub.files("someone/tiny")
    assert set(held) == {
        ".gitattributes", "README.md", "generator.safetensors", "samples.png", "pnorm.safetensors",
        "preflight.safetensors",
    }  # fmt: skip
    assert held["generator.safetensors"] == (folder / "net" / "tiny.safetensors").read_bytes()
    assert hub.repos["someone/tiny"].private
    card = held["README.md"].decode()
    assert card.startswith('---\nlicense: "cc-by-4.0"\nlibrary_name: "latentopt"\n')
    for words in (
        "--network hf:someone/tiny",
        'load_generator("hf:someone/tiny")',
        "Nothing is on record about the data",
    ):
        assert words in card
    (folder / "net").rename(folder / "gone")
    (folder / "pnorm_stats").rename(folder / "gone too")
    code, out, err = latentopt(
        "invert",
        "photos/a.png",
        "--network",
        "hf:someone/tiny",
        "--steps",
        "2",
        "--terms",
        "l2=1",
        "--no-preflight",
        "-q",
    )
    assert code == 0, err
    record = json.loads((folder / "out" / "a" / "run.json").read_text())
    assert "pnorm.safetensors" in str(record["statistics"]), "the default recipe clips by them"
    assert record["generator"]["source"].startswith("hf:someone/tiny@")
    hub.requests.clear()
    code, out, err = latentopt("tune", "--method", "pti", "--steps", "1", "--terms", "l2=1", "--corruption", "0", "-q")
    assert code == 0 and hub.requests == [], err


def test_a_run_is_put_there_without_what_is_nobodys_business(hub, logged_in, folder, latentopt):
    common = ("--network", "net/tiny.safetensors", "--terms", "l2=1", "-q")
    photos = str((folder / "photos").absolute())
    assert latentopt("invert", photos, *common, "--steps", "2", "--no-preflight")[0] == 0
    assert latentopt("tune", "--method", "pti", "--steps", "1", "--corruption", "0", *common)[0] == 0
    code, _, err = latentopt("push", "out/tuned-pti", "someone/mine")
    assert code == 0 and "no licence is on record" in err
    held = hub.files("someone/mine")
    names = (
        "inputs.safetensors",
        "delta.safetensors",
        "target.png",
        "proj.png",
        "recipe.toml",
        "history.jsonl",
        "run.json",
    )
    assert {name for name in held if name.startswith("a/")} == {f"a/{name}" for name in names}
    texts = [data.decode() for name, data in held.items() if name.endswith((".json", ".toml", ".md", ".jsonl"))]
    assert not any(str(folder) in text for text in texts)
    card = held["README.md"].decode()
    assert "3 pictures, inverted and tuned" in card and "| psnr |" in card and "--network tiny.safetensors" in card
    for name, data in held.items():
        path = folder / "fetched" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert Inversion.load(folder / "fetched" / "a").inputs.deltas is not None


def test_pickles_are_not_put_there(hub, logged_in, folder, files, latentopt):
    (folder / "evil.pkl").write_bytes(files["evil"])
    torch.save({"x": torch.zeros(1)}, folder / "net.pt")
    for name in ("evil.pkl", "net.pt"):
        code, _, err = latentopt("push", name, "someone/evil")
        assert code == 2 and "only latentopt's safetensors files" in err and f"latentopt convert {name}" in err
    assert latentopt("invert", "photos/a.png", "--network", "net/tiny.safetensors", "--steps", "1", "--terms", "l2=1",
                     "--no-preflight", "-q")[0] == 0  # fmt: skip
    (folder / "out" / "a" / "inputs.safetensors").write_bytes(files["evil"])
    code, _, err = latentopt("push", "out", "someone/evil")
    assert code == 2 and "a Python pickle" in err and "nothing was put on the Hub" in err
    assert hub.repos == {}


def test_nobody_logged_in_is_told_before_any_work(hub, folder, latentopt):
    code, _, err = latentopt("push", "net/tiny.safetensors", "someone/tiny")
    assert code == 1 and "without a token: log in with `hf auth login`, or set HF_TOKEN" in err
    code, out, err = latentopt("push", "net/tiny.safetensors", "someone/tiny", "-n")
    assert code == 0 and "generator.safetensors" in out and "library_name" in out, err
    assert hub.requests == []


def test_a_token_that_may_not_write_and_a_hub_out_of_reach(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(HubError, match="a token that may write"):
        push("net/tiny.safetensors", "someone/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        push("net/tiny.safetensors", "someone/tiny")


@pytest.mark.parametrize("name", ["faces", "a/b/c", "a b/c", "-a/b", "a/b--c", "", "https://x/y"])
def test_names_that_are_no_repository(name):
    with pytest.raises(UsageError, match="write user/repo"):
        check_repo(name)


def test_what_files_say_makes_no_markup(folder):
    assert plain("a|b\n<img src=x> [x](y) \x1b") == r"a\|b\\n\<img src=x\> \[x\](y) \\x1b"
    save_generator(
        make_tiny_generator(channels=(8, 6)), folder / "x.safetensors", {"data": "<script>|", "figures": {"fid": 1.5}}
    )
    with packaged(folder / "x.safetensors", "someone/x") as package:
        assert r"\<script\>\|" in package.card and "| fid | 1.5 |" in package.card


def test_folders_of_this_machine_are_taken_out():
    text = '{"a": "/home/me/x.png", "b": "C:\\\\Users\\\\me\\\\x.png", "c": "photos/x.png", "d": "~/w.npz", "e": "1/2"}'
    assert without_folders(text) == '{"a": "x.png", "b": "x.png", "c": "photos/x.png", "d": "w.npz", "e": "1/2"}'
