"""Routes of logins through GitHub and Google: a browser goes to the provider, comes back, and goes on to a frontend."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request
from starlette.responses import Response

from api.services import identity, process
from karma.core.errors import AppError
from karma.http.access import CurrentCaller, RequestSource
from karma.http.openapi import answers
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.oauth.answers import LinkBegunData
from karma.identity.oauth.schemas import BeginLink, TradeLoginCode
from karma.identity.sessions.answers import LoginData, login_data

router = Router("auth")

COOKIE = "karma-oauth"
_COOKIE_AGE_S = 600
_GoesAway = answers(status=303, errors=(400, 403, 404, 409, 422, 502, 503, 504))


@router.get("/auth/oauth/{provider}/start", limit="auth", status_code=303, responses=_GoesAway)
async def start_oauth(provider: str, redirect: Annotated[str | None, Query(max_length=2000)] = None) -> Response:
    """Send a browser to `github` or `google` to log in there.

    `redirect` is a page of one of our frontends, without a fragment, where the login ends; by default the front page.
    The login belongs to this browser (a cookie), must come back within 10 minutes, and the browser's latest one counts.
    """
    begun = identity.oauth().start(provider, redirect=redirect)
    response = _go_to(begun.url)
    _set_cookie(response, begun.browser_secret, max_age_s=_COOKIE_AGE_S)
    return response


@router.post("/auth/oauth/{provider}/link", responses=answers(errors=(403, 404, 502, 503, 504)))
async def begin_link(provider: str, caller: CurrentCaller, body: BeginLink | None = None) -> Answer[LinkBegunData]:
    """Begin to link `github` or `google` to the caller's account; the browser then goes to `authorization_url`.

    Sent by a browser with its cookies (`credentials: "include"`): only that browser can come back, and it ends at
    `redirect#linked=<provider>`, or at `redirect#error=<code>`: `IDENTITY_TAKEN` when another account is linked. Needs
    a token, a verified address, and the current password.
    """
    asked = body or BeginLink()
    begun = identity.links().begin(caller, provider, redirect=asked.redirect, current_password=asked.current_password)
    data: LinkBegunData = {"authorization_url": begun.url}
    response = ok(data, headers={"cache-control": "no-store"})
    _set_cookie(response, begun.browser_secret, max_age_s=_COOKIE_AGE_S)
    return response


# The provider writes this address, and adds what it likes: Google `scope`, `authuser`, `prompt`, others `iss`.
@router.get("/auth/oauth/{provider}/callback", limit="auth", status_code=303, responses=_GoesAway, takes_any_query=True)
async def end_oauth(
    request: Request,
    source: RequestSource,
    provider: str,
    code: Annotated[str | None, Query()] = None,
    state: Annotated[str | None, Query(max_length=256)] = None,
    error: Annotated[str | None, Query()] = None,
) -> Response:
    """Take a browser back from the provider and send it to its frontend with `#code=…` for `/auth/oauth/exchange`.

    With `#linked=<provider>` when it was to link an account.

    A browser (`Accept: text/html`) whose login fails goes there as well, with `#error=<code>&request_id=…`; other
    clients, and logins that are not known, get the error itself.
    """
    service = identity.oauth()
    flow = service.resume(provider, state=state, browser_secret=request.cookies.get(_cookie_name()))
    try:
        told = service.finish(flow, code=code, denied=error is not None, source=source)
    except AppError as failure:
        if "text/html" not in request.headers.get("accept", ""):
            raise
        told = {"error": failure.code, "request_id": source.request_id or ""}
    response = _go_to(f"{flow.redirect}#{urlencode(told)}")
    _set_cookie(response, "", max_age_s=0)
    return response


@router.post("/auth/oauth/exchange", limit="auth", responses=answers(errors=(400, 403)))
async def exchange_login_code(body: TradeLoginCode, source: RequestSource) -> Answer[LoginData]:
    """Trade the code that a login through a provider ended with for tokens: once, within a minute."""
    user, tokens = identity.oauth().exchange(body.code, source=source)
    return ok(login_data(user, tokens))


def _go_to(url: str) -> Response:
    # What is in these addresses is for their reader alone: not for caches, and not for the next page's Referer.
    headers = {"location": url, "cache-control": "no-store", "referrer-policy": "no-referrer"}
    return Response(status_code=303, headers=headers)


def _is_https() -> bool:
    return process.settings().api_url.startswith("https://")


def _cookie_name() -> str:
    # Browsers take a `__Host-` cookie from https only, for this host only: no neighbouring host can plant one.
    return f"__Host-{COOKIE}" if _is_https() else COOKIE


def _set_cookie(response: Response, value: str, *, max_age_s: int) -> None:
    # Lax: the provider sends the browser back from another site, by a GET of the whole page.
    response.set_cookie(
        _cookie_name(), value, max_age=max_age_s, path="/", secure=_is_https(), httponly=True, samesite="lax"
    )
