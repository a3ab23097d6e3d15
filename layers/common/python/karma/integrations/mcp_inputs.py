"""Reads what servers of revision 2026-07-28 ask for instead of a result (`input_required`).

Forms of an elicitation can: flat ones, whose schemas are small and refer to nothing. All else a server could ask for
(its user at an address, a model, the client's files) cannot, nor can forms beside it: the call could not go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from karma.core import surrogates
from karma.mcp.domain import McpErrorCode, McpFailed
from karma.mcp.ports import McpInputNeeded
from karma.tools.inputs import Form

MAX_STATE_BYTES: Final = 65_536
"""Bytes of `requestState`, which is stored with the question."""
MAX_FORMS: Final = 8
MAX_FORMS_BYTES: Final = 16_384
"""Bytes of all forms of one answer as JSON."""
MAX_FORM_LEVELS: Final = 8
MAX_FIELDS: Final = 64
MAX_NAME_CHARS: Final = 256
MAX_MESSAGE_CHARS: Final = 500
_CANNOT: Final = "The server asks for input before it goes on, which cannot be given here"


def cannot_answer(question: str) -> McpFailed:
    """Return the failure of a call for which something is asked that cannot be given; `question` may be ""."""
    return McpFailed(McpErrorCode.INPUT_REQUIRED, f"{_CANNOT}: {question}" if question else _CANNOT)


def asked_in(requests: object) -> str:
    """Return what requests of a server ask, in its words, bounded."""
    told = [_message(each) for each in requests.values()] if isinstance(requests, dict) else []
    return "; ".join(filter(None, told))[:MAX_MESSAGE_CHARS]


def needed(result: Mapping[str, Any]) -> McpFailed:
    """Return what a result of type `input_required` is: a call that goes on with answers, or one that cannot."""
    requests, state = result.get("inputRequests"), result.get("requestState")
    question = asked_in(requests)
    if state is not None and (not isinstance(state, str) or len(state.encode("utf-8", "replace")) > MAX_STATE_BYTES):
        return cannot_answer(f"its state is more than {MAX_STATE_BYTES} bytes; {question}".removesuffix("; "))
    if not requests and state is not None:
        return McpInputNeeded(cannot_answer("").message, forms={}, state=state)
    if not isinstance(requests, dict) or not 1 <= len(requests) <= MAX_FORMS:
        return cannot_answer(question)
    forms: dict[str, Form] = {}
    for name, request in requests.items():
        form = _form(request)
        if form is None or not 1 <= len(name) <= MAX_NAME_CHARS:
            return cannot_answer(question)
        forms[name] = form
    if len(orjson.dumps([[name, form.message, form.schema] for name, form in forms.items()])) > MAX_FORMS_BYTES:
        return cannot_answer(question)
    return McpInputNeeded(cannot_answer(question).message, forms=forms, state=state)


def _message(request: object) -> str:
    params = request.get("params") if isinstance(request, dict) else None
    message = params.get("message") if isinstance(params, dict) else None
    return surrogates.whole(message)[:MAX_MESSAGE_CHARS] if isinstance(message, str) else ""


def _form(request: object) -> Form | None:
    """Return a form that a user can be asked to fill in; None: it is none."""
    if not isinstance(request, dict) or request.get("method") != "elicitation/create":
        return None
    params = request.get("params")
    if not isinstance(params, dict) or params.get("mode", "form") != "form":
        return None
    schema = params.get("requestedSchema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return None
    fields, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(fields, dict) or len(fields) > MAX_FIELDS or not isinstance(required, list):
        return None
    are_named = all(isinstance(name, str) and name in fields for name in required)
    if not are_named or not all(isinstance(each, dict) for each in fields.values()):
        return None
    own = {"type": "object", "properties": fields, "required": required}
    titles = {name: schema[name] for name in ("title", "description") if isinstance(schema.get(name), str)}
    if not _is_plain(own):
        return None
    return Form(message=_message(request), schema={**titles, **own})


def _is_plain(schema: object) -> bool:
    """Tell whether a schema has few levels, and refers to nothing: it is shown within another, at another place."""
    rest: list[tuple[object, int]] = [(schema, 1)]
    while rest:
        value, level = rest.pop()
        if level > MAX_FORM_LEVELS:
            return False
        if isinstance(value, dict):
            if any(name in value and isinstance(value[name], str) for name in ("$ref", "$dynamicRef", "$recursiveRef")):
                return False
            rest += [(each, level + 1) for each in value.values()]
        elif isinstance(value, list):
            rest += [(each, level + 1) for each in value]
    return True
