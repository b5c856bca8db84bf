"""spiffe-helper selects one of several SVIDs by its hint."""

import contextlib
import functools
from collections.abc import Iterator

import pytest

from svidproof import (
    Ended,
    Saw,
    SpiffeHelperWorkload,
    Testbed,
    budgets,
    eventually,
    requirement,
    runs_last,
    spiffe_ids,
)

pytestmark = [requirement("HELPER-10"), runs_last()]
OTHER = "manifest-other"
HINTS = ("inward", "outward")
HOUR = 3600  # seconds: nothing is renewed during the checks
# In addition to the files that its program reads.
FILES = {
    "svid_file_name": "hinted.pem",
    "svid_key_file_name": "hinted.key",
    "svid_bundle_file_name": "hinted-bundle.pem",
}


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

        found = spiffe_ids(hinted.certificate(FILES["svid_file_name"]))

        expected = manifest.scenario.spiffe_id(f"manifest/workload/{hint}")
        assert found == [expected], f"with hint {hint} the file holds {found}, not {expected}"
        saw(f"{hint}: {expected}")


def test_unknown_hint_is_reported(hinted: SpiffeHelperWorkload) -> None:
    """spiffe-helper exits with status 1 and logs a hint that no SVID has."""
    exited = _try(hinted, "nowhere")

    assert exited.status == 1, str(exited)
    assert "failed to find the hinted x509 SVID" in exited.said, str(exited)


def _assert_fetched(hinted: SpiffeHelperWorkload, hint: str) -> None:
    exited = _try(hinted, hint)
    assert exited.status == 0, f"with hint {hint} {exited}"


def _try(hinted: SpiffeHelperWorkload, hint: str) -> Ended:
    text = hinted.text({**hinted.configuration(), **FILES, "daemon_mode": False})
    return hinted.try_configuration(f'{text}hint = "{hint}"\n')
