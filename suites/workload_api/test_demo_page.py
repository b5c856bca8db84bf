"""The demo page, as served over HTTP, shows exactly the content of the Workload API."""

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from svidproof import (
    Budget,
    Capability,
    NotYet,
    Period,
    Saw,
    Source,
    Testbed,
    budgets,
    eventually,
    needs,
    only,
    reading,
    requirement,
)
from svidproof.checks import PROGRAM_LAG, DemoPage, Shown, demo_page
from svidproof.probes import X509Svid, fetch_x509, jwt

AUDIENCE = "reader.example"
SENT = [
    "/",
    "/page.js",
    "/page.css",
    "/icon.svg",
    f"/jwt?audience={AUDIENCE}",
    f"/?audience={AUDIENCE}",
]


def delivered(page: DemoPage) -> tuple[X509Svid, ...]:
    """Return the SVIDs that the Workload API delivers to the page's process now."""
    answer = fetch_x509(page.program.workload_api())
    assert answer.svids, f"no SVID was delivered: {answer}"
    return answer.svids


@pytest.mark.usefixtures("greeter")
@requirement("GREETER-8")
def test_page_shows_exactly_what_was_delivered(page: DemoPage, saw: Saw) -> None:
    """The page shows every SVID of the Workload API with ID, serial, validity and fingerprint."""

    def compared() -> Shown:
        shown, svids = page.shown(), delivered(page)
        wrong = demo_page.differences(shown.of("svid"), [demo_page.of_svid(svid) for svid in svids])
        assert not wrong, f"the page differs from the Workload API: {wrong}"
        return shown

    shown = eventually(compared, budgets.PAGE)

    saw(f"{shown.of('svid')[0]['spiffe_id']}, serial {shown.serials[0]}")


@requirement("GREETER-8")
def test_page_shows_the_servers_bundle(greeter: Testbed, page: DemoPage, saw: Saw) -> None:
    """The page shows the X.509 and JWT authorities of the server's bundle."""
    authorities = sorted(
        map(demo_page.of_authority, greeter.spire.bundle()), key=lambda a: a["fingerprint"]
    )
    keys = sorted(greeter.spire.jwt_keys())

    def compared() -> Shown:
        shown = page.shown()
        domains = [fields["trust_domain"] for fields in shown.of("bundle")]
        assert domains == [greeter.scenario.trust_domain], f"bundles of {domains} are shown"
        wrong = demo_page.differences(shown.of("authority"), authorities)
        assert not wrong, f"the page differs from the server's bundle: {wrong}"
        shown_keys = [fields["id"] for fields in shown.of("key")]
        assert shown_keys == keys, f"keys {shown_keys} are shown, the server has {keys}"
        return shown

    eventually(compared, budgets.PAGE)

    saw(f"{len(authorities)} X.509 authorities, {len(keys)} JWT authorities")


@requirement("GREETER-8")
def test_renewed_svid_is_pushed_to_the_page(greeter: Testbed, page: DemoPage, saw: Saw) -> None:
    """An open page receives a renewed SVID immediately."""
    ttl, sync = greeter.scenario.svid_ttl, greeter.settings.timing.sync_s
    budget = Budget("the page is pushed a renewed SVID", Period.of(ttl, sync).longest(ttl) + 5.0)
    first: list[str] = []

    for shown in page.follow(budget):
        first = first or shown.serials
        if shown.serials != first:
            break

    def arrived() -> float:
        sightings = greeter.watch.timeline.sightings(Source.WORKLOAD_API, "demo-page")
        at = [s.first.at for s in sightings if f"{s.serial:x}" == shown.serials[0]]
        assert at, f"the Workload API has not delivered {shown.serials[0]}"
        return at[0]

    lag = shown.at.at - eventually(arrived, budgets.PAGE)
    assert lag <= PROGRAM_LAG, f"it was pushed {lag:.1f} s after the Workload API delivered it"
    wrong = demo_page.differences(
        shown.of("svid"), [demo_page.of_svid(svid) for svid in delivered(page)]
    )
    assert not wrong, f"the pushed page differs from the Workload API: {wrong}"
    saw(f"{first[0]} became {shown.serials[0]}, {max(lag, 0) * 1000:.0f} ms after its delivery")


@pytest.mark.usefixtures("greeter")
@requirement("GREETER-8")
def test_page_is_served_under_its_own_names_only(page: DemoPage) -> None:
    """The page does not answer requests for a foreign host name."""
    status = page.get_as("elsewhere.example")

    assert page.get(), "the page does not answer"
    assert status == 400, f"HTTP {status}"


@requirement("GREETER-8")
@needs(Capability.OWN_SPIRE)
def test_no_response_contains_a_key(page: DemoPage) -> None:
    """No response of the page contains a private key or a usable token."""

    def collected() -> tuple[str, list[X509Svid]]:
        before = delivered(page)
        sent = "".join(page.get(path) for path in SENT)
        after = delivered(page)
        if before[0].chain[0] != after[0].chain[0]:
            raise NotYet("the SVID was renewed during the requests")
        return sent, list(after)

    sent, svids = eventually(collected, budgets.PAGE)
    answer = jwt.fetch(page.program.workload_api(), [AUDIENCE])
    _, token = only(answer.svids, "JWT-SVID")

    assert svids[0].spiffe_id in sent, "the response is not the page"
    assert "PRIVATE KEY" not in sent, "a private key was sent"
    for secret in [form for svid in svids for form in forms(svid.key_der)]:
        assert secret.lower() not in sent.lower(), "a private key was sent"
    assert token.split(".")[2] not in sent, "the signature of a JWT-SVID was sent"


def forms(key_der: bytes) -> list[str]:
    """Return the forms in which text could contain a private key: its DER and its secret number."""
    with reading("a private key"):
        key = serialization.load_der_private_key(key_der, password=None)
    raw = [key_der]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        raw.append(key.private_numbers().private_value.to_bytes(key.key_size // 8, "big"))
    encodings = (base64.b64encode, base64.urlsafe_b64encode)
    texts = [encode(secret).decode().rstrip("=") for secret in raw for encode in encodings]
    return [*texts, *(secret.hex() for secret in raw)]
