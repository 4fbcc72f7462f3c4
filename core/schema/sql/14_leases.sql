-- What a worker does with jobs that it holds: when to look for more, leases, checkpoints.

-- Of these jobs, those that were enqueued by a span or whose newest run had one. Only workers that record traces ask.
create or replace function job_queue_traces(p_ids uuid[])
returns table (job_id uuid, trace_context text, run_trace text)
language plpgsql stable security definer
set enable_seqscan = off set jit = off
as $$
begin
    perform job_refuse_outsiders();
    return query select q.id, q.trace_context, q.run_trace from job_queue q
    where q.id = any (p_ids) and (q.trace_context is not null or q.run_trace is not null);
end
$$;

-- The timeouts, in seconds by the id, of those of these jobs that have one of their own; null if none has. It is volatile, so that
-- it sees a job that was enqueued since the statement of the claim began.
create or replace function job_queue_timeouts(p_ids uuid[]) returns jsonb
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    if not exists (select from job_timeouts) then
        return null;
    end if;
    return (select jsonb_object_agg(t.job_id, t.seconds) from job_timeouts t where t.job_id = any (p_ids));
end
$$;

-- The due time, past or future, of the next job of these types; null if none is in the claim's index.
create or replace function job_queue_next_due(p_types text[], out at timestamptz, out next_due timestamptz)
language plpgsql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_limited constant text[] := array(select t.task_type from job_types t where t.limited and t.task_type = any (p_types));
begin
    perform job_refuse_outsiders();
    at := clock_timestamp();
    if not job_clause_processing(at) then
        return;
    end if;
    select min(greatest(h.run_at, case when l.task_type = any (v_limited) then (
        select s.opens_at from job_limit_state(l.task_type, at) s) end)) into next_due
    from unnest(job_claim_lanes(job_types_open(p_types, at))) l
    cross join lateral (
        select q.run_at from job_queue q
        where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
            and q.priority = l.priority and job_clause_key_free(q.concurrency_key, q.task_type)
        order by q.run_at, q.id limit 1
    ) h;
    next_due := least(next_due, (select min(r.due_at) from job_recheck r));
end
$$;

-- Renews the leases of all jobs that a worker holds, stores their progress, and returns which of them are still its own
-- and which an operator asked to cancel. `p_began` says when those have begun that waited for a slot. A job whose row another
-- transaction has locked is not waited for: its lease is not renewed, and there is no answer for it.
create or replace function job_queue_heartbeat(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_progress jsonb[], p_lease_seconds double precision,
    p_began timestamptz[] default null
) returns table (job_id uuid, run_token bigint, alive boolean, cancel_requested boolean)
language sql volatile security definer
set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
    select job_refuse_outsiders();
    with held as (
        select * from unnest(p_ids, p_tokens, p_progress, p_began) as h (id, token, progress, began)
    ), own as materialized (
        -- Only running jobs have a token. With their status as well, here or below, the planner may read the index of
        -- all running jobs.
        select q.id, q.run_token from job_queue q join held h on h.id = q.id and h.token = q.run_token
        where q.id = any (p_ids) and q.locked_by = p_worker
    ), mine as (
        select q.id, q.run_token from job_queue q join held h on h.id = q.id and h.token = q.run_token
        where q.id = any (p_ids) and q.locked_by = p_worker
        order by q.id for update of q skip locked
    ), renewed as (
        update job_queue q
        set lease_expires_at = clock_timestamp() + make_interval(secs => p_lease_seconds),
            progress = coalesce(h.progress, q.progress), started_at = coalesce(q.started_at, h.began)
        from mine m, held h
        where q.id = any (p_ids) and q.id = m.id and q.run_token = m.run_token
            and h.id = q.id and h.token = q.run_token
        returning q.id, q.run_token, q.cancel_requested_at is not null as cancel_requested
    )
    select h.id, h.token, r.id is not null, coalesce(r.cancel_requested, false)
    from held h left join renewed r on r.id = h.id and r.run_token = h.token
    left join own o on o.id = h.id and o.run_token = h.token
    where r.id is not null or o.id is null
$$;

-- Saves a checkpoint of a running job; false if the token no longer holds the job.
create or replace function job_queue_checkpoint(p_id uuid, p_token bigint, p_checkpoint jsonb)
returns boolean
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    with kept as (
        update job_queue set checkpoint = p_checkpoint, updated_at = clock_timestamp()
        where id = p_id and run_token = p_token and status = 'running' returning id
    )
    select exists (select from kept)
$$;
