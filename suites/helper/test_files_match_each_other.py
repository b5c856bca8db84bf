"""The certificate, key and bundle files match each other and have the right modes."""

import itertools

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from svidproof import (
    LOOK_INTERVAL,
    Source,
    Testbed,
    Unseen,
    budgets,
    eventually,
    requirement,
    spiffe_helper,
)
from svidproof.checks import Renewals, assert_no_secret_logged

pytestmark = requirement("HELPER-3")
ENOUGH = 0.3  # of the samples: a busy machine delays some
WORKLOADS = ["manifest-server", "manifest-client", "manifest-other"]
each_workload = pytest.mark.parametrize("name", WORKLOADS)


@each_workload
def test_key_always_matches_the_certificate(renewals: Renewals, name: str) -> None:
    """The key matches the certificate at every stable read of the files."""
    defects = [d for d in renewals.timeline.defects(name) if d.seen.at <= renewals.end.at]
    sightings = renewals.timeline.sightings(Source.FILES, name)

    assert not defects, f"{len(defects)} times; the first: {defects[0].text}"
    assert sightings, f"no file was sampled for {name}: the observation window was empty"
    samples = sum(s.times for s in sightings)
    seconds = renewals.end.at - sightings[0].first.at
    if samples * LOOK_INTERVAL < seconds * ENOUGH:
        raise Unseen(f"the watch took only {samples} samples in {seconds:.0f} s")


@each_workload
def test_chain_leads_to_the_bundle(manifest: Testbed, name: str) -> None:
    """The certificate file holds the chain from the SVID to an authority of the bundle file."""
    files = manifest.helped[name].files()
    chain = files.credential.chain

    for below, above in itertools.pairwise(chain):
        _assert_issued(below, [above])
    _assert_issued(chain[-1], list(files.bundle))


@each_workload
def test_bundle_is_the_trust_bundle(renewals: Renewals, name: str) -> None:
    """The bundle file holds exactly the trust bundle throughout the renewals."""
    testbed = renewals.testbed
    bundle = {certificate.serial_number for certificate in testbed.trust_bundle}

    trusts = [
        t for t in renewals.timeline.trusts(Source.FILES, name) if t.seen.at <= renewals.end.at
    ]

    assert trusts, f"no bundle was sampled for {name}: the observation window was empty"
    for trust in trusts:
        assert trust.serials == bundle, (
            f"{name}'s bundle held {len(trust.serials)} authorities, not the {len(bundle)} of "
            "the trust bundle"
        )


@each_workload
def test_files_are_readable_as_configured(renewals: Renewals, name: str) -> None:
    """The files keep their configured modes after renewals, and no copy is left behind."""
    helped = renewals.testbed.helped[name]
    expected = {
        spiffe_helper.CERTIFICATE: (spiffe_helper.CERTIFICATE_MODE, "CERTIFICATE"),
        spiffe_helper.KEY: (spiffe_helper.KEY_MODE, "PRIVATE KEY"),
        spiffe_helper.BUNDLE: (spiffe_helper.CERTIFICATE_MODE, "CERTIFICATE"),
    }
    if helped.spec.audiences:
        expected[spiffe_helper.TOKEN] = (spiffe_helper.TOKEN_MODE, "JWT")

    def as_configured() -> None:
        found = {n: tuple(held) for n, held in helped.state().files.items()}
        assert found == expected, f"{name} has {found}"

    # The next renewal may replace them at this moment.
    eventually(as_configured, budgets.FILES)


@each_workload
def test_key_is_in_no_log(renewals: Renewals, name: str) -> None:
    """No line of spiffe-helper's log, or of its program's, holds the key or a usable token."""
    testbed = renewals.testbed
    component = testbed.helped[name].component

    lines = testbed.logs(component, testbed.watch.timeline.start)

    assert lines, f"no log line of {component} was read"
    assert_no_secret_logged(component, lines)


def _assert_issued(below: x509.Certificate, above: list[x509.Certificate]) -> None:
    reasons = []
    for issuer in above:
        try:
            below.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            reasons.append(str(error) or type(error).__name__)
        else:
            return
    raise AssertionError(
        f"{below.subject.rfc4514_string()} is issued by none of {len(above)} issuers: {reasons}"
    )
