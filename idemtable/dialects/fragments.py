"""What the statements of all databases have in common, for their templates."""

from __future__ import annotations

from ..model import Status

COLUMNS = "id, tenant, scope, {key}, fingerprint, status, owner, created_at, expires_at"
VALUES = f":id, :tenant, :scope, :key, :fingerprint, {Status.IN_PROGRESS.code}, :owner, {{now}}, {{later}}"
MORTAL = ", ".join(str(status.code) for status in (Status.COMPLETED, Status.FAILED, Status.ISSUED, Status.SPENT))
"""What ages: neither a row without a result, nor one that only a newer release understands."""
# A minute later than it may: a call whose COMMIT got no answer comes back within seconds and must find its row. The column
# by itself too, for the index; in-progress rows never expire.
EXPIRED_WHERE = f"""expires_at <= {{past}} AND {{expires}} <= {{past}}
            AND status IN ({MORTAL})"""
LASTING = f"status IN ({Status.COMPLETED.code}, {Status.FAILED.code}) AND completed_at > created_at"
"""Rows whose time to live counts from their completion. The column counts from the claim, for it is indexed and storing
must not change it: what the call took is added where the time is compared."""
TAKE_OVER = f"""
        UPDATE {{table}} SET fingerprint = :fingerprint, status = {Status.IN_PROGRESS.code}, owner = :owner,
            codec = NULL, result = NULL, completed_at = NULL, created_at = {{now}}, expires_at = {{later}}
        WHERE id = :id AND owner = :stale AND {{expires}} <= {{now}}"""
REDEEM = f"""
        UPDATE {{table}} SET fingerprint = :fingerprint, status = {Status.IN_PROGRESS.code}, owner = :owner
        WHERE id = :id AND owner = :holder AND status = {Status.ISSUED.code} AND expires_at > {{now}}"""
# The id and the owner: the one check that notices a deadlock that was swallowed, a ROLLBACK sent as text, a claim that
# somebody else has taken over.
STORE = """
        UPDATE {table} SET status = :status, codec = :codec, result = :result, completed_at = {now}
        WHERE id = :id AND owner = :owner"""
FORGET = "DELETE FROM {table} WHERE id = :id"


def issuing(count: int) -> str:
    """Return the template of a statement that inserts `count` tokens."""
    rows = (f"(:id{n}, :tenant, :scope, :owner{n}, {Status.ISSUED.code}, {{now}}, {{later}})" for n in range(count))
    return f"""
        INSERT INTO {{table}} (id, tenant, scope, owner, status, created_at, expires_at) VALUES {", ".join(rows)}"""
