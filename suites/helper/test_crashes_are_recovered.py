"""A crashed program and a crashed spiffe-helper run again by the next renewal.

spiffe-helper is no supervisor: it restarts a program that has exited at the next renewal. Something
else must restart spiffe-helper itself, and end its orphaned program first.
"""

import http

from svidproof import Capability, Measure, Source, needs, requirement, spiffe_helper
from svidproof.checks import Recovery, sighting_sha256

SERVER, CLIENT = "manifest-server", "manifest-client"
START = 4.0  # seconds that a program may take to start on a busy machine


@requirement("HELPER-5")
def test_program_runs_again_by_the_next_renewal(crashes: Recovery, measure: Measure) -> None:
    """A killed program runs again, as a new process, by the next renewal of its files."""
    first = crashes.renewals(CLIENT)[0]

    assert CLIENT in crashes.back, f"the program is not back; {crashes.late}"
    late = crashes.back[CLIENT].at - first.first.at
    measure("from renewal to the program's recovery", late, "s")
    assert late <= START, f"the program was back {late:.2f} s after the renewal; {crashes.late}"
    loaded = crashes.state(CLIENT).first
    # It may be back sooner, with the files before that renewal. On a busy machine the files may be
    # renewed once more before it reads them.
    files = crashes.testbed.watch.timeline.sightings(Source.FILES, CLIENT)
    back = crashes.back[CLIENT].at
    before = [s for s in files if s.first.at < first.first.at][-1:]
    since = [s for s in files if first.first.at <= s.first.at and s.first.at - s.delay <= back]
    held = [sighting_sha256(sighting) for sighting in (*before, *since)]
    assert loaded in held, f"it loaded none of the {len(held)} SVIDs in its files until then"
    _assert_new_process(crashes, CLIENT)


@requirement("HELPER-5")
def test_program_is_started_once(crashes: Recovery) -> None:
    """Exactly one process replaces the killed one."""
    component = crashes.testbed.helped[CLIENT].component
    pid = str(crashes.state(CLIENT).pid)

    lines = [record.message for record in crashes.testbed.logs(component, crashes.gone)]

    started = {begun[1] for line in lines if (begun := spiffe_helper.BEGUN.search(line))}
    assert started == {pid}, f"process {pid} replaces it, and {len(started)} were started"


@requirement("HELPER-5")
def test_recovered_program_is_signalled(crashes: Recovery) -> None:
    """The restarted program is signalled for later renewals."""
    crashes.assert_signalled(CLIENT)


@requirement("HELPER-6")
@needs(Capability.KILL)
def test_restarted_helper_starts_its_program(crashes: Recovery, measure: Measure) -> None:
    """A spiffe-helper that was killed and restarted starts its program again."""
    assert SERVER in crashes.back, f"its program is not back; {crashes.late}"
    measure(
        "from crash to recovery of spiffe-helper", crashes.back[SERVER].at - crashes.gone.at, "s"
    )
    _assert_new_process(crashes, SERVER)
    crashes.testbed.helped[SERVER].assert_alive()


@requirement("HELPER-6")
@needs(Capability.KILL)
def test_restarted_helper_renews_and_signals(crashes: Recovery) -> None:
    """The restarted spiffe-helper renews the files, and signals its program each time."""
    crashes.assert_signalled(SERVER)


@requirement("HELPER-5", "HELPER-6")
@needs(Capability.KILL)
def test_requests_succeed_after_the_recovery(crashes: Recovery) -> None:
    """Every request succeeds once both programs run again."""
    missing = {SERVER, CLIENT} - crashes.back.keys()
    assert not missing, f"{', '.join(missing)}: not back; {crashes.late}"
    back = max(crashes.back.values(), key=lambda moment: moment.at)

    requests = crashes.requests(CLIENT, since=back)

    failed = [r for r in requests if r.status != http.HTTPStatus.OK]
    assert not failed, f"{len(failed)} of {len(requests)} failed; the first: {failed[0].note}"


def _assert_new_process(crashes: Recovery, name: str) -> None:
    before, after = crashes.before[name], crashes.state(name)
    assert after.pid != before.pid, f"process {before.pid} still runs: it did not crash"
    started, crash = after.begun, crashes.gone.wall.timestamp()
    early = crash - started
    assert started >= crash, f"process {after.pid} started {early:.2f} s before the crash"
