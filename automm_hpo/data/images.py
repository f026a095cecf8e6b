"""One image -> one square of uint8 pixels, decoded correctly or refused with a reason, but never silently black or white."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import math
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from ..config import MAX_PIXELS

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]
DECODER_VERSION = 2  # part of every cache key: raise it when the pixels of any file would change
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")  # Pillow knows 40 more, rarely used and rarely audited
LONGEST_NAME = 255  # characters of a file name, on most systems
MOST_SHOWN = 1_000  # characters of a path in a message
WHITE_IS_ZERO = 0  # a photometric interpretation of TIFF
EXIF_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MISSING = "missing"  # the reason given for an empty cell
SEPARATOR = ";"  # between the paths in a cell, as in AutoMM
URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
EXTENSIONS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageSpec:
    """The image that a model expects: ``size`` pixels a side, cut from the centre of an image ``1/crop_pct`` times larger.

    Attributes:
        to_square: the whole image is resized to a square, out of proportion; otherwise its centre square is used.
    """

    size: int
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    to_square: bool = False

    @property
    def side(self) -> int:
        """Pixels per side before the crop."""
        return max(self.size, math.floor(self.size / self.crop_pct))


@dataclass(frozen=True)
class ImageGeometry:
    """How images are decoded.

    Attributes:
        side: pixels per side of the decoded square: an image's centre square, or with ``to_square`` all of it.
        max_pixels: images with more pixels are refused.
    """

    side: int
    interpolation: Interpolation = "bicubic"
    max_pixels: int = MAX_PIXELS
    to_square: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of a decoded image."""
        return 3 * self.side**2


def cover(specs: list[ImageSpec], max_pixels: int = MAX_PIXELS) -> ImageGeometry:
    """The geometry that serves every spec: the largest side, and bicubic if their interpolations differ."""
    interpolations = {spec.interpolation for spec in specs}
    interpolation = interpolations.pop() if len(interpolations) == 1 else "bicubic"
    return ImageGeometry(max(spec.side for spec in specs), interpolation, max_pixels, specs[0].to_square)


class Base64(str):
    """The bytes of an image as base64 text, possibly a ``data:`` URL."""


ImageSource = str | bytes | Base64 | Image.Image | np.ndarray
"""A file's path, a file's bytes (raw or as base64), or pixels; an empty string for a missing image."""


class UnreadableImage(Exception):
    """Says why an image cannot be read. Internal: users get BadImages, with row and column."""


def decode_image(source: ImageSource | os.PathLike[str], geometry: ImageGeometry) -> np.ndarray:
    """Decodes an image from any source.

    Scales 16-bit greys to 8 bits, applies EXIF rotation, puts transparent images on white, and takes the first frame of an animation.

    Returns:
        (side, side, 3) uint8.

    Raises:
        UnreadableImage: the image cannot be decoded; says why.
    """
    if isinstance(source, (str, os.PathLike)) and not isinstance(source, Base64):
        check_file(source)
    try:
        with _open(source) as image:
            if image.width * image.height > geometry.max_pixels:
                raise UnreadableImage(f"{image.width} x {image.height} pixels, more than {geometry.max_pixels:,}")
            _refuse_odd_greys(image)
            # lets JPEG decode at 1/2, 1/4 or 1/8 of the size; twice the side keeps the quality of the resampling
            reduced = image.draft("RGB", (2 * geometry.side, 2 * geometry.side))
            picture = to_rgb(image)
            # the size of a reduced image is rounded up, so its last row and column may be only partly covered
            width, height = reduced[1][2:] if reduced else picture.size
            across, down = (width, height) if geometry.to_square else (min(width, height),) * 2
            left, top = (width - across) / 2, (height - down) / 2
            # resizes only the centre box, so that a 1 x 10,000 strip never becomes a huge image in between
            resample = Image.Resampling[geometry.interpolation.upper()]
            square = picture.resize((geometry.side, geometry.side), resample, box=(left, top, left + across, top + down))
            turn = EXIF_TURNS.get(_exif_orientation(image))
            return np.asarray(square if turn is None else square.transpose(turn))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        nor = "neither a base64 image nor an existing file" if isinstance(source, Base64) and not is_image_base64(source) else "not an image"
        raise UnreadableImage(f"{nor} (of {', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, DecompressionBombError, ...
        raise UnreadableImage(f"{type(error).__name__}: {error}") from None


def _open(source: ImageSource | os.PathLike[str]) -> Image.Image:
    """Opens an image without loading its pixels.

    Raises:
        UnreadableImage, and whatever Pillow raises.
    """
    if isinstance(source, Image.Image):
        return source.copy()  # loading and seeking would change the caller's image
    if isinstance(source, np.ndarray):
        return Image.fromarray(_pixels(source))
    if isinstance(source, Base64):
        source = decode_base64(source)
    if isinstance(source, (bytes, bytearray)):
        if not source:
            raise UnreadableImage("no bytes")
        return Image.open(io.BytesIO(source), formats=FORMATS)
    return Image.open(source, formats=FORMATS)


def _pixels(array: np.ndarray) -> np.ndarray:
    """The array as contiguous (H, W), (H, W, 3) or (H, W, 4) uint8. Also accepts (H, W, 1).

    Raises:
        UnreadableImage: the array has another shape or dtype.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        hint = "; .transpose(1, 2, 0) puts the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4) else ""
        raise UnreadableImage(f"expected (H, W), (H, W, 3) or (H, W, 4) uint8 values, got {array.shape} {array.dtype}{hint}")
    return np.ascontiguousarray(array)


def decode_base64(text: str) -> bytes:
    """Decodes base64 text or a ``data:`` URL.

    Raises:
        UnreadableImage: the text is not base64.
    """
    data = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError as error:
        raise UnreadableImage(f"neither base64 nor a file that is there: {error}") from None


def identify(source: ImageSource) -> tuple[object, ...]:
    """Identifies an image without decoding it: a file by its path, size and times, an image in memory by a hash.

    Copying and unpacking may set a file's mtime back, but not its ctime, so both are included.
    """
    if isinstance(source, str) and not isinstance(source, Base64):
        try:
            status = check_file(source)
        except UnreadableImage as problem:
            return source, -1, str(problem)
        return source, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    match source:
        case str():
            content, kind = source.encode("utf-8", "replace"), "base64"
        case bytes() | bytearray():
            content, kind = source, "bytes"
        case Image.Image():
            content, kind = source.tobytes(), f"{source.mode} {source.size} {source.info.get('transparency')!r} {_exif_orientation(source)}"
            if source.mode in ("P", "PA"):
                content += bytes(source.getpalette("RGBA") or ())
        case _:
            content, kind = source.tobytes(), f"{source.shape} {source.dtype}"
    return kind, hashlib.sha256(content).hexdigest()


def describe_values(value: object) -> str:
    """Like ``repr`` of a cell's value, except for images in memory, whose ``repr`` says little or differs every time."""
    if is_several(value):
        return f"[{', '.join(map(describe_values, value))}]"
    return repr(identify(value) if isinstance(value, (np.ndarray, Image.Image)) else value)


def name_source(source: ImageSource) -> str:
    """The name of an image in messages: its path, or its kind and size."""
    match source:
        case Base64():
            return f"base64 text of {len(source)} characters"
        case str():
            return source if len(source) <= MOST_SHOWN else f"{source[:100]}... ({len(source):,} characters)"
        case bytes() | bytearray():
            return f"{len(source)} bytes"
        case Image.Image():
            return f"{type(source).__name__} {source.mode} {source.width} x {source.height}"
    return f"array {source.shape} {source.dtype}"


def _exif_orientation(image: Image.Image) -> object:
    """The EXIF orientation of a loaded image, or None. Call it after loading: Pillow turns a TIFF as it loads, and then drops the orientation."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF, which viewers ignore too
        return None


def check_file(path: str | os.PathLike[str]) -> os.stat_result:
    """Refuses anything but a regular file with content. Opening a FIFO, for example, would block forever.

    Raises:
        UnreadableImage
    """
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise UnreadableImage(MISSING)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        url = URL.match(os.fspath(path)) if isinstance(path, str) else None
        if url:
            instead = "give the path behind file://" if url[1].lower() == "file" else "download it and give the file's path"
            raise UnreadableImage(f"URLs are not fetched; {instead}") from None
        raise UnreadableImage("no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size == 0:
        raise UnreadableImage("an empty file")
    return status


def _refuse_odd_greys(image: Image.Image) -> None:
    """Refuses TIFF greys that Pillow reads without scaling 12 bits to 16 or undoing an inversion: they would come out dark or inverted.

    Raises:
        UnreadableImage
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and (tags.get(BITSPERSAMPLE, (16,)) != (16,) or tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO):
        raise UnreadableImage("a TIFF of 12-bit or inverted greys; save it with 8 or 16 bits, black as zero")


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as a viewer would show it.

    Raises:
        UnreadableImage: the range of the pixel format is not defined.
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(image, dtype=np.uint16)
        if "transparency" in image.info:  # the grey value that means transparent
            grey = np.where(grey == image.info["transparency"], 65_535, grey)
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "signed or 32-bit" if image.mode == "I" else "floating-point"
        raise UnreadableImage(f"{kind} pixels, whose range is not defined; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    image.load()  # loading may turn a TIFF, which changes its size
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy an RGB image


def largest_of_16_bits(source: ImageSource, max_pixels: int) -> int | None:
    """The largest value of a 16-bit grey image. None for other images, and for those that cannot be read."""
    with contextlib.suppress(Exception):  # decoding reports the reason
        if isinstance(source, str) and not isinstance(source, Base64):
            check_file(source)
        with _open(source) as image:
            if image.mode.startswith("I;16") and image.width * image.height <= max_pixels:
                return int(np.asarray(image, dtype=np.uint16).max())
    return None


def is_several(value: object) -> TypeGuard[Collection]:
    """Whether a cell holds several values. Parquet files give 1-D arrays of them; an array with two or three axes is one image."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def pictures_in(value: object, is_path: bool, folder: Path) -> list[object]:
    """The images of a cell, one or several: a list, a list written as text (in a CSV file), or paths separated by semicolons.

    A path that exists is not split, because a file name may contain semicolons.
    """
    if is_several(value):
        return list(value) or [""]
    has_more = is_path and isinstance(value, str) and (SEPARATOR in value or value.startswith("[")) and not is_long_base64(value)
    if not has_more or os.path.lexists(resolve_path(value, folder)):
        return [value]
    text = str(value)
    if text.startswith("[") and text.endswith("]"):
        with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # includes errors from deeply nested brackets
            listed = ast.literal_eval(text)
            return listed or [""] if all(path is None or isinstance(path, str) for path in listed) else [value]
    return [path for path in map(str.strip, text.split(SEPARATOR)) if path] or [""]


def resolve_path(value: object, folder: Path) -> str:
    """The value as an absolute path; an empty string if it is missing. URLs are returned unchanged."""
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if isinstance(path, str) and URL.match(path):
        return path
    # os.path's expanduser leaves "~x.png" alone if no such user exists; pathlib's raises
    return str(folder / os.path.expanduser(path)) if isinstance(path, str) and path else ""


def opens_as_image(path: str) -> bool:
    """Whether the file has an image's header. Does not read the pixels."""
    try:
        check_file(path)
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # whatever the reason, it is not an image
        return False


def is_long_base64(value: str) -> bool:
    """Whether a text in a column of paths is image data: a ``data:image/`` URL, or base64 that is too long for a file name."""
    return value.startswith("data:image/") or (len(value) > LONGEST_NAME and is_image_base64(value))


def reads_as_path(value: str, folder: Path) -> bool:
    """Whether a text in a column of base64 is a path: it has an extension or a URL scheme, as base64 never has, or is not image data but an existing file."""
    if value.startswith("data:"):
        return False
    if value[-5:].lower().endswith(EXTENSIONS) or URL.match(value):
        return True
    return not is_image_base64(value) and os.path.lexists(resolve_path(value, folder))


def hint_of_tensor(value: object) -> str:
    """A hint for messages if a cell holds a tensor, of PyTorch or another library; empty otherwise."""
    return "; .numpy() makes an array of a tensor, and (H, W, 3) uint8 values are read as a picture" if callable(getattr(value, "numpy", None)) else ""


def is_image_base64(value: str) -> bool:
    """Whether a text begins like an image in base64."""
    try:
        head = base64.b64decode(value.split(",")[-1][:64])  # after the comma of a data: URL
    except ValueError:
        return False
    return head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*"))
