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
        NoticeType.ACCESS_STAYS: Text(
            "What goes on without a session",
            "Your sessions have ended, but these go on for your account: {schedules} schedules, {webhooks} webhooks, "
            "{mcp_servers} MCP servers. Delete what is not yours, and rotate the secrets of webhooks that others knew.",
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
        NoticeType.DEVICE_OFFERED: Text(
            "You were offered a device", "Somebody wants to give you a device: accept or decline."
        ),
        NoticeType.DEVICE_GIVEN: Text(
            "A device has another owner",
            "The device {device_id} that you offered was accepted; you do not see it any more. If you did not offer "
            "it, change your password and write to support at once.",
        ),
        NoticeType.WEBHOOK_DISABLED: Text(
            "A webhook was disabled",
            "Its address is gone, or failed for days. It is told nothing more until you enable it: {webhook_id}",
        ),
        NoticeType.SCHEDULE_FAILED: Text(
            "A schedule fires no more",
            "The schedule {schedule_id} could not do its work: {code}. Correct it, and enable it again.",
        ),
        NoticeType.ALARM_RAISED: Text(
            "An alarm was raised", "The rule {rule_id} has raised an alarm on the device {device_id}."
        ),
        NoticeType.ALARM_CLEARED: Text(
            "An alarm was cleared", "The alarm of the rule {rule_id} on the device {device_id} is over."
        ),
        NoticeType.ALARMS_MANY: Text(
            "A rule raises many alarms",
            "The rule {rule_id} has raised more than {count} alarms within a minute; the list of alarms has all.",
        ),
        NoticeType.ALARM_RUN_REFUSED: Text(
            "An alarm began no run",
            "The run that the rule {rule_id} begins for an alarm on the device {device_id} was refused: {code}.",
        ),
        NoticeType.SCHEDULE_RESTS: Text(
            "A schedule begins no runs",
            "The schedule {schedule_id} was skipped {skips} times in a row, since its place is taken; "
            "it fires once an hour at most until a run begins.",
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
        NoticeType.ACCESS_STAYS: Text(
            "仍在为您的账户运行的内容",
            "您的会话已结束，但以下内容仍在运行：{schedules} 个定时任务、{webhooks} 个 Webhook、"
            "{mcp_servers} 个 MCP 服务器。"
            "请删除不属于您的内容，并轮换他人可能知道的 Webhook 密钥。",
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
        NoticeType.DEVICE_OFFERED: Text("有人要将设备转让给您", "有人希望将一台设备转让给您。您可以接受或拒绝。"),
        NoticeType.DEVICE_GIVEN: Text(
            "一台设备已转让",
            "您转让的设备 {device_id} 已被接受，您将无法再查看它。如果不是您本人操作，请更改密码并立即联系客服。",
        ),
        NoticeType.WEBHOOK_DISABLED: Text(
            "某个 Webhook 已被停用", "其地址已失效，或连续多日投递失败。重新启用之前不再投递事件：{webhook_id}"
        ),
        NoticeType.SCHEDULE_FAILED: Text(
            "某个定时任务已停止", "定时任务 {schedule_id} 未能完成：{code}。请更正后重新启用。"
        ),
        NoticeType.ALARM_RAISED: Text("触发了警报", "规则 {rule_id} 在设备 {device_id} 上触发了警报。"),
        NoticeType.ALARM_CLEARED: Text("警报已解除", "规则 {rule_id} 在设备 {device_id} 上的警报已解除。"),
        NoticeType.ALARMS_MANY: Text(
            "某条规则触发了大量警报", "规则 {rule_id} 在一分钟内触发了超过 {count} 个警报，完整内容请查看警报列表。"
        ),
        NoticeType.ALARM_RUN_REFUSED: Text(
            "警报未能启动运行", "规则 {rule_id} 应为设备 {device_id} 上的警报启动的运行被拒绝：{code}。"
        ),
        NoticeType.SCHEDULE_RESTS: Text(
            "某个定时任务连续被跳过",
            "定时任务 {schedule_id} 已连续跳过 {skips} 次，因为其会话或上一次运行尚未结束。"
            "在开始新的运行之前，每小时最多触发一次。",
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
