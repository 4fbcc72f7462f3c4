-- The clauses of the claim.
--
-- Each is one expression that the planner inlines, or a query with a cached plan. job_queue_why asks one after the other. The
-- claim asks those on a job's row while it picks jobs, and counts the running jobs of a key again under the key's lock (13).
-- Whether processing is on, it reads with other settings in its first query (12), because a call would take longer.

create or replace function job_clause_pending(p_status text) returns boolean
language sql immutable parallel safe
return p_status = 'pending';

create or replace function job_clause_due(p_run_at timestamptz, p_at timestamptz) returns boolean
language sql immutable parallel safe
return p_run_at <= p_at;

create or replace function job_clause_unexpired(p_expires_at timestamptz, p_at timestamptz) returns boolean
language sql immutable parallel safe
return p_expires_at is null or p_expires_at > p_at;

create or replace function job_clause_unblocked(p_blocked_by uuid) returns boolean
language sql immutable parallel safe
return p_blocked_by is null;

-- Whether this is the id of a hold (36), for which a job waits in place of another job. An id that ends a walk over all ids of
-- holds, also of those that were released.
create or replace function job_is_hold(p_id uuid) returns boolean
language sql immutable parallel safe
return coalesce(p_id between '00000000-0000-8000-8000-000000000000' and '00000000-0000-8000-8000-ffffffffffff', false);

create or replace function job_clause_first_in_line(p_in_line boolean) returns boolean
language sql immutable parallel safe
return not p_in_line;

-- Whether a claim can find a job once it is due: the condition of the index that claims read.
create or replace function job_clause_claimable(p_job job_queue) returns boolean
language sql immutable parallel safe
return job_clause_pending((p_job).status) and job_clause_unblocked((p_job).blocked_by)
    and job_clause_first_in_line((p_job).in_line);

create or replace function job_key_is_busy(p_key text) returns boolean
language plpgsql stable parallel safe
set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    -- The order makes the planner read the index of running keys.
    return (select true from job_queue q where q.concurrency_key = p_key and q.status = 'running'
        order by q.concurrency_key, q.key_place limit 1) is not null;
end
$$;

create or replace function job_clause_key_free(p_key text, p_task_type text) returns boolean
language sql stable parallel safe
return p_key is null or not job_key_is_busy(p_key) or job_key_limit(p_task_type) > job_key_running(p_key);

-- Whether the slot of a series without catch-up was missed: no worker took it within a minute. The next claims pass it over.
-- Retries and runs that somebody asked for are not missed slots. An index repeats the first two conditions.
create or replace function job_clause_missed(p_job job_queue, p_at timestamptz) returns boolean
language sql stable parallel safe
return (p_job).slot_at is null and (p_job).schedule ->> 'catch_up' = 'none'
    and (p_job).run_at <= p_at - interval '1 minute';

-- Whether a series has not missed its slot. The planner cannot inline it: a condition on the last columns of the table, beside the
-- others, would make a claim take apart the whole row of each job.
create or replace function job_clause_unmissed(p_job job_queue, p_at timestamptz) returns boolean
language plpgsql stable parallel safe
as $$
begin
    return job_clause_missed(p_job, p_at) is not true;
end
$$;

-- Whether a job may start, where its type may. A job whose key is taken is not in the index of claims, or leaves it when it is
-- picked (13).
create or replace function job_clause_startable(p_job job_queue, p_at timestamptz) returns boolean
language sql stable parallel safe
return job_clause_claimable(p_job) and job_clause_due((p_job).run_at, p_at)
    and job_clause_unexpired((p_job).expires_at, p_at)
    and (not (p_job).is_recurring or job_clause_unmissed(p_job, p_at));

-- Whether workers may take jobs: processing is on, and nobody else holds the queue.
create or replace function job_clause_processing(p_at timestamptz) returns boolean
language plpgsql stable
as $$
begin
    return coalesce((select (processing_enabled or resume_at <= p_at) and held_by is null
        from job_queue_settings where id = 1), false);
end
$$;

-- Those of these types that may start jobs, in their order. Workers take no jobs of types that are paused, by themselves or with
-- their queue, or set aside. An
-- outside runner takes those of the types that are set aside, and while the queue is held, of all that are not paused.
create or replace function job_types_open(
    p_types text[], p_at timestamptz, p_outside boolean default false, p_held boolean default false
) returns text[]
language plpgsql stable
as $$
declare
    v_paused constant text[] := array(
        select q.queue from job_paused_queues q where q.resume_at is null or q.resume_at > p_at);
begin
    return array(
        select u.name from unnest(p_types) with ordinality u (name, place)
        left join job_types t on t.task_type = u.name
        where case when t.set_aside then p_outside
            else (not p_outside or p_held) and (t.paused_at is null or t.resume_at <= p_at)
                and coalesce(t.queue, 'default') <> all (v_paused) end
        order by u.place);
end
$$;

create or replace function job_clause_type_open(p_task_type text, p_at timestamptz) returns boolean
language plpgsql stable
as $$
begin
    return cardinality(job_types_open(array[p_task_type], p_at)) = 1;
end
$$;

-- Whether a job of this type can run: the type is not paused, and a live worker handles it. Limits do not count.
create or replace function job_type_can_run(p_task_type text, p_at timestamptz) returns boolean
language plpgsql stable
as $$
begin
    return job_clause_type_open(p_task_type, p_at) and exists (
        select from job_workers where job_worker_is_alive(heartbeat_at, p_at) and p_task_type = any (task_types));
end
$$;

-- All types of which a job can run, in order.
create or replace function job_types_that_can_run(p_at timestamptz) returns text[]
language plpgsql stable
as $$
begin
    return array(
        select distinct t from job_workers w cross join unnest(w.task_types) t
        where job_worker_is_alive(w.heartbeat_at, p_at) and job_clause_type_open(t, p_at) order by t);
end
$$;
