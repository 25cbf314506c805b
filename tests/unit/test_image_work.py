"""The work on one row: image work from file to result, and a user's transform."""

import functools
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from penstock.config import Encode, ImageConfig, Resize
from penstock.errors import ConfigError, ItemError, WorkerError
from penstock.image.user_code import MAX_TRACE
from penstock.image.work import (
    ImageTransform,
    ImageTransformWork,
    ImageWork,
    InitializedWork,
    Steps,
    Transform,
    TransformWork,
    check_picklable,
)
from penstock.records import MAX_TRACEBACKS, Facts, Fetched, Reason, Request, Result, Row, Sample, Trace

ROW = Row(7, (Request("image", "http://example.test/a.jpg"),))
Pixels = npt.NDArray[Any]
MODES: tuple[Resize, ...] = ("crop", "fit", "stretch", "pad", "none")


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise with a spectrum like that of photographs (1/f), and some edges."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    channels = []
    for strength in (45, 12, 12):
        wave = np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**1.2, s=(height, width))
        channels.append(strength * (wave - wave.mean()) / wave.std())
    grey, warm, cold = channels
    image = Image.fromarray((128 + np.stack([grey + warm, grey, grey + cold], -1)).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for x, y, radius in rng.random((8, 3)) * (width, height, width / 10):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def saved(image: Image.Image, format_: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def fetched(data: bytes) -> tuple[Fetched, ...]:
    return (Fetched("image", data, 200, 2, 0.5),)


def work(data: bytes, *, as_array: bool = True, **options: Any) -> Result:
    return ImageWork(ImageConfig(**options), as_array=as_array)(ROW, fetched(data))


def parts_of(result: Result) -> dict[str, Any]:
    assert isinstance(result.value, Sample)
    return dict(result.value.parts)


def facts_of(result: Result) -> Facts:
    assert isinstance(result.value, Sample)
    return result.value.facts


def pixels(data: bytes, **options: Any) -> Pixels:
    array = parts_of(work(data, **options))["image"]
    assert isinstance(array, np.ndarray)
    return array


def test_an_array_comes_with_its_facts() -> None:
    """The sample is a contiguous (S, S, 3) uint8 array, writable; facts and the cost of the fetch are filled in."""
    data = saved(photo(90, 60, 1))
    result = work(data, size=32)
    array = parts_of(result)["image"]
    assert (array.shape, array.dtype, array.flags.c_contiguous, array.flags.writeable) == (
        (32, 32, 3),
        np.uint8,
        True,
        True,
    )
    assert facts_of(result) == Facts(32, 32, 90, 60, hashlib.sha256(data).hexdigest(), None, frames=1)
    assert (result.http_status, result.attempts, result.size, result.fetch_seconds) == (200, 2, len(data), 0.5)
    assert result.seconds > 0


@pytest.mark.parametrize("encode", ["jpg", "png", "webp"])
def test_encoded_bytes_are_named_by_their_kind(encode: Encode) -> None:
    """Not as an array, the one part is a file of the asked kind, whose size the facts tell."""
    result = work(saved(photo(90, 60, 1)), as_array=False, size=32, resize="fit", encode=encode)
    ((name, data),) = parts_of(result).items()
    assert name == encode
    assert Image.open(io.BytesIO(data)).size == (32, 21) == (facts_of(result).width, facts_of(result).height)


def test_metadata_stays_out_of_the_result() -> None:
    """Comments and profiles of the source do not travel into what is encoded, even when nothing is resized."""
    data = saved(photo(40, 30, 1), comment=b"secret " * 50, icc_profile=b"profile" * 50)
    (written,) = parts_of(work(data, as_array=False, resize="none")).values()
    assert b"secret" not in written
    assert b"profile" not in written


def test_the_same_file_gives_the_same_bytes() -> None:
    """Two runs of the work on the same bytes agree to the byte."""
    data = saved(photo(300, 200, 3))
    assert parts_of(work(data, as_array=False, size=64)) == parts_of(work(data, as_array=False, size=64))


def test_the_work_travels_to_a_worker() -> None:
    """Pickled and back, the work is equal and works alike."""
    original = ImageWork(ImageConfig(size=16), as_array=True)
    copy = pickle.loads(pickle.dumps(original))
    data = fetched(saved(photo(40, 30, 1)))
    assert copy == original
    assert np.array_equal(parts_of(copy(ROW, data))["image"], parts_of(original(ROW, data))["image"])


def oriented(image: Image.Image, orientation: int, format_: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, format_, exif=exif)


def by_pillow(data: bytes, size: int, mode: Resize) -> Image.Image:
    """What one would write with Pillow alone."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    if mode == "crop":
        return ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    if mode == "none":
        return upright
    factor = size / max(upright.size)
    new = (
        (size, size)
        if mode == "stretch"
        else (max(1, round(upright.width * factor)), max(1, round(upright.height * factor)))
    )
    resized = upright.resize(new, Image.Resampling.BICUBIC)
    if mode != "pad":
        return resized
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(resized, ((size - new[0]) // 2, (size - new[1]) // 2))
    return canvas


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", range(10))
def test_exact_is_pillow_bit_for_bit(mode: Resize, orientation: int) -> None:
    """With exact, every mode and orientation (0 and 9 are garbage) gives what Pillow's own functions give."""
    data = oriented(photo(203, 150, 5), orientation)
    assert np.array_equal(pixels(data, size=33, resize=mode, exact=True), np.asarray(by_pillow(data, 33, mode)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "TIFF"])
def test_fast_is_upright_too(mode: Resize, orientation: int, format_: str) -> None:
    """The default, which transposes last, shows the same picture as Pillow, and tells the upright size."""
    data = oriented(photo(203, 150, 5), orientation, format_)
    facts = facts_of(work(data, size=33, resize=mode))
    assert (facts.original_width, facts.original_height) == ((150, 203) if orientation >= 5 else (203, 150))
    assert psnr(pixels(data, size=33, resize=mode), np.asarray(by_pillow(data, 33, mode))) > 30


def psnr(got: Pixels, expected: Pixels) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = np.mean((got.astype(float) - expected) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "promised"), [(128, 36), (256, 38)])
def test_the_fast_path_is_near_the_exact_one(size: int, promised: float) -> None:
    """Over photograph-like images, JPEG and PNG, the mean PSNR keeps the promise."""
    files = [
        saved(photo(width, height, seed), quality=quality, subsampling="4:2:0")
        for seed, (width, height, quality) in enumerate(
            [(1024, 768, 85), (1600, 1200, 90), (1200, 1600, 92), (800, 533, 88)]
        )
    ]
    files.append(saved(photo(1024, 768, 9), "PNG", compress_level=1))
    ratios = [psnr(pixels(data, size=size), pixels(data, size=size, exact=True)) for data in files]
    assert np.mean(ratios) >= promised
    assert min(ratios) >= promised - 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 65_500), (65_500, 1)])
def test_a_thread_of_pixels_becomes_a_picture(mode: Resize, size: tuple[int, int]) -> None:
    """Where nothing is too small, 1 × 65500 is resized and encoded in every mode."""
    data = saved(Image.new("L", size, 77), "PNG")
    for exact in (False, True):
        facts = facts_of(work(data, as_array=False, size=64, resize=mode, min_size=1, exact=exact))
        expected = {"crop": (64, 64), "stretch": (64, 64), "pad": (64, 64), "none": size}
        assert (facts.width, facts.height) == expected.get(mode, (1, 64) if size[0] == 1 else (64, 1))


@settings(max_examples=40)
@given(st.integers(1, 400), st.integers(1, 3), st.booleans(), st.sampled_from(MODES), st.integers(1, 70))
def test_no_side_is_ever_zero(long: int, short: int, upright: bool, mode: Resize, size: int) -> None:
    """However thin an image is, and however small its result, both have pixels."""
    data = saved(Image.new("L", (short, long) if upright else (long, short), 77), "BMP")
    array = pixels(data, size=size, resize=mode, min_size=1)
    assert min(array.shape) >= 1
    assert max(array.shape[:2]) == (max(long, short) if mode == "none" else size)


def test_the_text_of_an_image_is_kept() -> None:
    """EXIF tags arrive in the facts as JSON."""
    facts = facts_of(work(oriented(photo(40, 30, 1), 6), size=8))
    assert json.loads(facts.exif or "") == {"Orientation": 6}


def test_what_is_no_image_is_an_item_error() -> None:
    """The work reports a row's failure by `ItemError`, with the reason."""
    with pytest.raises(ItemError) as caught:
        work(b"<html>404</html>")
    assert (caught.value.reason, caught.value.detail) == (Reason.CONTENT_NOT_IMAGE, "html")


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"<html>404</html>", Reason.CONTENT_NOT_IMAGE, "html (the server said image/jpeg)"),
        (b"8BPS\0\1", Reason.CONTENT_UNSUPPORTED, "psd"),
    ],
)
def test_what_the_server_called_it_is_told(data: bytes, reason: Reason, detail: str) -> None:
    """Of bytes that are no image, and only of these: elsewhere the type would say nothing."""
    part = Fetched("image", data, 200, 1, 0.1, server_type="image/jpeg")
    with pytest.raises(ItemError) as caught:
        ImageWork(ImageConfig(), as_array=True)(ROW, (part,))
    assert (caught.value.reason, caught.value.detail) == (reason, detail)


def transform_of(returned: Any) -> Result:
    return TransformWork(lambda data, row: returned)(ROW, fetched(b"abc"))


def test_a_transform_sees_the_bytes_and_the_row() -> None:
    """Its parts become the sample; sha256 and the cost of the fetch are filled in."""
    seen = TransformWork(lambda data, row: {"npy": np.frombuffer(data, np.uint8), "key": row.key.encode()})
    result = seen(ROW, fetched(b"abc"))
    assert parts_of(result)["npy"].tolist() == [97, 98, 99]
    assert parts_of(result)["key"] == b"000000007"
    assert facts_of(result) == Facts(sha256=hashlib.sha256(b"abc").hexdigest())
    assert (result.size, result.attempts) == (3, 2)


def test_bytes_like_parts_become_bytes() -> None:
    """A bytearray or a memoryview is copied, so that nobody can change it later."""
    buffer = bytearray(b"xy")
    parts = parts_of(transform_of({"a": buffer, "b": memoryview(buffer)}))
    assert parts == {"a": b"xy", "b": b"xy"}
    assert {type(part) for part in parts.values()} == {bytes}


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (None, "not None"),
        ({}, "an empty mapping"),
        ([b"x"], "a list"),
        ({"a.b": b"x"}, "'a.b'"),
        ({"": b"x"}, "''"),
        ({1: b"x"}, "1"),
        ({"a": "text"}, "a str"),
        ({"a": 1.5}, "a float"),
        ({"a": None}, "None"),
        ({"a": np.array([{}])}, "an array of objects"),
    ],
)
def test_a_useless_return_is_named(returned: Any, named: str) -> None:
    """What came back stands in the detail of `transform.error`."""
    with pytest.raises(ItemError, match="expected") as caught:
        transform_of(returned)
    assert caught.value.reason is Reason.TRANSFORM_ERROR
    assert named in caught.value.detail


def fails(data: bytes, row: Row) -> dict[str, Any]:
    return {"number": int(data)}


def test_an_exception_is_told_with_its_place() -> None:
    """Type, message, and file and line of the innermost frame."""
    with pytest.raises(ItemError) as caught:
        TransformWork(fails)(ROW, fetched(b"abc"))
    line = fails.__code__.co_firstlineno + 1
    assert caught.value.reason is Reason.TRANSFORM_ERROR
    assert caught.value.detail.startswith("ValueError: invalid literal for int()")
    assert caught.value.detail.endswith(f"(test_image_work.py:{line})")


@pytest.mark.parametrize("error", [MemoryError("big"), ItemError(Reason.IMAGE_CORRUPT, "mine")])
def test_memory_and_item_errors_keep_their_meaning(error: Exception) -> None:
    """They pass through a transform as they are."""

    def raises(data: bytes, row: Row) -> dict[str, Any]:
        raise error

    with pytest.raises(type(error)) as caught:
        TransformWork(raises)(ROW, fetched(b"abc"))
    assert caught.value is error


def trace_of(transform: TransformWork, data: bytes) -> Trace | None:
    with pytest.raises(ItemError) as caught:
        transform(ROW, fetched(data))
    return caught.value.failure().trace


def fails_inside(data: bytes, row: Row) -> dict[str, Any]:
    return json.loads(data)  # type: ignore[no-any-return]  # it never returns


def test_the_traceback_comes_once_for_each_kind() -> None:
    """With the first row of a kind, not with the next; a kind is a type and a line of the user's own, not the library's."""
    transform = TransformWork(fails_inside)
    first, again, other = (trace_of(transform, data) for data in (b"{", b"[", b"\xff"))
    line = fails_inside.__code__.co_firstlineno + 1
    assert first is not None
    assert first.kind == f"JSONDecodeError at {__file__}:{line}"
    assert first.text.startswith("Traceback (most recent call last):\n")
    assert "json.loads(data)" in first.text
    assert "user_code.py" not in first.text
    assert again is None
    assert other is not None
    assert other.kind.startswith("UnicodeDecodeError at ")


def raises(error: Exception) -> Transform:
    def transform(data: bytes, row: Row) -> dict[str, Any]:
        raise error

    return transform


def test_a_long_or_odd_traceback_is_made_fit() -> None:
    """Its end is kept, and nothing in it can move a terminal's cursor."""
    trace = trace_of(TransformWork(raises(ValueError("\x1b[2J" + "x" * 10_000 + "\nend"))), b"")
    assert trace is not None
    assert len(trace.text) == MAX_TRACE
    assert trace.text.endswith("x\nend")
    assert "\x1b" not in trace.text


def test_a_worker_stops_telling_of_new_kinds() -> None:
    """Of a function that raises ever new types no more than twenty tracebacks travel."""
    errors = [type(f"Error{n}", (Exception,), {})() for n in range(MAX_TRACEBACKS + 5)]

    def transform(data: bytes, row: Row) -> dict[str, Any]:
        raise errors[data[0]]

    work = TransformWork(transform)
    told = [trace_of(work, bytes([n])) is not None for n in range(len(errors))]
    assert told == [True] * MAX_TRACEBACKS + [False] * 5


def image_transform(
    transform: ImageTransform, data: bytes | None = None, *, as_array: bool = True, **options: Any
) -> Result:
    work = ImageTransformWork(ImageConfig(size=16, **options), transform, as_array=as_array)
    return work(ROW, fetched(saved(photo(40, 30, 1), "PNG") if data is None else data))


def scribbles(image: Pixels, row: Row) -> Pixels:
    image[:4] = row.index
    return image


def test_an_image_transform_may_work_in_place() -> None:
    """It gets the resized pixels, writable and its own: what it does to one row's shows in no other's."""
    once, again = (parts_of(image_transform(scribbles))["image"] for _ in range(2))
    plain = parts_of(work(saved(photo(40, 30, 1), "PNG"), size=16))["image"]
    assert (once[:4] == 7).all()
    assert (once[4:] == plain[4:]).all()
    assert not np.shares_memory(once, again)


def test_an_image_that_is_returned_is_encoded() -> None:
    """As the options say, and to the byte as without a transform; in a mapping just so, beside what else is there."""
    data = saved(photo(40, 30, 1), "PNG")
    plain = parts_of(work(data, as_array=False, size=16, encode="webp"))
    for transform in (lambda image, row: image, lambda image, row: {"image": image}):
        assert parts_of(image_transform(transform, data, as_array=False, encode="webp")) == plain
    both = parts_of(image_transform(lambda image, row: {"mask": image[..., 0], "image": image}, as_array=False))
    assert list(both) == ["jpg", "mask"]
    assert both["mask"].shape == (16, 16)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.astype(np.float32),
        lambda image: image[..., 0],
        lambda image: image.transpose(2, 0, 1),
        lambda image: image[:0],
        lambda image: np.array(5, np.uint8),
    ],
)
def test_an_array_that_is_no_image_stays_an_array(change: Callable[[Pixels], Pixels]) -> None:
    """Another dtype or shape than (H, W, 3) uint8 is stored as it is, and has no width and height."""
    result = image_transform(lambda image, row: change(image), as_array=False)
    assert list(parts_of(result)) == ["image"]
    assert (facts_of(result).width, facts_of(result).height) == (None, None)


def test_facts_of_a_transformed_image() -> None:
    """Those of the file stay; width and height are the result's."""
    facts = facts_of(image_transform(lambda image, row: image[:8, ::2]))
    assert (facts.width, facts.height, facts.original_width, facts.original_height) == (8, 8, 40, 30)
    assert facts.sha256 == hashlib.sha256(saved(photo(40, 30, 1), "PNG")).hexdigest()


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (None, "expected an array or a mapping from names to bytes or arrays, not None"),
        (b"bytes", "not a bytes"),
        ({"image": None}, "part 'image': expected bytes or an array, not None"),
        ({"image": np.zeros((2, 2, 3), np.uint8), "jpg": b"x"}, "'image' is stored as jpg"),
    ],
)
def test_a_useless_return_of_an_image_transform_is_named(returned: Any, named: str) -> None:
    """The commonest is to forget it, after work in place."""
    with pytest.raises(ItemError) as caught:
        image_transform(lambda image, row: returned, as_array=False)
    assert caught.value.reason is Reason.TRANSFORM_ERROR
    assert named in caught.value.detail


def test_an_image_transform_is_not_asked_about_broken_images() -> None:
    """They fail before, with their own reason."""
    with pytest.raises(ItemError) as caught:
        image_transform(lambda image, row: pytest.fail("called"), b"<html>")
    assert caught.value.reason is Reason.CONTENT_NOT_IMAGE


def test_an_initializer_is_called_when_the_work_is_prepared() -> None:
    """And not with each row."""
    calls: list[int] = []
    work = InitializedWork(TransformWork(lambda data, row: {"x": data}), lambda: calls.append(1))
    work.prepare()
    assert parts_of(work(ROW, fetched(b"abc"))) == {"x": b"abc"}
    assert calls == [1]


def sets_up_badly(status: int) -> None:
    raise SystemExit(status)


def test_an_initializer_that_raises_is_named() -> None:
    """One line: its name, the exception, and where; of a partial the name of what is inside."""
    work = InitializedWork(TransformWork(fails), functools.partial(sets_up_badly, 4))
    with pytest.raises(WorkerError) as caught:
        work.prepare()
    line = sets_up_badly.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        f"the workers cannot start: the initializer, {__name__}.sets_up_badly, raised SystemExit: 4 (test_image_work.py:{line})"
    )


def test_steps_that_exclude_each_other_are_refused() -> None:
    """One transform or the other; and each is a function."""
    with pytest.raises(ConfigError, match="transform gets the bytes and transform_image the decoded image"):
        Steps(transform=fails, transform_image=scribbles)
    with pytest.raises(ConfigError, match="initializer: expected a function, not a str"):
        Steps(initializer="seed")  # type: ignore[arg-type]  # that is the test


def test_steps_are_known_by_their_names() -> None:
    """Module and name of the function; of a partial, that of the function inside; of an object, that of its class."""
    steps = Steps(transform_image=functools.partial(scribbles, row=ROW), initializer=Model(3).run)  # type: ignore[arg-type]  # never called
    assert steps.names() == {
        "transform": None,
        "transform_image": f"{__name__}.scribbles",
        "initializer": f"{__name__}.Model.run",
    }


def test_the_argument_that_cannot_be_pickled_is_named() -> None:
    """Each of the three is looked at."""
    with pytest.raises(ConfigError, match=r"^transform_image, a lambda, cannot be sent to worker processes"):
        Steps(transform_image=lambda image, row: image).check_picklable()
    with pytest.raises(ConfigError, match=r"^initializer\.key, a lambda, .*--strategy threads"):
        Steps(transform=fails, initializer=functools.partial(sorted, key=lambda: 0)).check_picklable()


class Model:
    def __init__(self, step: Any) -> None:
        self.step = step

    def run(self, data: bytes, row: Row) -> dict[str, Any]:
        return {"x": data}


def test_what_can_be_pickled_passes() -> None:
    """Functions of modules, partials of them and bound methods are fine."""
    for function in (fails, functools.partial(fails, row=ROW), Model(3).run, len):
        check_picklable(function)


def local_function() -> Transform:
    def inner(data: bytes, row: Row) -> dict[str, Any]:
        return {}

    return inner


LOOP = Model(None)
LOOP.step = Model(LOOP)
LOOP.step.handle = (byte for byte in b"")


@pytest.mark.parametrize(
    ("function", "culprit"),
    [
        (lambda data, row: {}, "transform, a lambda,"),
        (local_function(), "transform, the local local_function.<locals>.inner,"),
        (functools.partial(sorted, key=lambda: 0), "transform.key, a lambda,"),
        (functools.partial(lambda data, row: {}, 1), "transform.func, a lambda,"),
        (Model(lambda: 0).run, "transform.__self__.step, a lambda,"),
        (Model(byte for byte in b"").run, "transform.__self__.step, a generator,"),
        (LOOP.run, "transform.__self__.step.handle, a generator,"),
    ],
)
def test_what_cannot_be_pickled_is_named(function: Callable[..., Any], culprit: str) -> None:
    """The message leads to the thing that stands in the way, and says what to do."""
    with pytest.raises(ConfigError, match="--strategy threads") as caught:
        check_picklable(function)
    assert str(caught.value).startswith(culprit)
