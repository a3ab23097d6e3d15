"""A death of the function at each of its AWS calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.integration.api.conftest import Api
from tests.integration.api.oauth.conftest import BOTH, EXCHANGE, Crash, Visitor


class TestACrash:
    @BOTH
    def test_of_the_callback_leaves_one_account_to_who_begins_again(
        self, crash: Crash, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]], provider: str
    ) -> None:
        """The provider's code is good once, so the repeat of the very same callback is refused: people begin again."""

        def seed() -> dict[str, Any]:
            someone = visitor(provider)
            return someone.event(someone.come_back())

        def counts() -> dict[str, int]:
            found = kinds()
            names = ("user", "email_guard", "provider_guard", "provider_identity", "user.registered", "provider.linked")
            return {name: found[name] for name in names}

        report = crash(seed, counts, {303}, redeliver=seed)
        assert set(counts().values()) == {1}
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_of_the_callback_lets_its_repeat_through_or_refuses_its_state(
        self, crash: Crash, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        someone = visitor()

        def seed() -> dict[str, Any]:
            return someone.event(someone.come_back())

        def whole() -> bool:
            """Tell whether there is no account or one, linked at most once, with a code only if linked."""
            found = kinds()
            linked = found["provider_guard"] == found["provider_identity"] == found["provider.linked"]
            return linked and found["login_code"] <= found["provider_guard"] <= found["user"] <= 1

        crash(seed, whole, {303, 400})
        assert whole()

    def test_of_the_exchange_gives_tokens_once_or_not_at_all(
        self, crash: Crash, api: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        someone = visitor()

        def seed() -> dict[str, Any]:
            code = someone.callback(someone.come_back()).told["code"]
            return api.event("POST", EXCHANGE, body={"code": code})

        def consistent() -> bool:
            found = kinds()
            return found["session"] == found["refresh_token"] == found["session.started"] <= 1

        crash(seed, consistent, {200, 400})
        assert consistent()
