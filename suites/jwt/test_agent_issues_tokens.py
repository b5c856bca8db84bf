"""FetchJWTSVID: the identities, audiences and lifetimes of the JWT-SVIDs that are issued."""

from collections.abc import Collection, Iterator

import grpc
import pytest

from svidproof import (
    TRUNCATION,
    Capability,
    NotYet,
    Saw,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import tokens
from svidproof.probes import fetch_x509, jwt

pytestmark = needs(Capability.UNREGISTERED_PROCESS, Capability.OWN_SPIRE)
# SPIRE's default for entries without a TTL of their own: pkg/server/credtemplate/builder.go.
DEFAULT_TTL = 300
X509_TTL, JWT_TTL = 120, 90
REQUESTS = 3
SAME, FIRST, LAST = "same-hint", "first-hint", "hinted-4"


class AnsweredTwice(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised when a JWT-SVID that must be new is served a second time."""


def audiences_of(token: str) -> list[str]:
    """The claim `aud`, always as a list."""
    found = jwt.Token.read(token).claims["aud"]
    return [found] if isinstance(found, str) else list(found)


@requirement("JWT-1")
@pytest.mark.parametrize("number", [1, 2, 3, 20])
def test_token_holds_every_requested_audience(
    verifier: tokens.Verifier, audience: str, number: int
) -> None:
    """A JWT-SVID holds each audience of the request, and no other."""
    requested = [f"{n}.{audience}" for n in range(number)]

    token = verifier.token(*requested)

    assert sorted(audiences_of(token)) == sorted(requested), f"for {audiences_of(token)}"


@requirement("JWT-1")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(["{}", "b"], ["b", "{}"], id="other-order"),
        pytest.param(["{}", "b"], ["{}b"], id="joined"),
        pytest.param(["{}", "b"], ["{},b"], id="joined-by-comma"),
        pytest.param(["{}", "b"], ["{} b"], id="joined-by-space"),
        pytest.param(["{}", "b"], ["{}"], id="fewer"),
        pytest.param(["{}"], ["{}", "b"], id="more"),
        pytest.param(["{}b", "c"], ["{}", "bc"], id="cut-elsewhere"),
        pytest.param(["{}"], ["{}", "{}"], id="twice"),
    ],
)
def test_similar_request_gets_its_own_audiences(
    verifier: tokens.Verifier, audience: str, first: list[str], second: list[str]
) -> None:
    """A request that resembles an earlier one gets a token for exactly its own audiences."""
    earlier, later = ([each.format(audience) for each in asked] for asked in (first, second))

    tokens_ = [verifier.token(*earlier), verifier.token(*later)]

    for token, requested in zip(tokens_, (earlier, later), strict=True):
        found = audiences_of(token)
        assert set(found) == set(requested), f"requested for {requested}, it is for {found}"


@requirement("JWT-2")
def test_same_request_gets_the_same_token(
    verifier: tokens.Verifier, audience: str, saw: Saw
) -> None:
    """A second request for the same audiences, in any order, gets the cached JWT-SVID."""
    other = f"other-{audience}"

    first, second = verifier.token(audience, other), verifier.token(audience, other)
    reversed_ = verifier.token(other, audience)

    assert second == first, "the same request got another JWT-SVID"
    assert reversed_ == first, "the same audiences in another order got another JWT-SVID"
    saw(f"one token for {len(audiences_of(first))} audiences")


@pytest.fixture
def colleague(bearer: Testbed, verifier: tokens.Verifier) -> Iterator[str]:
    """A second SPIFFE ID of the same process."""
    with bearer.registered("colleague", bearer.prober.selectors):
        spiffe_id = bearer.scenario.spiffe_id("colleague")
        _await(verifier, {verifier.spiffe_id, spiffe_id})
        yield spiffe_id
    _await(verifier, {verifier.spiffe_id})


def _await(verifier: tokens.Verifier, ids: set[str]) -> None:
    """Wait until the agent serves exactly these identities."""

    def served() -> None:
        found = {spiffe_id for spiffe_id, _ in verifier.fetch(tokens.new_audience()).svids}
        if found != ids:
            raise NotYet(f"JWT-SVIDs of {sorted(found)}, not of {sorted(ids)}")

    eventually(served, budgets.REGISTRATION)


@requirement("JWT-3")
def test_request_without_spiffe_id_gets_every_identity(
    verifier: tokens.Verifier, audience: str, colleague: str
) -> None:
    """A request without a SPIFFE ID gets one JWT-SVID for each identity of the process."""
    answer = verifier.fetch(audience)

    ids = sorted(spiffe_id for spiffe_id, _ in answer.svids)
    assert ids == sorted([verifier.spiffe_id, colleague]), f"JWT-SVIDs of {ids}: {answer}"
    for spiffe_id, token in answer.svids:
        subject = jwt.Token.read(token).claims["sub"]
        assert subject == spiffe_id, f"the token of {spiffe_id} is of {subject}"


@requirement("JWT-3")
def test_request_with_spiffe_id_gets_that_one(
    verifier: tokens.Verifier, audience: str, colleague: str
) -> None:
    """A request with a SPIFFE ID gets the JWT-SVID of that identity, also for a cached audience."""
    for spiffe_id in (verifier.spiffe_id, colleague):
        answer = verifier.fetch(audience, spiffe_id=spiffe_id)

        ids = [served for served, _ in answer.svids]
        assert ids == [spiffe_id], f"requested {spiffe_id}, got {ids}: {answer}"
        subject = jwt.Token.read(answer.svids[0][1]).claims["sub"]
        assert subject == spiffe_id, f"the token of {spiffe_id} is of {subject}"


@requirement("JWT-3")
def test_other_workloads_identity_is_denied(
    bearer: Testbed, verifier: tokens.Verifier, audience: str
) -> None:
    """A request for the SPIFFE ID of another workload gets PermissionDenied and no token."""
    answer = verifier.fetch(audience, spiffe_id=bearer.workload("api").spiffe_id)

    assert answer.code is grpc.StatusCode.PERMISSION_DENIED, f"expected PermissionDenied: {answer}"


@requirement("JWT-3")
@pytest.mark.parametrize("malformed", ["verifier", "https://example.org/verifier", "spiffe://"])
def test_malformed_spiffe_id_is_invalid(
    verifier: tokens.Verifier, audience: str, malformed: str
) -> None:
    """A request for a malformed SPIFFE ID gets InvalidArgument and no token."""
    answer = verifier.fetch(audience, spiffe_id=malformed)

    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, f"expected InvalidArgument: {answer}"


@pytest.fixture
def hinted(bearer: Testbed, verifier: tokens.Verifier) -> Iterator[dict[str, str]]:
    """Three more identities with hints, of which two are alike, and one without a hint.

    The expected hints by SPIFFE ID; once the agent serves the last, it has all entries.
    """
    spiffe_id, selectors = bearer.scenario.spiffe_id, bearer.prober.selectors
    expected = {verifier.spiffe_id: "", spiffe_id("hinted-1"): FIRST}
    with (
        bearer.registered("hinted-1", selectors, hint=FIRST),
        bearer.registered("hinted-2", selectors, hint=SAME) as second,
    ):
        _await(verifier, {*expected, spiffe_id("hinted-2")})
        with (
            bearer.registered("hinted-3", selectors, hint=SAME) as third,
            bearer.registered(LAST, selectors),
        ):
            ids = {second: spiffe_id("hinted-2"), third: spiffe_id("hinted-3")}
            yield {**expected, ids[_older(bearer, ids)]: SAME, spiffe_id(LAST): ""}
    _await(verifier, {verifier.spiffe_id})


def _older(testbed: Testbed, ids: Collection[str]) -> str:
    """The oldest of some entries; of the same second, that with the first ID."""
    ages = {entry["id"]: int(entry["created_at"]) for entry in testbed.spire.entries()}
    return min(ids, key=lambda entry_id: (ages[entry_id], entry_id))


@requirement("JWT-4")
def test_hints_are_those_of_the_entries_and_unique(
    verifier: tokens.Verifier, audience: str, hinted: dict[str, str]
) -> None:
    """Each JWT-SVID and X.509-SVID has its entry's hint; of two entries, the older keeps it."""

    def delivered() -> None:
        for what, found in _hints(verifier, audience).items():
            if not any(spiffe_id.endswith(f"/{LAST}") for spiffe_id, _ in found):
                raise NotYet(f"{what}: the agent does not serve {LAST} yet")
            hints = [hint for _, hint in found if hint]
            assert len(set(hints)) == len(hints), f"{what}: the hints {hints}"
            wanted = sorted(hint for hint in hinted.values() if hint)
            if sorted(hints) != wanted:
                raise NotYet(f"{what}: the hints {hints}, not {wanted}")
            for spiffe_id, hint in found:
                # Otherwise a new entry takes a hint, and what is done by it, from an older one.
                assert spiffe_id in hinted, f"{what}: {spiffe_id} has the hint of an older entry"
                assert hint == hinted[spiffe_id], f"{what}: {spiffe_id} has the hint {hint!r}"

    eventually(delivered, budgets.REGISTRATION)


def _hints(verifier: tokens.Verifier, audience: str) -> dict[str, list[tuple[str, str]]]:
    """The SPIFFE IDs and hints of all SVIDs of the process."""
    answer = verifier.fetch(audience)
    ids = (spiffe_id for spiffe_id, _ in answer.svids)
    svids = fetch_x509(verifier.target).svids
    return {
        "JWT-SVIDs": list(zip(ids, answer.hints, strict=True)),
        "X.509-SVIDs": [(svid.spiffe_id, svid.hint) for svid in svids],
    }


@requirement("JWT-5")
def test_lifetime_is_the_entrys(
    bearer: Testbed, verifier: tokens.Verifier, audience: str, saw: Saw
) -> None:
    """The TTL of a JWT-SVID is its entry's `jwt_svid_ttl`, not its `x509_svid_ttl`."""
    spiffe_id = bearer.scenario.spiffe_id("short")
    selectors = bearer.prober.selectors
    with bearer.registered("short", selectors, ttl=X509_TTL, jwt_svid_ttl=JWT_TTL):
        _await(verifier, {verifier.spiffe_id, spiffe_id})

        token = verifier.token(audience, spiffe_id=spiffe_id)

    _await(verifier, {verifier.spiffe_id})
    lifetime = _lifetime(token)
    assert abs(lifetime - JWT_TTL) <= TRUNCATION, f"it lives for {lifetime} s, not {JWT_TTL} s"
    saw(f"{lifetime} s")


@pytest.fixture
def numbered(bearer: Testbed, verifier: tokens.Verifier) -> Iterator[str]:
    """A second SPIFFE ID of the same process, whose JWT-SVIDs must have IDs."""
    spiffe_id, attributes = bearer.scenario.spiffe_id("numbered"), {"jwt_svid_include_jti": True}
    with bearer.registered("numbered", bearer.prober.selectors, additional_attributes=attributes):
        _await(verifier, {verifier.spiffe_id, spiffe_id})
        yield spiffe_id
    _await(verifier, {verifier.spiffe_id})


@requirement("JWT-26")
def test_token_has_an_id(verifier: tokens.Verifier, audience: str, numbered: str) -> None:
    """With jwt_svid_include_jti, JWT-SVIDs have IDs that differ; without it, they have none."""
    audiences = [f"{number}.{audience}" for number in range(REQUESTS)]
    found = [_id_of(verifier.token(each, spiffe_id=numbered)) for each in audiences]
    control = _id_of(verifier.token(audience, spiffe_id=verifier.spiffe_id))

    assert all(found), f"a JWT-SVID has no ID: {found}"
    assert len(set(found)) == len(found), f"two JWT-SVIDs have one ID: {found}"
    assert control is None, f"a JWT-SVID whose entry asks for no ID has the ID {control}"


@requirement("JWT-26")
def test_each_request_gets_another_id(
    verifier: tokens.Verifier, audience: str, numbered: str
) -> None:
    """With jwt_svid_include_jti, a second request for an audience gets another JWT-SVID."""
    first, second = (_id_of(verifier.token(audience, spiffe_id=numbered)) for _ in range(2))

    assert first, "a JWT-SVID has no ID"
    if second == first:
        raise AnsweredTwice(f"two requests got the JWT-SVID with the ID {first}")


@requirement("JWT-5")
def test_lifetime_without_ttl_is_the_servers_default(
    verifier: tokens.Verifier, audience: str
) -> None:
    """The TTL of a JWT-SVID whose entry has none is the server's default, five minutes."""
    lifetime = _lifetime(verifier.token(audience))

    assert abs(lifetime - DEFAULT_TTL) <= TRUNCATION, f"it lives for {lifetime} s"


def _id_of(token: str) -> str | None:
    found: str | None = jwt.Token.read(token).claims.get("jti")
    return found


def _lifetime(token: str) -> float:
    claims = jwt.Token.read(token).claims
    return float(claims["exp"] - claims["iat"])
