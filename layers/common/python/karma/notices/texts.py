"""Texts of notices in English and Chinese; members of `data` are in braces."""

# ruff: noqa: RUF001  Chinese has its own commas
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from karma.notices.domain import Notice, NoticeType


class Text(NamedTuple):
    """A notice in one language."""

    title: str
    text: str


_TEXTS: Mapping[str, Mapping[NoticeType, Text]] = {
    "en": {
        NoticeType.PASSWORD_CHANGED: Text(
            "Your password was changed",
            "Every session that used the old one has ended. If this was not you, reset the password at once.",
        ),
        NoticeType.EMAIL_CHANGED: Text(
            "Your e-mail address was changed",
            "Your account has moved to another address. If this was not you, write to support at once.",
        ),
        NoticeType.API_KEY_CREATED: Text(
            "An API key was created",
            "Whoever has it acts as you, within its scopes. If this was not you, revoke it and change your password.",
        ),
        NoticeType.SESSIONS_ENDED: Text(
            "You were logged out everywhere",
            "Every session of your account has ended. If this was not you, change your password.",
        ),
        NoticeType.LOGIN_LOCKED: Text(
            "Logging in was blocked for a while",
            "Somebody tried too many wrong passwords for your account. None of them was right.",
        ),
        NoticeType.SESSION_STOLEN: Text(
            "A session was used twice",
            "Somebody else may have had access to one of your sessions. It has ended; change your password.",
        ),
        NoticeType.PROVIDER_LINKED: Text(
            "A login was linked",
            "Your account can now be opened through {provider}. If this was not you, write to support at once.",
        ),
        NoticeType.ROLE_CHANGED: Text(
            "Your role was changed", "An administrator made you {to}; before, it was {from}."
        ),
        NoticeType.ACCOUNT_DISABLED: Text("Your account was disabled", "An administrator disabled your account."),
        NoticeType.ACCOUNT_ENABLED: Text("Your account was enabled", "An administrator enabled your account again."),
        NoticeType.SUBSCRIPTION_CHANGED: Text(
            "Your subscription was changed",
            "The plan that holds for you now is {plan}; the state of your subscription is {status}.",
        ),
        NoticeType.SUBSCRIPTIONS_SEVERAL: Text(
            "You pay for several subscriptions",
            "{count} subscriptions of your account renew, and one plan holds: {plan}. Cancel what you do not need.",
        ),
        NoticeType.PROJECT_INVITATION: Text(
            "You were invited to a project", "Somebody asks you to join a project as {role}: accept or decline."
        ),
    },
    "zh": {
        NoticeType.PASSWORD_CHANGED: Text(
            "您的密码已更改", "使用旧密码的会话均已结束。如果不是您本人操作，请立即重置密码。"
        ),
        NoticeType.EMAIL_CHANGED: Text(
            "您的邮箱已更改", "您的账户已改用另一个邮箱。如果不是您本人操作，请立即联系客服。"
        ),
        NoticeType.API_KEY_CREATED: Text(
            "已创建 API 密钥", "持有者可在其权限范围内以您的身份操作。如果不是您本人操作，请撤销该密钥并更改密码。"
        ),
        NoticeType.SESSIONS_ENDED: Text(
            "您已在所有设备上退出登录", "您账户的所有会话均已结束。如果不是您本人操作，请更改密码。"
        ),
        NoticeType.LOGIN_LOCKED: Text("登录已被暂时限制", "有人多次尝试用错误的密码登录您的账户，均未成功。"),
        NoticeType.SESSION_STOLEN: Text("某个会话被重复使用", "他人可能访问过您的某个会话。该会话已结束，请更改密码。"),
        NoticeType.PROVIDER_LINKED: Text(
            "已关联登录方式", "现在可以通过 {provider} 登录您的账户。如果不是您本人操作，请立即联系客服。"
        ),
        NoticeType.ROLE_CHANGED: Text("您的角色已更改", "管理员已将您的角色由 {from} 改为 {to}。"),
        NoticeType.ACCOUNT_DISABLED: Text("您的账户已停用", "管理员停用了您的账户。"),
        NoticeType.ACCOUNT_ENABLED: Text("您的账户已启用", "管理员重新启用了您的账户。"),
        NoticeType.SUBSCRIPTION_CHANGED: Text("您的订阅已更改", "您当前生效的套餐为 {plan}，订阅状态为 {status}。"),
        NoticeType.SUBSCRIPTIONS_SEVERAL: Text(
            "您正在为多个订阅付费",
            "您的账户有 {count} 个会续费的订阅，其中只有最大的套餐 {plan} 生效。请取消不需要的订阅。",
        ),
        NoticeType.PROJECT_INVITATION: Text(
            "您收到项目邀请", "有人邀请您以 {role} 身份加入一个项目。您可以接受或拒绝。"
        ),
    },
}


def compose(notice: Notice, *, locale: str) -> Text:
    """Write a notice in its reader's language.

    Raises:
        KeyError: the type or locale has no texts, or `data` lacks a word of the text, which a test rules out.
    """
    text = _TEXTS[locale][notice.type]
    return Text(text.title, text.text.format_map(notice.data))
