"""The server's sidecar verifies the SVIDs that this SPIRE issues: their signature and expiry.

They are made from the accepted client's own SVID, which no other key than SPIRE's can sign.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from svidproof import Saw, Testbed, TimedOut, Timestamp, budgets, eventually, requirement, runs_last
from svidproof.checks import (
    API_SERVERS,
    assert_accepted,
    assert_not_answered,
    assert_refused,
    refusals,
)
from svidproof.probes import Credential, Flaw, Version, tampered

CLIENT = "valid-api-client"
each_server = pytest.mark.parametrize("server", API_SERVERS)


@pytest.fixture(autouse=True)
def _quiet(api: Testbed) -> Iterator[None]:
    """No request of the watch is counted with those of a check."""
    with api.quiet():
        yield


@requirement("DEPLOYMENT-6")
@runs_last()
@pytest.mark.parametrize("version", refusals.VERSIONS)
@each_server
def test_expired_svid_is_rejected(
    api: Testbed, server: str, version: Version, first_svid: Credential, saw: Saw
) -> None:
    """Once it has expired, the same SVID is rejected, while the present one is accepted."""
    workload, versions = api.workload(server), (version, version)
    row = next(row for row in refusals.ROWS if row.flaw is Flaw.EXPIRED)
    alert, counter = row.expected(workload.spec.validator)

    def expired() -> None:
        left = _left(first_svid).total_seconds()
        assert left < 0, f"the SVID is valid for {left:.0f} s more"

    eventually(expired, budgets.SVID_EXPIRED)
    # The clock of the sidecar's machine may be behind; the request below decides.
    with contextlib.suppress(TimedOut):
        eventually(
            lambda: assert_not_answered(
                api.prober.get(workload, credential=first_svid, versions=versions)
            ),
            budgets.CLOCKS_AGREE,
        )
    before = workload.tally()
    exchange = api.prober.get(workload, credential=first_svid, versions=versions)

    assert_refused(exchange, {alert}, at=workload, since=before, counter=counter)
    assert_accepted(api.prober.get(workload, credential=api.workload(CLIENT).svid()))
    saw(f"{exchange}; {counter} +1; expired {_expiry(first_svid):%X}; the app saw nothing")


@requirement("DEPLOYMENT-2")
@pytest.mark.parametrize("version", refusals.VERSIONS)
@each_server
def test_svid_with_a_changed_signature_is_rejected(
    api: Testbed, server: str, version: Version, saw: Saw
) -> None:
    """The client's own SVID is rejected if one bit of its signature differs."""
    workload, versions = api.workload(server), (version, version)
    row = next(row for row in refusals.ROWS if row.flaw is Flaw.TAMPERED_SIGNATURE)
    alert, counter = row.expected(workload.spec.validator)
    own = api.workload(CLIENT).svid()
    assert_accepted(api.prober.get(workload, credential=own, versions=versions))
    before = workload.tally()

    exchange = api.prober.get(workload, credential=tampered(own), versions=versions)

    assert_refused(exchange, {alert}, at=workload, since=before, counter=counter)
    saw(f"{exchange}; {counter} +1; the app saw nothing")


def _expiry(credential: Credential) -> datetime:
    return credential.leaf.not_valid_after_utc


def _left(credential: Credential) -> timedelta:
    return _expiry(credential) - Timestamp.now().wall
