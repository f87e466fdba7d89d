"""What the nodes of a Galera cluster and the members of a MySQL replication group say of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ...model import Finding
from .asking import good, mend, note

_QUORUM: Final = 3
"""Of two nodes the one that stays cannot know whether the other one is dead, and stops."""
_QUICK: Final = 5
"""Seconds of suspicion, MySQL's default, after which a member is expelled that does not answer."""
_ELSEWHERE: Final = (
    "a duplicate on another node is not kept waiting: it runs, and is rolled back at COMMIT. Send a key's calls to one "
    "node, and do nothing in a function that a rollback does not undo"
)


def galera(variables: Mapping[str, str], status: Mapping[str, str]) -> Iterator[Finding]:
    """Judge a node of a Galera cluster; nothing for a server that is none.

    Args:
        variables: the global ones, by name in small letters.
        status: the same.
    """
    if variables.get("wsrep_on") != "ON":
        return
    state, ready = status.get("wsrep_cluster_status", ""), status.get("wsrep_ready", "OFF")
    if state != "Primary" or ready != "ON":
        text = f"wsrep_cluster_status is {state or 'unknown'}, wsrep_ready {ready}: this node takes no writes"
        cure = (
            "Take another node; if none is Primary, SET GLOBAL wsrep_provider_options = 'pc.bootstrap=1' on the newest"
        )
        yield mend("galera", text, cure)
    else:
        yield note("galera", f"a node of {status.get('wsrep_cluster_size', '?')}: {_ELSEWHERE}")
    size = int(status.get("wsrep_cluster_size", "0") or 0)
    if size < _QUORUM:
        text = f"{size}: when one goes the rest stops, for it cannot know who is right"
        yield note("wsrep_cluster_size", text, "Three nodes, or two and an arbitrator (garbd)")
    elif size % 2 == 0:
        text = f"{size}: when the cluster breaks into halves both stop"
        yield note("wsrep_cluster_size", text, "An odd number of nodes, or an arbitrator (garbd)")
    else:
        yield good("wsrep_cluster_size", str(size))
    if variables.get("wsrep_sync_wait", "0") == "0":
        text = "0: a look on another node may be a moment behind. Calls are right all the same; get may not know yet"
        yield note("wsrep_sync_wait", text, "wsrep_sync_wait = 1 for the sessions that must not")
    if (fragment := variables.get("wsrep_trx_fragment_size", "0")) != "0":
        text = f"{fragment}: a transaction in pieces holds its rows on all nodes before it is committed"
        yield note("wsrep_trx_fragment_size", text, "0 for the application's sessions")
    if variables.get("wsrep_osu_method") == "RSU":
        text = "RSU: a table is changed on one node alone, and nodes may differ meanwhile"
        yield note("wsrep_osu_method", text, "TOI for `idemtable db upgrade`")


def group(variables: Mapping[str, str], members: Sequence[Any] | None) -> Iterator[Finding]:
    """Judge a member of a replication group; nothing for a server that is none.

    Args:
        variables: the global ones, by name in small letters.
        members: state and role of each member; ``None`` where this role may not see them.
    """
    if not variables.get("group_replication_group_name"):
        return
    yield from _members(variables, members)
    name = "group_replication_unreachable_majority_timeout"
    if variables.get(name, "0") == "0":
        text = "0: where the majority is gone COMMIT never answers, and neither does the call"
        yield mend(name, text, f"SET GLOBAL {name} = 10, and in the configuration; or a driver with a read time-out")
    else:
        yield good(name, f"{variables[name]} s")
    name = "group_replication_member_expel_timeout"
    if (seconds := int(variables.get(name, _QUICK))) > _QUICK:
        text = f"{seconds} s: for so long, and five seconds more, COMMIT waits for a member that is dead"
        yield note(name, text, f"SET GLOBAL {name} = {_QUICK}, or wait= and failover accordingly")
    else:
        yield good(name, f"{seconds} s")
    name = "group_replication_consistency"
    level = variables.get(name, "EVENTUAL")
    if level in ("BEFORE", "BEFORE_AND_AFTER"):
        yield good(name, level)
    else:
        text = f"{level}: a duplicate on another member may run before it knows of the first one, and is rolled back"
        yield note(name, text, "BEFORE spares the run, for a wait at each BEGIN; SET SESSION takes it too")
    if variables.get("group_replication_single_primary_mode") == "OFF":
        yield note("group_replication_single_primary_mode", f"OFF: {_ELSEWHERE}")


def _members(variables: Mapping[str, str], members: Sequence[Any] | None) -> Iterator[Finding]:
    about = "group replication"
    if members is None:
        text = "this role may not see the members"
        yield note(about, text, "GRANT SELECT ON performance_schema.replication_group_members")
        return
    online = [role for state, role in members if state == "ONLINE"]
    if not online:
        states = ", ".join(sorted({str(state) for state, _ in members})) or "none"
        text = f"no member is ONLINE ({states}): this server is not part of its group"
        yield mend(about, text, "START GROUP_REPLICATION, or take another server")
    elif len(online) < len(members) or len(online) < _QUORUM:
        text = f"{len(online)} of {len(members)} members are ONLINE: the group may not outlive the next loss"
        yield note(about, text, "Bring the others back; three members outlive the loss of one")
    else:
        yield good(about, f"{len(online)} members are ONLINE")
