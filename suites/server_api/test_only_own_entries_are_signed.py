"""SPIRE server signs SVIDs only for an agent's own entries, and only with their content."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from svidproof import BACKDATING, Capability, Saw, Testbed, budgets, eventually, needs, requirement
from svidproof.checks import Accepted
from svidproof.probes import Credential, extensions_of, uri_of
from svidproof.probes import server_api as api

pytestmark = needs(Capability.OWN_SPIRE)
Entry = Callable[..., dict[str, Any]]
NAMES = ("workload.example.org", "alias.example.org")
TTL_S = 600
SPKI = Encoding.DER, PublicFormat.SubjectPublicKeyInfo


@requirement("SERVER-8")
def test_agent_gets_its_own_entries_only(
    server_api: Testbed,
    agent: api.PlayedAgent,
    attest: Callable[..., api.PlayedAgent],
    entry: Entry,
) -> None:
    """An agent lists and gets SVIDs of entries below it, directly or indirectly, and no others."""
    other = attest("other-agent")
    registered = server_api.registration.registered
    with (
        registered(entry("of-the-other", "other-agent")) as foreign,
        registered(entry("of-the-agent")) as own,
        registered(entry("below-it", "of-the-agent")) as below,
    ):
        eventually(lambda: agent.require_listed(own, below), budgets.ENTRY_LISTED)
        # The server knows of the other agent's entry by now, which was created before.
        if foreign in agent.entries():
            raise Accepted("an agent lists an entry of another agent")
        # A control: the other agent gets what this one must not get.
        eventually(lambda: other.require_listed(foreign), budgets.ENTRY_LISTED)
        other.sign(foreign)
        other.token(foreign, "audience")
        for entry_id in (own, below):
            agent.sign(entry_id)
            agent.token(entry_id, "audience")
        for how, ask in (("an X.509-SVID", agent.sign), ("a JWT-SVID", _ask_token(agent))):
            if _is_given(ask, foreign):
                raise Accepted(f"an agent got {how} of an entry of another agent")


@requirement("SERVER-8")
@pytest.mark.parametrize("right", ["admin", "downstream", "store_svid"])
def test_listed_entry_has_its_fields(
    server_api: Testbed, agent: api.PlayedAgent, entry: Entry, right: str
) -> None:
    """The entries that an agent lists have the rights, hint and names that they were given."""
    made = entry(f"with-{right}", dns_names=list(NAMES), hint="listed", **{right: True})
    fields = ("admin", "downstream", "store_svid", "dns_names", "hint")
    with server_api.registration.registered(made) as entry_id:
        eventually(lambda: agent.require_listed(entry_id), budgets.ENTRY_LISTED)
        with agent.calling() as caller:
            mask = dict.fromkeys(fields, True)
            answer = caller.call("entry", "GetAuthorizedEntries", output_mask=mask)

    listed = [each for each in answer.message.entries if each.id == entry_id]
    assert len(listed) == 1, f"the agent lists the entry {len(listed)} times: {answer}"
    found = {name: getattr(listed[0], name) for name in fields}
    for name in ("admin", "downstream", "store_svid"):
        assert found[name] is (name == right), f"an entry with {right} is listed with {found}"
    assert sorted(found["dns_names"]) == sorted(NAMES), f"the entry is listed with {found}"
    assert found["hint"] == "listed", f"the entry is listed with {found}"


@requirement("SERVER-9")
@pytest.mark.parametrize("asked", ["no-names", "other-id", "other-dns"])
def test_svid_has_what_its_entry_says(
    server_api: Testbed, agent: api.PlayedAgent, entry: Entry, asked: str, saw: Saw
) -> None:
    """An X.509-SVID has the SPIFFE ID, DNS names and TTL of its entry, whatever the CSR has."""
    made = entry(f"signed-{asked}", dns_names=list(NAMES), x509_svid_ttl=TTL_S)
    rows: dict[str, dict[str, Any]] = {
        "no-names": {},
        "other-id": {"spiffe_id": server_api.scenario.spiffe_id("another")},
        "other-dns": {"dns": ["another.example.org"]},
    }
    names = rows[asked]
    with server_api.registration.registered(made) as entry_id:
        eventually(lambda: agent.require_listed(entry_id), budgets.ENTRY_LISTED)
        request = api.signing_request(agent.key, **names)
        if names and not _is_given(lambda i: agent.sign(i, request), entry_id):
            saw("such a request is refused")
            return
        svid = agent.sign(entry_id, request)
    _require_contents(svid, made, agent)


@requirement("SERVER-9")
def test_request_that_its_key_did_not_sign_is_refused(
    server_api: Testbed, agent: api.PlayedAgent, entry: Entry
) -> None:
    """A signing request that is malformed, or has a wrong signature, gets no SVID."""
    request = api.signing_request(agent.key)
    with server_api.registration.registered(entry("unsigned")) as entry_id:
        eventually(lambda: agent.require_listed(entry_id), budgets.ENTRY_LISTED)
        agent.sign(entry_id)
        for name, wrong in (("altered", _altered(request)), ("cut", request[:-40]), ("empty", b"")):
            if _is_given(functools.partial(agent.sign, request=wrong), entry_id):
                raise Accepted(f"an X.509-SVID was signed for a request that is {name}")


def _ask_token(agent: api.PlayedAgent) -> Callable[[str], object]:
    return lambda entry_id: agent.token(entry_id, "audience")


def _is_given(ask: Callable[[str], object], entry_id: str) -> bool:
    try:
        ask(entry_id)
    except api.Refused:
        return False
    return True


def _require_contents(svid: Credential, entry: dict[str, Any], agent: api.PlayedAgent) -> None:
    leaf = svid.leaf
    alternative = extensions_of(leaf).get_extension_for_class(x509.SubjectAlternativeName).value
    dns = alternative.get_values_for_type(x509.DNSName)
    lifetime = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds()

    assert uri_of(leaf) == entry["spiffe_id"], f"the SVID is for {uri_of(leaf)}"
    assert sorted(dns) == sorted(entry["dns_names"]), f"the SVID has the DNS names {dns}"
    assert abs(lifetime - TTL_S - BACKDATING) <= 1, f"the SVID is valid for {lifetime:.0f} s"
    own = agent.key.public_key().public_bytes(*SPKI)
    assert leaf.public_key().public_bytes(*SPKI) == own, "the SVID has another key than the request"


def _altered(request: bytes) -> bytes:
    """The same request with one bit of its signature changed."""
    return request[:-1] + bytes([request[-1] ^ 1])
