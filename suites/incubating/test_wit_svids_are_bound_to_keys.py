"""A WIT-SVID binds the SPIFFE ID of a workload to its key, and the trust bundle verifies it."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import pytest

from svidproof import Capability, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import ALGORITHMS, TokenIssuer, bundle_endpoint, jwt, wit
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Entry = Callable[..., dict[str, Any]]
DEFAULT_S = 3600  # of SPIRE server (DefaultWITSVIDTTL in pkg/server/credtemplate)
TTL_S = 90
YEARS_S = 10 * 365 * 86400
PATH = "/bound"


@pytest.fixture
def mint(
    incubating: Testbed, local: api.ServerCaller, keys: TokenIssuer
) -> Callable[..., api.ApiAnswer]:
    """Mints a WIT-SVID for a key of the suite's, on the server's own socket."""

    def mint(algorithm: str = "ES256", **fields: object) -> api.ApiAnswer:
        given = {
            "id": {"trust_domain": incubating.scenario.trust_domain, "path": PATH},
            "public_key": keys.key(ALGORITHMS[algorithm]).public_der(),
            "signing_algorithm": algorithm,
        }
        return local.call("svid", "MintWITSVID", **{**given, **fields})

    return mint


@pytest.fixture
def minted(mint: Callable[..., api.ApiAnswer]) -> Callable[..., str]:
    """Mints one, and requires that it is signed."""

    def minted(algorithm: str = "ES256", **fields: object) -> str:
        answer = mint(algorithm, **fields)
        assert answer.code is grpc.StatusCode.OK, f"no WIT-SVID is signed: {answer}"
        return str(answer.message.svid.token)

    return minted


@pytest.fixture
def issued(
    incubating: Testbed, agent: api.PlayedAgent, entry: Entry, keys: TokenIssuer
) -> Callable[..., str]:
    """Gets the WIT-SVID of an entry, as its agent."""

    def issued(name: str, **fields: object) -> str:
        with incubating.registration.registered(entry(name, **fields)) as entry_id:
            eventually(lambda: _require_listed(agent, entry_id), budgets.ENTRY_LISTED)
            return agent.wit(entry_id, keys.key("p256").public_der(), "ES256")

    return issued


def _require_listed(agent: api.PlayedAgent, entry_id: str) -> None:
    assert entry_id in agent.entries(), "SPIRE server does not list the agent's new entry"


@requirement("WIT-1")
def test_header_says_what_it_is(minted: Callable[..., str], saw: Saw) -> None:
    """A WIT-SVID has the type wit+jwt, an algorithm of the standard and a key ID."""
    token = jwt.Token.read(minted())

    assert token.parts == 3, f"it has {token.parts} parts"
    assert token.header["typ"] == "wit+jwt", f"its type is {token.header['typ']}"
    assert token.header["alg"] in ALGORITHMS, f"its algorithm is {token.header['alg']}"
    assert token.header["kid"], "its key ID is empty"
    more = sorted({*token.header} - {"typ", "alg", "kid"})
    assert not more, f"its header has {more}, too"
    saw(f"signed with {token.header['alg']}")


@requirement("WIT-2")
def test_subject_is_the_workload(incubating: Testbed, minted: Callable[..., str]) -> None:
    """The subject of a minted WIT-SVID is the SPIFFE ID that it was minted for."""
    token = jwt.Token.read(minted())

    own = f"spiffe://{incubating.scenario.trust_domain}{PATH}"
    assert token.claims["sub"] == own, f"its subject is {token.claims['sub']}"


@requirement("WIT-2")
def test_subject_is_of_the_entry(incubating: Testbed, issued: Callable[..., str]) -> None:
    """The subject of an entry's WIT-SVID is the SPIFFE ID of the entry."""
    token = jwt.Token.read(issued("subject"))

    own = incubating.scenario.spiffe_id("subject")
    assert token.claims["sub"] == own, f"its subject is {token.claims['sub']}"


@requirement("WIT-2")
def test_it_is_for_no_audience(minted: Callable[..., str]) -> None:
    """A WIT-SVID has no audience."""
    token = jwt.Token.read(minted())

    assert "aud" not in token.claims, f"it is for {token.claims['aud']}"


@requirement("WIT-3")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_bound_to_the_key(
    minted: Callable[..., str], keys: TokenIssuer, algorithm: str
) -> None:
    """A WIT-SVID states the public key of the workload, and the algorithm that it signs with."""
    bound = wit.confirmed(jwt.Token.read(minted(algorithm)))

    own = keys.key(ALGORITHMS[algorithm]).public_der()
    assert bound.public_der == own, "it is bound to another key than the workload's"
    assert bound.algorithm == algorithm, f"it states the algorithm {bound.algorithm}"


@requirement("WIT-3")
def test_entry_does_not_choose_the_key(
    incubating: Testbed, agent: api.PlayedAgent, entry: Entry, keys: TokenIssuer
) -> None:
    """Each WIT-SVID of an entry is bound to the key that the agent asked for, one after another."""
    algorithms = ("ES256", "ES384", "ES256")
    with incubating.registration.registered(entry("key")) as entry_id:
        eventually(lambda: _require_listed(agent, entry_id), budgets.ENTRY_LISTED)
        for algorithm in algorithms:
            own = keys.key(ALGORITHMS[algorithm]).public_der()
            bound = wit.confirmed(jwt.Token.read(agent.wit(entry_id, own, algorithm)))
            assert bound.public_der == own, "it is bound to another key than the workload's"
            assert bound.algorithm == algorithm, f"it states the algorithm {bound.algorithm}"


@requirement("WIT-4")
def test_one_key_of_the_bundle_verifies_it(
    incubating: Testbed, minted: Callable[..., str], saw: Saw
) -> None:
    """The WIT authority with its key ID verifies it, and no other authority of the bundle does."""
    token, spire = minted(), incubating.spire
    named = str(jwt.Token.read(token).header["kid"])
    authorities = spire.wit_keys()

    assert named in authorities, f"the key {named} is none of {sorted(authorities)}"
    wit.verify_wit(token, authorities[named])
    others = {i: key for i, key in {**spire.jwt_keys(), **authorities}.items() if i != named}
    assert others, "the bundle has no other authority"
    for key_id, key in others.items():
        if _verifies(token, key):
            raise Accepted(f"the authority {key_id} verifies it, too")
    saw(f"{len(authorities)} WIT authorities")


def _verifies(token: str, key: bytes) -> bool:
    try:
        wit.verify_wit(token, key)
    except ValueError:
        return False
    return True


@requirement("WIT-5")
@pytest.mark.parametrize(("asked", "lives"), [(TTL_S, TTL_S), (0, DEFAULT_S)])
def test_it_expires(mint: Callable[..., api.ApiAnswer], asked: int, lives: int) -> None:
    """A WIT-SVID lives as long as was asked for, or for an hour."""
    before = time.time()
    answer = mint(ttl=asked)

    assert answer.code is grpc.StatusCode.OK, f"no WIT-SVID is signed: {answer}"
    _require_lifetime(jwt.Token.read(answer.message.svid.token).claims, before, lives)
    expiry = answer.message.svid.expires_at
    stated = jwt.Token.read(answer.message.svid.token).claims["exp"]
    assert expiry == stated, f"the answer says {expiry}, the WIT-SVID {stated}"


@requirement("WIT-5")
def test_it_expires_as_its_entry_says(issued: Callable[..., str]) -> None:
    """An entry's WIT-SVID lives as long as the entry's X.509-SVIDs."""
    before = time.time()
    token = jwt.Token.read(issued("expiry", x509_svid_ttl=TTL_S))

    _require_lifetime(token.claims, before, TTL_S)


@requirement("WIT-5")
def test_it_expires_with_its_authority(
    incubating: Testbed, minted: Callable[..., str], saw: Saw
) -> None:
    """A WIT-SVID for which years are asked expires no later than the authority that signed it."""
    token = jwt.Token.read(minted(ttl=YEARS_S))

    last = incubating.spire.wit_expiries()[str(token.header["kid"])]
    late = token.claims["exp"] - last
    assert late <= 0, f"it expires {late:.0f} s after its authority"
    saw(f"{-late:.0f} s before its authority")


def _require_lifetime(claims: Mapping[str, Any], before: float, lives: int) -> None:
    """Require an expiry so many seconds after a moment between *before* and now."""
    left = claims["exp"] - time.time()
    assert left <= lives, f"it lives for {left:.0f} s, not for {lives} s"
    # Whole seconds on both sides.
    assert claims["exp"] - before >= lives - 1, f"it lives for {left:.0f} s, not for {lives} s"


@requirement("WIT-9")
@pytest.mark.usefixtures("credentials")
def test_it_is_no_jwt_svid(incubating: Testbed, minted: Callable[..., str], saw: Saw) -> None:
    """ValidateJWTSVID rejects a WIT-SVID, and accepts a JWT-SVID of the same process."""
    workload_api, audience = incubating.prober.workload_api(), "bank.example"
    own = jwt.fetch(workload_api, [audience])
    assert own.code is grpc.StatusCode.OK, str(own)

    control = jwt.validate(workload_api, own.svids[0][1], audience)
    answer = jwt.validate(workload_api, minted(), audience)

    assert control.code is grpc.StatusCode.OK, f"a JWT-SVID was rejected: {control}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"a WIT-SVID was accepted as a JWT-SVID, of {answer.spiffe_id}")
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, str(answer)
    saw(answer.details)


@requirement("WIT-10")
def test_key_ids_are_unique(incubating: Testbed) -> None:
    """The published bundle has each key ID once, and no WIT authority's under another use."""
    published = bundle_endpoint.look(incubating.spire.reached_endpoint).keys
    others = [str(key["kid"]) for key in published if "kid" in key and key["use"] != wit.WIT_USE]

    assert others, "no published key has a key ID"
    assert len({*others}) == len(others), f"key IDs are published twice: {sorted(others)}"
    shared = {*others} & {*incubating.spire.wit_keys()}
    assert not shared, f"WIT authorities are published with another use: {sorted(shared)}"


@requirement("WIT-10")
def test_bundle_has_the_wit_authorities(incubating: Testbed) -> None:
    """The bundle endpoint publishes each WIT authority, with the use wit-svid and its key ID."""
    published = bundle_endpoint.look(incubating.spire.reached_endpoint).of(wit.WIT_USE)
    found = {str(key["kid"]): jwt.public_key(key) for key in published}

    for key_id, key in incubating.spire.wit_keys().items():
        if key_id not in found:
            raise Unpublished(f"the WIT authority {key_id} is not published")
        assert found[key_id] == key, f"the WIT authority {key_id} is published with another key"


class Unpublished(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if the published bundle lacks an authority of the server."""
