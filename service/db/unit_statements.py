"""The statements on units that say more than the query builder does well."""

from __future__ import annotations

from sqlalchemy import JSON, bindparam, text

# The next unit in fair order is picked first, and only then is it asked whether it may run now: a
# measurement that waits for a quiet device keeps its turn, and the device drains for it. `live` is
# materialized so that a job's last claim is looked up once per job, not once per pending unit.
CLAIM = text(
    """
    WITH live AS MATERIALIZED (
        SELECT jobs.id,
               (SELECT max(started_at) FROM units WHERE units.job_id = jobs.id) AS last_claim
        FROM jobs WHERE jobs.status = ANY(:live)
    ), next AS MATERIALIZED (
        SELECT units.id, units.kind
        FROM units JOIN live ON live.id = units.job_id
        WHERE units.state = 'pending' AND (units.device IS NULL OR units.device = :device)
          AND (units.not_before IS NULL OR units.not_before <= clock_timestamp())
        ORDER BY live.last_claim NULLS FIRST, units.id
        LIMIT 1 FOR UPDATE OF units SKIP LOCKED
    )
    UPDATE units SET
        state = 'leased', attempt = attempt + 1, worker_id = :worker_id, device_uuid = :device_uuid,
        started_at = clock_timestamp(), lease_until = clock_timestamp() + :lease
    FROM next
    WHERE units.id = next.id AND NOT EXISTS (
        SELECT 1 FROM units AS other
        WHERE other.state = 'leased' AND other.device_uuid = :device_uuid
          AND (other.kind = ANY(:quiet) OR next.kind = ANY(:quiet))
    )
    RETURNING units.*, (SELECT request_id FROM jobs WHERE jobs.id = units.job_id) AS request_id
    """
).bindparams(bindparam("live"), bindparam("quiet"))

# Two claims for one device see each other's lease; the lock ends with the transaction.
LOCK_DEVICE = text("SELECT pg_advisory_xact_lock(hashtextextended(:device_uuid, 0))")

# leased -> done, and counted; no row where the attempt holds the lease no longer.
FINISH = text(
    """
    WITH held AS (
        UPDATE units SET
            state = 'done', finished_at = clock_timestamp(), lease_until = NULL,
            result = :result, error = NULL
        WHERE id = :unit_id AND attempt = :attempt AND state = 'leased'
        RETURNING kind, extract(epoch FROM finished_at - started_at)::float AS seconds
    ), counted AS (
        INSERT INTO tallies (name, kind, outcome, count, seconds)
        SELECT 'unit', kind, 'done', 1, seconds FROM held
        ON CONFLICT (name, kind, outcome) DO UPDATE SET
            count = tallies.count + excluded.count, seconds = tallies.seconds + excluded.seconds
    )
    SELECT kind FROM held
    """
).bindparams(bindparam("result", type_=JSON))

# Whether a step has nothing to do but to wait: live units, none that failed, and nobody cancels.
UNDER_WAY = text(
    """
    SELECT EXISTS (
        SELECT FROM units WHERE job_id = :job_id AND state IN ('pending', 'leased')
    ) AND NOT EXISTS (
        SELECT FROM units WHERE job_id = :job_id AND state = 'failed'
    ) AND EXISTS (
        SELECT FROM jobs WHERE id = :job_id AND status = ANY(:live)
    )
    """
)
