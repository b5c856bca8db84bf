"""The server rotates to a CA below another root, and no peer is rejected.

The next CA is prepared, which adds its root to the bundle, and then activated.
"""

import http

import pytest
from cryptography import x509

from svidproof import (
    Capability,
    Measure,
    Sighting,
    Source,
    budgets,
    eventually,
    needs,
    requirement,
)
from svidproof.checks import Retirement, Succession, is_below, lasting_errors

pytestmark = [
    requirement("HELPER-4"),
    needs(Capability.OWN_SPIRE, Capability.OWN_TRUST_ROOT),
]
CLIENT, OTHER = "manifest-client", "manifest-other"
AFTERWARDS = 5  # requests after both sides present SVIDs of the new CA
each_side = pytest.mark.parametrize("name", ["manifest-server", CLIENT])


@pytest.mark.parametrize("name", ["manifest-server", CLIENT, OTHER])
def test_bundle_file_gets_the_next_root(
    succession: Succession, name: str, measure: Measure
) -> None:
    """The bundle file contains the next root before it is used, and keeps the old one."""
    old, new = succession.testbed.root.certificate, succession.root

    trusts = [
        t
        for t in succession.testbed.watch.timeline.trusts(Source.FILES, name)
        if succession.prepared.at < t.seen.at <= succession.end.at
    ]

    assert trusts, f"{name}'s bundle file never changed; {succession.late}"
    measure(
        f"from prepared to bundle file, {name}", trusts[0].seen.at - succession.prepared.at, "s"
    )
    held = {t.serials for t in trusts}
    assert held == {frozenset({old.serial_number, new.serial_number})}, (
        f"{name}'s bundle file held {[len(serials) for serials in held]} authorities"
    )
    assert trusts[0].seen.at <= succession.activated.at, f"{name} got it only after the activation"


def test_bundle_is_updated_without_a_renewal(succession: Succession) -> None:
    """A program with an SVID of one hour gets the bundle too, and is signalled."""
    files = succession.testbed.watch.timeline.sightings(Source.FILES, OTHER)
    assert files, f"no file was sampled for {OTHER}: the observation window was empty"
    renewed = [s for s in files if succession.prepared.at < s.first.at <= succession.end.at]
    assert not renewed, f"{OTHER}'s SVID was renewed: this proves nothing"

    reloads = succession.testbed.helped[OTHER].state().reloads

    since = [r for r in reloads if r.wall > succession.prepared.wall.timestamp()]
    assert since, f"{OTHER}'s program was not signalled; {succession.late}"
    errors = [*lasting_errors(since)]
    assert not errors, f"{OTHER}'s program could not load the bundle: {errors[0]}"


def test_bundle_files_equal_the_servers_bundle(succession: Succession) -> None:
    """Each bundle file finally equals the server's bundle."""
    testbed = succession.testbed

    def equal() -> None:
        expected = set(testbed.spire.bundle())
        for name in ("manifest-server", CLIENT, OTHER):
            held = set(testbed.helped[name].files().bundle)
            assert held == expected, f"{name} has {_names(held)}, the server has {_names(expected)}"

    # The first root is revoked next, which reaches the files a moment later.
    eventually(equal, budgets.REGISTRATION)


@each_side
def test_both_sides_present_svids_of_the_new_ca(succession: Succession, name: str) -> None:
    """Each side gets an SVID of the new CA and presents it."""
    new = _svids_of_the_new_ca(succession, name)

    presented = _presented(succession, name)

    assert presented, f"{name} presented none of {len(new)} such SVIDs; {succession.late}"


def test_no_request_fails(succession: Succession) -> None:
    """No request fails between the preparation of the new CA and its use on both sides."""
    requests = [
        r
        for r in succession.testbed.watch.timeline.requests(CLIENT)
        if succession.prepared.at <= r.sent.at <= succession.end.at
    ]
    failed = [r for r in requests if r.status != http.HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"

    sides = [_presented(succession, name) for name in ("manifest-server", CLIENT)]
    assert all(sides), f"not both sides presented SVIDs of the new CA; {succession.late}"
    both = max(side[0].first.at for side in sides)
    last = [r for r in requests if r.sent.at > both]
    assert len(last) >= AFTERWARDS, f"only {len(last)} requests afterwards; {succession.late}"


@pytest.mark.parametrize("name", ["manifest-server", CLIENT, OTHER])
def test_revoked_root_leaves_the_bundle_file(
    retirement: Retirement, name: str, measure: Measure
) -> None:
    """A revoked root leaves the bundle file, and only the new one stays."""
    timeline, new = retirement.succession.testbed.watch.timeline, retirement.succession.root

    trusts = timeline.trusts(Source.FILES, name)

    assert trusts, f"no bundle was sampled for {name}: the observation window was empty"
    last = trusts[-1]
    assert last.serials == {new.serial_number}, (
        f"{name}'s bundle file holds {len(last.serials)} authorities, not only the new one; "
        f"{retirement.late}"
    )
    measure(f"from revoked to bundle file, {name}", last.seen.at - retirement.revoked.at, "s")


def _svids_of_the_new_ca(succession: Succession, name: str) -> list[Sighting]:
    found = succession.testbed.watch.timeline.sightings(Source.FILES, name)
    new = [s for s in found if is_below(s, succession.root) and s.first.at <= succession.end.at]
    assert new, f"{name}'s files held no SVID below the next root; {succession.late}"
    return new


def _presented(succession: Succession, name: str) -> list[Sighting]:
    serials = {sighting.serial for sighting in _svids_of_the_new_ca(succession, name)}
    found = succession.testbed.watch.timeline.sightings(Source.WIRE, name)
    return [s for s in found if s.serial in serials and s.first.at <= succession.end.at]


def _names(certificates: set[x509.Certificate]) -> list[str]:
    return sorted(c.subject.rfc4514_string() for c in certificates)
