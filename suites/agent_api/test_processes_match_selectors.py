"""An agent finds out who a process is, and gives it the SVIDs of the entries that it matches."""

import contextlib
import grp
import hashlib
import os
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc
import pytest

from svidproof import (
    Budget,
    Capability,
    NotYet,
    Saw,
    Testbed,
    budgets,
    consistently,
    eventually,
    needs,
    requirement,
)
from svidproof.probes import X509Answer, agent_debug, delegated, fetch_x509, server_api

pytestmark = needs(Capability.OWN_SPIRE, Capability.OWN_MACHINE, Capability.UNREGISTERED_PROCESS)
Marked = Callable[..., tuple[str, ...]]
AwaitSvids = Callable[..., X509Answer]
UNREQUESTED = 30  # several times the other entries of the agent
# The agent answers GetInfo from a cache of 5 s.
NOT_FETCHED = Budget("the agent fetches no SVID that no caller has requested", 8, 0.5)
NOBODY = 65_432  # a number that no user or group of the process has


def _selectors() -> dict[str, str]:
    """What SPIRE's attestor `unix` says of this process, by the names of entries."""
    user, group, program = os.geteuid(), os.getegid(), Path("/proc/self/exe")
    found = {"uid": f"uid:{user}", "gid": f"gid:{group}", "path": f"path:{program.readlink()}"}
    found["sha256"] = f"sha256:{hashlib.sha256(program.read_bytes()).hexdigest()}"
    with contextlib.suppress(KeyError):  # the machine may have no name for it
        found["user"] = f"user:{pwd.getpwuid(user).pw_name}"
    with contextlib.suppress(KeyError):
        found["group"] = f"group:{grp.getgrgid(group).gr_name}"
    for number in os.getgroups():
        found[f"supplementary-gid-{number}"] = f"supplementary_gid:{number}"
        with contextlib.suppress(KeyError):
            name = grp.getgrgid(number).gr_name
            found[f"supplementary-group-{number}"] = f"supplementary_group:{name}"
    return found


@requirement("AGENT-14")
@pytest.mark.usefixtures("provoked")
def test_process_has_its_user_groups_and_executable(agent_api: Testbed, saw: Saw) -> None:
    """A process gets an SVID for each selector of it, and for no other."""
    own = _selectors()
    others = {f"other-{kind}": f"{kind}:{NOBODY}" for kind in ("uid", "gid", "supplementary_gid")}
    others |= {"other-path": f"{own['path']}-another", "other-sha256": f"sha256:{'0' * 64}"}
    prober, spiffe_id = agent_api.prober, agent_api.scenario.spiffe_id
    with contextlib.ExitStack() as registered:
        # Those of others come first: once the last entry is served, the agent has all of them.
        for name, selector in [*others.items(), *own.items()]:
            selectors = dict.fromkeys((*prober.selectors, f"unix:{selector}"))
            registered.enter_context(agent_api.registered(_name(name), tuple(selectors)))
        wanted = {spiffe_id(_name(name)) for name in own}
        eventually(lambda: _assert_served(agent_api, wanted), budgets.REGISTRATION)
    saw(f"{len(own)} selectors of the process")


@requirement("AGENT-15")
@pytest.mark.usefixtures("provoked")
def test_stored_svid_is_given_to_no_process(agent_api: Testbed) -> None:
    """A process does not get the SVID of an entry whose SVIDs are for an SVIDStore plugin."""
    prober, spiffe_id = agent_api.prober, agent_api.scenario.spiffe_id
    with (
        agent_api.registered("stored", prober.selectors, store_svid=True),
        # A control: once this one is served, the agent has both.
        agent_api.registered("not-stored", prober.selectors),
    ):
        eventually(
            lambda: _assert_served(agent_api, {spiffe_id("not-stored")}), budgets.REGISTRATION
        )


@requirement("AGENT-16")
def test_svid_is_not_fetched_before_it_is_requested(
    agent_api: Testbed, admin: str, marked: Marked, await_svids: AwaitSvids
) -> None:
    """With disable_x509_svid_prefetch, the agent has an SVID only once a caller asks for it."""
    registration, parent = agent_api.registration, agent_api.agent_id("prober")
    names = [f"unrequested-{number}" for number in range(UNREQUESTED)]
    attributes = {"disable_x509_svid_prefetch": True}
    made = [
        {**registration.entry(name, marked(name), parent), "additional_attributes": attributes}
        for name in names
    ]
    ids = agent_api.spire.create_entries(made)
    try:
        with agent_api.registered("control", marked("control")):
            # Once it has this one, the agent knows of the others, which were created before.
            control = [agent_api.scenario.spiffe_id("control")]
            await_svids(admin, delegated.On(marked("control")), control)
            consistently(lambda: _assert_few_cached(admin), NOT_FETCHED)
            cached = agent_debug.require_info(admin).svids
            assert cached, "control: the agent has not even the SVID that the suite has requested"
        wanted = [agent_api.scenario.spiffe_id(names[0])]
        await_svids(admin, delegated.On(marked(names[0])), wanted)
    finally:
        with server_api.calling_locally(agent_api.spire.local_api) as local:
            local.call("entry", "BatchDeleteEntry", ids=ids)


def _name(name: str) -> str:
    return f"selected-by-{name.replace('_', '-')}"


def _assert_served(testbed: Testbed, wanted: Iterable[str]) -> None:
    answer = fetch_x509(testbed.prober.workload_api())
    # The suite's process is also a delegate at times, and has the SVID of a delegate then.
    delegate = testbed.scenario.spiffe_id("delegate")
    found, asked = {svid.spiffe_id for svid in answer.svids} - {delegate}, {*wanted}
    if answer.code is not grpc.StatusCode.OK or found != asked:
        missing, more = sorted(asked - found), sorted(found - asked)
        raise NotYet(f"the process lacks {missing} and has {more}: {answer}")


def _assert_few_cached(admin: str) -> None:
    cached = agent_debug.require_info(admin).svids
    assert cached < UNREQUESTED, f"the agent has {cached} SVIDs, most of them unrequested"
