"""Texts of mails in English and Chinese: subject, text and HTML from one list of paragraphs.

The only text of users in a letter is the name of an account whose owner has verified the address that it goes
to, in the body, escaped in HTML. A letter to any other address has only texts of this module, so that nobody can send
their own texts.

A link carries its token in the fragment, which browsers send to no server: it is in no access log and no Referer.
"""

# ruff: noqa: RUF001  Chinese has its own commas
from __future__ import annotations

import html
from collections.abc import Mapping
from typing import NamedTuple

from karma.mail.domain import Addressed, Letter, MailKind


class _Text(NamedTuple):
    """A letter in one language."""

    subject: str
    says: str
    action: str = ""
    """Label of the link."""
    otherwise: str = ""
    """Advice for recipients who did not cause the mail."""


_PATHS: Mapping[MailKind, str] = {
    MailKind.VERIFY_EMAIL: "verify-email",
    MailKind.CONFIRM_NEW_EMAIL: "verify-email",
    MailKind.RESET_PASSWORD: "reset-password",
    MailKind.ALREADY_REGISTERED: "reset-password",
}
"""Pages of the web application that take a token and post it to the API."""

_GREETING: Mapping[str, str] = {"en": "Hello {name},", "zh": "{name}，您好："}
_GREETING_OF_NOBODY: Mapping[str, str] = {"en": "Hello,", "zh": "您好："}

_TEXTS: Mapping[str, Mapping[MailKind, _Text]] = {
    "en": {
        MailKind.VERIFY_EMAIL: _Text(
            "Verify your e-mail address",
            "an account at Karma was made with this address. Verify it within 48 hours.",
            "Verify the address",
            "If this was not you, do nothing; without you the address stays unverified.",
        ),
        MailKind.RESET_PASSWORD: _Text(
            "Reset your password",
            "somebody asked to reset the password of your Karma account. The link works once, for one hour.",
            "Choose a new password",
            "If this was not you, do nothing; your password stays as it is.",
        ),
        MailKind.PASSWORD_CHANGED: _Text(
            "Your password was changed",
            "the password of your Karma account was changed, and every session that used the old one has ended. "
            "Its schedules, webhooks and MCP servers go on: delete those that are not yours.",
            otherwise="If this was not you, reset the password at once: choose “Forgot password” where you log in.",
        ),
        MailKind.CONFIRM_NEW_EMAIL: _Text(
            "Confirm your new e-mail address",
            "your Karma account is about to move to this address. Confirm it within 48 hours.",
            "Confirm the address",
            "If this was not you, do nothing; the account stays where it is.",
        ),
        MailKind.EMAIL_CHANGE_ASKED: _Text(
            "Your e-mail address is about to change",
            "somebody who knows your password asked to move your Karma account to another e-mail address. "
            "It moves when the new address is confirmed.",
            otherwise="If this was not you, change your password at once: that also stops the move.",
        ),
        MailKind.EMAIL_CHANGED: _Text(
            "Your e-mail address was changed",
            "your Karma account has moved to another e-mail address; this one is no longer used.",
            otherwise="If this was not you, write to support at once.",
        ),
        MailKind.EMAIL_TAKEN: _Text(
            "Somebody named your e-mail address",
            "another account asked to move to this address. It cannot, because your account has it. "
            "You need not do anything.",
        ),
        MailKind.ALREADY_REGISTERED: _Text(
            "You have an account already",
            "somebody, perhaps you, asked to register with this address, which has an account at Karma. Log in with "
            "it; if the password is forgotten, the link sets a new one. It works once, for one hour.",
            "Choose a new password",
            "If this was not you, do nothing; your account stays as it is.",
        ),
        MailKind.PROJECT_INVITATION: _Text(
            "You were invited to a project",
            "somebody invited you to a project at Karma. Log in, or register with this address, to see by whom, and to "
            "accept or decline within 14 days.",
            otherwise="If you expect nothing of the kind, do nothing; without you nothing happens.",
        ),
        MailKind.DEVICE_OFFERED: _Text(
            "You were offered a device",
            "somebody wants to give you a device at Karma. Log in, or register with this address, to see which and by "
            "whom, and to accept or decline within 14 days.",
            otherwise="If you expect nothing of the kind, do nothing; without you nothing happens.",
        ),
        MailKind.API_KEY_CREATED: _Text(
            "An API key was created",
            "an API key of your Karma account was created. Whoever has it acts as you, within its scopes, until it "
            "ends.",
            otherwise="If this was not you, reset the password at once: that ends every session and every API key.",
        ),
        MailKind.ALARM_RAISED: _Text(
            "An alarm was raised",
            "a rule of your Karma account has raised an alarm on one of your devices. Log in to see on which, and why.",
            otherwise="The rule says whether there are mails: take “mail” out of its actions to get none.",
        ),
        MailKind.ALARM_CLEARED: _Text(
            "An alarm was cleared",
            "an alarm on one of your devices, of which a mail told you, is over. The list of alarms has its times.",
            otherwise="The rule says whether there are mails: take “mail” out of its actions to get none.",
        ),
    },
    "zh": {
        MailKind.VERIFY_EMAIL: _Text(
            "请验证您的电子邮箱",
            "有人用此邮箱注册了 Karma 账户。请在 48 小时内完成验证。",
            "验证邮箱",
            "如果不是您本人操作，请忽略此邮件；未经您确认，邮箱不会被验证。",
        ),
        MailKind.RESET_PASSWORD: _Text(
            "重置您的密码",
            "有人请求重置您的 Karma 账户密码。链接一小时内有效，只能使用一次。",
            "设置新密码",
            "如果不是您本人操作，请忽略此邮件；您的密码不会改变。",
        ),
        MailKind.PASSWORD_CHANGED: _Text(
            "您的密码已更改",
            "您的 Karma 账户密码已更改，使用旧密码的会话均已结束。"
            "定时任务、Webhook 和 MCP 服务器会继续运行，请删除不属于您的内容。",
            otherwise="如果不是您本人操作，请立即在登录页选择“忘记密码”重置密码。",
        ),
        MailKind.CONFIRM_NEW_EMAIL: _Text(
            "请确认您的新邮箱",
            "您的 Karma 账户即将改用此邮箱。请在 48 小时内确认。",
            "确认邮箱",
            "如果不是您本人操作，请忽略此邮件；账户邮箱不会改变。",
        ),
        MailKind.EMAIL_CHANGE_ASKED: _Text(
            "您的邮箱即将更改",
            "有人使用您的密码请求将 Karma 账户改用另一个邮箱。新邮箱确认后生效。",
            otherwise="如果不是您本人操作，请立即更改密码，更改即会中止。",
        ),
        MailKind.EMAIL_CHANGED: _Text(
            "您的邮箱已更改",
            "您的 Karma 账户已改用另一个邮箱，此邮箱不再使用。",
            otherwise="如果不是您本人操作，请立即联系客服。",
        ),
        MailKind.EMAIL_TAKEN: _Text(
            "有人填写了您的邮箱",
            "另一个账户请求改用此邮箱。由于此邮箱属于您的账户，请求不会生效，您无需进行任何操作。",
        ),
        MailKind.ALREADY_REGISTERED: _Text(
            "您已拥有账户",
            "有人（可能是您本人）尝试使用此邮箱注册，而此邮箱已有 Karma 账户。请直接登录；"
            "如果忘记密码，可通过链接设置新密码。链接一小时内有效，只能使用一次。",
            "设置新密码",
            "如果不是您本人操作，请忽略此邮件；您的账户不会改变。",
        ),
        MailKind.PROJECT_INVITATION: _Text(
            "您收到项目邀请",
            "有人邀请您加入 Karma 的一个项目。请登录，或使用此邮箱注册，以查看邀请人，并在 14 天内接受或拒绝。",
            otherwise="如果您并不期待此邀请，请忽略此邮件；未经您同意，不会发生任何事。",
        ),
        MailKind.DEVICE_OFFERED: _Text(
            "有人要将设备转让给您",
            "有人希望将 Karma 的一台设备转让给您。请登录，或使用此邮箱注册，以查看设备和转让人，"
            "并在 14 天内接受或拒绝。",
            otherwise="如果您并不期待此转让，请忽略此邮件；未经您同意，不会发生任何事。",
        ),
        MailKind.API_KEY_CREATED: _Text(
            "已创建 API 密钥",
            "您的 Karma 账户创建了一个 API 密钥。在其失效之前，持有者可在其权限范围内以您的身份操作。",
            otherwise="如果不是您本人操作，请立即重置密码：重置会终止所有会话和所有 API 密钥。",
        ),
        MailKind.ALARM_RAISED: _Text(
            "设备触发了告警",
            "您的 Karma 账户中的一条规则在您的一台设备上触发了告警。请登录查看具体设备和原因。",
            otherwise="是否发送邮件由规则决定：从该规则的动作中移除“mail”即可不再收到邮件。",
        ),
        MailKind.ALARM_CLEARED: _Text(
            "告警已解除",
            "此前邮件告知您的一台设备的告警已解除。告警列表中有具体时间。",
            otherwise="是否发送邮件由规则决定：从该规则的动作中移除“mail”即可不再收到邮件。",
        ),
    },
}


def compose(addressed: Addressed, *, public_url: str) -> Letter:
    """Write a letter in its recipient's language.

    Raises:
        KeyError: the kind or the locale has no texts, which a test rules out.
    """
    text = _TEXTS[addressed.locale][addressed.kind]
    link = f"{public_url}/{_PATHS[addressed.kind]}#token={addressed.token}" if addressed.token else ""
    greeting = _GREETING_OF_NOBODY[addressed.locale]
    if addressed.name is not None:
        greeting = _GREETING[addressed.locale].format(name=addressed.name)
    plain = [greeting, text.says, link, text.otherwise]
    return Letter(
        subject=text.subject,
        text="\n\n".join(filter(None, plain)) + "\n",
        html=_html(addressed.locale, [greeting, text.says], text.action, link, text.otherwise),
    )


def _html(locale: str, before: list[str], action: str, link: str, otherwise: str) -> str:
    paragraphs = [f"<p>{html.escape(each)}</p>" for each in before]
    if link:
        paragraphs.append(f'<p><a href="{html.escape(link)}">{html.escape(action)}</a></p>')
    if otherwise:
        paragraphs.append(f"<p>{html.escape(otherwise)}</p>")
    language = {"en": "en", "zh": "zh-Hans"}[locale]
    return f'<!doctype html><html lang="{language}"><body>{"".join(paragraphs)}</body></html>\n'
