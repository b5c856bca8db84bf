"""Without an entry, spiffe-helper writes and starts nothing; another SPIFFE ID is rejected."""

import http
import re
import uuid

import pytest

from svidproof import (
    Capability,
    NotYet,
    Saw,
    Testbed,
    Timestamp,
    budgets,
    eventually,
    needs,
    only,
    requirement,
    spiffe_ids,
)
from svidproof.probes import tls

pytestmark = requirement("HELPER-7")
LATE, OTHER, SERVER, CLIENT = (f"manifest-{role}" for role in ("late", "other", "server", "client"))
REASON = r"PermissionDenied.*no identity issued"


def test_helper_logs_that_no_identity_is_issued(manifest: Testbed, saw: Saw) -> None:
    """spiffe-helper keeps running and logs that no identity is issued; no file, no program."""
    late = manifest.helped[LATE]

    def denied() -> str:
        lines = [r.message for r in manifest.logs(late.component, manifest.watch.timeline.start)]
        reasons = [match[0] for line in lines if (match := re.search(REASON, line))]
        assert reasons, f"{late.component} logged no denial in {len(lines)} lines: {lines[-1:]}"
        assert not [line for line in lines if "Received update" in line], "it received an update"
        return reasons[-1]

    reason = eventually(denied, budgets.LOG_LINE, alive=late.assert_alive)
    written = late.written()
    assert not written, f"it has written {', '.join(written)}"
    _assert_not_running(manifest)
    late.assert_alive()
    saw(reason)


def test_program_starts_once_its_entry_exists(manifest: Testbed) -> None:
    """The same spiffe-helper process then writes files and starts its program."""
    late, start = manifest.helped[LATE], Timestamp.now()

    with manifest.registered(LATE, late.selectors, agent=manifest.agent_of(LATE)):
        state = eventually(late.state, budgets.HELPER_BACK, alive=late.assert_alive)

        leaf = late.files().leaf

    assert spiffe_ids(leaf) == [late.spiffe_id], f"its files hold {spiffe_ids(leaf)}"
    assert state.begun > start.wall.timestamp(), "its program had started before"


@pytest.fixture
def _genuine_client_is_served(manifest: Testbed) -> None:
    """Control: the genuine client is answered just before."""
    fetched = manifest.helped[CLIENT].fetch("manifest")
    assert fetched.status == http.HTTPStatus.OK, f"the genuine client got {fetched}"


@pytest.mark.usefixtures("_genuine_client_is_served")
def test_client_with_another_id_gets_403(manifest: Testbed, saw: Saw) -> None:
    """A client whose entry has another SPIFFE ID gets HTTP 403 with the reason."""
    other, server, tag = manifest.helped[OTHER], manifest.helped[SERVER], uuid.uuid4().hex

    fetched = other.fetch("manifest", tag=tag)

    assert fetched.status == http.HTTPStatus.FORBIDDEN, f"{other.spiffe_id} got {fetched}"
    assert "manifest" not in fetched.body, f"{other.spiffe_id} got {fetched.body}"
    reason = fetched.body["reason"]
    assert reason == f"{other.spiffe_id} may not read the shipping manifest", reason
    seen = [request for request in server.seen() if request[0] == tag]
    assert seen == [(tag, other.spiffe_id, 403)], f"the server saw the requests {seen}"
    saw(reason)


@needs(Capability.IMPOSTOR)
def test_server_with_another_id_is_rejected(manifest: Testbed, saw: Saw) -> None:
    """The client sends no request to a server with another workload's genuine SVID."""
    client, other = manifest.helped[CLIENT], manifest.helped[OTHER]
    impostor = manifest.prober.impostor
    with impostor.serve(manifest.own_credential(SERVER)) as attempts:
        client.fetch("impostor")
    assert [bool(a.request) for a in attempts] == [True], (
        "control: a server with the right SVID got no request"
    )

    with impostor.serve(manifest.own_credential(OTHER)) as attempts:
        fetched = client.fetch("impostor")

    attempt = only(attempts, "connection")
    assert not attempt.request, f"the impostor got {attempt.request[:60]!r}"
    assert fetched.status is None, f"the client got {fetched}"
    expected = f"the server is {other.spiffe_id}, not {manifest.helped[SERVER].spiffe_id}"
    assert fetched.error == expected, f"the client reported: {fetched.error}"
    saw(expected)


def _assert_not_running(manifest: Testbed) -> None:
    """Assert that no program answers on its TLS port and on its control port."""
    late = manifest.helped[LATE]
    exchange = tls.get(late.own_address)
    assert not exchange.peer_chain, f"it presents {exchange.peer_chain[0].subject}: {exchange}"
    assert exchange.status is None, f"its port answers: {exchange}"
    try:
        state = late.state()
    except NotYet:
        return
    raise AssertionError(f"its program runs as process {state.pid}")
