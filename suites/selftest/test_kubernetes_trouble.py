"""What cannot run on a cluster is told at once, in one line, with Kubernetes' own reason."""

from __future__ import annotations

import json
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ProtocolError

from svidproof.model.errors import PlatformError
from svidproof.platforms.kubernetes.client import api
from svidproof.platforms.kubernetes.kind import site
from svidproof.platforms.kubernetes.pods.watcher import Pods
from svidproof.platforms.kubernetes.tenant import platform
from svidproof.waiting import NotYet

if TYPE_CHECKING:
    from pathlib import Path


def status(name: str = "envoy", **state: Any) -> SimpleNamespace:  # noqa: ANN401  Kubernetes' words
    """The status of a container, with one state."""
    states = {"running": None, "waiting": None, "terminated": None, **state}
    last = SimpleNamespace(terminated=states.pop("last", None))
    return SimpleNamespace(
        name=name, state=SimpleNamespace(**states), last_state=last, restart_count=0
    )


def pod(*containers: SimpleNamespace, **more: Any) -> SimpleNamespace:  # noqa: ANN401  likewise
    """A pod with containers."""
    told = {"phase": "Pending", "conditions": [], "reason": None, "message": None, **more}
    return SimpleNamespace(
        metadata=SimpleNamespace(name="api", uid="1"),
        status=SimpleNamespace(
            container_statuses=list(containers), init_container_statuses=None, **told
        ),
    )


def pods(found: SimpleNamespace | None) -> Pods:
    """The pods of a namespace in which there is at most one."""
    made = object.__new__(Pods)
    made._known = {"api": found} if found is not None else {}
    made._seen = {"api"}
    made._namespace = "demo"
    made._cluster = cast("Any", SimpleNamespace(events=lambda *_: ["Failed: no such image"]))
    return made


WAITING = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "RunContainerError",
    "CrashLoopBackOff",
]


@pytest.mark.parametrize("reason", WAITING)
def test_hopeless_pod_is_told_with_its_events(reason: str) -> None:
    """A container that will never run is not waited for."""
    waiting = SimpleNamespace(reason=reason, message="as I said")

    with pytest.raises(PlatformError) as raised:
        pods(pod(status(waiting=waiting))).await_running("api")

    text = str(raised.value)
    assert text.startswith(f"pod api: envoy: {reason}: as I said")
    assert "Failed: no such image" in text
    assert "\n" not in text


def test_pod_that_starts_is_waited_for() -> None:
    """A container that is being made may yet run."""
    found = pods(pod(status(waiting=SimpleNamespace(reason="ContainerCreating", message=""))))

    found.assert_hopeful("api")
    with pytest.raises(NotYet, match="pod api is Pending"):
        found._assert_running("api")


def test_unschedulable_pod_is_told() -> None:
    """A pod for which no node has room says so."""
    condition = SimpleNamespace(
        type="PodScheduled", reason="Unschedulable", message="0/2 nodes: insufficient memory"
    )

    with pytest.raises(PlatformError, match=r"0/2 nodes: insufficient memory"):
        pods(pod(conditions=[condition])).assert_hopeful("api")


def test_evicted_pod_is_told() -> None:
    """A pod that its node has thrown out says why."""
    evicted = pod(reason="Evicted", message="the node was low on memory")

    with pytest.raises(PlatformError, match="Evicted: the node was low on memory"):
        pods(evicted).assert_hopeful("api")


def test_lack_of_memory_is_told() -> None:
    """A container that the kernel killed for its memory is named."""
    killed = SimpleNamespace(reason="OOMKilled", exit_code=137)

    with pytest.raises(PlatformError, match=r"envoy: killed because .* out of memory"):
        pods(pod(status(terminated=killed))).assert_hopeful("api")


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3), (137, -9), (143, -15)])
def test_status_is_as_a_processs(code: int, expected: int) -> None:
    """A signal is negative, as it is for a process of this machine."""
    ended = SimpleNamespace(reason="Error", exit_code=code)

    found = pods(pod(status(terminated=ended))).container("api", "envoy")

    assert found is not None
    assert (found.running, found.status) == (False, expected)


def test_reason_for_an_image_that_is_not_pulled_has_room() -> None:
    """However often the node names the image before it comes to the reason."""
    name = f"localhost:32769/svidproof/workload@sha256:{'a' * 64}"
    message = (
        f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": failed '
        'to do request: Head "http://172.18.0.6:5000/": dial tcp 172.18.0.6:5000: connect: refused'
    )
    waiting = SimpleNamespace(reason="ErrImagePull", message=message)

    with pytest.raises(PlatformError) as error:
        pods(pod(status("files", waiting=waiting))).assert_hopeful("api")

    told = f"files: ErrImagePull: {name}: dial tcp 172.18.0.6:5000: connect: refused"
    assert told in str(error.value)


def test_lost_pod_is_noticed() -> None:
    """A pod that somebody else deleted is lost; one that was never there is not."""
    assert pods(None).is_lost("api")
    assert not pods(None).is_lost("other")
    assert not pods(pod()).is_lost("api")


def test_pod_that_is_made_again_is_not_lost() -> None:
    """A pod that was deleted to be made anew is no loss until it has been there."""
    found = pods(None)

    found.expect("api")

    assert not found.is_lost("api")


class Log:
    """A container's log at the API server, which refuses it at first; it ends `stop` with it."""

    def __init__(self, stop: Event, *streams: list[bytes]) -> None:
        """What can be read of it each time that it is opened; all but the last are cut off."""
        self.refusals = [ApiException(status=400, reason="not yet")]
        self.since: list[object] = []
        self.closed = 0
        self._stop = stop
        self._streams = list(streams)

    def read_namespaced_pod_log(self, *_: object, **how: object) -> Log:
        """Open it."""
        if self.refusals:
            raise self.refusals.pop()
        self.since.append(how.get("since_seconds"))
        return self

    def read1(self, _size: int) -> bytes:
        """Read on."""
        if self._streams[0]:
            return self._streams[0].pop(0)
        if self._streams[1:]:
            del self._streams[0]
            raise ProtocolError("cut off")
        self._stop.set()
        return b""

    def shutdown(self) -> None:
        """Nobody reads."""

    def close(self) -> None:
        """Nothing is left."""
        self.closed += 1


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param([[b"one\n", b"two\n"]], id="whole"),
        pytest.param([[b"one\n"], [b"one\ntwo\n"]], id="cut"),
        pytest.param([[b"one\nt"], [b"on", b"e\ntw"], [], [b"one", b"\ntwo\n"]], id="cut-often"),
    ],
)
def test_log_is_opened_again(streams: list[list[bytes]]) -> None:
    """A log that cannot be opened at once, or is cut off, is read all the same, and only once."""
    found, read = pods(pod(status(running=SimpleNamespace()))), bytearray()
    found._stop, found._gone, found._followed, found._responses = Event(), set(), set(), set()
    log = Log(found._stop, *streams)
    found._cluster = cast("Any", SimpleNamespace(core=log))
    count = len(streams)

    found._read_log("api", "1", "envoy", read)

    assert read == b"one\ntwo\n"
    assert not log.refusals
    assert log.closed == count


def test_log_of_spires_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins anywhere then: whole lines are told apart by what they say."""
    monkeypatch.setattr(platform, "_AGAIN_S", 0.01)
    log = Log(Event(), [b"one\ntwo\nth"], [], [b"two\n", b"three\nfo"], [b"three\nfour\n"])
    log.refusals.clear()
    seat = cast("Any", SimpleNamespace(pod="spire-server-0", name="spire-server"))

    followed = platform.FollowedLog(cast("Any", SimpleNamespace(core=log)), "spire", seat)
    followed._thread.join()

    assert followed.read(0) == b"one\ntwo\nthree\nfour\n"
    assert followed.read(4) == b"two\nthree\nfour\n"
    assert log.since == [1, 2, 2, 2]
    followed.close()


def test_following_ends_while_a_log_cannot_be_opened() -> None:
    """What is missing now is asked for until nobody wants it."""
    log = Log(Event(), [b"one\n"], [b""])
    log.refusals.clear()
    seat = cast("Any", SimpleNamespace(pod="spire-server-0", name="spire-server"))
    followed = platform.FollowedLog(cast("Any", SimpleNamespace(core=log)), "spire", seat)
    log.refusals += [ApiException(status=404, reason="gone")] * 99

    followed.close()

    assert not followed._thread.is_alive()


def test_command_is_run_by_a_client_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's WebSocket does not turn other requests of that moment into WebSockets."""
    made = object.__new__(api.Cluster)
    made.client = ApiClient(Configuration())
    used = []

    def stream(method: Any, *_: object, **__: object) -> Any:  # noqa: ANN401  the client's
        used.append(method.__self__.api_client)
        return SimpleNamespace(
            run_forever=lambda **_: None,
            is_open=lambda: False,
            read_stdout=lambda _: "out",
            read_stderr=lambda _: "",
            returncode=0,
            sock=SimpleNamespace(shutdown=lambda: None),
        )

    monkeypatch.setattr("kubernetes.stream.stream", stream)

    done = made.run("demo", "api", "relay", ["true"])

    assert (done.status, done.stdout) == (0, "out")
    assert used != [made.client]
    assert used[0].configuration is made.client.configuration


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param(
            401,
            "the API server rejects the kubeconfig's credentials (no): renew them",
            id="expired",
        ),
        pytest.param(403, "not permitted (no): see svidproof doctor", id="forbidden"),
        pytest.param(409, "no", id="other"),
    ],
)
def test_refusals_of_the_api_say_what_to_do(code: int, expected: str) -> None:
    """The API server's message comes with what a person can do about it."""
    error = ApiException(status=code, reason="x")
    error.body = json.dumps({"message": "no"})

    assert expected in api.reason_of(error)


def test_kinds_own_reason_is_shown(tmp_path: Path) -> None:
    """Of kind's output the line counts that says what failed, not the last one."""
    log = tmp_path / "kind.log"
    log.write_text("$ kind create\nERROR: failed to init node\n\nStack: 17 lines\n")

    assert site._reason(log) == "failed to init node"
