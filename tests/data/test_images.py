"""One file becomes one square, decoded right or refused with a reason; never silently black, white, inverted or turned."""

import base64
import io
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from automm_hpo.data.images import (
    Base64,
    ImageGeometry,
    ImageSpec,
    UnreadableImage,
    check_file,
    cover,
    decode_image,
    identify,
    largest_of_16_bits,
    name_source,
    opens_as_image,
    resolve_path,
)

GEOMETRY = ImageGeometry(8)
ORIENTATION = 0x0112  # EXIF tag


def palette() -> Image.Image:
    image = Image.new("P", (10, 10), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    return image


def full(value, dtype) -> Image.Image:
    return Image.fromarray(np.full((10, 10), value, dtype))


def raw_tiff(bits: int, photometric: int, pixels: bytes, size: int = 10) -> bytes:
    """A grey TIFF of a kind that Pillow can read but not write."""
    pixels += b"\0" * (len(pixels) % 2)
    tags = [(256, 3, size), (257, 3, size), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 3, size), (279, 4, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def noise(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(1, 255, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "name, image, options, expected",
    [
        ("grey16.png", full(20_000, np.uint16), {}, (77, 77, 77)),
        ("grey16.tif", full(65_535, np.uint16), {}, (255, 255, 255)),
        ("grey16_transparent.png", full(20_000, np.uint16), {"transparency": 20_000}, (255, 255, 255)),
        ("grey8.webp", full(77, np.uint8), {}, (77, 77, 77)),
        ("bit.png", Image.new("1", (10, 10), 1), {}, (255, 255, 255)),
        ("cmyk.jpg", Image.new("CMYK", (10, 10), (0, 255, 255, 0)), {}, (255, 0, 0)),
        ("palette.png", palette(), {}, (10, 20, 30)),
        ("palette_transparent.png", palette(), {"transparency": 0}, (255, 255, 255)),
        ("palette_half.png", palette(), {"transparency": bytes([128, 255])}, (132, 137, 142)),
        ("rgba.png", Image.new("RGBA", (10, 10), (200, 0, 0, 51)), {}, (244, 204, 204)),
        ("rgba_clear.png", Image.new("RGBA", (10, 10), (0, 0, 0, 0)), {}, (255, 255, 255)),
        ("grey_alpha.png", Image.new("LA", (10, 10), (100, 0)), {}, (255, 255, 255)),
        ("rgb_transparent.png", Image.new("RGB", (10, 10), (1, 2, 3)), {"transparency": (1, 2, 3)}, (255, 255, 255)),
        ("plain.bmp", Image.new("RGB", (10, 10), (9, 8, 7)), {}, (9, 8, 7)),
        ("1x1.png", Image.new("RGB", (1, 1), "red"), {}, (255, 0, 0)),
        ("1x5000.png", Image.new("RGB", (1, 5000), "red"), {}, (255, 0, 0)),
        ("5000x1.jpg", Image.new("L", (5000, 1), 50), {}, (50, 50, 50)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_pixel_format_is_shown_as_a_viewer_would(tmp_path, name, image, options, expected):
    image.save(tmp_path / name, **options)
    pixels = decode_image(tmp_path / name, GEOMETRY)
    assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
    assert np.abs(pixels.astype(int) - expected).max() <= 1  # JPEG and WebP are lossy


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_the_first_frame_of_an_animation(tmp_path, name):
    red, blue = Image.new("RGB", (10, 10), "red"), Image.new("RGB", (10, 10), "blue")
    red.save(tmp_path / name, save_all=True, append_images=[blue])
    assert np.abs(decode_image(tmp_path / name, GEOMETRY).astype(int) - (255, 0, 0)).max() <= 1


@pytest.mark.parametrize("name", ["rotated.jpg", "rotated.png", "rotated.webp", "rotated.tif", "grey16.png"])
def test_exif_rotation_is_applied(tmp_path, name):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise
    top_white = np.zeros((20, 20), np.uint16 if name == "grey16.png" else np.uint8)
    top_white[:10] = np.iinfo(top_white.dtype).max
    Image.fromarray(top_white).save(tmp_path / name, exif=exif)
    pixels = decode_image(tmp_path / name, GEOMETRY)[:, :, 0]
    assert (pixels[:, 5:] > 240).all()  # the top half before the turn
    assert (pixels[:, :3] < 15).all()


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_as_pillow_has_it(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise(8).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert (decode_image(tmp_path / "a.png", GEOMETRY) == np.asarray(ImageOps.exif_transpose(image))).all()


@pytest.mark.parametrize("exif", [b"", b"garbage", b"II*\0", b"XX*\0" + bytes(30)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_broken_exif_spoils_no_picture(tmp_path, suffix, exif):
    Image.new("RGB", (16, 16), "red").save(tmp_path / f"a.{suffix}", exif=b"Exif\0\0" + exif)
    assert decode_image(tmp_path / f"a.{suffix}", GEOMETRY)[..., 0].min() > 250


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("float.tif", full(0.5, np.float32), "floating-point"),
        ("small32.tif", full(200, np.int32), "32-bit"),  # black if read as 16 bits
        ("large32.tif", full(2_000_000, np.int32), "32-bit"),
        ("grey12.tif", raw_tiff(12, 1, b"\xff" * 150), "12-bit"),
        ("inverted16.tif", raw_tiff(16, 0, b"\0\xf0" * 100), "inverted"),
        ("picture.ppm", Image.new("RGB", (4, 4)), "not an image"),
        ("icon.ico", Image.new("RGB", (16, 16)), "not an image"),
        ("empty.png", b"", "empty"),
        ("page.jpg", b"<!DOCTYPE html><html>404</html>", "not an image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_defined_look_is_refused(tmp_path, name, content, reason):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    with pytest.raises(UnreadableImage, match=reason):
        decode_image(path, GEOMETRY)


def test_the_other_16_bit_tiffs_are_not(tmp_path):
    (tmp_path / "a.tif").write_bytes(raw_tiff(16, 1, struct.pack("<H", 60_000) * 100))
    assert (decode_image(tmp_path / "a.tif", GEOMETRY) == 60_000 // 257).all()


@pytest.mark.parametrize(
    "source, largest",
    [(full(4_000, np.uint16), 4_000), (full(200, np.uint8), None), (np.zeros((4, 4), np.uint8), None), (b"<html>", None), ("/nowhere.png", None), ("", None)],
)
def test_the_largest_value_of_a_16_bit_picture(tmp_path, source, largest):
    assert largest_of_16_bits(source, 100) == largest
    if largest:
        source.save(tmp_path / "a.png")
        assert largest_of_16_bits(str(tmp_path / "a.png"), 100) == largest
        assert largest_of_16_bits(str(tmp_path / "a.png"), 99) is None  # too many pixels to decode


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "suffix, options",
    [("jpg", {}), ("jpg", {"progressive": True}), ("png", {}), ("gif", {}), ("bmp", {}), ("webp", {}), ("tif", {})],
)
def test_a_truncated_file_is_refused(tmp_path, suffix, options, part):
    path = tmp_path / f"a.{suffix}"
    noise().save(path, **options)
    decode_image(path, GEOMETRY)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(UnreadableImage):
        decode_image(path, GEOMETRY)


def test_more_pixels_than_plausible_are_refused(tmp_path):
    (tmp_path / "huge.bmp").write_bytes(b"BM" + struct.pack("<IIIIiiHHII", 62, 0, 62, 40, 20_000, 20_000, 1, 1, 0, 0) + bytes(24))  # claims 400 megapixels
    with pytest.raises(UnreadableImage, match="bomb"):
        decode_image(tmp_path / "huge.bmp", GEOMETRY)
    noise().save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="64 x 64 pixels, more than 4,095"):
        decode_image(tmp_path / "a.png", replace(GEOMETRY, max_pixels=64 * 64 - 1))


@pytest.mark.timeout(10)  # opening a FIFO waits for a writer
@pytest.mark.parametrize(
    "kind, reason", [("fifo", "not a regular file"), ("directory", "a directory"), ("absent", "no such file"), ("dangling", "no such file")]
)
def test_what_is_no_file_is_refused(tmp_path, kind, reason):
    path = tmp_path / "a.png"
    make = {"fifo": lambda: os.mkfifo(path), "directory": path.mkdir, "dangling": lambda: path.symlink_to("nowhere"), "absent": lambda: None}
    make[kind]()
    with pytest.raises(UnreadableImage, match=f"^{reason}$"):
        decode_image(path, GEOMETRY)
    assert not opens_as_image(str(path))


@pytest.mark.parametrize("path", ["", None, np.nan, 3, b"a.png", "a\0b", "x" * 5_000, "\ud800"], ids=lambda value: repr(value)[:12])
def test_a_path_that_is_none(path):
    with pytest.raises(UnreadableImage, match=r"^(missing|no such file)$"):
        check_file(path)


@pytest.mark.parametrize("side, size", [(16, (800, 640)), (16, (300, 1100)), (32, (517, 603)), (64, (613, 517)), (224, (640, 500))])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_reduced_jpeg_decoding_stays_close_to_the_full_one(tmp_path, side, size, orientation):
    x, y = np.meshgrid(*map(np.arange, size))
    photo = np.stack([127 + 100 * np.sin(x / 37) + 20 * np.sin(y / 5), 127 + 100 * np.cos(y / 51), (x + y) / 8], -1).clip(0, 255)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "a.jpg", quality=92, exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:  # the same pixels in a format that cannot be decoded at a reduced size
        ImageOps.exif_transpose(image).save(tmp_path / "a.png", compress_level=1)
    reduced, whole = (decode_image(tmp_path / name, ImageGeometry(side)).astype(int) for name in ("a.jpg", "a.png"))
    assert np.abs(reduced - whole).mean() < 0.6
    assert np.abs(reduced - whole).max() < 12


def test_the_centre_square_is_kept(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "high.png")
    for name in ("wide.png", "high.png"):
        assert (decode_image(tmp_path / name, ImageGeometry(10)) == 255).all()


def test_interpolation_is_honoured(tmp_path):
    noise(16).save(tmp_path / "a.png")
    nearest = decode_image(tmp_path / "a.png", ImageGeometry(32, "nearest"))
    assert (nearest == np.asarray(noise(16)).repeat(2, 0).repeat(2, 1)).all()
    assert (decode_image(tmp_path / "a.png", ImageGeometry(32, "bicubic")) != nearest).any()


@pytest.mark.parametrize("size, crop_pct, side", [(224, 1.0, 224), (224, 0.875, 256), (224, 0.9, 248), (32, 0.95, 33), (7, 1.2, 7)])
def test_side_leaves_the_margin_that_the_crop_takes(size, crop_pct, side):
    assert ImageSpec(size, crop_pct=crop_pct).side == side


def test_cover_serves_every_spec():
    small, large = ImageSpec(32, "bilinear"), ImageSpec(224, "bilinear", 0.875)
    assert cover([small, large]) == ImageGeometry(256, "bilinear")
    assert cover([small, ImageSpec(64, "nearest")]) == ImageGeometry(64, "bicubic")


@pytest.mark.parametrize(
    "value, expected",
    [
        ("a.png", "/data/a.png"),
        (np.str_("a.png"), "/data/a.png"),
        ("/abs/a.png", "/abs/a.png"),
        ("~/a.png", "/home/someone/a.png"),
        ("~nosuchuser/a.png", "/data/~nosuchuser/a.png"),
        ("a=b: ${oc.env:HOME}", "/data/a=b: ${oc.env:HOME}"),
        ("None", "/data/None"),
        ("https://x/a.png", "https://x/a.png"),
        *((missing, "") for missing in ("", None, np.nan, b"a.png", 3)),
    ],
)
def test_resolve_path(monkeypatch, value, expected):
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve_path(value, Path("/data")) == expected


def test_resolve_path_of_a_path(tmp_path):
    assert resolve_path(tmp_path / "a.png", tmp_path) == str(tmp_path / "a.png")


# --------------------------------------------------------------------------------------------------- images that are not files


def as_bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return as_bytes(noise(), "PNG", exif=exif)


PICTURES = {
    "rgb": lambda: as_bytes(noise()),
    "grey": lambda: as_bytes(noise().convert("L")),
    "16-bit": lambda: as_bytes(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16)),
    "palette": lambda: as_bytes(noise().convert("P"), transparency=3),
    "cmyk": lambda: as_bytes(noise().convert("CMYK"), "JPEG"),
    "transparent": lambda: as_bytes(Image.new("RGBA", (9, 9), (255, 0, 0, 128))),
    "turned": exif_turned,
    "1 x 1": lambda: as_bytes(Image.new("RGB", (1, 1), "red")),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_whatever_it_comes_as(tmp_path, name):
    content = PICTURES[name]()
    (tmp_path / "a").write_bytes(content)
    expected = decode_image(tmp_path / "a", GEOMETRY)
    text = base64.b64encode(content).decode()
    sources = [content, Base64(text), Base64(f"data:image/png;base64,{text}"), Base64("\n".join(text[i : i + 60] for i in range(0, len(text), 60)))]
    for source in sources:
        assert (decode_image(source, GEOMETRY) == expected).all()
    if name != "cmyk":  # JPEG bytes can be decoded at a reduced size, an opened image cannot
        with Image.open(io.BytesIO(content)) as opened:
            assert (decode_image(opened, GEOMETRY) == expected).all()


@pytest.mark.parametrize("shape", [(9, 9), (9, 9, 1), (9, 9, 3), (9, 9, 4)])
def test_arrays_of_bytes_are_pictures(shape):
    array = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    image = Image.fromarray(array[:, :, 0] if shape[-1] == 1 else array)
    assert (decode_image(array, GEOMETRY) == decode_image(image, GEOMETRY)).all()


def test_the_callers_picture_is_not_changed():
    image = noise()
    before = image.tobytes()
    decode_image(image, GEOMETRY)
    assert image.tobytes() == before


@pytest.mark.parametrize(
    "source, reason",
    [
        (b"", "no bytes"),
        (b"<html>", "not an image"),
        (Base64("&&&"), "^neither base64 nor a file"),
        (Base64("PGh0bWw+"), "^neither a base64 image nor an existing file"),
        (Base64("data:image/png;base64,iVBORw0KGgo="), "^not an image"),
        (np.zeros((4, 4)), "uint8 values, got .* float64"),
        (np.zeros((0, 4), np.uint8), "uint8 values"),
        (np.zeros((5, 4, 2), np.uint8), "uint8$"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\) uint8; \.transpose\(1, 2, 0\) puts the channels last$"),
        ("http://x/a.png", "^URLs are not fetched; download it"),
        ("FILE:///a.png", "^URLs are not fetched; give the path behind file://"),
        (Image.new("F", (4, 4)), "floating-point"),
        ("", "missing"),
    ],
)
def test_what_is_no_picture_in_memory(source, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode_image(source, GEOMETRY)


def test_pictures_in_memory_are_told_apart_by_content():
    array = np.zeros((4, 6), np.uint8)
    sources = [b"a", b"b", Base64("a"), array, array.reshape(6, 4), Image.fromarray(array), Image.new("L", (4, 6)), Image.new("P", (4, 6))]
    assert len({identify(source) for source in sources}) == len(sources)
    assert identify(array) == identify(array.copy())


def test_pictures_that_differ_in_their_palette_alone_are_told_apart():
    pictures = [Image.new("RGB", (4, 4), color).quantize(2) for color in ("red", "blue", "red")]
    assert len({picture.tobytes() for picture in pictures}) == 1  # only the palettes differ
    red, blue, again = map(identify, pictures)
    assert red == again != blue
    assert [name_source(source) for source in (b"abc", Base64("abcd"), "/a.png")] == ["3 bytes", "base64 text of 4 characters", "/a.png"]


def test_a_picture_becomes_a_square_whole_or_by_its_centre():
    """The image's left third is red, the middle green, the right third blue."""
    stripes = np.zeros((60, 180, 3), np.uint8)
    for place in range(3):
        stripes[:, 60 * place : 60 * place + 60, place] = 255
    centre, whole = (decode_image(stripes, ImageGeometry(30, to_square=to_square)) for to_square in (False, True))
    assert centre.shape == whole.shape == (30, 30, 3)
    assert centre[:, 5:-5].reshape(-1, 3).mean(0).tolist() == [0, 255, 0]
    assert [whole[15, column].argmax() for column in (3, 15, 27)] == [0, 1, 2]
    assert cover([ImageSpec(32, to_square=True)]).to_square
