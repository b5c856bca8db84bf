"""What the backend echoes is read as it is: headers as often as they came, clients one by one."""

from __future__ import annotations

import json

import pytest

from svidproof.checks.assertions import (
    Accepted,
    Refused,
    assert_echoed,
    assert_forbidden,
    assert_handshake,
)
from svidproof.components.app import SeenRequest
from svidproof.probes.tls import Alert, Exchange
from svidproof.probes.xfcc import Echo, Element, elements

PROXY, BACKEND, CLIENT = "spiffe://e/proxy", "spiffe://e/backend", "spiffe://e/client"
ONE = f"By={PROXY};Hash=ab;URI={CLIENT}"
TWO = f"{ONE},By={BACKEND};Hash=cd;URI={PROXY}"


def echo(*values: str) -> Echo:
    """What was echoed of a request with these X-Forwarded-Client-Cert headers."""
    headers = [["host", "x"], *(["x-forwarded-client-cert", value] for value in values)]
    body = json.dumps({"method": "GET", "path": "/a", "headers": headers})
    return Echo.read(body.encode())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("", [], id="empty"),
        pytest.param(ONE, [Element(PROXY, "ab", (CLIENT,))], id="one"),
        pytest.param(
            TWO,
            [Element(PROXY, "ab", (CLIENT,)), Element(BACKEND, "cd", (PROXY,))],
            id="two",
        ),
        pytest.param(
            "by=a;HASH=ab;uri=b;URI=c", [Element("a", "ab", ("b", "c"))], id="two-ids-any-case"
        ),
        pytest.param(
            'By=a;Subject="CN=x,URI=evil;By=evil,";URI=b', [Element("a", "", ("b",))], id="quoted"
        ),
        pytest.param(
            r'By=a;Subject="\",URI=evil";URI=b', [Element("a", "", ("b",))], id="escaped-quote"
        ),
        pytest.param("Hash=ab", [Element("", "ab", ())], id="nobody"),
    ],
)
def test_elements_are_told_apart(value: str, expected: list[Element]) -> None:
    """An element ends at a comma, a field at a semicolon, and neither within quotes."""
    assert elements(value) == expected


@pytest.mark.parametrize("value", [f'{ONE};Subject="', f"{ONE},,{ONE}", f"{ONE};", f",{ONE}"])
def test_what_is_no_list_is_no_client(value: str) -> None:
    """An open quote or an empty part is not read as if it were none."""
    with pytest.raises(ValueError, match="not a list"):
        elements(value)


def test_headers_come_as_often_as_they_came() -> None:
    """Two headers are two values, and their clients follow each other."""
    twice = echo(ONE, ONE)

    assert (twice.method, twice.path) == ("GET", "/a")
    assert twice.values("x-forwarded-client-cert") == [ONE, ONE]
    assert twice.values("X-Other") == []
    assert [c.uris for c in twice.clients] == [(CLIENT,), (CLIENT,)]


@pytest.mark.parametrize("body", [b"ok", b"{}", b""])
def test_what_is_no_echo_is_not_read(body: bytes) -> None:
    """Another answer is not taken for an echo."""
    with pytest.raises((ValueError, KeyError)):
        Echo.read(body)


def test_app_is_told_of_the_first_client() -> None:
    """Of several elements it is the first that names who has asked."""
    seen = SeenRequest(None, "/", TWO)
    nobody = SeenRequest(None, "/", None)

    assert (seen.client_id, seen.client_hash) == (CLIENT, "ab")
    assert (nobody.client_id, nobody.client_hash) == (None, None)


DENIED = Exchange(403, body=b"RBAC: access denied")
ALERT = Exchange(alert=Alert.CERTIFICATE_REQUIRED)


def test_denial_is_the_policys_own() -> None:
    """Only a policy's 403 is a denial: an answer, an alert and another's 403 are not."""
    assert_forbidden(DENIED)

    with pytest.raises(Accepted, match="got HTTP 200"):
        assert_forbidden(Exchange(200))
    for other in (ALERT, Exchange(403, body=b"no"), Exchange(503, body=b"RBAC: access denied")):
        with pytest.raises(AssertionError, match="expected"):
            assert_forbidden(other)


def test_whoever_gets_any_answer_is_let_in() -> None:
    """An answer of any status is one, and an alert is a refusal."""
    assert_handshake(DENIED)

    with pytest.raises(Refused, match="certificate required"):
        assert_handshake(ALERT)


def test_echo_is_an_answer() -> None:
    """A status other than 200 is no echo."""
    body = json.dumps({"method": "GET", "path": "/", "headers": []}).encode()

    assert assert_echoed(Exchange(200, body=body)).path == "/"
    with pytest.raises(AssertionError, match="expected HTTP 200, got HTTP 403"):
        assert_echoed(DENIED)
