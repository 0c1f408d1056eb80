"""Pictures in and out: every kind of file, every fault, exact roundtrips."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from latentopt.errors import ImageError, LatentoptError, UsageError
from latentopt.pictures.contact_sheet import comparison_grid, contact_sheet
from latentopt.pictures.finding import find_images
from latentopt.pictures.images import from_uint8, read_image, read_png, save_png, to_uint8

SIZE = (32, 32)


def ramp(h=32, w=32) -> np.ndarray:
    """Levels 0..255 from left to right, [h,w]."""
    return np.tile(np.linspace(0, 255, w).round(), (h, 1)).astype(np.uint8)


def levels(image: torch.Tensor) -> np.ndarray:
    """[3,H,W] in [-1,1] as float levels [H,W,3], unrounded."""
    return ((image + 1) * 127.5).movedim(0, -1).numpy()


def png_header(w, h) -> bytes:
    """A PNG that claims w x h pixels and holds none."""
    ihdr = struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def png16(samples: np.ndarray, colour: int) -> bytes:
    """A 16-bit PNG of samples [h,w,c]; colour 2 = RGB, 0 = grey."""
    h, w, _ = samples.shape
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", w, h, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noisy(mode="RGB", size=(64, 64)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)


# ---- exactness


def test_every_level_survives_the_roundtrip():
    table = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    assert (to_uint8(from_uint8(table)) == table).all()
    assert (to_uint8(from_uint8(table).bfloat16().float() + 0.001) - table.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("value", "level"),
    [(-1, 0), (1, 255), (-7, 0), (7, 255), (float("inf"), 255), (-float("inf"), 0), (0.4 / 127.5 - 1, 0),
     (0.6 / 127.5 - 1, 1), (254.6 / 127.5 - 1, 255), (0, 128)],
)  # fmt: skip
def test_to_uint8_rounds_and_clips(value, level):
    assert to_uint8(torch.full((3, 1, 1), float(value))).tolist() == [[[level] * 3]]


def test_not_a_number_is_refused_not_drawn(tmp_path):
    with pytest.raises(ImageError, match="NaN"):
        save_png(tmp_path / "a.png", torch.full((3, 8, 8), float("nan")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_png_roundtrip_is_exact(tmp_path, channels):
    image = from_uint8(np.asarray(noisy())[..., :channels])
    save_png(tmp_path / "new folder" / "a.png", image)
    assert torch.equal(read_png(tmp_path / "new folder" / "a.png"), image)
    back = read_image(tmp_path / "new folder" / "a.png", (64, 64))
    assert torch.equal(back.image, image.expand(3, -1, -1))
    assert back.notes == () and back.mask is None and back.original_size == (64, 64)


# ---- kinds of files: (bytes, a piece of a note or None, mean level expected, tolerance)

P3 = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = {
    "png": (encoded(Image.fromarray(ramp()), "PNG"), None, 127.5, 0.5),
    "jpeg": (encoded(Image.fromarray(ramp()).convert("RGB"), "JPEG", quality=95), None, 127.5, 1),
    "webp": (encoded(Image.fromarray(ramp()).convert("RGB"), "WEBP", lossless=True), None, 127.5, 0.5),
    "bmp": (encoded(Image.fromarray(ramp()).convert("RGB"), "BMP"), None, 127.5, 0.5),
    "tiff": (encoded(Image.fromarray(ramp()).convert("RGB"), "TIFF"), None, 127.5, 0.5),
    "palette": (encoded(Image.fromarray(ramp()).convert("RGB").quantize(256), "PNG"), None, 127.5, 2),
    "1-bit": (encoded(Image.fromarray(ramp() > 127), "PNG"), None, 127.5, 0.5),
    "grey and alpha": (encoded(Image.fromarray(ramp()).convert("LA"), "PNG"), None, 127.5, 0.5),
    "16-bit grey": (png16(ramp()[..., None].astype(int) * 257, 0), "1/257", 127.5, 0.5),
    "16-bit grey tiff": (
        encoded(Image.fromarray(ramp().astype(np.uint16) * 257), "TIFF"), "1/257", 127.5, 0.5),
    "48-bit rgb": (png16(ramp()[..., None].repeat(3, -1).astype(int) * 257, 2), "high byte", 127.5, 0.5),
    "float tiff 0..1": (encoded(Image.fromarray(ramp().astype(np.float32) / 255), "TIFF"), "[0,1]", 127.5, 0.5),
    "float tiff 0..255": (encoded(Image.fromarray(ramp().astype(np.float32)), "TIFF"), "[0,255]", 127.5, 0.5),
    "float tiff signed": (encoded(Image.fromarray(ramp() / np.float32(85) - 2), "TIFF"), "stretched", 127.5, 0.5),
    "32-bit tiff": (encoded(Image.fromarray(ramp().astype(np.int32) * 257), "TIFF"), "[0,65535]", 127.5, 0.5),
    "cmyk without profile": (
        encoded(Image.fromarray(ramp()).convert("RGB").convert("CMYK"), "JPEG", quality=95), "plain formula", 127.5, 2),
    "cmyk, bad profile": (
        encoded(noisy("CMYK"), "JPEG", icc_profile=b"junk" * 40), "profile is unusable", 127.5, 20),
    "rgb, bad profile": (encoded(noisy(), "PNG", icc_profile=b"junk" * 40), "profile is unusable", 127.5, 10),
    "srgb profile": (encoded(Image.fromarray(ramp()).convert("RGB"), "PNG", icc_profile=P3), None, 127.5, 0.5),
    "animated gif": (
        encoded(Image.new("L", SIZE, 9), "GIF", save_all=True, append_images=[Image.new("L", SIZE, 200)]),
        "first is used", 9, 0.5),
    "animated webp": (
        encoded(Image.new("RGB", SIZE, (9, 9, 9)), "WEBP", save_all=True, lossless=True,
                append_images=[Image.new("RGB", SIZE, (200, 200, 200))]), "first is used", 9, 0.5),
    "two-page tiff": (
        encoded(Image.new("L", SIZE, 9), "TIFF", save_all=True, append_images=[Image.new("L", SIZE, 200)]),
        "first is used", 9, 0.5),
    "two-picture mpo": (
        encoded(Image.new("RGB", SIZE, (9, 9, 9)), "MPO", save_all=True,
                append_images=[Image.new("RGB", SIZE, (200, 200, 200))]), None, 9, 1),
    "constant black": (encoded(Image.new("RGB", SIZE), "PNG"), None, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(tmp_path, kind):
    data, note, mean, tolerance = KINDS[kind]
    path = tmp_path / "no suffix needed"
    path.write_bytes(data)
    target = read_image(path, SIZE)
    assert target.image.shape == (3, *SIZE) and target.image.dtype == torch.float32
    assert target.image.abs().max() <= 1
    assert levels(target.image).mean() == pytest.approx(mean, abs=tolerance)
    assert note in str(target.notes) if note else target.notes == (), target.notes
    assert len(target.sha256) == 64


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    (tmp_path / "a.png").write_bytes(KINDS["16-bit grey"][0])
    assert np.abs(levels(read_image(tmp_path / "a.png", SIZE).image)[..., 0] - ramp()).max() < 0.01


def test_avif(tmp_path):
    noisy().save(tmp_path / "a.avif")
    assert read_image(tmp_path / "a.avif", SIZE).original_size == (64, 64)


def test_cmyk_goes_through_its_profile(tmp_path, monkeypatch):
    """No CMYK profile can be made with Pillow: the conversion itself is replaced, its result must come out."""
    from latentopt.pictures import decoding

    monkeypatch.setattr(decoding, "_convert_profile", lambda image, profile: Image.new("RGB", image.size, (1, 2, 3)))
    noisy("CMYK").save(tmp_path / "a.jpg", icc_profile=b"a profile")
    target = read_image(tmp_path / "a.jpg", SIZE)
    assert levels(target.image)[0, 0].round().tolist() == [1, 2, 3]
    assert "through its ICC profile" in str(target.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = Image.fromarray(np.kron(np.array([[10, 80], [160, 240]], np.uint8), np.ones((32, 16), np.uint8)))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the turn that the camera made, as Pillow's Transpose
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    target = read_image(tmp_path / "a.png", (64, 32))
    assert (to_uint8(target.image)[..., 0] == np.asarray(upright)).all()
    assert ("upright" in str(target.notes)) == (orientation != 1)
    assert target.original_size == (64, 32)


# ---- transparency


def half_transparent(path: Path) -> None:
    """Left half opaque grey 100, right half transparent hiding red."""
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, :16] = (100, 100, 100, 255)
    rgba[:, 16:] = (255, 0, 0, 0)
    Image.fromarray(rgba).save(path)


def test_hidden_colours_stay_hidden(tmp_path):
    half_transparent(tmp_path / "a.png")
    target = read_image(tmp_path / "a.png", SIZE, background=(0, 50, 0))
    assert to_uint8(target.image)[5, 20].tolist() == [0, 50, 0] and to_uint8(target.image)[5, 5].tolist() == [100] * 3
    assert target.mask is None and "composited on (0, 50, 0)" in str(target.notes)


def test_alpha_as_a_mask(tmp_path):
    half_transparent(tmp_path / "a.png")
    mask = read_image(tmp_path / "a.png", SIZE, alpha="mask").mask
    assert mask.shape == (1, 32, 32) and mask[..., :16].eq(1).all() and mask[..., 16:].eq(0).all()
    save_png(tmp_path / "b.png", torch.zeros(3, 32, 32))
    assert read_image(tmp_path / "b.png", SIZE, alpha="mask").mask is None
    Image.new("RGBA", SIZE).save(tmp_path / "c.png")
    with pytest.raises(ImageError, match=r"c\.png.*wholly transparent"):
        read_image(tmp_path / "c.png", SIZE, alpha="mask")


# ---- fit


@pytest.mark.parametrize(
    ("size", "resolution"), [((64, 32), (32, 32)), ((32, 64), (32, 32)), ((64, 64), (32, 16)), ((40, 90), (48, 32))]
)
def test_fits(tmp_path, size, resolution):
    """A grey picture 0 outside a central 200 stripe, so that what is cut or padded shows. size is (w,h)."""
    Image.new("L", size, 200).save(tmp_path / "a.png")
    w, h = size
    for fit in ("crop", "stretch", "pad"):
        target = read_image(tmp_path / "a.png", resolution, fit=fit, background=(0, 0, 0), alpha="mask")
        assert target.image.shape == (3, *resolution)
        share = float((levels(target.image)[..., 0] > 100).mean())
        aspect = (w / h) / (resolution[1] / resolution[0])
        assert share == pytest.approx(min(aspect, 1 / aspect) if fit == "pad" else 1, abs=0.03)
        assert (target.mask is None) == (fit != "pad")
        if target.mask is not None:
            assert target.mask.mean() == pytest.approx(share, abs=0.01)


def test_crop_is_centred_and_antialiased(tmp_path):
    x = np.zeros((64, 128), np.uint8)
    x[:, 32:96:2] = 255  # one-pixel stripes in the centre square
    Image.fromarray(x).save(tmp_path / "a.png")
    got = levels(read_image(tmp_path / "a.png", SIZE).image)[:, 4:-4]
    assert np.abs(got - 127.5).max() < 3  # without antialiasing: all 0 or all 255


def test_unknown_fit_is_a_usage_error(tmp_path):
    save_png(tmp_path / "a.png", torch.zeros(3, 32, 32))
    with pytest.raises(UsageError, match="crop, pad, stretch"):
        read_image(tmp_path / "a.png", SIZE, fit="squash")


# ---- faults

FAULTS = {
    "zero bytes": (b"", "0 bytes"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "text": (b"not a picture at all", "convert it"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "convert it"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "convert it"),
    "truncated jpeg": (encoded(noisy(), "JPEG")[:1500], "damaged or incomplete"),
    "truncated png": (encoded(noisy(), "PNG")[:1500], "damaged or incomplete"),
    "truncated webp": (encoded(noisy(), "WEBP")[:400], "damaged"),
    "truncated tiff": (encoded(noisy(), "TIFF")[:400], "damaged|convert it"),
    "header only": (png_header(64, 64), "damaged or incomplete"),
    "bomb": (png_header(14000, 14000), "refused unread"),
    "over the limit": (png_header(12000, 8000), "over the limit"),
    "1x1": (encoded(Image.new("L", (1, 1)), "PNG"), "needs 8"),
    "1xN": (encoded(Image.new("L", (1, 900)), "PNG"), "needs 8"),
    "ribbon": (encoded(Image.new("L", (900, 20)), "PNG"), "crop it"),
    "float with nan": (encoded(Image.fromarray(np.full((32, 32), np.nan, np.float32)), "TIFF"), "not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_file_and_the_remedy(tmp_path, fault, recwarn):
    data, message = FAULTS[fault]
    path = tmp_path / "the picture.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path, SIZE)
    assert str(caught.value).startswith(str(path))
    assert not recwarn.list


@pytest.mark.parametrize("name", ["absent.png", "."])
def test_no_file(tmp_path, name):
    with pytest.raises(ImageError, match=r"no such file|a folder, not a picture"):
        read_image(tmp_path / name, SIZE)


def test_pixel_limit_can_be_set(tmp_path):
    save_png(tmp_path / "a.png", torch.zeros(3, 32, 32))
    with pytest.raises(ImageError, match="limit of 1000"):
        read_image(tmp_path / "a.png", SIZE, max_pixels=1000)


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_never_escapes_as_another_error(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        data = bytearray(encoded(noisy(size=(16, 16)), kind))
        for _ in range(10):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        (tmp_path / "a").write_bytes(data)
        try:
            assert read_image(tmp_path / "a", SIZE).image.isfinite().all()
        except ImageError as error:
            assert str(tmp_path / "a") in str(error)


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    save_png(tmp_path / "a.png", torch.zeros(3, 8, 8))
    before = (tmp_path / "a.png").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(LatentoptError, match=r"a\.png.*disk is full"):
        save_png(tmp_path / "a.png", torch.ones(3, 8, 8))
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# ---- finding


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_keys_are_distinct_and_keep_names(tmp_path):
    make(tmp_path, "b/face.png", "a/face.png", "Face.PNG", "face.jpg", "été été.png", "x.txt", ".hidden.png", "._a.png")
    keys = [source.key for source in find_images([tmp_path])]
    assert keys == ["Face", "face-2", "été été", "a/face", "b/face"]
    assert [s.key for s in find_images([tmp_path / "a/face.png", tmp_path / "b/face.png"])] == ["face", "face-2"]
    assert len({key.casefold() for key in keys}) == len(keys)


def test_one_file_named_twice_is_one_image(tmp_path):
    make(tmp_path, "a.png", "b.png")
    assert [s.key for s in find_images([tmp_path / "a.png", tmp_path, tmp_path / "*.png"])] == ["a", "b"]


def test_globs_keep_relative_paths(tmp_path):
    make(tmp_path, "p/1.png", "q/1.png", "q/1.txt")
    assert [s.key for s in find_images([str(tmp_path / "*" / "*")])] == ["p/1", "q/1"]
    assert [s.key for s in find_images([str(tmp_path / "**" / "*.png")])] == ["p/1", "q/1"]


def test_names_that_look_like_patterns_are_files(tmp_path):
    make(tmp_path, "a[1].png")
    assert [s.key for s in find_images([tmp_path / "a[1].png"])] == ["a[1]"]


@pytest.mark.parametrize(
    ("name", "key"),
    [("...png", ".._"), ("....png", "..._"), ("run.json.png", "run.json_"), ("GRID.PNG.png", "GRID.PNG_")],
)
def test_no_key_leaves_the_folder_or_hits_a_result(tmp_path, name, key):
    make(tmp_path, name)
    assert [source.key for source in find_images([tmp_path / name])] == [key]


def test_own_results_are_not_taken_for_inputs(tmp_path):
    make(tmp_path, "a.png", "out/a/run.json", "out/a/proj.png", "out/a/target.png", "out/grid.png", "out/summary.csv")
    assert [s.key for s in find_images([tmp_path])] == ["a"]


@pytest.mark.parametrize("source", ["absent.png", "empty", "*.nothing", "*.png"])
def test_nothing_found_names_the_source(tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as caught:
        find_images([str(tmp_path / source)])
    assert str(tmp_path / source) in str(caught.value)


# ---- sheets


def test_contact_sheet_enlarges_by_a_whole_factor(tmp_path):
    image = from_uint8(np.asarray(noisy(size=(32, 32))))
    contact_sheet([[image, image[:1]], [image]], tmp_path / "a.png")
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (2 * 132 + 4, 2 * 132 + 4, 3)
    assert (sheet[4:132:4, 4:132:4] == to_uint8(image)).all() and (sheet[7:132:4, 7:132:4] == to_uint8(image)).all()
    assert (sheet[-132:, -132:] == 255).all()  # the shorter row


def test_comparison_grid_splits_and_amplifies(tmp_path):
    targets = [torch.full((3, 32, 32), -1.0 + 0.1 * i) for i in range(5)]
    images = [target + 0.05 for target in targets]
    labels = ["a very long name " * 9, "<b>", "日本", "", "e"]
    sheets = comparison_grid(targets, images, tmp_path / "grid.png", labels=labels, rows_per_sheet=2, amplify=4)
    assert [sheet.name for sheet in sheets] == ["grid.png", "grid-2.png", "grid-3.png"]
    sheet = np.asarray(Image.open(sheets[0]))
    target, image, gap = (sheet[100, 4 + i * 132 + 64].tolist() for i in range(3))
    assert target == [0] * 3 and image == [6] * 3 and gap == [26] * 3  # 0.05 * 127.5, and 4 times that from black
    assert sheet.shape[1] == 3 * 132 + 4


def test_large_images_are_reduced(tmp_path):
    contact_sheet([[torch.zeros(3, 600, 1100)]], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (367 + 8, 200 + 8)


def test_a_sheet_needs_an_image(tmp_path):
    with pytest.raises(ValueError, match="needs an image"):
        contact_sheet([[]], tmp_path / "a.png")
    assert comparison_grid([], [], tmp_path / "a.png") == []
