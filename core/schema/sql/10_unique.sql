-- Enqueueing with what few jobs have: a dedupe key that counts for a time, whatever becomes of its job, and a timeout of its
-- own.

-- The job that was enqueued last with a key, and until when no other is. Keys may name people, so they are stored as hashes.
-- Upkeep removes rows whose time is over.
create table if not exists job_unique_keys (
    key_hash uuid primary key,
    job_id uuid,
    until timestamptz not null
);
create index if not exists job_unique_keys_until on job_unique_keys (until);

-- Enqueues one job like job_queue_create, or returns the job that was enqueued with the dedupe key less than p_seconds
-- ago, whatever became of it (`created` false). It waits for other transactions like job_queue_create.
create or replace function job_queue_create_once(
    p_seconds double precision, p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer,
    p_priority integer, p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_interval_minutes integer,
    p_expires_at timestamptz, p_actor text, out job_id uuid, out created boolean
)
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
#variable_conflict use_variable
declare
    v_hash constant uuid := md5(p_dedupe_key)::uuid;
    v_until timestamptz;
begin
    perform job_refuse_outsiders();
    if v_hash is null then
        perform job_queue_refuse('A job that is unique for a time needs a dedupe key. Nothing was enqueued.');
    elsif p_interval_minutes is not null then
        perform job_queue_refuse('A recurring job cannot be unique for a time, because it keeps its dedupe key until it '
            'ends. Omit the time. Nothing was enqueued.');
    elsif p_seconds is null or p_seconds not between 1 and 31622400 then
        perform job_queue_refuse('The time for which a job is unique must be between a second and 366 days. Nothing was '
            'enqueued.');
    end if;
    loop
        insert into job_unique_keys values (v_hash, null, '-infinity') on conflict (key_hash) do nothing;
        select k.job_id, k.until into job_id, v_until from job_unique_keys k where k.key_hash = v_hash for update;
        -- Upkeep may have removed the row of a time that is over.
        exit when found;
    end loop;
    created := v_until <= clock_timestamp();
    if not created then
        return;
    end if;
    select c.job_id, c.created into job_id, created from job_queue_create(p_task_type, p_payload, p_run_at,
        p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_interval_minutes, p_expires_at,
        p_actor) c;
    if created then
        update job_unique_keys k set job_id = job_queue_create_once.job_id,
            until = clock_timestamp() + make_interval(secs => p_seconds)
        where k.key_hash = v_hash;
    end if;
end
$$;

-- Whether a job may have this timeout, in seconds.
create or replace function job_timeout_fits(p_seconds double precision) returns boolean
language sql immutable parallel safe
return p_seconds > 0 and p_seconds <= 31622400;

-- Enqueues one job like job_queue_create, with options of which most jobs have none. The keys of p_with: `timeout` (the job's own,
-- in seconds), `unique_for` (see job_queue_create_once), `schedule` and `slots` (see job_series_create).
create or replace function job_queue_create_with(
    p_with jsonb, p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer, p_priority integer,
    p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_interval_minutes integer, p_expires_at timestamptz,
    p_actor text, out job_id uuid, out created boolean
)
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
#variable_conflict use_variable
declare
    v_unknown text;
    v_timeout constant double precision := p_with ->> 'timeout';
begin
    perform job_refuse_outsiders();
    select k into v_unknown from jsonb_object_keys(p_with) k
    where k not in ('timeout', 'unique_for', 'schedule', 'slots') limit 1;
    if found then
        perform job_queue_refuse(format('A job has no option "%s". Nothing was enqueued.', left(v_unknown, 50)));
    elsif p_with ? 'timeout' and job_timeout_fits(v_timeout) is not true then
        perform job_queue_refuse('The timeout of a job is more than 0 seconds and at most 366 days. Nothing was enqueued.');
    elsif p_with ? 'unique_for' and (p_with ? 'schedule' or p_interval_minutes is not null) then
        perform job_queue_refuse('A recurring job cannot be unique for a time, because it keeps its dedupe key until it '
            'ends. Omit the time. Nothing was enqueued.');
    elsif p_with ? 'unique_for' then
        select c.job_id, c.created into job_id, created from job_queue_create_once(
            (p_with ->> 'unique_for')::double precision, p_task_type, p_payload, p_run_at, p_max_attempts, p_priority,
            p_dedupe_key, p_concurrency_key, p_blocked_by, null, p_expires_at, p_actor) c;
    elsif p_with ? 'schedule' then
        select c.job_id, c.created into job_id, created from job_series_create(p_task_type, p_payload,
            p_with -> 'schedule', array(select s::timestamptz from jsonb_array_elements_text(nullif(p_with -> 'slots', 'null')) s),
            p_run_at, p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_expires_at, p_actor) c;
    else
        select c.job_id, c.created into job_id, created from job_queue_create(p_task_type, p_payload, p_run_at,
            p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_interval_minutes, p_expires_at,
            p_actor) c;
    end if;
    if created and v_timeout is not null then
        insert into job_timeouts values (job_id, v_timeout);
    end if;
end
$$;

-- Enqueues many one-time jobs like job_queue_create_many, each with the timeout of its own in p_timeouts; null for none.
create or replace function job_queue_create_many_with(
    p_timeouts double precision[], p_task_types text[], p_payloads jsonb[], p_run_at timestamptz[], p_max_attempts integer[],
    p_priorities integer[], p_dedupe_keys text[], p_concurrency_keys text[], p_actor text
) returns setof uuid
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
declare
    v_ids uuid[];
begin
    perform job_refuse_outsiders();
    if exists (select from unnest(p_timeouts) t where not job_timeout_fits(t)) then
        perform job_queue_refuse('The timeout of a job is more than 0 seconds and at most 366 days. None was enqueued.');
    end if;
    v_ids := array(select job_queue_create_many(p_task_types, p_payloads, p_run_at, p_max_attempts, p_priorities,
        p_dedupe_keys, p_concurrency_keys, p_actor));
    insert into job_timeouts
    select i, p_timeouts[job_batch_place(i)] from unnest(v_ids) i where p_timeouts[job_batch_place(i)] is not null;
    return query select unnest(v_ids);
end
$$;

-- Removes the hashes of the keys of these jobs, which would confirm a guess of a key. For an erasure, before it clears
-- the keys themselves.
create or replace function job_key_hashes_erase(p_jobs uuid[]) returns void
language plpgsql volatile
as $$
declare
    v_keys constant uuid[] := array(
        select md5(k)::uuid from (
            select q.dedupe_key, q.concurrency_key from job_queue q where q.id = any (p_jobs)
            union all select r.dedupe_key, r.concurrency_key from job_runs r where r.job_id = any (p_jobs)
            union all select t.job ->> 'dedupe_key', t.job ->> 'concurrency_key' from job_trash t
            where t.job_id = any (p_jobs)
        ) j cross join unnest(array[j.dedupe_key, j.concurrency_key]) k where k is not null);
begin
    delete from job_key_rates where key_hash = any (v_keys);
    delete from job_unique_keys where key_hash = any (v_keys) or job_id = any (p_jobs);
end
$$;

-- Removes what counts no more of the rates of keys and of keys that were unique for a time.
create or replace function job_key_hashes_forget(p_limit integer) returns void
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    delete from job_key_rates where ctid = any (array(select r.ctid from job_key_rates r
        where r.used_until < v_now order by r.used_until limit p_limit for update skip locked));
    delete from job_unique_keys where key_hash in (select k.key_hash from job_unique_keys k
        where k.until < v_now order by k.until limit p_limit for update skip locked);
end
$$;
