-- Enqueueing with what few jobs have: a dedupe key that counts for a time, whatever becomes of its job, or under which the newest
-- job replaces the one before; and a timeout of its own.

-- The job that was enqueued last with a key, and until when no other is. Keys may name people, so they are stored as hashes.
-- Upkeep removes rows whose time is over.
create table if not exists job_unique_keys (
    key_hash uuid primary key,
    job_id uuid,
    until timestamptz not null
);
create index if not exists job_unique_keys_until on job_unique_keys (until);

-- The other dedupe key of jobs of which the newest replaces the one before: that of a job that waits behind the one with the key.
create or replace function job_key_behind(p_dedupe_key text) returns text
language sql immutable parallel safe
return case when starts_with(p_dedupe_key, 'behind:') then substr(p_dedupe_key, 8) else 'behind:' || p_dedupe_key end;

-- Whether a run of a pending or running job has begun in its life. One that is only claimed counts as begun.
create or replace function job_has_begun(p_job job_queue) returns boolean
language sql immutable parallel safe
return (p_job).status = 'running' or (p_job).attempts > 0 or (p_job).checkpoint is not null
    or coalesce((p_job).last_outcome <> 'cancelled', false);

-- Gives a job that waits the payload of a newer one, with its due time, priority, expiry, concurrency key and trace. The job
-- is due p_longest after its own enqueue at the latest. The caller has locked it.
create or replace function job_queue_replace(
    p_job job_queue, p_longest interval, p_payload jsonb, p_run_at timestamptz, p_priority integer, p_concurrency_key text,
    p_expires_at timestamptz
) returns void
language plpgsql volatile
as $$
declare
    v_run_at constant timestamptz := least(coalesce(p_run_at, now()), p_job.created_at + p_longest);
    v_key constant text := coalesce(p_concurrency_key, job_key_of(p_job.task_type, p_payload));
begin
    update job_queue q set payload = p_payload, run_at = v_run_at, concurrency_key = v_key,
        priority = coalesce(p_priority, (select t.priority from job_types t where t.task_type = p_job.task_type), 0),
        in_line = v_key is not null, trace_context = default,
        -- The claim looks again whether a hold is for the payload.
        blocked_by = case when not job_is_hold(q.blocked_by) then q.blocked_by end,
        updated_at = clock_timestamp(), version = q.version + 1,
        expires_at = coalesce(p_expires_at, v_run_at + make_interval(secs => (
            select t.max_age_seconds from job_types t where t.task_type = p_job.task_type)))
    where q.id = p_job.id;
    perform job_queue_advance_lines(array[p_job.concurrency_key, v_key]);
    if v_run_at < p_job.run_at then
        perform pg_notify(current_schema() || '.job_queue', '');
    end if;
end
$$;

-- Enqueues one job that waits for the end of another one, whatever that is, under a dedupe key; null if the key is taken.
create or replace function job_queue_add_behind(
    p_behind uuid, p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer, p_priority integer,
    p_dedupe_key text, p_concurrency_key text, p_expires_at timestamptz, p_actor text
) returns uuid
language plpgsql volatile
as $$
declare
    v_flow constant uuid := job_batch_id(job_batch_time(), 0);
    v_id uuid;
begin
    select i into v_id from job_queue_insert(null, array[p_task_type], array[p_payload], array[p_run_at],
        array[greatest(coalesce(p_max_attempts, 1), 1)], array[p_priority], array[p_dedupe_key], array[p_concurrency_key],
        array[p_behind], p_actor) i;
    if v_id is null then
        return null;
    end if;
    if p_expires_at is not null then
        update job_queue q set expires_at = p_expires_at where q.id = v_id;
    end if;
    -- A flow without a name, which no list shows, of this one member: it is judged, revived and released like others.
    insert into job_flows (id, name, created_by) values (v_flow, '', job_actor(p_actor));
    insert into job_flow_members (job_id, flow_id, name, task_type, needs) values (v_id, v_flow, p_task_type, p_task_type, 'end');
    insert into job_dependencies (job_id, blocker_id, needs) values (v_id, p_behind, 'end');
    perform job_queue_advance_lines((job_judge_waiting(array[v_id])).keys);
    return v_id;
end
$$;

-- Enqueues one job like job_queue_create, or replaces the job that has the dedupe key by it: see job_queue_replace. It does so
-- while that job waits, has not begun, and no operator has changed it. Behind one that has begun, a second job waits for its end,
-- and is replaced in its turn: at most one. `outcome` is created, replaced or kept.
create or replace function job_queue_create_replacing(
    p_seconds double precision, p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer,
    p_priority integer, p_dedupe_key text, p_concurrency_key text, p_expires_at timestamptz, p_actor text,
    out job_id uuid, out outcome text
)
language plpgsql volatile
set enable_seqscan = off
as $$
#variable_conflict use_variable
declare
    v_keys constant text[] := array[p_dedupe_key, job_key_behind(p_dedupe_key)];
    v_run_at timestamptz;
    v_refusal text;
    v_there job_queue;
    v_made boolean;
begin
    if p_dedupe_key is null then
        perform job_queue_refuse('A job that replaces another one needs a dedupe key. Nothing was enqueued.');
    elsif (p_seconds between 1 and 31622400) is not true then
        perform job_queue_refuse('The longest wait of a job that may be replaced is between a second and 366 days. Nothing was '
            'enqueued.');
    elsif octet_length(p_dedupe_key) > 993 then
        perform job_queue_refuse('The key of a job that may be replaced has 993 bytes at most. Use a hash of it.');
    end if;
    v_run_at := least(coalesce(p_run_at, now()), now() + make_interval(secs => p_seconds));
    v_refusal := job_refusal(p_task_type, p_payload, p_priority, v_run_at, p_expires_at, p_dedupe_key, p_concurrency_key);
    if v_refusal is not null then
        perform job_queue_refuse(v_refusal);
    end if;
    for attempt in 1..5 loop
        -- The one that has not begun, if there is one.
        select q.* into v_there from job_queue q where q.dedupe_key = any (v_keys) and q.status in ('pending', 'running')
        order by job_has_begun(q), q.id desc limit 1;
        if not found then
            select a.job_id, a.created into job_id, v_made from job_queue_add(p_task_type, p_payload, v_run_at, p_max_attempts,
                p_priority, p_dedupe_key, p_concurrency_key, null, p_expires_at, p_actor) a;
            outcome := 'created';
            exit when v_made;
        elsif v_there.task_type <> p_task_type then
            perform job_queue_refuse(format('Job %s of the type %s has this dedupe key, and a job of the type %s does not '
                'replace it. Choose another key. Nothing was enqueued.', v_there.id, v_there.task_type, p_task_type));
        elsif v_there.is_recurring then
            job_id := v_there.id;
            outcome := 'kept';
            exit;
        elsif job_has_begun(v_there) then
            -- A job that another producer has just put behind it has not begun: the next attempt finds it.
            if (select count(*) from job_queue q where q.dedupe_key = any (v_keys) and q.status in ('pending', 'running')
                and job_has_begun(q)) > 1
            then
                perform job_queue_refuse(format('Job %s and another one with its dedupe key have both begun, because somebody '
                    'retried one of them. Try again once one has ended. Nothing was enqueued.', v_there.id));
            end if;
            job_id := job_queue_add_behind(v_there.id, p_task_type, p_payload, v_run_at, p_max_attempts, p_priority,
                job_key_behind(v_there.dedupe_key), p_concurrency_key, p_expires_at, p_actor);
            outcome := 'created';
            exit when job_id is not null;
        else
            select q.* into v_there from job_queue q where q.id = v_there.id and q.status = 'pending' for update;
            -- It may have begun since it was read.
            if found and not job_has_begun(v_there) and v_there.dedupe_key = any (v_keys) then
                job_id := v_there.id;
                outcome := case when exists (select from job_audit a where a.job_id = v_there.id and a.action <> 'reveal')
                    then 'kept' else 'replaced' end;
                if outcome = 'replaced' then
                    perform job_queue_replace(v_there, make_interval(secs => p_seconds), p_payload, p_run_at, p_priority,
                        p_concurrency_key, p_expires_at);
                end if;
                exit;
            end if;
        end if;
        outcome := null;
    end loop;
    if outcome is null then
        perform job_queue_refuse('Jobs with this dedupe key came and left while this one was enqueued. Try again.');
    end if;
end
$$;

-- Whether a job may have this timeout, in seconds.
create or replace function job_timeout_fits(p_seconds double precision) returns boolean
language sql immutable parallel safe
return p_seconds > 0 and p_seconds <= 31622400;

-- Enqueues one job like job_queue_create, with options of which most jobs have none. The keys of p_with: `timeout` (the job's own,
-- in seconds), `unique_for` (seconds in which no second job is enqueued with the dedupe key, whatever becomes of this one: the
-- first one is returned), `longest_wait` (see job_queue_create_replacing), `schedule` and `slots` (see job_series_create).
-- `outcome` is created, replaced or kept.
create or replace function job_queue_create_with(
    p_with jsonb, p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer, p_priority integer,
    p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_interval_minutes integer, p_expires_at timestamptz,
    p_actor text, out job_id uuid, out created boolean, out outcome text
)
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
#variable_conflict use_variable
declare
    v_unknown text;
    v_timeout constant double precision := p_with ->> 'timeout';
    v_unique constant double precision := p_with ->> 'unique_for';
    v_hash constant uuid := md5(p_dedupe_key)::uuid;
    v_until timestamptz;
begin
    perform job_refuse_outsiders();
    select k into v_unknown from jsonb_object_keys(p_with) k
    where k not in ('timeout', 'unique_for', 'longest_wait', 'schedule', 'slots') limit 1;
    if found then
        perform job_queue_refuse(format('A job has no option "%s". Nothing was enqueued.', left(v_unknown, 50)));
    elsif p_with ? 'timeout' and job_timeout_fits(v_timeout) is not true then
        perform job_queue_refuse('The timeout of a job is more than 0 seconds and at most 366 days. Nothing was enqueued.');
    elsif p_with ? 'longest_wait' and (p_with ?| array['unique_for', 'schedule']
        or num_nonnulls(p_interval_minutes, p_blocked_by) > 0)
    then
        perform job_queue_refuse('A job that may be replaced is not recurring, has no blocker and is not unique for a time. '
            'Nothing was enqueued.');
    elsif p_with ? 'unique_for' then
        perform job_queue_refuse(r.words || ' Nothing was enqueued.') from (select case
            when p_with ? 'schedule' or p_interval_minutes is not null then 'A recurring job cannot be unique for a time, '
                'because it keeps its dedupe key until it ends. Omit the time.'
            when p_dedupe_key is null then 'A job that is unique for a time needs a dedupe key.'
            when (v_unique between 1 and 31622400) is not true
                then 'The time for which a job is unique must be between a second and 366 days.' end as words) r
        where r.words is not null;
        loop
            insert into job_unique_keys values (v_hash, null, '-infinity') on conflict (key_hash) do nothing;
            select k.job_id, k.until into job_id, v_until from job_unique_keys k where k.key_hash = v_hash for update;
            -- Upkeep may have removed the row of a time that is over.
            exit when found;
        end loop;
    end if;
    if v_until > clock_timestamp() then
        created := false;
    elsif p_with ? 'longest_wait' then
        select c.job_id, c.outcome into job_id, outcome from job_queue_create_replacing(
            (p_with ->> 'longest_wait')::double precision, p_task_type, p_payload, p_run_at, p_max_attempts, p_priority,
            p_dedupe_key, p_concurrency_key, p_expires_at, p_actor) c;
        created := outcome = 'created';
    elsif p_with ? 'schedule' then
        select c.job_id, c.created into job_id, created from job_series_create(p_task_type, p_payload,
            p_with -> 'schedule', array(select s::timestamptz from jsonb_array_elements_text(nullif(p_with -> 'slots', 'null')) s),
            p_run_at, p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_expires_at, p_actor) c;
    else
        select c.job_id, c.created into job_id, created from job_queue_create(p_task_type, p_payload, p_run_at,
            p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_interval_minutes, p_expires_at,
            p_actor) c;
    end if;
    outcome := coalesce(outcome, case when created then 'created' else 'kept' end);
    if created and v_unique is not null then
        update job_unique_keys k set job_id = job_queue_create_with.job_id,
            until = clock_timestamp() + make_interval(secs => v_unique)
        where k.key_hash = v_hash;
    end if;
    if created and v_timeout is not null then
        insert into job_timeouts values (job_id, v_timeout);
    end if;
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
