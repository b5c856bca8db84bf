"""SPIRE server signs WIT-SVIDs only for callers that may have them, and only for right keys."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from svidproof import Capability, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import TokenIssuer
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE)
Entry = Callable[..., dict[str, Any]]
SPKI = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
OWN = "example.org"
# The methods for WIT-SVIDs, with the kinds of callers that may call them; and all kinds.
METHODS = {"MintWITSVID": ("admin", "local"), "BatchNewWITSVID": ("agent",)}
KINDS = ("anonymous", "workload", "agent", "admin", "downstream", "local")
# What is asked for in place of an ES256 key of the workload spiffe://example.org/minted.
WRONG: dict[str, dict[str, Any]] = {
    "no-key": {"public_key": b""},
    "no-der": {"public_key": b"-----BEGIN PUBLIC KEY-----"},
    "ed25519-key": {
        "public_key": ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*SPKI),
        "signing_algorithm": "EdDSA",
    },
    "p224-key": {
        "public_key": ec.generate_private_key(ec.SECP224R1()).public_key().public_bytes(*SPKI)
    },
    "no-algorithm": {"signing_algorithm": ""},
    "unsigned": {"signing_algorithm": "none"},
    "symmetric": {"signing_algorithm": "HS256"},
    "other-curve": {"signing_algorithm": "ES384"},
    "other-kind": {"signing_algorithm": "RS256"},
    "other-case": {"signing_algorithm": "es256"},
    "no-id": {"id": {"trust_domain": "", "path": ""}},
    "no-path": {"id": {"trust_domain": OWN, "path": ""}},
    "other-domain": {"id": {"trust_domain": "other.example", "path": "/minted"}},
    "reserved-path": {"id": {"trust_domain": OWN, "path": "/spire/server"}},
}


def _asked(keys: TokenIssuer, **fields: object) -> dict[str, Any]:
    """The fields of a request for a WIT-SVID."""
    return {
        "id": {"trust_domain": OWN, "path": "/minted"},
        "public_key": keys.key("p256").public_der(),
        "signing_algorithm": "ES256",
        **fields,
    }


@requirement("WIT-6")
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_request_gets_nothing(local: api.ServerCaller, keys: TokenIssuer, wrong: str) -> None:
    """A request with a key, algorithm or SPIFFE ID that no WIT-SVID may have is refused."""
    control = local.call("svid", "MintWITSVID", **_asked(keys))
    answer = local.call("svid", "MintWITSVID", **_asked(keys, **WRONG[wrong]))

    assert control.code is grpc.StatusCode.OK, f"a right request is refused: {control}"
    assert not answer.silent, f"SPIRE server did not answer: {answer}"
    if answer.code is grpc.StatusCode.OK:
        raise Accepted(f"a WIT-SVID was signed for {wrong}")


@requirement("WIT-6")
@pytest.mark.parametrize("wrong", [name for name in WRONG if "id" not in WRONG[name]])
def test_entry_gets_nothing_for_a_wrong_request(
    incubating: Testbed, agent: api.PlayedAgent, entry: Entry, keys: TokenIssuer, wrong: str
) -> None:
    """An agent's request with a key or an algorithm that no WIT-SVID may have is refused."""
    right: dict[str, Any] = {
        "public_key": keys.key("p256").public_der(),
        "signing_algorithm": "ES256",
    }
    asked = {**right, **WRONG[wrong]}
    with incubating.registration.registered(entry(f"wrong-{wrong}")) as entry_id:
        eventually(lambda: _require_listed(agent, {entry_id}), budgets.ENTRY_LISTED)
        agent.wit(entry_id, right["public_key"], right["signing_algorithm"])
        if _is_given(agent, entry_id, asked["public_key"], asked["signing_algorithm"]):
            raise Accepted(f"a WIT-SVID of an entry was signed for {wrong}")


@pytest.fixture(scope="module")
def callers(
    incubating: Testbed, agent: api.PlayedAgent, entry: Entry, local: api.ServerCaller
) -> Iterator[Mapping[str, api.ServerCaller]]:
    """A caller of each kind; `anonymous` has no X.509-SVID."""
    address, registered = incubating.spire.api, incubating.registration.registered
    with contextlib.ExitStack() as stack:
        ids = {
            "workload": stack.enter_context(registered(entry("workload"))),
            "admin": stack.enter_context(registered(entry("admin", admin=True))),
            "downstream": stack.enter_context(registered(entry("below", downstream=True))),
        }
        eventually(lambda: _require_listed(agent, {*ids.values()}), budgets.ENTRY_LISTED)
        found = {
            k: stack.enter_context(api.calling(address, agent.sign(i))) for k, i in ids.items()
        }
        found["anonymous"] = stack.enter_context(api.calling(address))
        found["agent"] = stack.enter_context(agent.calling())
        yield {**found, "local": local}


def _require_listed(agent: api.PlayedAgent, wanted: set[str]) -> None:
    assert agent.entries() >= wanted, "SPIRE server does not list the agent's new entries"


@requirement("WIT-7")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_callers_are_authorized(
    callers: Mapping[str, api.ServerCaller], keys: TokenIssuer, method: str, kind: str
) -> None:
    """Each kind of caller can call the methods that are meant for it, and no others."""
    fields = _asked(keys) if method == "MintWITSVID" else {"params": [{"entry_id": "none"}]}
    answer = callers[kind].call("svid", method, **fields)

    assert not answer.silent, f"SPIRE server did not answer {method} of caller {kind}: {answer}"
    if kind in METHODS[method]:
        assert answer.code is grpc.StatusCode.OK, f"caller {kind} cannot call {method}: {answer}"
    elif not answer.refused:
        raise Accepted(f"caller {kind} can call {method}: {answer}")


@requirement("WIT-8")
def test_agent_gets_those_of_its_entries(
    incubating: Testbed,
    agent: api.PlayedAgent,
    attest: Callable[[str], api.PlayedAgent],
    entry: Entry,
    keys: TokenIssuer,
) -> None:
    """An agent gets WIT-SVIDs of its own entries, and of no other agent's and no missing one."""
    other, key = attest("other-agent"), keys.key("p256").public_der()
    registered = incubating.registration.registered
    with (
        registered(entry("of-the-other", "other-agent")) as foreign,
        registered(entry("own")) as own,
    ):
        eventually(lambda: _require_listed(agent, {own}), budgets.ENTRY_LISTED)
        # A control: the other agent gets what this one must not get.
        eventually(lambda: _require_listed(other, {foreign}), budgets.ENTRY_LISTED)
        other.wit(foreign, key, "ES256")
        agent.wit(own, key, "ES256")
        for what, entry_id in (("another agent's entry", foreign), ("no entry", "missing")):
            if _is_given(agent, entry_id, key):
                raise Accepted(f"an agent got a WIT-SVID of {what}")


@requirement("WIT-8")
def test_deleted_entry_gets_nothing(
    incubating: Testbed, agent: api.PlayedAgent, entry: Entry, keys: TokenIssuer
) -> None:
    """An agent gets no WIT-SVID of an entry that the server no longer lists."""
    key = keys.key("p256").public_der()
    with incubating.registration.registered(entry("deleted")) as entry_id:
        eventually(lambda: _require_listed(agent, {entry_id}), budgets.ENTRY_LISTED)
        agent.wit(entry_id, key, "ES256")

    eventually(lambda: _require_unlisted(agent, entry_id), budgets.ENTRY_LISTED)
    if _is_given(agent, entry_id, key):
        raise Accepted("an agent got a WIT-SVID of an entry that was deleted")


def _require_unlisted(agent: api.PlayedAgent, entry_id: str) -> None:
    assert entry_id not in agent.entries(), "SPIRE server lists an entry that was deleted"


def _is_given(agent: api.PlayedAgent, entry_id: str, key: bytes, algorithm: str = "ES256") -> bool:
    try:
        agent.wit(entry_id, key, algorithm)
    except api.Refused:
        return False
    return True
