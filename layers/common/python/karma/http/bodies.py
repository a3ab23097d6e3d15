"""Request bodies: read once, checked, and turned into the route's model.

It replaces FastAPI's own, which parses leniently (NaN, lone surrogates), builds every validator at import, and reads
the body before it knows the caller.

| body | answer |
| --- | --- |
| over 1 MB | 413 |
| not application/json, of a charset that is not UTF-8's, or with a Content-Encoding | 415 |
| not JSON: NaN, invalid UTF-8, lone surrogates; a byte order mark is passed over | 400 INVALID_JSON |
| JSON of another shape, with a member twice, or beyond a limit of karma.core.freeform | 422, one entry a field |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import starmap
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from karma.core import freeform
from karma.core.errors import MAX_TOLD, InvalidRequest, PayloadTooLarge, ValidationFailed
from karma.core.schemas import Body
from karma.http.envelope import require_json

MAX_BODY_BYTES = 1024 * 1024
_LOOKED_AT = 4 * MAX_TOLD
"""Errors of one body that are put into words at the most: more than an answer tells, since a field may have several."""
_REPLACED = "\ufffd".encode()


class JsonBody:
    """Dependency that reads the body as a model; `optional` makes an empty body None."""

    def __init__(self, model: type[Body], *, optional: bool) -> None:
        self.model = model
        self.optional = optional

    async def __call__(self, request: Request) -> Body | None:
        """Return the model.

        Raises:
            PayloadTooLarge, UnsupportedMediaType, InvalidRequest: see the module's table.
            ValidationFailed, RequestValidationError: the JSON has another shape.
        """
        headers = request.headers
        announced = _announced(headers.get("content-length", ""))
        if announced is not None and announced > MAX_BODY_BYTES:
            raise _too_large()
        raw = await request.body()
        if len(raw) > MAX_BODY_BYTES:
            raise _too_large()
        if not raw and self.optional:
            return None
        if raw:
            require_json(headers.get("content-type", ""), headers.get("content-encoding", ""))
        _require_utf8(raw, announced)
        try:
            # How deep its free-form fields are, the model says, by name.
            found = freeform.loads(raw or b"{}", levels=None, of_request=True)
        except freeform.NotJson:
            raise InvalidRequest("The body is not valid JSON", code="INVALID_JSON") from None
        except freeform.OutOfBounds as exc:
            raise ValidationFailed.of(exc.member or "body", exc.told) from None
        across = self.model.across(found) if isinstance(found, dict) else ()
        found, left_out = self._few(found)
        try:
            read = self.model.model_validate(found)
        except ValidationError as exc:
            listed = exc.errors(include_url=False)
            wrong = [_of_body(error) for error in listed[:_LOOKED_AT]]
            left_out += len(listed) - len(wrong)
            raise WrongBody([*wrong, *starmap(_of_fields, across)], left_out=left_out) from None
        if across:
            raise RequestValidationError([*starmap(_of_fields, across)])
        return read

    def _few(self, found: object) -> tuple[object, int]:
        """Return a body with as many unknown members as are told of, and the number of the others.

        Pydantic describes each wrong member by a dict of its own, a hundred times as large as the member.
        """
        fields = self.model.model_fields
        if not isinstance(found, dict) or len(found) <= len(fields) + _LOOKED_AT:
            return found, 0
        known = {*fields, *(field.alias for field in fields.values() if field.alias)}
        unknown = [name for name in found if name not in known]
        kept = {name: found[name] for name in (*(each for each in found if each in known), *unknown[:_LOOKED_AT])}
        return kept, len(found) - len(kept)


class WrongBody(RequestValidationError):
    """A body is wrong in so many places that the last `left_out` of them are only counted."""

    def __init__(self, errors: list[dict[str, Any]], *, left_out: int) -> None:
        super().__init__(errors)
        self.left_out = left_out


def _of_body(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error with its place in the body, and null where that is the wrong value; without the values sent."""
    kind = "null" if error["input"] is None and error["type"] != "missing" else error["type"]
    # With `ctx`, which has the limit: karma.core.wording says it.
    return {"type": kind, "loc": ("body", *error["loc"]), "msg": error["msg"], "ctx": error.get("ctx", {})}


def _of_fields(field: str, message: str) -> dict[str, Any]:
    """Return the error of a rule across fields, as pydantic lists one of a field."""
    return {"type": "value_error", "loc": ("body", *field.split(".")), "msg": message, "ctx": {"error": message}}


def with_body(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Let `JsonBody` read a route's `body: Model` (or `body: Model | None = None`), after all other arguments."""
    if "body" not in getattr(endpoint, "__annotations__", ()):
        return endpoint
    hints = get_type_hints(endpoint, include_extras=True)
    kinds = get_args(hints["body"]) or (hints["body"],)
    model = next(kind for kind in kinds if kind is not NoneType)
    reader = JsonBody(model, optional=NoneType in kinds)
    signature = inspect.signature(endpoint)
    parameters = [
        each.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in signature.parameters.items()
        if name != "body"
    ]
    annotation: Any = Annotated[Any, Depends(reader)]
    parameters.append(inspect.Parameter("body", inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    endpoint.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return endpoint


def _announced(length: str) -> int | None:
    return int(length) if length.isdecimal() and length.isascii() and len(length) < 20 else None


def _require_utf8(raw: bytes, announced: int | None) -> None:
    """Refuse text of another encoding, which would be stored with U+FFFD in place of characters.

    API Gateway hands JSON on as text and puts U+FFFD for what is not UTF-8: three bytes in the place of one to three.
    So a body whose length is not the announced one was altered; only four-byte characters without their last byte
    keep it. A sender's own U+FFFD changes nothing.
    """
    if _REPLACED in raw and announced is not None and announced != len(raw):
        raise InvalidRequest("The body is not in UTF-8", code="INVALID_JSON")


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"The body exceeds {MAX_BODY_BYTES} bytes")
