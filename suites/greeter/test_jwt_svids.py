"""JWT-SVIDs for an audience that a user types: their claims and their validation."""

import time
import uuid

import grpc
import pytest

from svidproof import (
    Capability,
    Measure,
    Saw,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
    workload_jwt,
)
from svidproof.budgets import Budget
from svidproof.demo_page import DemoPage
from svidproof.faults import only
from svidproof.renewal_rule import JITTER, TRUNCATION
from svidproof.workload_jwt import Token

pytestmark = pytest.mark.usefixtures("greeter")
ALGORITHMS = {f"{family}{size}" for family in ("RS", "ES", "PS") for size in (256, 384, 512)}
HEADERS = {"alg", "kid", "typ"}
TYPES = {None, "JWT", "JOSE"}
JWT_TTL = 6  # seconds
SLACK = 2.0  # seconds for a busy machine
DENIED = r"No identity issued|Workload attestation failed"


@pytest.fixture
def audience() -> str:
    """An audience that nobody has asked for before."""
    return f"bank-{uuid.uuid4().hex}.example"


@pytest.fixture
def token(page: DemoPage, audience: str) -> str:
    """The JWT-SVID that the Workload API gives the page's process for it."""
    answer = workload_jwt.fetch(page.program.workload_api(), [audience])
    assert answer.code is grpc.StatusCode.OK, str(answer)
    spiffe_id, token = only(answer.svids, "JWT-SVID")
    assert spiffe_id == page.program.spiffe_id, f"a JWT-SVID of {spiffe_id}"
    return token


@requirement("GREETER-7")
def test_token_keeps_the_standard(page: DemoPage, audience: str, token: str, saw: Saw) -> None:
    """A JWT-SVID holds its subject, its one audience and its expiry, and no other header."""
    read = Token.read(token)

    assert read.parts == 3, f"{read.parts} parts: not the compact serialisation"
    assert set(read.header) <= HEADERS, f"headers {sorted(read.header)}"
    assert read.header["alg"] in ALGORITHMS, f"signed by {read.header['alg']}"
    assert read.header.get("typ") in TYPES, f"of type {read.header['typ']}"
    assert read.claims["sub"] == page.program.spiffe_id, f"of {read.claims['sub']}"
    assert read.claims["aud"] in (audience, [audience]), f"for {read.claims['aud']}"
    assert read.claims["exp"] > time.time(), "it has expired"
    saw(f"{read.header['alg']}, {read.claims['exp'] - time.time():.0f} s")


@requirement("GREETER-7")
def test_token_is_verified_by_the_bundle(
    greeter: Testbed, page: DemoPage, audience: str, token: str
) -> None:
    """A JWT authority of the Workload API's bundle, which is the server's, verifies it."""
    domain, kid = f"spiffe://{greeter.scenario.trust_domain}", Token.read(token).header["kid"]

    answer = workload_jwt.bundles(page.program.workload_api())

    assert list(answer.bundles) == [domain], f"bundles of {list(answer.bundles)}: {answer}"
    keys = {key.get("kid"): key for key in answer.bundles[domain]["keys"]}
    assert None not in keys, "a key has no ID"
    uses = {key.get("use") for key in keys.values()}
    assert uses <= {"jwt-svid", None}, f"keys for {uses} in the bundle for JWT-SVIDs"
    assert kid in keys, f"key {kid} is not in the bundle: {sorted(keys)}"
    workload_jwt.verify(token, keys[kid], audience)
    served = greeter.spire.jwt_keys()
    assert set(keys) == set(served), f"the server has {sorted(served)}, not {sorted(keys)}"
    for name, key in keys.items():
        wrong = [
            part
            for part in ("kty", "crv", "x", "y", "n", "e")
            if key.get(part) != served[name].get(part)
        ]
        assert not wrong, f"key {name} is another at the server: {wrong}"


@requirement("GREETER-7")
def test_token_is_for_each_audience_that_was_asked_for(page: DemoPage, audience: str) -> None:
    """A JWT-SVID for two audiences holds both, and ValidateJWTSVID accepts it for either."""
    target, both = page.program.workload_api(), [audience, f"second-{audience}"]

    answer = workload_jwt.fetch(target, both)

    assert len(answer.svids) == 1, str(answer)
    _, token = only(answer.svids, "JWT-SVID")
    assert sorted(Token.read(token).claims["aud"]) == sorted(both), "not for both audiences"
    for one in both:
        taken = workload_jwt.validate(target, token, one)
        assert taken.code is grpc.StatusCode.OK, f"{one}: {taken}"


@requirement("GREETER-10")
@needs(Capability.UNREGISTERED_PROCESS)
def test_token_lives_for_its_entrys_ttl(greeter: Testbed, audience: str, measure: Measure) -> None:
    """A JWT-SVID is valid for its entry's TTL, and is replaced when half of that is left.

    Until then every call is given the same one.
    """
    target, agent = greeter.prober.workload_api(), greeter.prober.agent.component
    half = JWT_TTL / 2

    def fetched() -> tuple[str, float, float, float]:
        """A token, its lifetime and its end, and when it was asked for."""
        asked = time.time()
        answer = workload_jwt.fetch(target, [audience])
        assert answer.code is grpc.StatusCode.OK, str(answer)
        _, token = only(answer.svids, "JWT-SVID")
        claims = Token.read(token).claims
        return token, claims["exp"] - claims["iat"], claims["exp"], asked

    with (
        greeter.provoking(agent, DENIED),
        greeter.registered("late", greeter.prober.selectors, jwt_svid_ttl=JWT_TTL),
    ):
        first, lifetime, end, _ = eventually(fetched, budgets.REGISTRATION)
        assert abs(lifetime - JWT_TTL) <= TRUNCATION, f"it lives for {lifetime} s, not {JWT_TTL} s"
        latest: list[float] = []

        def replaced() -> float:
            """What is left of the first one when another is given."""
            token, _, ends, asked = fetched()
            latest.append(ends - asked)
            assert token != first, f"{ends - asked:.1f} of {JWT_TTL} s are left of it"
            return end - asked

        left = eventually(replaced, Budget("another JWT-SVID", half * (1 + JITTER) + SLACK, 0.1))

    least = min(latest)
    measure("least that was left of a JWT-SVID", round(least, 1), "s")
    # The token's times are whole seconds.
    assert least >= half * (1 - JITTER) - TRUNCATION, f"{least:.1f} of {JWT_TTL} s were left"
    assert left <= half * (1 + JITTER) + TRUNCATION, f"another was given with {left:.1f} s left"


@requirement("GREETER-7")
def test_no_audience_gets_no_token(page: DemoPage) -> None:
    """A request for a JWT-SVID without an audience gets InvalidArgument."""
    target = page.program.workload_api()

    none, blank = workload_jwt.fetch(target, []), workload_jwt.fetch(target, [""])

    assert none.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {none}"
    # The standard asks for a value and says no more of one that is blank.
    assert blank.code is not grpc.StatusCode.OK, "there is a JWT-SVID for a blank audience"
    assert not none.svids + blank.svids, "there is a JWT-SVID"


@requirement("GREETER-7")
def test_agent_takes_a_token_for_its_audience_only(
    page: DemoPage, audience: str, token: str
) -> None:
    """ValidateJWTSVID accepts the right audience, and rejects any other or a changed token."""
    target = page.program.workload_api()
    changed = with_another_claim(token)

    right = workload_jwt.validate(target, token, audience)
    wrong = [
        workload_jwt.validate(target, token, "other.example"),
        workload_jwt.validate(target, token, ""),
        workload_jwt.validate(target, changed, audience),
    ]

    assert right.code is grpc.StatusCode.OK, str(right)
    assert right.spiffe_id == page.program.spiffe_id, str(right)
    assert right.claims["aud"] in (audience, [audience]), f"for {right.claims['aud']}"
    for answer in wrong:
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (
            f"expected InvalidArgument: {answer}"
        )


@requirement("GREETER-7")
@pytest.mark.parametrize("how", ["other-audience", "no-audience", "changed", "unsigned"])
def test_workload_takes_a_token_for_its_audience_only(
    page: DemoPage, audience: str, token: str, how: str, saw: Saw
) -> None:
    """A workload accepts the right audience, and rejects any other or a changed token."""
    head, body, _ = token.split(".")
    presented, asked = {
        "other-audience": (token, "other.example"),
        "no-audience": (token, ""),
        "changed": (with_another_claim(token), audience),
        "unsigned": (f"{head}.{body}.", audience),
    }[how]

    control = page.judge(token, audience)
    accepted, reason = page.judge(presented, asked)

    assert control == (True, ""), f"the genuine token was refused: {control[1]}"
    assert not accepted, f"a token was accepted: {how}"
    saw(reason)


@requirement("GREETER-7")
def test_page_shows_the_token_for_what_was_typed(
    page: DemoPage, audience: str, token: str, saw: Saw
) -> None:
    """The page shows the verified claims of a JWT-SVID for the audience that was typed."""
    read = Token.read(token)

    shown = page.jwt(audience)

    assert shown.of("jwt"), "no JWT-SVID is shown"
    fields = only(shown.of("jwt"), "JWT-SVID")
    assert fields["aud"] == audience, f"{audience} was typed, {fields['aud']} is shown"
    assert fields["sub"] == page.program.spiffe_id, f"{fields['sub']} is shown"
    for name in ("alg", "kid"):
        assert fields[name] == read.header[name], f"{name} {fields[name]} is shown"
    assert fields["exp"], "no end is shown"
    saw(f"aud {fields['aud']}, key {fields['kid']}")


@requirement("GREETER-7")
@pytest.mark.parametrize("typed", ["", "   "], ids=["empty", "blank"])
def test_page_shows_no_token_for_nothing(page: DemoPage, typed: str) -> None:
    """The page explains why there is no JWT-SVID when no audience was typed."""
    shown = page.get("/jwt", audience=typed)

    assert "data-jwt" not in shown, "a JWT-SVID is shown"
    assert "type one" in shown, "no reason is shown"


def with_another_claim(token: str) -> str:
    """The same token, but for one bit of its claims' signature input."""
    head, body, signature = token.split(".")
    last = "A" if signature[0] != "A" else "B"
    return f"{head}.{body}.{last}{signature[1:]}"
