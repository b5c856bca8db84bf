"""spiffe-helper reports configuration errors before it fetches or runs anything."""

import pytest

from svidproof import Ended, PlatformError, Saw, Testbed, requirement, runs_last

pytestmark = [requirement("HELPER-9"), runs_last()]
ONCE = "daemon_mode = false\n"
FILES = """
svid_file_name = "a"
svid_key_file_name = "b"
svid_bundle_file_name = "c"
"""
JWT = '{ jwt_svid_file_name = "j" }'
# If accepted, most of them would fetch once and exit.
ERRORS = {
    "unknown-key": (f'{ONCE}{FILES}colour = "red"', "unknown top level key(s): colour"),
    "file-left-out": (f'{ONCE}svid_file_name = "a"', "all or none of 'svid_file_name'"),
    "nothing-to-write": (ONCE, "at least one of the sets"),
    "negative-mode": (f"{ONCE}{FILES}cert_file_mode = -1", "cert file mode must be positive"),
    "negative-key-mode": (f"{ONCE}{FILES}key_file_mode = -1", "key file mode must be positive"),
    "pid-file-without-signal": (f'{FILES}pid_file_name = "p"', "must specify renew_signal"),
    "pid-file-once": (f'{ONCE}{FILES}pid_file_name = "p"', "only supported in daemon_mode"),
    "jwt-without-audience": (f"{ONCE}jwt_svids = [{JWT}]", "'jwt_audience' is required"),
    "no-hcl": (f"{ONCE}{FILES}hint = [", "failed to parse configuration"),
}


@pytest.mark.parametrize(
    ("text", "reason"), [pytest.param(*error, id=name) for name, error in ERRORS.items()]
)
def test_invalid_configuration_is_rejected(
    manifest: Testbed, text: str, reason: str, saw: Saw
) -> None:
    """spiffe-helper exits immediately with status 1 and reports the error."""
    exited = _try(manifest, text)

    assert exited.status == 1, str(exited)
    assert reason in exited.said, f"it did not report {reason!r}: {exited}"
    assert "Received update" not in exited.said, f"it had fetched something: {exited}"
    saw(exited.said.splitlines()[-1][:200])


@pytest.mark.parametrize("signal", ["SIGHUP", ""], ids=["signal", "no-signal"])
def test_valid_configuration_is_accepted(manifest: Testbed, signal: str) -> None:
    """The scenario's configuration is accepted, also with a program without a signal."""
    other = manifest.helped["manifest-other"]
    configuration = {**other.configuration(), "daemon_mode": False, "renew_signal": signal}

    exited = _try(manifest, other.text(configuration))

    assert exited.status == 0, str(exited)
    assert "Successfully fetched x509 certificates" in exited.said, f"it fetched none: {exited}"


def _try(manifest: Testbed, text: str) -> Ended:
    try:
        return manifest.helped["manifest-other"].try_configuration(text)
    except PlatformError as error:
        raise AssertionError(f"it was not rejected: {error}") from None
