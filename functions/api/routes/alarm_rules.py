from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.services import alarms
from karma.alarms.answers import AlarmRuleData, AlarmRuleListData, AlarmRuleTrialData, rule_view, trial_data
from karma.alarms.authors import require_may_change, written_by
from karma.alarms.domain import AlarmRule
from karma.alarms.schemas import ChangeAlarmRuleBody, CreateAlarmRuleBody, TestAlarmRuleBody
from karma.http.access import permit
from karma.http.idempotency import Outcome, idempotency_key, once
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("alarms")

Reader = Annotated[Caller, permit("alarm:read")]
Tester = Annotated[Caller, permit("device:read")]
Writer = Annotated[Caller, permit("alarm:write")]


@router.post("/alarm-rules", idempotent=True, status_code=201, responses=answers(status=201, errors=(409,)))
async def create_alarm_rule(request: Request, body: CreateAlarmRuleBody, caller: Writer) -> Answer[AlarmRuleData]:
    """Create a rule: on a metric of a device, or of all devices with a tag, or on their silence or absence.

    With a `run` the caller must be allowed to run agents, too.
    """

    def create() -> Outcome[AlarmRuleData]:
        key = idempotency_key(request, caller)
        made = alarms.rules().create(caller.user_id, written_by(caller, body.fields()), idempotency_key=key)
        return Outcome(status=201, data={"alarm_rule": rule_view(made)}, made_id=made.id)

    return await once(request, caller, create, find=lambda made: alarms.rules().get(caller.user_id, made))


@router.post("/alarm-rules/test", responses=answers(errors=(404,)))
async def test_alarm_rule(body: TestAlarmRuleBody, caller: Tester) -> Answer[AlarmRuleTrialData]:
    """Tell which alarms a rule had raised on what its devices sent in a range, the last 24 h by default.

    Stores nothing. A rule on a tag is tried on the newest ten devices that have it; `offline` cannot be tried.
    """
    rule = alarms.rules().described(caller.user_id, body.fields())
    return ok(trial_data(alarms.trial().run(rule, begins_at=body.begins_at, ends_at=body.ends_at)))


@router.get("/alarm-rules", responses=answers(errors=(400,)))
async def list_alarm_rules(
    caller: Reader, limit: Limit = DEFAULT_SIZE, cursor: Cursor | None = None
) -> Answer[AlarmRuleListData]:
    """List the caller's rules, newest first."""
    scope = scope_of("alarm-rules", caller.user_id)
    below = position(cursor, scope, of=str).get("below", "")
    page = alarms.rules().page(caller.user_id, below=below, limit=limit)
    data: AlarmRuleListData = {
        "alarm_rules": [rule_view(rule) for rule in page.rules],
        "limit": limit,
        "next_cursor": next_cursor({"below": page.next_below}, scope),
    }
    return ok(data)


@router.get("/alarm-rules/{rule_id}", responses=answers(etag=True, errors=(404,)))
async def get_alarm_rule(rule_id: str, caller: Reader) -> Answer[AlarmRuleData]:
    """Show a rule; the ETag is its version."""
    return _rule(alarms.rules().get(caller.user_id, rule_id))


@router.patch("/alarm-rules/{rule_id}", responses=answers(etag=True, errors=(404, 409)))
async def change_alarm_rule(
    rule_id: str, body: ChangeAlarmRuleBody, caller: Writer, if_match: IfMatch = None
) -> Answer[AlarmRuleData]:
    """Change, pause or resume a rule; with `version` or If-Match only if nobody else has changed it since.

    A change of what it judges by ends its open alarms as superseded.
    """
    version = expected_version(if_match, body.version)
    changes = written_by(caller, body.changes())
    changed = alarms.rules().change(
        caller.user_id, rule_id, changes, version=version, permit=partial(require_may_change, caller)
    )
    return _rule(changed)


@router.delete("/alarm-rules/{rule_id}", status_code=204, responses=answers(status=204, errors=(404, 409)))
async def delete_alarm_rule(rule_id: str, caller: Writer, if_match: IfMatch = None) -> Response:
    """Delete a rule; its open alarms end as superseded."""
    alarms.rules().delete(caller.user_id, rule_id, version=expected_version(if_match))
    return no_content()


def _rule(rule: AlarmRule) -> Answer[AlarmRuleData]:
    return ok({"alarm_rule": rule_view(rule)}, headers=etag(rule.version))
