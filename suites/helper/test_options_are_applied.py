"""spiffe-helper's options change exactly what they are documented to change."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography import x509

from svidproof import (
    SIGHUP_CAME,
    Capability,
    Ended,
    PlatformError,
    SpiffeHelperWorkload,
    Testbed,
    budgets,
    eventually,
    needs,
    requirement,
    runs_last,
    spiffe_helper,
)
from svidproof.checks import flaw_of_token
from svidproof.probes import Authority

# The server gets the bundle of a partner.
pytestmark = [runs_last(), needs(Capability.OWN_SPIRE)]
OTHER = "manifest-other"
PARTNER = "partner.example"
HINT = "optional"
NAME = f"manifest/workload/{HINT}"
HOUR = 3600  # seconds: nothing is renewed during the checks
# In addition to the files of the running spiffe-helper.
FILES = spiffe_helper.files_of("optional")
PID_FILE = "optional.pid"


@dataclass(frozen=True)
class Optional:
    """A workload that has a second SVID, with a hint and the bundle of a partner.

    Attributes:
        helped: the workload.
        spiffe_id: the ID of that SVID.
        own: the authorities of its own trust domain.
        partner: the authority of the partner.
        expired: its former authority, which has expired, and is still in its bundle.
    """

    helped: SpiffeHelperWorkload
    spiffe_id: str
    own: frozenset[x509.Certificate]
    partner: x509.Certificate
    expired: x509.Certificate

    def run(self, *flags: str, options: str = "", **changes: Any) -> Ended:  # noqa: ANN401  a configuration
        """Run spiffe-helper with further options until it exits."""
        try:
            return self.helped.try_hint(HINT, FILES, *flags, options=options, **changes)
        except PlatformError as error:
            raise AssertionError(f"spiffe-helper does not exit: {error}") from None

    def fetch(self, *flags: str, options: str = "", **changes: Any) -> Ended:  # noqa: ANN401  a configuration
        """Run it as `run` does, and require that it wrote its files."""
        exited = self.run(*flags, options=options, **changes)
        assert exited.status == 0, str(exited)
        return exited

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The certificates in the SVID file."""
        return self.helped.certificates(FILES["svid_file_name"])

    @property
    def bundle(self) -> frozenset[x509.Certificate]:
        """The certificates in the bundle file."""
        return frozenset(self.helped.certificates(FILES["svid_bundle_file_name"]))


@pytest.fixture(scope="module")
def optional(manifest: Testbed) -> Iterator[Optional]:
    """That workload, once the agent has its second SVID and the partner's bundle."""
    helped, agent = manifest.helped[OTHER], manifest.agent_of(OTHER)
    partner = Authority.create("partner", PARTNER).certificate
    expired = Authority.create("former partner", PARTNER, not_after=-timedelta(seconds=1))
    spiffe_id, own = manifest.scenario.spiffe_id(NAME), frozenset(manifest.trust_bundle)
    found = Optional(helped, spiffe_id, own, partner, expired.certificate)
    manifest.spire.set_federated_bundle(PARTNER, [partner, expired.certificate])
    with contextlib.ExitStack() as undo:
        undo.callback(manifest.spire.delete_federated_bundle, PARTNER)
        undo.enter_context(
            manifest.registered(
                NAME,
                helped.selectors,
                agent=agent,
                ttl=HOUR,
                hint=HINT,
                federates_with=[PARTNER],
            )
        )
        eventually(partial(found.fetch, audiences=[]), budgets.REGISTRATION)
        yield found


@requirement("HELPER-12")
def test_federated_authorities_are_added(optional: Optional) -> None:
    """With include_federated_domains, the bundle file holds the authorities of partners too."""
    optional.fetch(options="include_federated_domains = true")

    assert optional.bundle == optional.own | {optional.partner, optional.expired}, (
        f"{OTHER}'s bundle file holds {_names(optional.bundle)}"
    )


@requirement("HELPER-12")
def test_expired_authorities_are_left_out(optional: Optional) -> None:
    """With omit_expired, the bundle file holds no authority that has expired."""
    optional.fetch(options="include_federated_domains = true")
    assert optional.expired in optional.bundle, "control: the process has no expired authority"

    optional.fetch(options="include_federated_domains = true\nomit_expired = true")

    assert optional.bundle == optional.own | {optional.partner}, (
        f"{OTHER}'s bundle file holds {_names(optional.bundle)}"
    )


@requirement("HELPER-12")
def test_federated_authorities_are_left_out(optional: Optional) -> None:
    """Without it, the bundle file holds the authorities of its own trust domain only."""
    optional.fetch(options="include_federated_domains = true")
    assert optional.partner in optional.bundle, "control: the process has no partner"

    optional.fetch()

    assert optional.bundle == optional.own, f"{OTHER}'s bundle file holds {_names(optional.bundle)}"


@requirement("HELPER-12")
@needs(Capability.OWN_TRUST_ROOT)
def test_intermediates_are_moved(optional: Optional) -> None:
    """With add_intermediates_to_bundle, the SVID file holds the SVID alone, the bundle the rest."""
    optional.fetch()
    intermediates = {certificate.subject for certificate in optional.chain[1:]}
    assert intermediates, f"control: {OTHER}'s SVID has no intermediate certificate"

    optional.fetch(options="add_intermediates_to_bundle = true")

    assert len(optional.chain) == 1, f"{OTHER}'s SVID file holds {_names(optional.chain)}"
    moved = optional.bundle - optional.own
    assert {certificate.subject for certificate in moved} == intermediates, (
        f"{OTHER}'s bundle file holds {_names(optional.bundle)}"
    )


@requirement("HELPER-12")
def test_flag_overrides_daemon_mode(optional: Optional) -> None:
    """With -daemon-mode=false, spiffe-helper fetches once and exits, whatever its file says."""
    exited = optional.fetch("-daemon-mode=false", daemon_mode=True)

    assert "Successfully fetched x509 certificates" in exited.said, f"it fetched none: {exited}"


@requirement("HELPER-11")
@pytest.mark.parametrize("audiences", [1, 2], ids=["one-audience", "further-audience"])
def test_token_is_fetched_once(optional: Optional, audiences: int) -> None:
    """A spiffe-helper that fetches once writes JWT-SVID and JWT bundle, too."""
    helped = optional.helped
    wanted = list(helped.spec.audiences[:audiences])

    optional.fetch(audiences=wanted)

    token = helped.token(FILES["jwt_svid_file_name"])
    keys = helped.jwt_keys(FILES["jwt_bundle_file_name"])
    flaw = flaw_of_token(optional.spiffe_id, wanted, token, keys)
    assert not flaw, f"{OTHER}: {flaw}"


@dataclass(frozen=True)
class DaemonRun:
    """What a spiffe-helper left that signalled a process by its PID file and got SIGTERM then.

    Attributes:
        exited: how it exited.
        chain: the certificates in its SVID file afterwards.
        whole: whether its key file was still there, and the key was that of the certificate.
    """

    exited: Ended
    chain: tuple[x509.Certificate, ...]
    whole: bool


@pytest.fixture(scope="module")
def ended(manifest: Testbed, optional: Optional) -> DaemonRun:
    """A spiffe-helper whose program ends it as soon as it was signalled by its PID file."""
    platform, helped = manifest.platform, optional.helped
    # Whose file a supervisor has not written yet.
    file = platform.put(OTHER, PID_FILE, b"none yet\n")
    interpreter = platform.executable("python")
    exited = optional.run(
        options=f'pid_file_name = "{file}"',
        daemon_mode=True,
        audiences=[],
        cmd=[interpreter, "-P", "-m", "svidproof.workloads.files.signalled", file],
    )
    chain = helped.certificates(FILES["svid_file_name"])
    return DaemonRun(exited, chain, helped.is_key_of(FILES["svid_key_file_name"], chain[0]))


@requirement("HELPER-13")
def test_process_in_the_pid_file_is_signalled(ended: DaemonRun) -> None:
    """The process in the PID file gets the signal, also if its PID is written a moment later."""
    assert SIGHUP_CAME in ended.exited.said, f"the process got no signal: {ended.exited}"


@requirement("HELPER-13")
def test_helper_exits_on_sigterm(ended: DaemonRun) -> None:
    """On SIGTERM, spiffe-helper exits with status 0 and leaves its files."""
    assert ended.exited.status == 0, str(ended.exited)
    assert ended.whole, "it did not leave the key of its SVID"


def _names(certificates: frozenset[x509.Certificate] | tuple[x509.Certificate, ...]) -> list[str]:
    return sorted(c.subject.rfc4514_string() for c in certificates)
