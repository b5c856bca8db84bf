"""Two programs without SPIFFE support authenticate each other with SVID files."""

import http
import uuid

import pytest

from svidproof import (
    MANIFEST,
    Saw,
    SpiffeHelperWorkload,
    Testbed,
    budgets,
    eventually,
    requirement,
    spiffe_helper,
)
from svidproof.checks import Accepted, needless_starts
from svidproof.probes import Alert, tls

pytestmark = requirement("HELPER-1")
PROGRAMS = ["manifest-server", "manifest-client", "manifest-other"]
each_program = pytest.mark.parametrize("name", PROGRAMS)


def test_client_fetches_the_manifest(manifest: Testbed, saw: Saw) -> None:
    """The client gets the shipping manifest, and each side sees the other's SPIFFE ID."""
    server, client = manifest.helped["manifest-server"], manifest.helped["manifest-client"]
    tag = uuid.uuid4().hex

    fetched = client.fetch("manifest", tag=tag)

    assert fetched.status == http.HTTPStatus.OK, str(fetched)
    assert fetched.body["manifest"] == MANIFEST, f"the client got {fetched.body}"
    assert fetched.server == server.spiffe_id, f"the client saw the server {fetched.server}"
    assert fetched.body["client"] == client.spiffe_id, (
        f"the server saw the client {fetched.body['client']}"
    )
    seen = [request for request in server.seen() if request[0] == tag]
    assert seen == [(tag, client.spiffe_id, 200)], f"the server saw the requests {seen}"
    saw(str(fetched))


@pytest.mark.parametrize("name", ["manifest-server", "manifest-client"])
def test_program_presents_the_certificate_in_its_files(manifest: Testbed, name: str) -> None:
    """Each program presents the certificate in its files."""
    client, workload = manifest.helped["manifest-client"], manifest.helped[name]

    def presented() -> None:
        fetched, leaf = client.fetch("manifest"), workload.files().leaf
        shown = fetched.client_certificate if workload is client else fetched.server_certificate
        assert shown == leaf, (
            f"{name} presented {shown.serial_number if shown else 'nothing'!s}, its files hold "
            f"{leaf.serial_number}; {fetched}"
        )

    # The files may be renewed between the two reads.
    eventually(presented, budgets.PRESENTED)


@each_program
def test_program_is_started_as_configured(manifest: Testbed, name: str) -> None:
    """A program gets its quoted arguments and the environment of its spiffe-helper."""
    state = manifest.helped[name].state()

    assert state.arguments == [spiffe_helper.MOTTO], (
        f"{name} has the arguments {state.arguments}, not {[spiffe_helper.MOTTO]}"
    )
    # Every platform has a PATH, and no program of the suite sets one.
    assert "PATH" in state.environment, f"{name}'s environment is {state.environment}, without PATH"


@each_program
def test_program_output_is_logged(manifest: Testbed, name: str) -> None:
    """A program's stdout and stderr go to spiffe-helper's log, from one process only."""
    helped = manifest.helped[name]
    pid = str(helped.state().pid)

    def logged() -> dict[str, list[str]]:
        streams: dict[str, list[str]] = {"stdout": [], "stderr": []}
        for record in manifest.logs(helped.component, manifest.watch.timeline.start):
            if begun := spiffe_helper.BEGUN.search(record.message):
                streams[begun[2]].append(begun[1])
        missing = [stream for stream, pids in streams.items() if pid not in pids]
        assert not missing, f"the {' and '.join(missing)} of {name}'s program is not in its log"
        return streams

    streams = eventually(logged, budgets.LOG_LINE, alive=helped.assert_alive)

    starts = streams["stdout"]
    assert starts[-1] == pid, f"{name}'s program is process {pid}, and {starts[-1]} began last"
    log = manifest.logs(helped.component, manifest.watch.timeline.start)
    needless = needless_starts(record.message for record in log)
    assert not needless, f"{name}'s program was started {len(starts)} times"


def test_client_without_certificate_is_rejected(manifest: Testbed) -> None:
    """A client without a certificate is rejected in the handshake, and the server logs why."""
    server = manifest.helped["manifest-server"]
    with manifest.quiet():
        before = len(server.seen())

        exchange = tls.get(server.address, "/manifest")

        after = eventually(lambda: _seen(server, before), budgets.REFUSAL_SEEN)
    if exchange.status is not None:
        raise Accepted(f"expected a rejection in the handshake, got {exchange}")
    assert exchange.alert is Alert.CERTIFICATE_REQUIRED, f"got {exchange}"
    assert [status for *_, status in after] == [None], f"the server recorded {after}"
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in after[0][1], f"the server logged {after[0][1]}"


def _seen(server: SpiffeHelperWorkload, since: int) -> list[tuple[str | None, str, int | None]]:
    seen = server.seen(since)
    assert seen, f"{server.name} recorded no connection"
    return seen
