"""The programs that spiffe-helper runs, here without it: what they do with files and signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from cryptography.hazmat.primitives import hashes

from svidproof import Alert, NotYet, eventually
from svidproof.components import spiffe_helper
from svidproof.components.spiffe_helper import BUNDLE, CERTIFICATE, KEY, MOTTO, Helped, Unsound
from svidproof.model.scenario import load_scenario
from svidproof.platforms.local.platform import LocalPlatform
from svidproof.platforms.protocol import Program
from svidproof.probes.credentials import Authority, Template
from svidproof.probes.tls import get
from svidproof.testbed.watch.files import _Look
from svidproof.testbed.watch.timeline import Source, Timeline
from svidproof.waiting import budgets
from svidproof.waiting.budgets import Budget
from svidproof.workloads.files.manifest_server import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from svidproof.platforms.protocol import Platform
    from svidproof.probes.credentials import Credential

SCENARIO = load_scenario("manifest")
ROOT = Authority.create("root", SCENARIO.trust_domain)
SPIRE = ROOT.intermediate("spire", f"spiffe://{SCENARIO.trust_domain}")
SERVER, CLIENT, OTHER = "manifest-server", "manifest-client", "manifest-other"
SOON = Budget("the program has done it", 10, 0.01)


def issue(name: str) -> Credential:
    """What SPIRE would give this workload."""
    return SPIRE.issue(name, Template(uris=(SCENARIO.spiffe_id(name),)))


class Stage:
    """A platform with programs that run by themselves."""

    def __init__(self, platform: LocalPlatform) -> None:
        """Nothing runs yet."""
        self.platform = platform

    def helped(self, name: str) -> Helped:
        """A workload, which spiffe-helper would run."""
        platform = cast("Platform", self.platform)
        return Helped(platform, SCENARIO, SCENARIO.workloads[name], "/nowhere/agent.sock")

    def write(self, name: str, credential: Credential, root: Authority = ROOT) -> None:
        """Put a workload's files where its program reads them."""
        put = self.platform.put
        put(name, CERTIFICATE, credential.chain_pem)
        put(name, KEY, credential.key_pem)
        put(name, BUNDLE, root.certificate_pem)

    def start(self, name: str, *arguments: str) -> Helped:
        """Start a program, and wait until it answers."""
        helped = self.helped(name)
        told = helped.configuration()
        file = self.platform.put(name, "program.json", json.dumps(told["program"]).encode())
        args = (*told["cmd"][1:], file, *arguments)
        self.platform.start(Program(helped.component, name, "python", args))
        helped.wait_ready()
        return helped

    def signal(self, helped: Helped) -> None:
        """Signal a program, and wait until it has done what it does then."""
        before = helped.state()
        os.kill(before.pid, signal.SIGHUP)

        def signalled() -> None:
            if len(helped.state().reloads) == len(before.reloads):
                raise NotYet("not yet")

        eventually(signalled, SOON)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Server and client have their files; nothing runs yet."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("SVIDPROOF_CACHE", directory)
        with contextlib.closing(LocalPlatform({}, SCENARIO.trust_domain)) as platform:
            made = Stage(platform)
            for name in (SERVER, CLIENT, OTHER):
                made.write(name, issue(name))
            yield made


def test_programs_know_each_other(stage: Stage) -> None:
    """The client gets the manifest, another is told why not, and each has seen the other's name."""
    server, client, other = map(stage.start, (SERVER, CLIENT, OTHER))

    served, refused = client.fetch("manifest", tag="1"), other.fetch("manifest", tag="2")

    assert (served.status, served.body["manifest"]) == (200, MANIFEST)
    assert served.server == server.spiffe_id
    assert served.server_certificate == server.files().leaf
    assert served.client_certificate == client.files().leaf
    assert refused.status == 403
    assert str(refused).endswith("/other may not read the shipping manifest")
    assert server.seen() == [("1", client.spiffe_id, 200), ("2", other.spiffe_id, 403)]
    assert server.seen(1) == [("2", other.spiffe_id, 403)]


def test_client_sends_nothing_to_somebody_else(stage: Stage) -> None:
    """A server whose certificate has another name gets no request."""
    stage.write(SERVER, issue(OTHER))
    server, client = map(stage.start, (SERVER, CLIENT))

    fetched = client.fetch("manifest")

    assert fetched.status is None
    expected = f"the server is {SCENARIO.spiffe_id(OTHER)}, not {server.spiffe_id}"
    assert fetched.error == expected
    assert not [status for *_, status in server.seen() if status]


@pytest.mark.parametrize("side", [SERVER, CLIENT])
def test_untrusted_peer_is_refused(stage: Stage, side: str) -> None:
    """A certificate that does not lead to the bundle is refused by either side, with the reason."""
    stage.write(side, issue(side), root=Authority.create("another", SCENARIO.trust_domain))
    server, client = map(stage.start, (SERVER, CLIENT))

    fetched = client.fetch("manifest")

    assert fetched.status is None
    if side == CLIENT:
        assert "CERTIFICATE_VERIFY_FAILED" in (fetched.error or "")
    else:
        eventually(lambda: _assert_said(server, "CERTIFICATE_VERIFY_FAILED"), SOON)


def test_nobody_comes_without_a_certificate(stage: Stage) -> None:
    """The server asks for a certificate in the handshake."""
    server = stage.start(SERVER)

    exchange = get(server.address, "/manifest")

    assert exchange.alert is Alert.CERTIFICATE_REQUIRED
    eventually(lambda: _assert_said(server, "PEER_DID_NOT_RETURN_A_CERTIFICATE"), SOON)


def test_signal_makes_it_load_its_files_once(stage: Stage) -> None:
    """What is in the files is presented after a signal, and not before; the process stays."""
    server, client = map(stage.start, (SERVER, CLIENT))
    first, second = server.files().leaf, issue(SERVER)
    pid = server.state().pid
    stage.write(SERVER, second)
    assert client.fetch("manifest").server_certificate == first

    stage.signal(server)

    assert client.fetch("manifest").server_certificate == second.leaf
    state = server.state()
    fingerprint = second.leaf.fingerprint(hashes.SHA256()).hex()
    assert [(r.certificate, r.error) for r in state.reloads] == [(fingerprint, None)]
    assert (state.loaded, state.pid) == (fingerprint, pid)


def test_what_cannot_be_loaded_changes_nothing(stage: Stage) -> None:
    """Signalled when the files do not fit each other, it goes on with what it had, and says so."""
    server, client = map(stage.start, (SERVER, CLIENT))
    first = server.files().leaf
    stage.platform.put(SERVER, KEY, issue(SERVER).key_pem)

    stage.signal(server)

    [reload] = server.state().reloads
    assert reload.certificate is None
    assert "KEY_VALUES_MISMATCH" in (reload.error or "")
    assert client.fetch("manifest").server_certificate == first


def test_files_are_told_with_what_they_hold(stage: Stage) -> None:
    """Each file with PEM in it is told, by permissions and kinds; others are not."""
    stage.platform.put(SERVER, "notes.txt", b"nothing of it")
    Path(stage.platform.path(SERVER, BUNDLE)).chmod(0o644)

    files = stage.start(SERVER).state().files

    assert files == {
        CERTIFICATE: ["0600", "CERTIFICATE"],
        KEY: ["0600", "PRIVATE KEY"],
        BUNDLE: ["0644", "CERTIFICATE"],
    }


def test_program_tells_how_it_was_started(stage: Stage) -> None:
    """It repeats its arguments and the names of its environment, and speaks on both streams."""
    helped = stage.start(SERVER, MOTTO)

    state = helped.state()

    assert state.arguments == [MOTTO]
    assert {"PATH", "PYTHONPATH"} <= set(state.environment)
    said = eventually(lambda: _log(stage, helped), SOON)
    assert said == [f"process {state.pid} has begun, says its {f}" for f in ("stdout", "stderr")]


def test_crash_is_a_crash(stage: Stage) -> None:
    """Asked to, a program ends by SIGKILL; then it does not answer any more."""
    client = stage.start(CLIENT)

    client.crash_program()

    eventually(lambda: _assert_killed(stage, client), SOON)
    with pytest.raises(NotYet, match="/state: no answer"):
        client.state()


def _assert_said(server: Helped, reason: str) -> None:
    assert any(reason in said for _, said, _ in server.seen()), server.seen()


def _log(stage: Stage, helped: Helped) -> list[str]:
    lines = stage.platform.read_log(helped.component, 0).decode().splitlines()
    assert len(lines) == 2, lines
    return lines


def _assert_killed(stage: Stage, helped: Helped) -> None:
    status = stage.platform.exit_status(helped.component)
    assert status == -signal.SIGKILL, status


class Torn(Helped):
    """Files that somebody writes while they are read."""

    def __init__(self, stage: Stage, *moments: dict[str, bytes]) -> None:
        """One after the other, each is what a reader finds; the last stays."""
        platform = cast("Platform", stage.platform)
        super().__init__(platform, SCENARIO, SCENARIO.workloads[SERVER], "/nowhere/agent.sock")
        self._moments = list(moments)

    def written(self) -> dict[str, bytes]:
        """What is there at that moment."""
        return self._moments.pop(0) if len(self._moments) > 1 else self._moments[0]


def pem(credential: Credential, key: Credential | None = None) -> dict[str, bytes]:
    """Three files."""
    return {
        CERTIFICATE: credential.chain_pem,
        KEY: (key or credential).key_pem,
        BUNDLE: ROOT.certificate_pem,
    }


def test_torn_files_are_read_again(stage: Stage) -> None:
    """A reader that comes between the writing of two files, or within one, tries again."""
    old, new = issue(SERVER), issue(SERVER)
    half = {**pem(new), KEY: new.key_pem[:100]}
    sound = pem(new)

    files = Torn(stage, pem(new, old), half, {CERTIFICATE: b""}, pem(old), sound).files()

    assert files.leaf == new.leaf
    assert files.credential.key_pem == new.key_pem
    assert [c.serial_number for c in files.bundle] == [ROOT.certificate.serial_number]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        pytest.param("mismatch", "the key is not that of certificate", id="mismatch"),
        pytest.param("half", "torn: ", id="half"),
        pytest.param("missing", f"not written: {BUNDLE}, {KEY}", id="missing"),
    ],
)
def test_files_that_stay_unsound_are_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, found: str, told: str
) -> None:
    """Files that never belong together are a finding, with what was seen last."""
    monkeypatch.setattr(budgets, "FILES", Budget("files", 0.05, 0.005))
    own = issue(SERVER)
    moments = {
        "mismatch": pem(own, issue(SERVER)),
        "half": {**pem(own), CERTIFICATE: own.chain_pem[:200]},
        "missing": {CERTIFICATE: own.chain_pem},
    }

    with pytest.raises(Unsound, match=told):
        Torn(stage, moments[found]).files()


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        pytest.param(KEY, b"=\n--\n", f"{KEY} has 4 bytes outside its PEM", id="leftover"),
        pytest.param(BUNDLE, ROOT.certificate_pem, f"{BUNDLE} repeats 1 of its 2", id="repeated"),
    ],
)
def test_what_should_not_be_in_a_file_is_a_defect(
    stage: Stage, name: str, more: bytes, told: str
) -> None:
    """Files that can be used are seen as they are; the watch knows what is too much in them."""
    sound = pem(issue(SERVER))
    timeline = Timeline()
    assert not Torn(stage, sound).files().blemish

    _Look(timeline, Torn(stage, {**sound, name: sound[name] + more}))()

    [defect] = timeline.defects(SERVER)
    assert defect.text.startswith(told)
    assert "--" not in defect.text
    assert timeline.sightings(Source.FILES, SERVER)


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [("plain", "plain"), ("two words", '"two words"'), ('say "$@"', '"say ""$@"""')],
)
def test_arguments_are_quoted_as_csv(argument: str, quoted: str) -> None:
    """cmd_args is CSV with spaces for commas: what has none of that in it stays as it is."""
    assert spiffe_helper._quoted(argument) == quoted


def test_configuration_says_what_spiffe_helper_is_told(stage: Stage) -> None:
    """Strings are quoted, modes and switches are not."""
    told = {**stage.helped(SERVER).configuration(), "cmd": ["/bin/sh", "-c", "exit 0"]}

    lines = Helped.text(told).splitlines()

    assert 'cmd = "/bin/sh"' in lines
    assert 'cmd_args = "-c \\"exit 0\\""' in lines
    assert 'renew_signal = "SIGHUP"' in lines
    assert "daemon_mode = true" in lines
    assert "key_file_mode = 0600" in lines
