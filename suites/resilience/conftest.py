"""The experiments with faults: what is disturbed, for how long, and the record; each runs once."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from svidproof import (
    LAG,
    MISSING_SVID_S,
    SDS_RETRY_S,
    Capability,
    Fault,
    Period,
    PlatformError,
    Progress,
    Testbed,
    experiment,
    helper_reconnect,
    next_sync,
)
from svidproof.checks import (
    AgentRestart,
    AgentStart,
    AgentUpgrade,
    Answers,
    Ban,
    CachedToken,
    EntryChanges,
    Eviction,
    FileOutage,
    FilePlan,
    Growth,
    KeysRefused,
    Locked,
    Modes,
    Noticed,
    Outage,
    OutagePlan,
    Redirected,
    ServerRestart,
    ServerUpgrade,
    Starts,
    Unstored,
    Withdrawal,
    observe_agent_restart,
    observe_agent_upgrade,
    observe_ban,
    observe_cached_token,
    observe_entry,
    observe_eviction,
    observe_expired_agents,
    observe_file_outage,
    observe_growth,
    observe_growth_over_restarts,
    observe_health,
    observe_keys_refused,
    observe_lock,
    observe_lonely_start,
    observe_modes,
    observe_new_entry,
    observe_outage,
    observe_outages,
    observe_redirected,
    observe_replacement,
    observe_restart_below_another_ca,
    observe_server_restart,
    observe_server_upgrade,
    observe_starts,
    observe_twins,
    observe_unstored,
    observe_withdrawal,
)

NEEDS = [
    Capability.FAULTS,
    Capability.PAUSE,
    Capability.KILL,
    Capability.OWN_SPIRE,
    Capability.OWN_TRUST_ROOT,
    Capability.SPIRE_LOGS,
]
RELAYED = [*NEEDS, Capability.RELAY]
OWN_FILES = [*NEEDS, Capability.OWN_MACHINE]
TOKENS = [*OWN_FILES, Capability.OUTSIDE]
READ_ONLY = [*TOKENS, Capability.READ_ONLY]
UPGRADE = [*OWN_FILES, Capability.TOPOLOGIES]
DATABASE = [*RELAYED, Capability.TOPOLOGIES, Capability.POSTGRESQL]
# Seconds in which a component starts on a busy machine: for an agent, attestation included.
START_S = 4.0
DELAY_S = 0.3  # of every chunk between agent and server


def after_server(testbed: Testbed) -> Callable[[float], float]:
    """The longest time from a return until sidecars have new SVIDs, by the seconds of absence."""
    ttl, sync = testbed.scenario.svid_ttl, testbed.settings.timing.sync_s
    # What was issued just before a short absence is not renewed before it is due.
    due = Period.of(ttl, sync).longest(ttl)
    return lambda seconds: max(next_sync(seconds, sync), due - seconds) + LAG


def after_agent(_seconds: float) -> float:
    """The same for an agent that starts: sidecars open their SDS streams again by Envoy's rule."""
    return START_S + SDS_RETRY_S + MISSING_SVID_S + LAG


@experiment("outage", testbed="server-away", changes=True, seconds=20, needs=NEEDS)
def server_away(testbed: Testbed, progress: Progress) -> Mapping[str, Outage]:
    """The server is stopped, and later hangs, for less than SVIDs have left."""
    server, faults = testbed.spire.component, testbed.faults
    recovery = after_server(testbed)
    stopped = OutagePlan(faults.stopped(server), recovery, stopped=(server,))
    paused = OutagePlan(faults.paused(server), recovery)
    plans = {"stopped": stopped, "paused": paused}
    return observe_outages(testbed, plans, progress)


@experiment("outage", testbed="server-gone", changes=True, seconds=45, needs=NEEDS)
def server_gone(testbed: Testbed, progress: Progress) -> Outage:
    """The server is killed for longer than SVIDs live."""
    server = testbed.spire.component
    fault = testbed.faults.killed(server)
    plan = OutagePlan(fault, after_server(testbed), outlasts=True, stopped=(server,))
    outage = observe_outage(testbed, plan, progress)
    # Once it has recovered, the agent must synchronise as often as before.
    entry = observe_new_entry(testbed, entry_bound(testbed), progress)
    return replace(outage, entry=entry)


@experiment("restarts", testbed="agent-away", changes=True, seconds=30, needs=NEEDS)
def agent_restarted(testbed: Testbed, progress: Progress) -> Mapping[str, Outage]:
    """The agent is stopped, and later killed, for less than SVIDs have left."""
    agent, faults = _agent(testbed), testbed.faults
    causes = {"stopped": faults.stopped(agent), "killed": faults.killed(agent)}
    plans = {
        name: OutagePlan(
            fault,
            after_agent,
            stopped=(agent,),
            agent_answers=False,
            renews=False,
            reopens=True,
        )
        for name, fault in causes.items()
    }
    return observe_outages(testbed, plans, progress)


@experiment("outage", testbed="agent-hangs", changes=True, seconds=10, needs=NEEDS)
def agent_paused(testbed: Testbed, progress: Progress) -> Outage:
    """The agent hangs for less than SVIDs have left."""
    agent = _agent(testbed)
    fault, recovery = testbed.faults.paused(agent), after_server(testbed)
    plan = OutagePlan(fault, recovery, agent_answers=False)
    return observe_outage(testbed, plan, progress)


@experiment("outage", testbed="agent-gone", changes=True, seconds=55, needs=NEEDS)
def agent_gone(testbed: Testbed, progress: Progress) -> Outage:
    """The agent is killed for longer than the lifetime of SVIDs."""
    agent = _agent(testbed)
    fault = testbed.faults.killed(agent)
    plan = OutagePlan(fault, after_agent, outlasts=True, stopped=(agent,), agent_answers=False)
    return observe_outage(testbed, plan, progress)


@experiment("outage", testbed="asleep", changes=True, seconds=35, needs=NEEDS)
def asleep(testbed: Testbed, progress: Progress) -> Outage:
    """All components are paused for longer than the lifetime of SVIDs, as on a suspended laptop."""
    everything = tuple(testbed.components)
    plan = OutagePlan(
        testbed.faults.paused(*everything),
        after_server(testbed),
        outlasts=True,
        mesh_answers=False,
        agent_answers=False,
    )
    return observe_outage(testbed, plan, progress)


@experiment("outage", testbed="connection", changes=True, seconds=30, needs=RELAYED)
def connection_broken(testbed: Testbed, progress: Progress) -> Mapping[str, Outage]:
    """The connection of agent and server is refused, then held, then delayed."""
    faults, recovery = testbed.faults, after_server(testbed)
    causes = {
        "refused": faults.refused(),
        "held": faults.held(),
        "delayed": faults.delayed(DELAY_S),
    }
    plans = {name: OutagePlan(fault, recovery) for name, fault in causes.items()}
    return observe_outages(testbed, plans, progress)


@experiment("outage", testbed="connection", changes=True, seconds=15, needs=RELAYED)
def connection_redirected(testbed: Testbed, progress: Progress) -> Redirected:
    """The connections of the agent lead to a workload in the server's place."""
    return observe_redirected(testbed, after_server(testbed), progress)


def _agent(testbed: Testbed) -> str:
    [agent] = testbed.agents
    return agent


@experiment("restarts", testbed="sidecars", changes=True, seconds=8, needs=NEEDS)
def sidecar_restarted(testbed: Testbed, progress: Progress) -> Starts:
    """The server's sidecar is killed and started again."""
    bound = START_S + MISSING_SVID_S + LAG
    return observe_starts(testbed, ["server"], bound, progress)


@experiment("restarts", testbed="sidecars", changes=True, seconds=20, needs=NEEDS)
def sidecar_without_agent(testbed: Testbed, progress: Progress) -> Starts:
    """The client's sidecar starts without an agent, which starts later."""
    bound = after_agent(0.0)
    return observe_starts(testbed, ["client"], bound, progress, agent_away=True)


@experiment("burst", testbed="burst", changes=True, seconds=10, needs=NEEDS)
def burst_of_sidecars(testbed: Testbed, progress: Progress) -> Starts:
    """All sidecars of an agent are killed and start again at the same moment."""
    names = list(testbed.workloads)
    # Each of them takes its share of a busy machine to start.
    bound = START_S * len(names) / 2 + MISSING_SVID_S + LAG
    return observe_starts(testbed, names, bound, progress)


@experiment("outage", testbed="entries", changes=True, seconds=4, needs=NEEDS)
def entry_changes(testbed: Testbed, progress: Progress) -> EntryChanges:
    """One entry is created, changed, deleted and created again with the same ID."""
    return observe_entry(testbed, entry_bound(testbed), progress)


@experiment("outage", testbed="entries", changes=True, seconds=20, needs=RELAYED)
def entry_replacement(testbed: Testbed, progress: Progress) -> EntryChanges:
    """One entry is changed and replaced while the agent syncs late, or misses the change."""
    return observe_replacement(testbed, entry_bound(testbed), progress)


@experiment("outage", testbed="entries", changes=True, seconds=8, needs=RELAYED)
def entry_withdrawn(testbed: Testbed, progress: Progress) -> Withdrawal:
    """One entry is deleted while the agent cannot reach the server."""
    return observe_withdrawal(testbed, entry_bound(testbed), progress)


@experiment("outage", testbed="evicted", changes=True, seconds=8, needs=NEEDS)
def evicted_agent(testbed: Testbed, progress: Progress) -> Eviction:
    """The agent is evicted, and attests again."""
    ttl, sync = testbed.scenario.svid_ttl, testbed.settings.timing.sync_s
    bound = next_sync(sync, sync) + START_S + Period.of(ttl, sync).longest(ttl) + LAG
    return observe_eviction(testbed, bound, progress)


@experiment("outage", testbed="entries", changes=True, seconds=6, needs=NEEDS)
def banned_agent(testbed: Testbed, progress: Progress) -> Ban:
    """The agent is banned, and may not attest again."""
    bound = next_sync(0.0, testbed.settings.timing.sync_s) + START_S + LAG
    return observe_ban(testbed, bound, progress)


def entry_bound(testbed: Testbed) -> float:
    """The longest allowed time from an entry to its SVID.

    The server reloads its entries every interval, and the agent syncs with ten percent of jitter
    and fetches a requested SVID soon afterwards.
    """
    interval = testbed.settings.timing.sync_s
    return interval + interval * 1.1 + MISSING_SVID_S + LAG


@experiment("restarts", testbed="sidecars", changes=True, seconds=4, needs=NEEDS)
def server_restart(testbed: Testbed, progress: Progress) -> ServerRestart:
    """A server with its keys and its datastore on disk is stopped and started again."""
    return observe_server_restart(testbed, progress)


@experiment("outage", testbed="evicted", changes=True, seconds=27, needs=RELAYED)
def cached_token(testbed: Testbed, progress: Progress) -> CachedToken:
    """Tokens are requested: one that is due while the server hangs, and one that has expired."""
    return observe_cached_token(testbed, progress)


@experiment("database", testbed="database-away", changes=True, seconds=50, needs=DATABASE)
def database_away(testbed: Testbed, progress: Progress) -> Mapping[str, Outage]:
    """The server's database ends, hangs or cannot be reached, for less than SVIDs have left."""
    [database, server], faults = _database(testbed), testbed.faults
    causes = {
        "stopped": faults.stopped(database),
        "killed": faults.killed(database),
        "paused": faults.paused(database),
        "refused": faults.database_refused(),
        "held": faults.database_held(),
    }
    recovery = after_server(testbed)
    plans = {name: OutagePlan(fault, recovery, stuck=(server,)) for name, fault in causes.items()}
    return observe_outages(testbed, plans, progress)


@experiment("database", testbed="database-gone", changes=True, seconds=50, needs=DATABASE)
def database_gone(testbed: Testbed, progress: Progress) -> Outage:
    """The server's database is killed for longer than SVIDs live."""
    [database, _] = _database(testbed)
    return _without_database(testbed, testbed.faults.killed(database), progress)


@experiment("database", testbed="database-hangs", changes=True, seconds=50, needs=DATABASE)
def database_hangs(testbed: Testbed, progress: Progress) -> Outage:
    """The server's database hangs for longer than SVIDs live."""
    [database, _] = _database(testbed)
    return _without_database(testbed, testbed.faults.paused(database), progress)


@experiment("database", testbed="database-noticed", changes=True, seconds=65, needs=DATABASE)
def database_noticed(testbed: Testbed, progress: Progress) -> Noticed:
    """The server's database is killed until every health endpoint of the server reports it."""
    [database, _] = _database(testbed)
    return observe_health(testbed, testbed.faults.killed(database), progress)


def _database(testbed: Testbed) -> tuple[str, str]:
    """The components of the database and of the server that uses it."""
    database = testbed.domain().database
    if database is None:
        raise PlatformError(f"scenario {testbed.scenario.name} has no database")
    return database.component, testbed.spire.component


def _without_database(
    testbed: Testbed, fault: AbstractContextManager[Fault], progress: Progress
) -> Outage:
    [_, server] = _database(testbed)
    plan = OutagePlan(fault, after_server(testbed), outlasts=True, stuck=(server,))
    outage = observe_outage(testbed, plan, progress)
    # Once it has recovered, the server must store and sign as before.
    entry = observe_new_entry(testbed, entry_bound(testbed), progress)
    return replace(outage, entry=entry)


@experiment("outage", testbed="evicted", changes=True, seconds=22, needs=OWN_FILES)
def database_locked(testbed: Testbed, progress: Progress) -> Locked:
    """Another process locks the server's SQLite database for less than SVIDs have left."""
    return observe_lock(testbed, after_server(testbed), entry_bound(testbed), progress)


@experiment("agent-keys", testbed="agent-keys", changes=True, seconds=16, needs=TOKENS)
def agent_kept(testbed: Testbed, progress: Progress) -> Mapping[str, AgentRestart]:
    """An agent with its keys on disk is stopped, and later killed, and starts again."""
    ways = ("stopped", "killed")
    return {how: observe_agent_restart(testbed, how, progress) for how in ways}


@experiment("upgrade", testbed="upgraded", changes=True, seconds=20, needs=UPGRADE)
def server_upgrade(testbed: Testbed, progress: Progress) -> ServerUpgrade:
    """A server of the previous minor version is replaced by the version under test."""
    return observe_server_upgrade(testbed, progress)


@experiment("upgrade", testbed="upgraded", changes=True, seconds=15, needs=UPGRADE)
def agent_upgrade(
    testbed: Testbed,
    progress: Progress,
    server_upgrade: ServerUpgrade,  # noqa: ARG001  it comes first
) -> AgentUpgrade:
    """After its server, the agent is replaced, too."""
    return observe_agent_upgrade(testbed, progress)


@experiment("restarts", testbed="sidecars", changes=True, seconds=1, needs=OWN_FILES)
def server_modes(testbed: Testbed, progress: Progress) -> Modes:
    """The permissions of files and sockets, of a server with its keys on disk."""
    return observe_modes(testbed, progress)


@experiment("agent-keys", testbed="agent-keys", changes=True, seconds=1, needs=TOKENS)
def agent_modes(testbed: Testbed, progress: Progress) -> Modes:
    """The same, of an agent with its keys on disk."""
    return observe_modes(testbed, progress)


@experiment("agent-keys", testbed="agent-keys", changes=True, seconds=3, needs=TOKENS)
def twins(testbed: Testbed, progress: Progress) -> tuple[AgentStart, ...]:
    """Two agents start at once with one join token."""
    return observe_twins(testbed, progress)


@experiment("agent-keys", testbed="agent-data", changes=True, seconds=35, needs=TOKENS)
def data_lost(testbed: Testbed, progress: Progress) -> Unstored:
    """The data directory of a running agent is lost until its SVID has nearly expired."""
    [agent] = testbed.agents.values()
    return observe_unstored(testbed, testbed.faults.data_lost(agent), progress)


@experiment("agent-keys", testbed="agent-disk", changes=True, seconds=35, needs=TOKENS)
def agent_disk_full(testbed: Testbed, progress: Progress) -> Unstored:
    """The disk of an agent is full until its SVID has nearly expired."""
    [agent] = testbed.agents.values()
    full = testbed.faults.disk_full(agent.component, agent.keys)
    return observe_unstored(testbed, full, progress)


@experiment("agent-keys", testbed="agent-read-only", changes=True, seconds=35, needs=READ_ONLY)
def agent_disk_read_only(testbed: Testbed, progress: Progress) -> Unstored:
    """The data directory of an agent is read-only until its SVID has nearly expired."""
    [agent] = testbed.agents.values()
    fault = testbed.faults.read_only(agent.component, agent.data)
    return observe_unstored(testbed, fault, progress)


@experiment("restarts", testbed="sidecars", changes=True, seconds=8, needs=OWN_FILES)
def server_disk_full(testbed: Testbed, progress: Progress) -> KeysRefused:
    """The disk of a server is full, and it is asked to prepare its next authority."""
    server = testbed.spire
    return observe_keys_refused(
        testbed, testbed.faults.disk_full(server.component, server.keys), progress
    )


@experiment("agent-keys", testbed="agent-keys", changes=True, seconds=30, needs=TOKENS)
def agents_expired(testbed: Testbed, progress: Progress) -> Mapping[str, AgentStart]:
    """Agents are killed for longer than their own SVIDs live, and start again."""
    return observe_expired_agents(testbed, progress)


@experiment("agent-keys", testbed="agent-roots", changes=True, seconds=15, needs=TOKENS)
def agent_below_another_ca(testbed: Testbed, progress: Progress) -> AgentRestart:
    """An agent with its keys on disk is restarted after the upstream root has been replaced."""
    return observe_restart_below_another_ca(testbed, progress)


@experiment("outage", testbed="usage", changes=True, seconds=8, needs=NEEDS)
def agent_alone(testbed: Testbed, progress: Progress) -> Answers:
    """The agent starts while there is no server."""
    return observe_lonely_start(testbed, progress)


@experiment("outage", testbed="usage", changes=True, seconds=15, needs=OWN_FILES)
def growth(testbed: Testbed, progress: Progress) -> Mapping[str, Growth]:
    """Every component is called many times."""
    return observe_growth(testbed, progress)


@experiment("restarts", testbed="restarted", changes=True, seconds=50, needs=OWN_FILES)
def growth_over_restarts(testbed: Testbed, progress: Progress) -> Mapping[str, Growth]:
    """The server, a sidecar and the agent are killed and started many times."""
    return observe_growth_over_restarts(testbed, progress)


BOTH = ("server", "client")  # with SVIDs that the agent's and spiffe-helper's absence outlasts
ALL = (*BOTH, "steady-server", "steady-client")


def after_agent_of_files(seconds: float) -> float:
    """As `after_agent`, for spiffe-helper, which opens its stream again by gRPC's and its rule."""
    return START_S + helper_reconnect(seconds + START_S) + MISSING_SVID_S + LAG


@experiment("helper-outage", testbed="agent-away", changes=True, seconds=25, needs=NEEDS)
def files_without_agent(testbed: Testbed, progress: Progress) -> FileOutage:
    """The agent is stopped for less than SVIDs have left."""
    fault = testbed.faults.stopped(_agent(testbed))
    plan = FilePlan(fault, ALL, after_agent_of_files, signed=True)
    return observe_file_outage(testbed, plan, progress)


@experiment("helper-outage", testbed="agent-gone", changes=True, seconds=55, needs=NEEDS)
def files_long_without_agent(testbed: Testbed, progress: Progress) -> FileOutage:
    """The agent is killed until the SVIDs of two workloads have expired, and not those of two."""
    fault = testbed.faults.killed(_agent(testbed))
    plan = FilePlan(fault, ALL, after_agent_of_files, outlasts=True, signed=True)
    return observe_file_outage(testbed, plan, progress)


@experiment("helper-outage", testbed="agent-away", changes=True, seconds=20, needs=OWN_FILES)
def helper_killed(testbed: Testbed, progress: Progress) -> FileOutage:
    """The server's spiffe-helper is killed with its program, and started again."""
    helper = testbed.helped["server"].component
    plan = FilePlan(testbed.faults.killed(helper), ("server",), after_helper(testbed))
    return observe_file_outage(testbed, plan, progress)


@experiment("helper-outage", testbed="helper-asleep", changes=True, seconds=35, needs=NEEDS)
def helper_paused(testbed: Testbed, progress: Progress) -> FileOutage:
    """The client's spiffe-helper and its program are paused until their SVID has expired."""
    helper, away = testbed.helped["client"].component, after_helper(testbed)
    plan = FilePlan(testbed.faults.paused(helper), ("client",), away, outlasts=True)
    return observe_file_outage(testbed, plan, progress)


def after_helper(testbed: Testbed) -> Callable[[float], float]:
    """As `after_server`, for spiffe-helper itself: the agent has what it has missed."""
    ttl, sync = testbed.scenario.svid_ttl, testbed.settings.timing.sync_s
    due = Period.of(ttl, sync).longest(ttl)
    return lambda seconds: START_S + max(due - seconds, 0.0) + LAG
