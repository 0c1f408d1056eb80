"""What a file is, told by its content; addresses given as files; the message for each."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from latentopt.errors import CheckpointError, ImageError
from latentopt.files.addresses import address_of, how_to_fetch
from latentopt.files.kinds import DAMAGED, PURPOSE, check_file, kind_of, refusal


def torch_file(contents: object = None, **options) -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(3)} if contents is None else contents, stream, **options)
    return stream.getvalue()


def zipped(compression: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return stream.getvalue()


def packed_again(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return zipped(**{name: archive.read(name) for name in archive.namelist()})


def tarred(format: int, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=format) as archive:
        entry = tarfile.TarInfo("net.pkl")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    return stream.getvalue()


def picture(form: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 20, 30)).save(stream, form)
    return stream.getvalue()


def arrays(save=np.savez) -> bytes:
    stream = io.BytesIO()
    save(stream, w=np.zeros((1, 8, 16)))
    return stream.getvalue()


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


TENSORS = save({"a": torch.ones(100)}, {"format": "latentopt-pnorm-1"})
HTML = b"<html><head><title> Sign\n in </title></head></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 381673535\n"
OLD_TAR = bytearray(tarred(tarfile.USTAR_FORMAT))
OLD_TAR[257:265] = bytes(8)
OLD_TAR[148:156] = b"%06o\0 " % (sum(OLD_TAR[:148]) + 8 * 32 + sum(OLD_TAR[156:512]))

CASES = {  # name: (contents, kind, what the message says)
    "safetensors": (TENSORS, "safetensors", "a file of latentopt (pnorm-1)"),
    "foreign safetensors": (save({"a": torch.ones(2)}), "safetensors", "a safetensors file"),
    "safetensors, cut": (TENSORS[:-9], "truncated", f"({len(TENSORS) - 9} of {len(TENSORS)} bytes)"),
    "safetensors, index cut": (TENSORS[:40], "truncated", "not whole"),
    "safetensors, huge index": ((1 << 30).to_bytes(8, "little") + b'{"a":', "truncated", "of 1,073,741,832 bytes"),
    "torch": (torch_file(), "torch", "a torch file"),
    "old torch": (torch_file(_use_new_zipfile_serialization=False), "torch-legacy", "old format"),
    "torch, cut": (torch_file()[:-200], "truncated", "end is missing"),
    "torch, packed again": (packed_again(torch_file()), "packed", "zip -0"),
    "torch script": (zipped(**{"x__data.pkl": b"", "x__constants.pkl": b""}), "torch-script", "state dict"),
    "pickle": (pickle.dumps({"a": 1}, 2), "pickle", "--network"),
    "pickle, protocol 5": (pickle.dumps({"a": 1}, 5), "pickle", "Python pickle"),
    "pickle, text": (b"cos\nsystem\n(S'x'\ntR.", "pickle", "Python pickle"),
    "npz": (arrays(), "npz", "latentopt edit"),
    "npz, compressed": (arrays(np.savez_compressed), "npz", "NumPy arrays"),
    "npy": (array(), "npy", "a NumPy array"),
    **{
        form: (picture(form), "picture", "latentopt invert")
        for form in ("PNG", "JPEG", "GIF", "WebP", "TIFF", "BMP", "AVIF")
    },
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9), "other-picture", "convert it"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(9), "other-picture", "HEIC"),
    "DICOM": (bytes(128) + b"DICM" + b"\2\0\0\0UL", "other-picture", "DICOM"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "other-picture", "SVG"),
    "empty": (b"", "empty", "0 bytes"),
    "zeros": (bytes(5000), "zeros", "zero bytes"),
    "web page": (b"<!DOCTYPE html>" + HTML, "web-page", "'Sign in'"),
    "web page, spaces first": (b"\n\n  " + HTML, "web-page", "browser"),
    "web page, comment first": (b"<!-- saved -->" + HTML, "web-page", "browser"),
    "web page, capitals": (HTML.upper(), "web-page", "SIGN IN"),
    "web page, UTF-8 mark": (b"\xef\xbb\xbf" + HTML, "web-page", "Sign in"),
    "web page, UTF-16": (HTML.decode().encode("utf-16"), "web-page", "Sign in"),
    "web page, latin-1": (HTML + "für später".encode("latin-1"), "web-page", "Sign in"),
    "web page, no title": (b"<html><body>Google Drive", "web-page", "a web page,"),
    "web page, hostile title": (b"<html><title>a\x1b[31mb</title>", "web-page", "a\\\\x1b[31mb"),
    "web page, XHTML": (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "x"><html/>', "web-page", "browser"),
    "web page, saved": (b"From: <Saved>\nSubject: x\nMIME-Version: 1.0\n", "web-page", "browser"),
    "git-LFS": (LFS, "pointer", "381,673,535 bytes"),
    "git-LFS, Windows": (LFS.replace(b"\n", b"\r\n"), "pointer", "git lfs pull"),
    "git-LFS, extended": (LFS.replace(b"\noid", b"\next-0-foo sha256:1\noid"), "pointer", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s3--abc.pkl\n", "pointer", "git annex get"),
    "DVC": (b"outs:\n- md5: abc\n  path: net.pkl\n", "pointer", "dvc pull"),
    "JSON": (json.dumps({"error": "Entry not found"}).encode(), "message", "Entry not found"),
    "XML": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "message", "XML"),
    "XML without a head": (b"<Error><Code>AccessDenied</Code></Error>", "message", "AccessDenied"),
    "HTTP": (b"HTTP/1.1 404 Not Found\r\n\r\n", "message", "404"),
    "text": (b"Not found", "text", "'Not found'"),
    "recipe": (b'name = "<html> [1]"\n[[stages]]\nsteps = 1\n', "text", "stages"),
    "text, other script": ("не найдено".encode(), "text", "не найдено"),
    "long text": ("ä".encode() * 20_000, "text", "a text"),
    "spaces": (b" \n\n", "text", "spaces"),
    "table": (b"name,age\na.png,3\n", "text", "name,age"),
    "formula": (b"x^2 + 1", "text", "x^2"),
    "gzip": (gzip.compress(b"\x80\x03}q\x00."), "packed", "gunzip"),
    "bzip2": (bz2.compress(b"abc"), "packed", "bunzip2"),
    "xz": (lzma.compress(b"abc"), "packed", "unxz"),
    "Zstandard": (b"\x28\xb5\x2f\xfd\x04\x00", "packed", "unzstd"),
    "LZ4": (b"\x04\x22\x4d\x18\x64", "packed", "unlz4"),
    "zlib": (zlib.compress(b"abc" * 100), "packed", "zlib"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c\0\4", "packed", "7z x"),
    "RAR 4": (b"Rar!\x1a\x07\0", "packed", "unrar"),
    "RAR 5": (b"Rar!\x1a\x07\1\0", "packed", "unrar"),
    "tar": (tarred(tarfile.GNU_FORMAT), "packed", "'net.pkl'"),
    "tar, old": (bytes(OLD_TAR), "packed", "'net.pkl'"),
    "tar.gz": (tarred(tarfile.PAX_FORMAT, "w:gz"), "packed", "tar xf"),
    "zip": (zipped(**{"net.pkl": b"\x80\x03}q\x00.", "a.txt": b""}), "packed", "'net.pkl', 'a.txt'"),
    "zip, empty": (zipped(), "packed", "nothing"),
    "zip, cut": (zipped(**{"net.pkl": b"abc" * 99})[:-20], "truncated", "end is missing"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "other", "HDF5"),
    "GGUF": (b"GGUF\3\0\0\0", "other", "language model"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x051.8", "other", "ONNX"),
    "PDF": (b"%PDF-1.7\n", "other", "PDF"),
    "film": (b"\0\0\0\x20ftypisom\0\0\2\0", "other", "film"),
    "program": (b"\x7fELF\2\1\1", "other", "program"),
    "noise": (b"\xfe\x01\x99\x03\x80\x17\x91" * 50, "unknown", "get the file again"),
    "one byte": (b"\x80", "pickle", "Python pickle"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_named_for_what_it_is(tmp_path, name):
    data, kind, said = CASES[name]
    path = tmp_path / "net.pkl"
    path.write_bytes(data)
    assert kind_of(path).name == kind
    message = refusal(path, "a model file")
    assert message.startswith(f"{path}: a") or message.startswith((f"{path}: N", f"{path}: no", f"{path}: zero"))
    assert said in message
    assert (", not a model file; " in message) == (kind not in DAMAGED)
    assert message.isprintable()  # nothing of the file moves the cursor
    assert not message.endswith("; ")


def test_every_kind_that_is_read_has_a_purpose():
    read = {kind for _, kind, _ in CASES.values()} & set(PURPOSE)
    assert read == set(PURPOSE)


def test_an_unfinished_download_is_named(tmp_path):
    path = tmp_path / "net.pkl.crdownload"
    path.write_bytes(b"\xfe\x01\x99" * 50)
    assert "unfinished download" in refusal(path, "a model file")


ADDRESSES = {  # given: (address, part of the remedy)
    "https://example.org/ffhq.pkl": ("https://example.org/ffhq.pkl", "curl -L -O https://example.org/ffhq.pkl"),
    "https:/example.org/ffhq.pkl": ("https://example.org/ffhq.pkl", "curl"),  # as Path leaves it
    "HTTP://EXAMPLE.ORG/a": ("HTTP://EXAMPLE.ORG/a", "curl"),
    "ftp://example.org/a.pkl": ("ftp://example.org/a.pkl", "curl"),
    "www.example.org/a.pkl": ("https://www.example.org/a.pkl", "curl"),
    "https://drive.google.com/file/d/1x/view": ("https://drive.google.com/file/d/1x/view", "in a browser"),
    "drive.google.com/file/d/1x/view": ("https://drive.google.com/file/d/1x/view", "in a browser"),
    "https://github.com/a/b/blob/main/x.pt": ("https://github.com/a/b/blob/main/x.pt", "/a/b/raw/main/x.pt"),
    "https://huggingface.co/a/b/blob/main/x.pt": ("https://huggingface.co/a/b/blob/main/x.pt", "/resolve/main/"),
    "hf://nvidia/sg2/f.pkl": ("hf://nvidia/sg2/f.pkl", "hf download nvidia/sg2 f.pkl"),
    "s3://bucket/f.pkl": ("s3://bucket/f.pkl", "aws s3 cp s3://bucket/f.pkl ."),
    "s3:/bucket/f.pkl": ("s3://bucket/f.pkl", "aws s3 cp"),
    "gs://bucket/f.pkl": ("gs://bucket/f.pkl", "gcloud storage cp"),
    "file:///home/f.pkl": ("file:///home/f.pkl", "path: /home/f.pkl"),
    "sftp://host/f.pkl": ("sftp://host/f.pkl", "this machine"),
    "C:/f.pkl": (None, ""),
    "a/b.pkl": (None, ""),
    "a:b/c.pkl": (None, ""),
    "googl.pkl": (None, ""),
    "google/model.pkl": (None, ""),
}


@pytest.mark.parametrize("given", ADDRESSES)
def test_an_address_is_named_with_the_way_to_fetch_it(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address, remedy = ADDRESSES[given]
    assert address_of(given) == address
    if address is None:
        with pytest.raises(CheckpointError, match="no such file; give a model file"):
            check_file(given, "a model file")
        return
    assert remedy in how_to_fetch(address)
    for source in (given, Path(given)):
        with pytest.raises(ImageError) as caught:
            check_file(source, "a picture", ImageError)
        assert "an address, not a picture; latentopt downloads nothing" in str(caught.value)
        assert remedy in str(caught.value)


def test_a_file_that_is_named_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("https:/example.org/net.pkl")
    path.parent.mkdir(parents=True)
    path.touch()
    assert check_file(path, "a model file") == path


def test_folders_and_broken_links_are_named(tmp_path):
    link = tmp_path / "net.pkl"
    for target, remedy in ((tmp_path / ".git/annex/objects/x", "git annex get"), (tmp_path / "x", "is not there")):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(CheckpointError, match=remedy):
            check_file(link, "a model file")
    with pytest.raises(CheckpointError, match="a folder, not a model file"):
        check_file(tmp_path, "a model file")


def test_telling_a_kind_needs_no_torch():
    code = "import sys, latentopt.files.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- everywhere that a file is opened


COMMAND_LINES = {  # what is asked for: (command line with {} for the file, exit code of what is no such file)
    "network": ("sample --network {} --outdir s", 1),
    "info": ("info {}", 1),
    "convert": ("convert {} out.safetensors", 1),
    "statistics": ("invert photos --network net/tiny.safetensors --space pnorm+ --set stages.0.optimize.0.stats={}", 1),
    "encoder": ("encode photos --network net/tiny.safetensors --encoder {}", 1),
    "npz": ("fit-pnorm --network net/tiny.safetensors --npz {}", 1),
    "delta": ("sample --network net/tiny.safetensors --delta {} --outdir s", 1),
    "directions": ("directions list --network net/tiny.safetensors {}", 1),
    "recipe": ("invert photos --network net/tiny.safetensors --recipe {}", 2),
    "picture": ("invert {} --network net/tiny.safetensors --recipe i2s --steps 1 --terms l2=1 --outdir o -q", 1),
}
GIVEN = ["web page", "git-LFS", "empty", "gzip", "zip", "JSON", "text", "PNG", "noise"]


@pytest.mark.parametrize("wanted", COMMAND_LINES)
def test_every_command_names_what_it_was_given(wanted, folder, latentopt):
    line, code = COMMAND_LINES[wanted]
    for name in GIVEN:
        if (wanted, name) in (("picture", "PNG"), ("recipe", "text"), ("recipe", "JSON")):
            continue
        path = Path("given.toml" if wanted == "recipe" else "given.bin")
        path.write_bytes(CASES[name][0])
        found, out, err = latentopt(*line.format(path).split())
        assert found in (code, 3) and "Traceback" not in err, (name, out, err)
        kind = kind_of(path)
        assert kind.words.split(" (")[0] in err, (name, err)
        assert (kind.remedy or PURPOSE[kind.name])[:20] in err or "convert it" in err, (name, err)


@pytest.mark.parametrize("wanted", COMMAND_LINES)
def test_every_command_names_an_address(wanted, folder, latentopt):
    line, code = COMMAND_LINES[wanted]
    found, _, err = latentopt(*line.format("https://example.org/a.pkl").split())
    assert found in (code, 1, 2)
    assert "https://example.org/a.pkl: an address, not a" in err
    assert "curl -L -O https://example.org/a.pkl" in err
