"""On a SPIRE that serves others too, their identities are told from the testbed's."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from svidproof.checks.assertions import assert_none_of_ours, assert_own
from svidproof.components.spire.existing import ExistingServer
from svidproof.components.spire.foreign import Foreign, given_by
from svidproof.model import verdict
from svidproof.model.capabilities import Capability
from svidproof.model.scenario import PROBER, load_scenario
from svidproof.model.verdict import Fault, Result
from svidproof.platforms.kubernetes.pods.watcher import Pods
from svidproof.platforms.kubernetes.tenant import entries
from svidproof.platforms.protocol import Attestation, Completed
from svidproof.probes.credentials import Authority, Template, leads_to, signer_in
from svidproof.probes.workload_api import x509
from svidproof.probes.workload_api.x509 import Answer, X509Svid
from svidproof.run import collection
from svidproof.testbed.boot import Boot
from svidproof.testbed.workload import Workload
from svidproof.waiting import NotYet

if TYPE_CHECKING:
    from svidproof.platforms.protocol import Platform
    from svidproof.testbed.testbed import Testbed

AGENT = "spiffe://example.org/spire/agent/k8s_psat/c/1"
OTHER_AGENT = "spiffe://example.org/spire/agent/k8s_psat/c/2"
SERVER = "spiffe://example.org/spire/server"
NODE = "spiffe://example.org/node"
RESERVED = "spiffe://example.org/svidproof/demo"
OWN = "spiffe://example.org/svidproof/demo/api"
BY_ACCOUNT = "spiffe://example.org/ns/demo/sa/api"
POD = frozenset({"k8s:ns:demo", "k8s:sa:api", "k8s:pod-uid:u1", "k8s:pod-label:app:api"})
EVERYBODY = Foreign(frozenset({BY_ACCOUNT}), frozenset({BY_ACCOUNT}))


def parts(uri: str) -> dict[str, str]:
    """A SPIFFE ID as SPIRE's API tells it."""
    domain, _, path = uri.removeprefix("spiffe://").partition("/")
    return {"trust_domain": domain, "path": f"/{path}"}


def entry(
    *selectors: str, spiffe_id: str = BY_ACCOUNT, parent: str = AGENT, **fields: object
) -> dict[str, Any]:
    """An entry as the server lists it."""
    pairs = [selector.split(":", 1) for selector in selectors]
    return {
        "spiffe_id": parts(spiffe_id),
        "parent_id": parts(parent),
        "selectors": [{"type": kind, "value": value} for kind, value in pairs],
        **fields,
    }


@pytest.mark.parametrize(
    ("listed", "may", "must"),
    [
        pytest.param(entry("k8s:pod-uid:u1"), True, True, id="of-the-pod"),
        pytest.param(entry("k8s:ns:demo"), True, True, id="of-the-namespace"),
        pytest.param(entry("k8s:pod-uid:u2"), False, False, id="of-another-pod"),
        pytest.param(entry("k8s:ns:demo", "k8s:sa:b"), False, False, id="of-another-account"),
        pytest.param(entry("k8s:ns:demo", "unix:uid:0"), True, False, id="of-some-user"),
        pytest.param(entry("k8s:pod-image:envoy"), True, False, id="of-some-image"),
        pytest.param(entry("k8s:ns:other", "unix:uid:0"), False, False, id="of-a-user-elsewhere"),
        pytest.param(entry("k8s:pod-uid:u1", hint="h"), True, False, id="with-a-hint"),
        pytest.param(entry("k8s:pod-uid:u1", expires_at="9"), True, False, id="that-ends"),
        pytest.param(entry("k8s:pod-uid:u1", expires_at="0"), True, True, id="that-does-not-end"),
        pytest.param(entry("k8s:ns:demo", parent=NODE), True, False, id="below-an-alias"),
        pytest.param(entry("k8s:ns:demo", parent=OTHER_AGENT), False, False, id="on-another-node"),
        pytest.param(entry("k8s:ns:demo", store_svid=True), False, False, id="for-a-store"),
        pytest.param(entry("k8s:ns:demo", store_svid=False), True, True, id="for-no-store"),
        pytest.param(entry("k8s:ns:demo", spiffe_id=OWN), False, False, id="of-an-id-of-ours"),
        pytest.param(entry("k8s_psat:cluster:c", parent=SERVER), False, False, id="of-a-node"),
    ],
)
def test_entries_of_others_are_matched(listed: dict[str, Any], *, may: bool, must: bool) -> None:
    """A pod may, or must, have an identity by an entry; what only the agent knows may match."""
    given = given_by([listed], POD, AGENT, reserved=RESERVED)

    assert given.ids == (frozenset({BY_ACCOUNT}) if may else frozenset())
    assert given.certain == (frozenset({BY_ACCOUNT}) if must else frozenset())


def test_bundles_come_with_entries_that_federate() -> None:
    """With those that match, and no others."""
    listed = [
        entry("k8s:ns:demo", federates_with=["partner.test"]),
        entry("k8s:ns:other", federates_with=["else.test"]),
    ]

    assert given_by(listed, POD, AGENT, reserved=RESERVED).federated == {"spiffe://partner.test"}


def test_what_was_seen_earlier_may_still_be_served() -> None:
    """The agent hears of a deleted entry later; it need not be served any more."""
    now = Foreign().after(EVERYBODY)

    assert now == Foreign(frozenset({BY_ACCOUNT}))
    assert now.apart_from([BY_ACCOUNT, OWN]) == [OWN]


def test_entries_with_the_runs_mark_are_not_of_others() -> None:
    """A stray entry of the run's own explains nothing."""
    mark = entries.mark("0123456789", "run1")
    listed = [
        entry("k8s:ns:demo", spiffe_id=OWN, hint=mark),
        entry("k8s:ns:demo", spiffe_id=BY_ACCOUNT, hint="theirs"),
    ]
    platform = SimpleNamespace(
        private_endpoint=lambda *_: "/api.sock",
        run=lambda *_: Completed(0, json.dumps({"entries": listed}), ""),
    )
    server = ExistingServer(cast("Platform", platform), "example.org")
    attestation = Attestation("", "", "", {}, "id", mark=mark)
    server.start(cast("Authority", None), attestation, cache_reload="", agent_ttl=0, log_level="")

    assert server.foreign(POD, AGENT, reserved=RESERVED).ids == {BY_ACCOUNT}


def test_pod_is_known_by_its_description() -> None:
    """As SPIRE's k8s attestor would tell it; one that is not there matches nothing."""
    pods = object.__new__(Pods)
    metadata = SimpleNamespace(namespace="demo", name="api-1", uid="u1", labels={"app": "api"})
    spec = SimpleNamespace(service_account_name="api", node_name="n1")
    pods._known = {"api": SimpleNamespace(metadata=metadata, spec=spec)}

    assert pods.selectors("api") == POD | {"k8s:pod-name:api-1", "k8s:node-name:n1"}
    assert pods.selectors("gone") == frozenset()


# -- what a process is served ----------------------------------------------------------------------

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


def answer(*ids: str, code: grpc.StatusCode = OK) -> Answer:
    """An answer with SVIDs of these IDs."""
    svids = tuple(X509Svid(i, (), b"", (), hint="") for i in ids)
    return Answer(code, "", svids, messages=int(bool(ids)))


@pytest.mark.parametrize(
    ("served", "foreign", "sound"),
    [
        pytest.param(answer(OWN), Foreign(), True, id="its-own"),
        pytest.param(answer(OWN, BY_ACCOUNT), Foreign(), False, id="a-stray-one-too"),
        pytest.param(answer(BY_ACCOUNT, OWN), EVERYBODY, True, id="that-of-others-too"),
        pytest.param(answer(BY_ACCOUNT), EVERYBODY, False, id="that-of-others-only"),
        pytest.param(answer(OWN, f"{OWN}-2"), EVERYBODY, False, id="another-of-ours"),
        pytest.param(answer(code=DENIED), EVERYBODY, False, id="nothing"),
    ],
)
def test_own_identity_is_told_from_those_of_others(
    served: Answer, foreign: Foreign, *, sound: bool
) -> None:
    """Only entries of others explain a second SVID."""
    if sound:
        assert_own(served, OWN, foreign)
    else:
        with pytest.raises(AssertionError, match=f"expected {OWN}"):
            assert_own(served, OWN, foreign)


@pytest.mark.parametrize(
    ("served", "foreign", "sound"),
    [
        pytest.param(answer(code=DENIED), Foreign(), True, id="denied"),
        pytest.param(answer(code=grpc.StatusCode.UNAVAILABLE), Foreign(), False, id="unavailable"),
        pytest.param(answer(), Foreign(), False, id="an-empty-message"),
        pytest.param(answer(OWN), Foreign(), False, id="an-svid"),
        pytest.param(answer(BY_ACCOUNT), EVERYBODY, True, id="that-of-others"),
        pytest.param(answer(BY_ACCOUNT, OWN), EVERYBODY, False, id="ours-too"),
        pytest.param(answer(code=DENIED), EVERYBODY, False, id="not-that-of-others"),
        pytest.param(
            answer(code=DENIED), Foreign(frozenset({BY_ACCOUNT})), True, id="which-it-may-not-have"
        ),
    ],
)
def test_without_an_entry_there_is_nothing_of_ours(
    served: Answer, foreign: Foreign, *, sound: bool
) -> None:
    """PermissionDenied, or what entries of others give."""
    if sound:
        assert_none_of_ours(served, foreign)
    else:
        with pytest.raises(AssertionError, match="expected"):
            assert_none_of_ours(served, foreign)


def test_workload_presents_its_own_svid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever that stands in the answer; one of others only is none."""
    credential = Authority.create("root", "example.org").issue("a", Template(uris=(OWN,)))
    der, plain = serialization.Encoding.DER, serialization.NoEncryption()
    key = serialization.load_pem_private_key(credential.key_pem, password=None)
    own = X509Svid(
        OWN,
        credential.chain,
        key.private_bytes(der, serialization.PrivateFormat.PKCS8, plain),
        (),
        hint="ours",
    )
    first = answer(BY_ACCOUNT)
    waiting = iter([first, Answer(OK, "", (*first.svids, own), messages=1)])
    monkeypatch.setattr(x509, "fetch_x509", lambda _target: next(waiting))
    workload = object.__new__(Workload)
    workload.spiffe_id = OWN
    workload.envoy = cast("Any", SimpleNamespace(workload_api=lambda: "unix:/a"))

    assert workload.svid().leaf == credential.leaf


# -- what the testbed lacks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("foreign", "served", "lacks"),
    [
        pytest.param(Foreign(), answer(BY_ACCOUNT), False, id="nobody-gives-it-one"),
        pytest.param(EVERYBODY, answer(BY_ACCOUNT), True, id="it-is-served-one"),
        pytest.param(EVERYBODY, answer(code=DENIED), True, id="it-will-be-served-one"),
        pytest.param(
            Foreign(frozenset({BY_ACCOUNT})), answer(code=DENIED), False, id="others-do-not-match"
        ),
        pytest.param(
            Foreign(frozenset({BY_ACCOUNT})), answer(OWN), False, id="it-is-served-another"
        ),
    ],
)
def test_prober_with_an_identity_is_noticed(
    monkeypatch: pytest.MonkeyPatch, foreign: Foreign, served: Answer, *, lacks: bool
) -> None:
    """Entries of others alone are the reason: an SVID without one is for the checks to judge."""
    monkeypatch.setattr(x509, "fetch_x509", lambda _target: served)
    testbed = SimpleNamespace(
        foreign=lambda _place: foreign,
        prober=SimpleNamespace(workload_api=lambda: "unix:/a"),
        scenario=load_scenario("api"),
    )

    found = Boot(cast("Testbed", testbed))._lacking()

    assert list(found) == ([Capability.UNREGISTERED_PROCESS] if lacks else [])
    assert not lacks or BY_ACCOUNT in found[Capability.UNREGISTERED_PROCESS]


@pytest.mark.parametrize(
    ("scenario", "lacks"),
    [("api", False), ("two-frontends", False), ("greeter", True), ("manifest", True)],
)
def test_programs_that_take_any_svid_need_a_sole_one(scenario: str, *, lacks: bool) -> None:
    """Envoy asks for its own by name."""

    def foreign(place: str) -> Foreign:
        return Foreign() if place == PROBER else EVERYBODY

    testbed = SimpleNamespace(foreign=foreign, scenario=load_scenario(scenario))

    found = Boot(cast("Testbed", testbed))._lacking()

    assert list(found) == ([Capability.SOLE_IDENTITY] if lacks else [])
    assert not lacks or BY_ACCOUNT in found[Capability.SOLE_IDENTITY]


def test_what_a_testbed_lacks_is_no_failure() -> None:
    """It is unsupported, unless something was wrong as well."""
    raised = collection.raised_by(collection.Unsupported("no csi here: why"))

    assert [(r.fault, r.message) for r in raised] == [(Fault.UNSUPPORTED, "no csi here: why")]
    assert verdict.judge(raised, None, None).result is Result.UNSUPPORTED
    wrong = [*raised, *collection.raised_by(AssertionError("died"))]
    assert verdict.judge(wrong, None, None).result is Result.FAIL


# -- authorities of one name -----------------------------------------------------------------------


def test_signer_is_found_among_authorities_of_one_name() -> None:
    """A server that renews its CA keeps the subject, and the bundle has both for a while."""
    old, new, else_ = (Authority.create(n, "example.org") for n in ("root", "root", "else"))
    template = Template(uris=(OWN,), not_after=timedelta(minutes=1))
    chain = new.issue("a", template).chain

    assert signer_in([old.certificate, new.certificate], chain[-1]) == new.certificate
    assert signer_in([old.certificate, else_.certificate], chain[-1]) is None
    assert leads_to(chain, [old.certificate, new.certificate])
    assert not leads_to(chain, [old.certificate, else_.certificate])
    assert not leads_to((), [new.certificate])


def test_last_answer_of_a_stream_is_awaited() -> None:
    """Before the first one there is none."""
    with pytest.raises(NotYet, match="delivered nothing"):
        x509.last_of([])
    assert x509.last_of([answer(OWN), answer(code=DENIED)]).code is DENIED
