"""spiffe-helper selects one of several SVIDs by its hint."""

import contextlib
import functools
import itertools
from collections.abc import Iterator

import pytest

from svidproof import (
    Saw,
    SpiffeHelperWorkload,
    Testbed,
    budgets,
    eventually,
    requirement,
    runs_last,
    spiffe_helper,
    spiffe_ids,
)
from svidproof.probes import jwt

pytestmark = [requirement("HELPER-10"), runs_last()]
OTHER = "manifest-other"
HINTS = ("inward", "outward")
HOUR = 3600  # seconds: nothing is renewed during the checks
# In addition to the files that its program reads.
FILES = spiffe_helper.files_of("hinted")
# Ends a spiffe-helper that keeps running, as its program.
END = "import os, signal; os.kill(os.getppid(), signal.SIGTERM)"


@pytest.fixture(scope="module")
def hinted(manifest: Testbed) -> Iterator[SpiffeHelperWorkload]:
    """A workload with one SVID for each hint, in addition to the one without a hint."""
    other, agent = manifest.helped[OTHER], manifest.agent_of(OTHER)
    with contextlib.ExitStack() as entries:
        for hint in HINTS:
            name = f"manifest/workload/{hint}"
            entry = manifest.registered(name, other.selectors, agent=agent, ttl=HOUR, hint=hint)
            entries.enter_context(entry)
        yield other


def test_hinted_svid_is_written(manifest: Testbed, hinted: SpiffeHelperWorkload, saw: Saw) -> None:
    """The certificate file holds the SVID of the entry with the configured hint."""
    for hint in HINTS:
        eventually(functools.partial(_assert_fetched, hinted, hint), budgets.REGISTRATION)

        found = spiffe_ids(hinted.certificates(FILES["svid_file_name"])[0])

        expected = manifest.scenario.spiffe_id(f"manifest/workload/{hint}")
        assert found == [expected], f"with hint {hint} the file holds {found}, not {expected}"
        saw(f"{hint}: {expected}")


def test_hinted_token_is_written(manifest: Testbed, hinted: SpiffeHelperWorkload) -> None:
    """The JWT-SVID file holds the JWT-SVID of the entry with the configured hint."""
    for hint in HINTS:
        eventually(functools.partial(_assert_fetched, hinted, hint), budgets.REGISTRATION)

        found = jwt.Token.read(hinted.token(FILES["jwt_svid_file_name"])).claims["sub"]

        expected = manifest.scenario.spiffe_id(f"manifest/workload/{hint}")
        assert found == expected, f"with hint {hint} the file holds a JWT-SVID of {found}"


def test_hinted_svid_is_written_by_a_daemon(
    manifest: Testbed, hinted: SpiffeHelperWorkload
) -> None:
    """A spiffe-helper that keeps running writes the SVID with the configured hint, too."""
    python = manifest.platform.executable("python")
    for hint, other in itertools.permutations(HINTS):
        # Leaves the files of the other one.
        eventually(functools.partial(_assert_fetched, hinted, other), budgets.REGISTRATION)

        hinted.try_hint(hint, FILES, daemon_mode=True, audiences=[], cmd=[python, "-c", END])

        found = spiffe_ids(hinted.certificates(FILES["svid_file_name"])[0])
        expected = manifest.scenario.spiffe_id(f"manifest/workload/{hint}")
        assert found == [expected], f"with hint {hint} the file holds {found}, not {expected}"


@pytest.mark.parametrize("hint", ["nowhere", HINTS[0][:-1], HINTS[0].upper()])
def test_unknown_hint_is_reported(hinted: SpiffeHelperWorkload, hint: str) -> None:
    """spiffe-helper exits with status 1 and logs a hint that no SVID has."""
    exited = hinted.try_hint(hint, FILES)

    assert exited.status == 1, str(exited)
    assert "failed to find the hinted x509 SVID" in exited.said, str(exited)


def _assert_fetched(hinted: SpiffeHelperWorkload, hint: str) -> None:
    exited = hinted.try_hint(hint, FILES)
    assert exited.status == 0, f"with hint {hint} {exited}"
