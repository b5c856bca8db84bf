"""spiffe-helper writes a JWT-SVID and the JWT bundle, and replaces both in time."""

from svidproof import Capability, Measure, Saw, needs, requirement
from svidproof.checks import TOKEN_RENEWALS, JwtSuccession, TokenRenewals
from svidproof.probes import jwt

pytestmark = requirement("HELPER-11")
OTHER = "manifest-other"


def test_token_is_for_the_workload(tokens_in_files: TokenRenewals, saw: Saw) -> None:
    """Each JWT-SVID has the workload's ID and the configured audiences, and its key is there."""
    flaws = [written.flaw for written in tokens_in_files.written if written.flaw]

    assert not flaws, f"{OTHER}: {flaws[0]}"
    saw(f"{len(tokens_in_files.written)} valid JWT-SVIDs")


def test_token_is_renewed_in_time(tokens_in_files: TokenRenewals, measure: Measure) -> None:
    """The file has the next JWT-SVID soon after half of the lifetime of the former one."""
    lags = tokens_in_files.lags()

    assert len(lags) == TOKEN_RENEWALS, f"{OTHER}'s JWT-SVID was renewed {len(lags)} times"
    bounds = [written.bound for written in tokens_in_files.written if written.step]
    measure("from a JWT-SVID in a file to the next", max(lags), "s")
    late = [(took, bound) for took, bound in zip(lags, bounds, strict=True) if took > bound]
    assert not late, f"{OTHER}'s JWT-SVID was renewed after {late[0][0]:.1f} s"


def test_key_file_is_the_jwt_bundle(tokens_in_files: TokenRenewals) -> None:
    """The file of the JWT bundle holds exactly the server's JWT keys."""
    published = tokens_in_files.testbed.spire.jwt_keys()

    for written in tokens_in_files.written:
        held = {key_id: jwt.public_key(key) for key_id, key in written.keys.items()}

        assert held == published, (
            f"{OTHER}'s JWT bundle file has the keys {sorted(held)}, the server {sorted(published)}"
        )


@needs(Capability.OWN_SPIRE)
def test_key_file_follows_the_jwt_bundle(jwt_succession: JwtSuccession, measure: Measure) -> None:
    """A prepared JWT key is soon in the file, and a revoked one soon is not."""
    for step in ("prepared", "revoked"):
        took = jwt_succession.took(step)

        measure(f"from a {step} JWT key to the file", took, "s")
        assert took <= jwt_succession.bound, f"{step}: the file followed after {took:.1f} s"
