"""Whatever the Workload API or SDS sends, consumers keep valid secrets and use nothing else."""

from collections.abc import Mapping

import pytest

from svidproof import Capability, Saw, Testbed, needs, requirement
from svidproof.checks import (
    ADDRESSES,
    GOOD_ADDRESSES,
    WRONGS,
    Consumption,
    Suffered,
    Wrong,
    observe_addresses,
)

pytestmark = needs(Capability.OWN_MACHINE, Capability.FAULTS, Capability.FURTHER_TOOLS)


class Misused(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a consumer uses a secret that it must not use, or loses a valid one."""


class NotTaken(AssertionError):  # noqa: N818  a verdict, not a programming error
    """Raised if a consumer does not accept a valid message."""


@pytest.fixture
def helper(helper_consumption: Consumption) -> Consumption:
    """The record of spiffe-helper."""
    return helper_consumption


@pytest.fixture
def envoy(envoy_consumption: Consumption) -> Consumption:
    """The record of Envoy."""
    return envoy_consumption


def rows(*kinds: str, envoy: bool = False) -> pytest.MarkDecorator:
    """One row for each wrong answer of these kinds."""
    # A secret of SDS has no SPIFFE ID.
    chosen = [w for w in WRONGS if w.kind.value in kinds and not (envoy and w.name == "no-id")]
    return pytest.mark.parametrize("wrong", [pytest.param(w, id=w.name) for w in chosen])


def _assert_kept(consumption: Consumption, wrong: Wrong) -> Suffered:
    assert not consumption.first.late, f"{consumption.consumer} got no SVID: {consumption.first}"
    suffered = consumption.suffered[wrong.name]
    if suffered.kept:
        raise Misused(f"{consumption.consumer}, {wrong.what}: {suffered.kept}")
    return suffered


def _assert_taken(consumption: Consumption, wrong: Wrong, saw: Saw) -> Suffered:
    assert not consumption.first.late, f"{consumption.consumer} got no SVID: {consumption.first}"
    suffered = consumption.suffered[wrong.name]
    if suffered.recovered.took_s is None:
        reasons = "; ".join(suffered.reasons) or "nothing rejected"
        what = f"{consumption.consumer}, {wrong.what}"
        raise NotTaken(f"{what}: {suffered.recovered.late}; {reasons}")
    saw(f"after {suffered.recovered.took_s:.2f} s")
    return suffered


@requirement("CONSUMER-1")
@rows("kept", "ended")
def test_helper_keeps_its_files(helper: Consumption, wrong: Wrong) -> None:
    """spiffe-helper keeps the files of its last valid SVID and bundle, and writes nothing else."""
    _assert_kept(helper, wrong)


@requirement("CONSUMER-2")
@rows("kept", "ended", envoy=True)
def test_envoy_keeps_its_secrets(envoy: Consumption, wrong: Wrong, saw: Saw) -> None:
    """Envoy presents its last valid SVID, and trusts the authorities of its last valid bundle."""
    suffered = _assert_kept(envoy, wrong)

    saw("; ".join(suffered.reasons) or "nothing rejected")


@requirement("CONSUMER-3")
@rows("kept", "ended")
def test_helper_takes_the_next_svid(helper: Consumption, wrong: Wrong, saw: Saw) -> None:
    """spiffe-helper accepts the next valid message, and reopens its stream if it has ended."""
    suffered = _assert_taken(helper, wrong, saw)

    if wrong.kind.value == "ended":
        assert suffered.reopened, f"{wrong.what}: it opened no stream again"
    assert helper.header, "a stream was opened without the security header"


@requirement("CONSUMER-3")
@rows("kept", "ended", envoy=True)
def test_envoy_takes_the_next_svid(envoy: Consumption, wrong: Wrong, saw: Saw) -> None:
    """Envoy accepts the next valid secrets, and reopens its streams if they have ended."""
    suffered = _assert_taken(envoy, wrong, saw)

    if wrong.kind.value == "ended":
        assert suffered.reopened, f"{wrong.what}: it opened no stream again"


@requirement("CONSUMER-4")
@rows("read")
def test_helper_reads_what_is_good(helper: Consumption, wrong: Wrong, saw: Saw) -> None:
    """spiffe-helper accepts a valid SVID in a message with unknown or additional fields."""
    _assert_taken(helper, wrong, saw)


def _assert_dropped(consumption: Consumption) -> None:
    if consumption.added.late:
        raise NotTaken(f"{consumption.consumer}, more authorities: {consumption.added.late}")
    if consumption.dropped.late:
        raise Misused(f"{consumption.consumer}, fewer authorities: {consumption.dropped.late}")


@requirement("CONSUMER-5")
def test_helper_drops_what_is_gone(helper: Consumption) -> None:
    """Authorities and bundles that a later message lacks are removed from spiffe-helper's files."""
    _assert_dropped(helper)


@requirement("CONSUMER-5")
def test_envoy_drops_what_is_gone(envoy: Consumption) -> None:
    """Envoy rejects clients of an authority that a later bundle lacks."""
    _assert_dropped(envoy)


@pytest.fixture(scope="module")
def with_addresses(consumers: Testbed) -> Mapping[str, str]:
    """Why spiffe-helper got no SVID at each address in its environment, by address."""
    return observe_addresses(consumers)


@requirement("CONSUMER-6")
@pytest.mark.parametrize("address", GOOD_ADDRESSES)
def test_address_of_the_environment_is_used(
    with_addresses: Mapping[str, str], address: str
) -> None:
    """spiffe-helper without a configured address gets its SVID at SPIFFE_ENDPOINT_SOCKET."""
    control = with_addresses["path"]
    assert not control, f"spiffe-helper got no SVID at the path of the socket: {control}"

    if reason := with_addresses[address]:
        raise NotTaken(f"spiffe-helper, {ADDRESSES[address]}: {reason}")


@requirement("CONSUMER-6")
@pytest.mark.parametrize("address", [n for n in ADDRESSES if n not in (*GOOD_ADDRESSES, "path")])
def test_other_addresses_are_refused(
    with_addresses: Mapping[str, str], address: str, saw: Saw
) -> None:
    """spiffe-helper rejects an address that the standard excludes."""
    reason = with_addresses[address]

    if not reason:
        raise Misused(f"spiffe-helper got an SVID at {ADDRESSES[address]}")
    saw(reason)
