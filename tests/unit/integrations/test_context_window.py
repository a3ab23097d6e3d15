"""A prompt that is too long is told from other refusals, whoever refuses it and in whatever words."""

from __future__ import annotations

from typing import Any

import pytest

from karma.integrations.context_window import is_too_long


def said(message: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message, **more}}


TOO_LONG: list[tuple[int, object]] = [
    (413, None),
    (413, "<html>Request Entity Too Large</html>"),
    (400, said("", type="request_too_large")),
    (400, said("prompt is too long: 210000 tokens > 200000 maximum")),
    (400, said("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length")),
    (200, said("prompt is too long: 210000 tokens > 200000 maximum")),
    (400, {"error": {"message": "Bad request", "type": "invalid_request_error", "code": "context_length_exceeded"}}),
    (400, said("This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.")),
    (400, said("Your input exceeds the context window of this model. Please adjust your input and try again.")),
    (400, {"message": "Input is too long for requested model.", "__type": "ValidationException"}),
    (400, {"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of tokens "
           "allowed (1048576).", "status": "INVALID_ARGUMENT"}}),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size", "type":
           "exceed_context_size_error"}}),
    (400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with "
           "32768 maximum context length", "type": "invalid_request_error"}),
    (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}),
    (400, said("This model's maximum prompt length is 131072 but the request contains 2000000 tokens.")),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097."}),
    (400, {"error": "prompt too long; exceeded max context length by 312 tokens"}),
    (500, {"detail": "The prompt is too long: 9000 tokens, the model's maximum is 8192"}),
    (400, "Please reduce the length of the messages: the context is limited to 32000 tokens"),
]  # fmt: skip

OTHERS: list[tuple[int, object]] = [
    (400, None),
    (400, said("messages: at least one message is required")),
    (400, said("messages.1: text content blocks must be non-empty")),
    (400, said("max_tokens: 200000 > 64000, which is the maximum allowed number of output tokens for the model")),
    (400, said("`max_tokens` must be greater than `thinking.budget_tokens`")),
    (400, said("messages.0.content.1.image.source.base64: image exceeds 5 MB maximum")),
    (400, said("A maximum of 100 PDF pages may be provided")),
    (400, said("tools.0.custom.description: String should have at most 1024 characters")),
    (400, said("A maximum of 4 blocks with cache_control may be provided. Found 5.")),
    (400, said("context_management: Extra inputs are not permitted")),
    (429, said("This request would exceed your organization's rate limit of 40,000 input tokens per minute")),
    (400, said("Request too large on tokens per min (TPM): Limit 30000, Requested 31000. Try again in 2s")),
    (401, said("invalid x-api-key")),
    (529, said("Overloaded", type="overloaded_error")),
    (200, said("Overloaded", type="overloaded_error")),
    (500, said("Internal server error", type="api_error")),
]


@pytest.mark.fault("F-06b")
@pytest.mark.parametrize(("status", "body"), TOO_LONG, ids=range(len(TOO_LONG)))
def test_a_refusal_of_a_too_long_prompt_is_recognised(status: int, body: object) -> None:
    assert is_too_long(status, body)


@pytest.mark.fault("F-06b")
@pytest.mark.parametrize(("status", "body"), OTHERS, ids=range(len(OTHERS)))
def test_a_refusal_for_another_reason_is_not_taken_for_one_of_a_too_long_prompt(status: int, body: object) -> None:
    assert not is_too_long(status, body)


@pytest.mark.parametrize("body", [[], 7, {"error": []}, {"error": {"message": 7, "type": None}}, b"\xff"])
def test_a_refusal_with_any_body_is_read(body: object) -> None:
    assert not is_too_long(400, body)
