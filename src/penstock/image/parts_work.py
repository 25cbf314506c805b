"""What a worker does with a row of several parts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image as Pillow

from penstock.config import ImageConfig
from penstock.errors import ItemError
from penstock.image.encode import encode
from penstock.image.text import decode_text
from penstock.image.user_code import Told, call, is_array, shown
from penstock.image.work import ImageTransform, dimensions, is_image, pixels, resized
from penstock.parts import Column, Image, Images, Part, Text, image_config
from penstock.records import Facts, Failure, Fetched, PartOutcome, Reason, Request, Result, Row, Sample, Value, group_of

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PartsWork", "array_of"]


@dataclass(frozen=True, slots=True)
class PartsWork:
    """Decode, resize and encode the images of a row, decode its texts, and take over its columns.

    The sample has an entry for each part that came, in the order of `parts`. For ``{"photo": Image(…), "views":
    Images(…), "abstract": Text(…), "caption": Column(…)}`` these are, each bytes, texts in UTF-8::

        photo    views.0    views.1 …    abstract    caption
        photo.jpg  views.0.jpg  views.1.jpg …  abstract.txt  caption.txt     with `endings`

    With `as_array` images are (H, W, 3) uint8, RGB, and those of a list one array ``views`` of (k, H, W, 3), where k
    images of the list came.

    What fails inside a part is its own outcome, in `Result.parts`. The row fails by `Row.failed_by`.
    """

    parts: Mapping[str, Part]
    config: ImageConfig
    as_array: bool
    transform_image: ImageTransform | None = None
    """A user's function of the pixels of each image, after the resize; it returns an array."""
    endings: bool = False
    """Names tell what is inside: they become names of files."""
    _told: Told = field(default_factory=set, init=False, repr=False, compare=False)
    silent: ClassVar[bool] = True
    """In a worker process it prints nothing: libtiff has a line for each damaged file."""

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row, of which at least one request was fetched."""
        started = time.perf_counter()
        values: dict[str, Value] = {}
        outcomes: dict[str, PartOutcome] = {}
        ended: dict[str, Fetched | Failure] = {}
        for one in fetched:
            value, outcomes[one.part] = self._worked(row, one)
            ended[one.part] = value if isinstance(value, Failure) else one
            if not isinstance(value, Failure):
                values[one.part] = value
        # What was not fetched has failed before, and did not fail the row: of each required part something is here.
        tried = dataclasses.replace(row, requests=tuple(request for request in row.requests if request.part in ended))
        failure = tried.failed_by(tuple(ended[request.part] for request in tried.requests))
        first = row.requests[0]
        facts = outcomes[first.part].facts if first.part in values else Facts()
        sample = Sample(self._named(row, values), facts)
        return self._result(failure or sample, first, fetched, outcomes, started)

    @staticmethod
    def _result(
        value: Sample | Failure,
        first: Request,
        fetched: tuple[Fetched, ...],
        outcomes: dict[str, PartOutcome],
        started: float,
    ) -> Result:
        """What the table says of the row is of its first request."""
        status = next((one.http_status for one in fetched if one.part == first.part), None)
        result = Result.of(value, fetched, time.perf_counter() - started)
        return dataclasses.replace(result, http_status=status, parts=outcomes)

    def _worked(self, row: Row, fetched: Fetched) -> tuple[Value | Failure, PartOutcome]:
        """What became of one download."""
        name = group_of(fetched.part)
        part = self.parts[name]
        outcome = PartOutcome.of(fetched)
        try:
            if isinstance(part, Text):
                return self._text(part, fetched, outcome)
            assert isinstance(part, Image | Images)  # nothing else is fetched
            return self._image(row, part, fetched, outcome)
        except ItemError as error:
            failure = error.failure(fetched.attempts)
            return failure, dataclasses.replace(outcome, reason=failure.reason, detail=failure.detail)

    def _text(self, part: Text, fetched: Fetched, outcome: PartOutcome) -> tuple[Value, PartOutcome]:
        if len(fetched.data) > part.max_bytes:
            detail = f"{len(fetched.data)} bytes; a text of this part has at most {part.max_bytes}"
            raise ItemError(Reason.BODY_TOO_LARGE, detail)
        decoded = decode_text(fetched.data, charset=part.charset, content_type=fetched.server_type)
        facts = Facts(sha256=hashlib.sha256(fetched.data).hexdigest())
        outcome = dataclasses.replace(
            outcome, facts=facts, encoding=decoded.encoding, encoding_from=decoded.encoding_from
        )
        return decoded.text.encode("utf-8", "replace"), outcome

    def _image(
        self, row: Row, part: Image | Images, fetched: Fetched, outcome: PartOutcome
    ) -> tuple[Value, PartOutcome]:
        config = image_config(part, self.config)
        image, facts = resized(fetched, config)
        value: Value
        if self.transform_image is not None:
            array = array_of(call(self.transform_image, pixels(image), row, told=self._told))
            width, height = dimensions(array)
            facts = dataclasses.replace(facts, width=width, height=height)
            as_file = is_image(array) and not self.as_array
            value = encode(Pillow.fromarray(array), config.encode, config.quality) if as_file else array
        else:
            value = pixels(image) if self.as_array else encode(image, config.encode, config.quality)
        return value, dataclasses.replace(outcome, facts=facts)

    def _named(self, row: Row, values: Mapping[str, Value]) -> dict[str, Value]:
        """The parts of the sample, in the order of the user's."""
        named: dict[str, Value] = {}
        for name, part in self.parts.items():
            own = {one: value for one, value in values.items() if group_of(one) == name}
            if isinstance(part, Column):
                text = _column_text(row.fields.get(part.column))
                own = {} if text is None else {name: text}
            if isinstance(part, Images) and self.as_array:
                own = _stack(name, own)
            named |= {self._ending(one, part, value): value for one, value in own.items()}
        return named

    def _ending(self, name: str, part: Part, value: Value) -> str:
        if not self.endings or not isinstance(value, bytes):
            return name
        ending = (part.encode or self.config.encode) if isinstance(part, Image | Images) else "txt"
        return name if name == ending else f"{name}.{ending}"


def array_of(returned: Any) -> npt.NDArray[Any]:
    """What a user's function of a part's pixels returned.

    Raises:
        ItemError: `Reason.TRANSFORM_ERROR` if it is no array.
    """
    if not is_array(returned) or returned.dtype.hasobject:
        raise ItemError(Reason.TRANSFORM_ERROR, f"expected an array, as of each part, not {shown(returned)}")
    return returned


def _stack(name: str, images: Mapping[str, Any]) -> dict[str, Value]:
    """The images of a list as one array.

    Raises:
        ItemError: they have different shapes.
    """
    import numpy as np  # noqa: PLC0415 - as in records: only arrays need it

    kinds = {(image.shape, image.dtype.str) for image in images.values()}
    if len(kinds) > 1:
        detail = f"part {name}: the images of a row must have one shape, and have {sorted(kinds)}"
        raise ItemError(Reason.TRANSFORM_ERROR, detail)
    return {name: np.stack(list(images.values()))} if images else {}


def _column_text(value: Any) -> bytes | None:
    """A value as UTF-8: text as it is, anything else as JSON; None where there is none."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace")  # JSON allows lone surrogates, UTF-8 does not
