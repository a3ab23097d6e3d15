"""Links to files over HTTP: a stranger goes to a download that is never shown as a page."""

from __future__ import annotations

import httpx
import pytest

from tests.support.files import Files


@pytest.mark.req("R-K-04")
def test_a_stranger_downloads_what_is_shared_until_it_is_revoked(files: Files) -> None:
    page = b"<script>alert(1)</script>"
    file_id = files.ready(page, name="a\u202fb.html")
    made = files.call("POST", f"/{file_id}/share", {})
    assert made.status == 201
    path = f"/api/v1/shares/{made.data['token']}"
    assert made.data["url"].endswith(path)
    stranger = files.api.as_(authorization="")

    away = stranger.call("GET", path)
    assert away.status == 303
    assert (away.headers["cache-control"], away.headers["referrer-policy"]) == ("no-store", "no-referrer")
    loaded = httpx.get(away.headers["location"], trust_env=False)
    assert loaded.content == page
    assert loaded.headers["content-disposition"].startswith("attachment; ")

    [share] = files.call("GET", f"/{file_id}/share").data["shares"]
    assert share["downloads"] == 1
    assert "token" not in share
    assert files.call("DELETE", f"/{file_id}/share/{share['id']}").status == 204
    assert stranger.call("GET", path).status == 404


def test_a_repeat_does_not_show_the_link_again(files: Files) -> None:
    file_id = files.ready()
    headers = {"idempotency-key": "once-only"}
    first = files.call("POST", f"/{file_id}/share", {}, **headers)
    again = files.call("POST", f"/{file_id}/share", {}, **headers)
    assert (first.status, again.status, again.code) == (201, 409, "ALREADY_CREATED")
    assert len(files.call("GET", f"/{file_id}/share").data["shares"]) == 1


def test_who_looks_at_a_link_uses_up_no_download(files: Files) -> None:
    file_id = files.ready()
    path = f"/api/v1/shares/{files.call('POST', f'/{file_id}/share', {'max_downloads': 1}).data['token']}"
    stranger = files.api.as_(authorization="")
    for _ in range(3):
        looked = stranger.call("HEAD", path)
        assert (looked.status, looked.headers.get("location"), looked.headers["cache-control"]) == (
            303,
            None,
            "no-store",
        )
    assert stranger.call("GET", path).status == 303
    assert [stranger.call(method, path).status for method in ("HEAD", "GET")] == [404, 404]
    [share] = files.call("GET", f"/{file_id}/share").data["shares"]
    assert share["downloads"] == 1
