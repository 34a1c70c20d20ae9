"""PNG and JPEG files are read as their decoders read them, or refused."""

import io
import itertools
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers.pictures import colours, encoded, planet_jpeg
from PIL import Image

from preprocess.console import UserError
from preprocess.expected import Expected
from preprocess.image_file import ImageReader, read_facts


def read(path: Path, data: bytes, expected: Expected | None = None) -> np.ndarray:
    path.write_bytes(data)
    return ImageReader().read(path, expected or Expected())


def pillow(data: bytes, mode: str | None = None) -> np.ndarray:
    """(bands, height, width)."""
    with Image.open(io.BytesIO(data)) as picture:
        values = np.asarray(picture.convert(mode) if mode else picture)
    return np.moveaxis(np.atleast_3d(values), -1, 0)


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_png_of_8_bits_has_exactly_its_values(tmp_path: Path, samples: int, options: dict[str, object]) -> None:
    values = colours(samples=samples)
    data = encoded(values.squeeze(), "png", **options)
    chip = read(tmp_path / "a.png", data)
    assert chip.dtype == np.uint8
    assert chip.flags.c_contiguous
    assert np.array_equal(chip, np.moveaxis(values, -1, 0))
    assert np.array_equal(chip, pillow(data))
    assert read_facts(tmp_path / "a.png").is_rgb is (samples == 3)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_png_of_16_bits_is_read_as_uint16(tmp_path: Path, samples: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (24, 20, samples), dtype=np.uint16)
    data = imagecodecs.png_encode(values.squeeze())
    chip = read(tmp_path / "a.png", data)
    assert chip.dtype == np.uint16
    assert np.array_equal(chip, np.moveaxis(values, -1, 0))
    if samples == 1:  # Pillow reads colours of 16 bits as 8 bits
        assert np.array_equal(chip, pillow(data))


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}, {"restart_marker_blocks": 2}, {"keep_rgb": True}],
)
@pytest.mark.parametrize(("height", "width"), [(24, 20), (16, 32), (17, 9), (1, 1)])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_jpeg_has_the_values_of_imagecodecs_and_of_pillow(
    tmp_path: Path, height: int, width: int, samples: int, options: dict[str, object]
) -> None:
    values = colours(height=height, width=width, samples=samples)
    data = encoded(values[..., 0] if samples == 1 else values, "jpeg", **options)
    chip = read(tmp_path / "a.jpg", data)
    decoded = imagecodecs.jpeg8_decode(data)
    assert np.array_equal(chip, np.moveaxis(np.atleast_3d(decoded), -1, 0))
    assert np.array_equal(chip, pillow(data))


def test_four_components_without_adobes_marker_are_red_green_blue_and_opaque(tmp_path: Path) -> None:
    """Pillow takes them for CMYK; its conversion to RGB gives the same colours."""
    opaque = np.dstack([colours(), np.full((24, 20), 255, np.uint8)])
    data = planet_jpeg(opaque)
    chip = read(tmp_path / "a.jpg", data)
    assert chip.shape == (3, 24, 20)
    assert np.array_equal(chip, pillow(data, "RGB"))
    assert np.abs(chip.astype(int) - np.moveaxis(opaque[..., :3], -1, 0)).mean() < 2
    assert read_facts(tmp_path / "a.jpg").is_rgb


@pytest.mark.parametrize("stored", ["CMYK", "YCCK"])
def test_cmyk_without_black_has_the_colours_that_pillow_gives_it(
    tmp_path: Path, stored: str, refused: Callable
) -> None:
    """As a program saves Planet's JPEGs that opens them as CMYK: with Adobe's marker, and inverted."""
    opaque = np.dstack([colours(), np.full((24, 20), 255, np.uint8)])
    data = imagecodecs.jpeg8_encode(opaque, 95, colorspace="CMYK", outcolorspace=stored)
    assert b"Adobe" in data
    chip = read(tmp_path / "a.jpg", data)
    assert chip.shape == (3, 24, 20)
    assert np.array_equal(chip, pillow(data, "RGB"))
    assert np.corrcoef(chip.ravel(), np.moveaxis(opaque[..., :3], -1, 0).ravel())[0, 1] > 0.97
    text = refused(lambda: read(tmp_path / "a.jpg", data, Expected(num_bands=4)))
    assert "cyan, magenta, yellow and black" in text


def test_real_small_jpegs_of_planet_have_the_colours_that_pillow_gives_them(tmp_path: Path, shared: Path) -> None:
    """A program has opened them as CMYK and saved them so."""
    with tarfile.open(shared / "data" / "planet_mini" / "train-jpg_mini.tar.gz") as archive:
        files = (archive.extractfile(member) for member in itertools.islice(archive, 300) if member.isfile())
        data = [file.read() for file in files if file]
    assert len(data) > 250
    for each in data:
        assert np.array_equal(read(tmp_path / "a.jpg", each), pillow(each, "RGB"))


def test_real_jpegs_of_planet_have_the_colours_of_their_tiffs(shared: Path) -> None:
    for index in range(5):
        path = shared / "data" / "planet" / "jpg" / f"train_{index}.jpg"
        assert np.array_equal(ImageReader().read(path), pillow(path.read_bytes(), "RGB"))
    chip = ImageReader().read(shared / "data" / "planet" / "jpg" / "train_1.jpg")
    blue_green_red = np.moveaxis(tifffile.imread(shared / "data" / "planet" / "tif" / "train_1.tif"), -1, 0)[:3]
    correlation = np.corrcoef(chip.reshape(3, -1), blue_green_red[::-1].reshape(3, -1))[:3, 3:]
    assert correlation.argmax(axis=1).tolist() == [0, 1, 2]
    assert (correlation.diagonal() > 0.95).all()


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_a_fourth_sample_is_a_band_if_bands_names_four(tmp_path: Path, form: str, refused: Callable) -> None:
    values = colours(samples=4)
    data = encoded(values, "png") if form == "png" else planet_jpeg(values)
    chip = read(tmp_path / f"a.{form}", data, Expected(num_bands=4))
    assert chip.shape == (4, 24, 20)
    if form == "png":
        assert np.array_equal(chip, np.moveaxis(values, -1, 0))
    for expected in (Expected(), Expected(num_bands=3), Expected(shape=(3, 24, 20))):
        text = refused(lambda expected=expected: read(tmp_path / f"a.{form}", data, expected))
        assert f"a.{form}: expected a last sample of 255 everywhere (opaque), found values from" in text
        assert "BANDS=red,green,blue,nir" in text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("samples", [2, 4])
def test_opaque_alpha_is_dropped(tmp_path: Path, samples: int, dtype: type, refused: Callable) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (24, 20, samples), dtype=dtype)
    values[..., -1] = np.iinfo(dtype).max
    chip = read(tmp_path / "a.png", imagecodecs.png_encode(values))
    assert np.array_equal(chip, np.moveaxis(values[..., :-1], -1, 0))
    values[3, 4, -1] = 7
    text = refused(lambda: read(tmp_path / "a.png", imagecodecs.png_encode(values)))
    assert "(opaque), found values from 7 on" in text


def test_a_transparent_colour_changes_no_value_and_is_noted_as_nodata(tmp_path: Path) -> None:
    values = colours(samples=1)[..., 0]
    chip = read(tmp_path / "a.png", encoded(values, "png", transparency=9))
    assert np.array_equal(chip[0], values)
    assert read_facts(tmp_path / "a.png").nodata == "9"
    rgb = colours()
    for colour, nodata in (((0, 0, 0), "0"), ((1, 2, 3), None)):
        assert np.array_equal(
            read(tmp_path / "b.png", encoded(rgb, "png", transparency=colour)), np.moveaxis(rgb, -1, 0)
        )
        assert read_facts(tmp_path / "b.png").nodata == nodata


def test_palettes_single_bits_and_printing_colours_are_refused_with_a_remedy(tmp_path: Path, refused: Callable) -> None:
    palette, bits, cmyk = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(colours()).quantize(16).save(palette, "png")
    Image.fromarray(colours()[..., 0]).convert("1").save(bits, "png")
    Image.fromarray(colours(samples=4), mode="CMYK").save(cmyk, "jpeg")
    for data, found, remedy in (
        (palette, "a palette", "gdal_translate -expand rgb in.png out.png"),
        (bits, "expected 8 or 16 bits per sample, found 1", "gdal_translate in.png out.tif"),
        (cmyk, "cyan, magenta, yellow and black", "magick in.jpg -colorspace sRGB out.png"),
    ):
        text = refused(lambda data=data: read(tmp_path / "a.png", data.getvalue()))
        assert found in text
        assert remedy in text


def test_the_first_bytes_decide_the_kind_of_a_file(tmp_path: Path, refused: Callable) -> None:
    values = colours()
    assert np.array_equal(read(tmp_path / "a.jpg", encoded(values, "png")), np.moveaxis(values, -1, 0))
    assert "expected a PNG or JPEG, found a TIFF" in refused(lambda: read(tmp_path / "a.jpg", encoded(values, "tiff")))
    assert "found a file of another kind" in refused(lambda: read(tmp_path / "a.png", encoded(values, "bmp")))
    for left in (b"", b"\n", b"<!DOCTYPE html><html></html>"):  # by a failed download
        kind = "a web page or XML" if left.strip() else "an empty file"
        assert f"found {kind}. Fetch it again" in refused(lambda: read(tmp_path / "a.png", left))  # noqa: B023


def test_shape_and_dtype_are_compared_before_a_pixel_is_decoded(tmp_path: Path, refused: Callable) -> None:
    data = encoded(colours(), "png")
    cut = data.index(b"IDAT") - 4
    bomb = data[:cut] + data[-12:]  # without pixels
    for expected in (
        Expected(shape=(3, 24, 21), dtype="uint8", example="first.png"),
        Expected(shape=(3, 24, 20), dtype="uint16", example="first.png"),
        Expected(shape=(1, 24, 20), dtype="uint8", example="first.png"),
    ):
        text = refused(lambda expected=expected: read(tmp_path / "a.png", bomb, expected))
        assert "as in first.png, found (3, 24, 20) uint8" in text
    large = data[:16] + (70000).to_bytes(4, "big") * 2 + data[24:29]
    large += zlib.crc32(large[12:29]).to_bytes(4, "big") + data[33:]
    assert "expected a chip of at most 128 MiB decoded" in refused(lambda: read(tmp_path / "a.png", large))


def test_every_cut_and_every_flipped_bit_of_a_png_is_refused_or_harmless(tmp_path: Path) -> None:
    values = colours(height=8, width=8)
    data = encoded(values, "png")
    for cut in range(len(data)):
        with pytest.raises(UserError):
            read(tmp_path / "cut.png", data[:cut])
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        try:
            assert np.array_equal(read(tmp_path / "bad.png", bytes(flipped)), np.moveaxis(values, -1, 0)), at
        except UserError:
            continue


def with_right_crcs(data: bytes, extra: bytes = b"") -> bytes:
    """The chunks of a PNG, each with its right CRC-32; `extra` (kind and content) comes second."""
    out, at = data[:8], 8
    while at < len(data):
        content = data[at + 4 : at + 8 + int.from_bytes(data[at : at + 4], "big")]
        for each in (content, extra) if at == 8 and extra else (content,):
            out += (len(each) - 4).to_bytes(4, "big") + each + zlib.crc32(each).to_bytes(4, "big")
        at += 8 + len(content)
    return out


def test_warnings_of_libpng_about_pixels_are_errors_and_others_are_not_printed(
    tmp_path: Path, refused: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    values = np.full((24, 20), 7, np.uint8)
    data = encoded(values, "png")
    end = data.index(b"IEND") - 8
    damaged = bytearray(data)
    damaged[end - 1] ^= 1  # of the checksum of the compressed data
    text = refused(lambda: read(tmp_path / "a.png", with_right_crcs(bytes(damaged))))
    assert "a file that is damaged (" in text
    assert "IDAT: incorrect data check" in text
    odd = with_right_crcs(data, b"gAMA" + bytes(4))
    assert np.array_equal(read(tmp_path / "a.png", odd)[0], values)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("size", [32, 29])
def test_a_cut_jpeg_is_refused_unless_only_the_last_block_changes(
    tmp_path: Path, size: int, options: dict[str, object]
) -> None:
    """With and without an end marker behind the cut. libjpeg itself gives grey pixels for what is missing."""
    data = encoded(colours(height=size, width=size), "jpeg", **options)
    whole = imagecodecs.jpeg8_decode(data)
    # Every third byte, and every byte at a marker or near the end.
    near = [at for at in range(len(data) - 2) if at % 3 == 0 or b"\xff" in data[at - 1 : at + 1] or at > len(data) - 30]
    for cut in near:
        with pytest.raises(UserError):
            read(tmp_path / "cut.jpg", data[:cut])
        try:
            chip = np.moveaxis(read(tmp_path / "cut.jpg", data[:cut] + b"\xff\xd9"), 0, -1)
        except UserError:
            continue
        same = 15 if size == 32 and not options else size  # the last block's colours reach one pixel further
        assert np.array_equal(chip[:same], whole[:same]), cut
        assert np.array_equal(chip[:, :same], whole[:, :same]), cut


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_any_number_of_restarts_is_read(tmp_path: Path, subsampling: int, blocks: int) -> None:
    values = colours(height=50, width=37)
    data = encoded(values, "jpeg", subsampling=subsampling, restart_marker_blocks=blocks, progressive=blocks == 7)
    assert np.array_equal(read(tmp_path / "a.jpg", data), pillow(data))
    grey = encoded(values[..., 0], "jpeg", restart_marker_blocks=blocks)
    assert np.array_equal(read(tmp_path / "a.jpg", grey), pillow(grey))


def test_fill_bytes_before_markers_change_nothing(tmp_path: Path) -> None:
    data = encoded(colours(), "jpeg", restart_marker_blocks=1)
    filled = data.replace(b"\xff\xd0", b"\xff\xff\xff\xd0").replace(b"\xff\xd9", b"\xff\xff\xd9")
    assert len(filled) >= len(data) + 3
    assert np.array_equal(read(tmp_path / "a.jpg", filled), pillow(data))


def test_a_file_larger_than_any_chip_is_not_read(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "a.png").write_bytes(encoded(colours(), "png"))
    os.truncate(tmp_path / "a.png", 1 << 40)  # sparse
    assert "expected a chip of at most 128 MiB, found a file of 1048576 MiB" in refused(
        lambda: ImageReader().read(tmp_path / "a.png")
    )


def test_data_behind_a_jpeg_or_png_changes_nothing(tmp_path: Path) -> None:
    for name, data in (("a.jpg", encoded(colours(), "jpeg")), ("a.png", encoded(colours(), "png"))):
        assert np.array_equal(read(tmp_path / name, data + b"thumbnail"), read(tmp_path / name, data))
