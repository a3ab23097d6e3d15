from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from api.services import identity, process
from karma.core.answers import AcceptedData
from karma.core.ids import UserId
from karma.http.access import CurrentCaller, LeavingCaller, RequestSource
from karma.http.idempotency import Outcome, once
from karma.http.openapi import answers
from karma.http.presenters import Answer, no_content, ok
from karma.http.routing import Router
from karma.identity.accounts.answers import UserData, user_view
from karma.identity.accounts.schemas import Register
from karma.identity.passwords.schemas import ChangePassword, ForgotPassword, ResetPassword
from karma.identity.schemas import OneTime
from karma.identity.sessions.answers import LoginData, TokensData, login_data, tokens_data
from karma.identity.sessions.schemas import LogIn, LogOutEverywhere, Refresh

router = Router("auth")


@router.post("/auth/register", idempotent=True, limit="auth", status_code=201, responses=answers(status=201))
async def register(request: Request, body: Register, source: RequestSource) -> Answer[UserData]:
    """Make an account, and send the address a link that verifies it.

    An address that has an account is answered alike, with an id that is nobody's: its owner alone is told, by mail.
    Passwords that are guessed first, or made of the account's own words, are refused (422).
    """

    def create() -> Outcome[UserData]:
        user = identity.accounts().sign_up(
            email=body.email, password=body.password, name=body.name, locale=body.locale, source=source
        )
        return Outcome(status=201, data={"user": user_view(user)}, made_id=user.id)

    return await once(request, None, create, find=_not_deleted)


def _not_deleted(user_id: str) -> None:
    identity.account_deletion().require_none(UserId(user_id))


@router.post("/auth/login", limit="auth", responses=answers(errors=(401,)))
async def log_in(body: LogIn, source: RequestSource) -> Answer[LoginData]:
    """Trade address and password for an access token (30 minutes) and a refresh token (30 days)."""
    user, tokens = identity.sessions().log_in(email=body.email, password=body.password, source=source)
    return ok(login_data(user, tokens))


@router.post("/auth/refresh", limit="auth", responses=answers(errors=(401,)))
async def refresh(body: Refresh, source: RequestSource) -> Answer[TokensData]:
    """Trade a refresh token for a new pair.

    A repeat within 10 seconds gets the same refresh token while that is unused; any later use ends the session.
    """
    return ok(tokens_data(identity.sessions().refresh(body.refresh_token, source=source)))


@router.post("/auth/logout", status_code=204, responses=answers(status=204, errors=(403,)))
async def log_out(body: Refresh, caller: LeavingCaller, source: RequestSource) -> Response:
    """End the session of a refresh token; its access tokens change nothing more, and read for up to 30 minutes."""
    identity.sessions().log_out(caller, body.refresh_token, source=source)
    return no_content()


@router.post("/auth/logout-all", status_code=204, responses=answers(status=204, errors=(403,)))
async def log_out_everywhere(
    caller: CurrentCaller, source: RequestSource, body: LogOutEverywhere | None = None
) -> Response:
    """End every session of the caller; their access tokens change nothing more, and read for up to a minute.

    With `api_keys` every API key of the caller ends with them.
    """
    identity.sessions().log_out_everywhere(caller, api_keys=body is not None and body.api_keys, source=source)
    return no_content()


@router.post("/auth/verify-email", limit="auth", status_code=204, responses=answers(status=204, errors=(409, 410)))
async def verify_email(body: OneTime, source: RequestSource) -> Response:
    """Verify an address by the token of a link: of registration, or of a change of address, which it completes."""
    identity.accounts().verify_email(token=body.token, source=source)
    return no_content()


@router.post("/auth/verify-email/resend", status_code=202, responses=answers(status=202))
async def resend_verification(caller: CurrentCaller) -> Answer[AcceptedData]:
    """Send the link again; to an address that is verified nothing is sent."""
    identity.accounts().resend_verification(caller)
    return ok({"accepted": True}, 202)


@router.post("/auth/forgot-password", limit="auth", status_code=202, responses=answers(status=202))
async def forgot_password(body: ForgotPassword) -> Answer[AcceptedData]:
    """Send a link that sets a new password, if the address has an account; the answer does not say."""
    identity.password_changes().forgot(email=body.email)
    return ok({"accepted": True}, 202)


@router.post("/auth/reset-password", limit="auth", status_code=204, responses=answers(status=204, errors=(410,)))
async def reset_password(body: ResetPassword, source: RequestSource) -> Response:
    """Set a new password by the token of a link; sessions and API keys end, and the address counts as verified."""
    identity.password_changes().reset(token=body.token, password=body.password, source=source)
    return no_content()


@router.post("/auth/change-password", responses=answers(errors=(403, 409)))
async def change_password(body: ChangePassword, caller: CurrentCaller, source: RequestSource) -> Answer[TokensData]:
    """Change the password; every session ends, and the answer has the tokens of a new one. Needs a token, not a key."""
    user = identity.password_changes().change(
        caller, current_password=body.current_password, password=body.password, source=source
    )
    return ok(tokens_data(identity.sessions().start(user, method="password", source=source, now=process.clock().now())))
