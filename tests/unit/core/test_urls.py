"""Whatever stores a URL accepts an https URL alone, and nothing that ends the attribute of a page that shows it."""

import pytest
from pydantic import BaseModel, ValidationError

from karma.avatars.schemas import ChangeAvatarBody, CreateAvatarBody
from karma.identity.accounts.schemas import PatchProfile

pytestmark = pytest.mark.fault("F-25f")

PLACES: list[tuple[type[BaseModel], str, dict[str, str]]] = [
    (PatchProfile, "avatar", {}),
    (CreateAvatarBody, "avatar_url", {"name": "a", "role": "b"}),
    (ChangeAvatarBody, "avatar_url", {}),
]


@pytest.mark.parametrize(("body", "member", "more"), PLACES)
def test_a_text_that_is_no_url_is_refused(body: type[BaseModel], member: str, more: dict[str, str]) -> None:
    wrong = [f"https://x.example/{char}" for char in '"<>\\^`{|} \t\n\0é']
    wrong += ["https://", "https:///a", "https://u:p@x.example/", "https://u@x.example/", "https://-x/", "http://x/"]
    wrong += [
        "javascript:alert(1)",
        "//x/",
        "https://x\nhttps://y/",
        "https://x/\n",
        "https://x:999999/",
        'https://"x/',
    ]

    for url in wrong:
        with pytest.raises(ValidationError):
            body.model_validate({**more, member: url})


@pytest.mark.parametrize(("body", "member", "more"), PLACES)
@pytest.mark.parametrize(
    "url",
    [
        "https://x",
        "https://a-b.example:8443",
        "https://x.example/a%20b/?c=d&e[]=f;g=(h)#i",
        "https://x?y",
        "https://x/'",
    ],
)
def test_a_url_is_accepted(body: type[BaseModel], member: str, more: dict[str, str], url: str) -> None:
    assert getattr(body.model_validate({**more, member: url}), member) == url
