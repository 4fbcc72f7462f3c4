-- Enqueueing. A job is enqueued in the transaction of the caller; a dedupe key lets one job be pending or running.

-- The blocker that a job has to wait for: null if the blocker has already succeeded. One that can never succeed is refused.
create or replace function job_queue_live_blocker(p_blocked_by uuid) returns uuid
language plpgsql stable
set enable_seqscan = off
as $$
declare
    v_outcome constant text := job_blocker_outcome(p_blocked_by);
begin
    if v_outcome in ('failed', 'cancelled', 'deleted') then
        perform job_queue_refuse(format(
            'The blocker, job %s, %s. Retry the blocker first, or enqueue this job without a blocker.', p_blocked_by, case
                when v_outcome = 'deleted' then 'does not exist'
                when exists (select from job_queue where id = p_blocked_by and status = 'succeeded')
                    then 'has expired'
                else 'is ' || v_outcome end));
    end if;
    return case when v_outcome is null then p_blocked_by end;
end
$$;

-- The live job that has a dedupe key. Called after an insert conflicted with it, so it must see rows that were
-- committed since the insert began: therefore volatile.
create or replace function job_queue_holder(p_dedupe_key text) returns uuid
language plpgsql volatile
set enable_seqscan = off
as $$
begin
    return (select id from job_queue where dedupe_key = p_dedupe_key and status in ('pending', 'running'));
end
$$;

-- Enqueues one checked job like job_queue_create, with the key, priority and expiry of its type and its place in line.
create or replace function job_queue_add(
    p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer, p_priority integer,
    p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_expires_at timestamptz, p_actor text,
    out job_id uuid, out created boolean
)
language plpgsql volatile
as $$
declare
    v_run_at constant timestamptz := coalesce(p_run_at, now());
    v_key text := p_concurrency_key;
    v_expires_at timestamptz := p_expires_at;
    v_max_attempts constant integer := greatest(coalesce(p_max_attempts, 1), 1);
    v_has_rule boolean;
    v_max_age integer;
    v_priority integer;
    v_blocked_by uuid;
    v_in_line boolean;
begin
    if p_blocked_by is not null then
        v_blocked_by := job_queue_live_blocker(p_blocked_by);
    end if;
    select t.concurrency is not null, t.max_age_seconds, t.priority into v_has_rule, v_max_age, v_priority
    from job_types t where t.task_type = p_task_type;
    v_priority := coalesce(p_priority, v_priority, 0);
    if v_key is null and v_has_rule then
        v_key := job_key_of(p_task_type, p_payload);
    end if;
    if v_max_age is not null then
        v_expires_at := coalesce(v_expires_at, v_run_at + make_interval(secs => v_max_age));
    end if;
    for attempt in 1..5 loop
        v_in_line := v_key is not null and job_queue_joins_line(v_key, v_priority, v_run_at, p_task_type);
        -- ON CONFLICT writes a second record to the write-ahead log for each row.
        if p_dedupe_key is null then
            insert into job_queue as q (task_type, payload, run_at, max_attempts, priority, concurrency_key, in_line,
                blocked_by, expires_at, created_by)
            values (p_task_type, p_payload, v_run_at, v_max_attempts, v_priority, v_key, v_in_line, v_blocked_by,
                v_expires_at, job_actor(p_actor))
            returning q.id into job_id;
        else
            insert into job_queue as q (task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key,
                in_line, blocked_by, expires_at, created_by)
            values (p_task_type, p_payload, v_run_at, v_max_attempts, v_priority, p_dedupe_key, v_key, v_in_line,
                v_blocked_by, v_expires_at, job_actor(p_actor))
            on conflict (dedupe_key) where dedupe_key is not null and status in ('pending', 'running') do nothing
            returning q.id into job_id;
        end if;
        created := found;
        if not created then
            job_id := job_queue_holder(p_dedupe_key);
        elsif v_in_line then
            -- The trigger job_queue_before_insert asks the same for each blocker.
            perform job_queue_ask_recheck(array[v_key], null);
        end if;
        if job_id is not null then
            return;
        end if;
    end loop;
    perform job_queue_refuse(format(
        'Jobs with the dedupe key %s came and left while this one was enqueued. Try again.', p_dedupe_key));
end
$$;

-- Enqueues one job, or returns the job that already has the dedupe key (`created` false). While another transaction that has
-- not ended enqueues a job with the same key, it waits for 1.5 seconds at most (SQLSTATE 55P03).
create or replace function job_queue_create(
    p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer, p_priority integer,
    p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_interval_minutes integer,
    p_expires_at timestamptz, p_actor text, out job_id uuid, out created boolean
)
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
declare
    v_run_at constant timestamptz := coalesce(p_run_at, now());
    v_refusal constant text := job_refusal(
        p_task_type, p_payload, p_priority, v_run_at, p_expires_at, p_dedupe_key, p_concurrency_key);
begin
    -- Most jobs have none of what follows, and most types no rule, so both are looked at in one step first.
    if v_refusal is null and not job_is_outsider()
        and num_nonnulls(p_dedupe_key, p_concurrency_key, p_blocked_by, p_interval_minutes) = 0
    then
        insert into job_queue as q (task_type, payload, run_at, max_attempts, priority, expires_at, created_by)
        select p_task_type, p_payload, v_run_at, greatest(coalesce(p_max_attempts, 1), 1),
            coalesce(p_priority, t.priority, 0), p_expires_at, job_actor(p_actor)
        from (select 1) one left join job_types t on t.task_type = p_task_type
        where t.concurrency is null and t.max_age_seconds is null
        returning q.id into job_id;
        created := found;
        if created then
            return;
        end if;
    end if;
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    if v_refusal is not null then
        perform job_queue_refuse(v_refusal);
    elsif p_interval_minutes not between 1 and 52596000 then
        perform job_queue_refuse('The interval of a recurring job must be 1 minute or more, and at most 100 years.');
    elsif p_interval_minutes is not null then
        select s.job_id, s.created into job_id, created from job_series_create(p_task_type, p_payload,
            jsonb_build_object('seconds', p_interval_minutes * 60::bigint), null, v_run_at, p_max_attempts, p_priority,
            p_dedupe_key, p_concurrency_key, p_blocked_by, p_expires_at, p_actor) s;
        return;
    end if;
    select a.job_id, a.created into job_id, created from job_queue_add(p_task_type, p_payload, v_run_at, p_max_attempts,
        p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_expires_at, p_actor) a;
end
$$;

-- The short call for producers in SQL: a null payload means {}, a null time means now; at least one attempt.
create or replace function job_queue_enqueue(
    p_task_type text, p_payload jsonb default '{}', p_run_at timestamptz default now(),
    p_max_attempts integer default 5
) returns job_queue
language plpgsql volatile security definer
as $$
declare
    v_id constant uuid := (job_queue_create(p_task_type, coalesce(p_payload, '{}'), p_run_at, p_max_attempts, null, null, null,
        null, null, null, null)).job_id;
begin
    return (select q from job_queue q where q.id = v_id);
end
$$;

-- The time in the ids of a batch. They are like those of the column's default, but have one time for all.
create or replace function job_batch_time() returns text
language sql volatile
return overlay('0' || to_hex((date_part('epoch', clock_timestamp()) * 1000 * 4096)::bigint) placing '7' from 13 for 0);

-- The id of the job at a place of a batch. After the time comes the place, in seven digits that start with 8 as the layout
-- requires, then nine random digits: that takes a fifth of the default's time.
create or replace function job_batch_id(p_time text, p_place bigint) returns uuid
language sql volatile
return (p_time || to_hex(x'8000000'::bigint + p_place)
    || to_hex(x'100000000'::bigint + (random() * x'effffffff'::bigint)::bigint))::uuid;

-- The place of a job in its batch, which its id has.
create or replace function job_batch_place(p_id uuid) returns integer
language sql immutable
return ('x' || substr(replace(p_id::text, '-', ''), 17, 7))::bit(28)::integer - x'8000000'::integer;

-- Enqueues checked one-time jobs, with the keys, priority and expiry of their types and their places in line. Each array has one
-- element per job, or is null for the default. Returns the ids of the jobs whose dedupe key was free.
create or replace function job_queue_insert(
    p_ids uuid[], p_task_types text[], p_payloads jsonb[], p_run_at timestamptz[], p_max_attempts integer[],
    p_priorities integer[], p_dedupe_keys text[], p_concurrency_keys text[], p_blocked_by uuid[], p_actor text
) returns setof uuid
language plpgsql volatile
as $$
declare
    v_time constant text := job_batch_time();
    v_created_by constant text := job_actor(p_actor);
    v_keys text[] := p_concurrency_keys;
    v_priorities integer[] := p_priorities;
    v_in_line boolean[];
    v_expires_at timestamptz[];
begin
    if exists (select from job_types t where t.task_type = any (p_task_types)
        and num_nonnulls(t.concurrency, t.max_age_seconds, t.priority) > 0)
    then
        select array_agg(coalesce(n.key, case when t.concurrency is not null
                then job_key_of(n.task_type, coalesce(n.payload, '{}')) end) order by n.place),
            array_agg(coalesce(n.run_at, now()) + make_interval(secs => t.max_age_seconds) order by n.place),
            array_agg(coalesce(n.priority, t.priority) order by n.place)
        into v_keys, v_expires_at, v_priorities
        from unnest(p_task_types, p_payloads, p_run_at, p_concurrency_keys, p_priorities) with ordinality
            as n (task_type, payload, run_at, key, priority, place)
        left join job_types t on t.task_type = n.task_type;
    end if;
    if cardinality(array_remove(v_keys, null)) > 0 then
        v_in_line := job_queue_join_lines(v_keys, p_task_types, v_priorities, p_run_at, p_blocked_by);
        perform job_queue_ask_recheck(array(
            select l.key from unnest(v_keys, v_in_line) as l (key, in_line) where l.in_line), null);
    end if;
    -- ON CONFLICT writes a second record to the write-ahead log for each row.
    if p_dedupe_keys is null then
        return query
        insert into job_queue (id, task_type, payload, run_at, max_attempts, priority, concurrency_key, in_line, blocked_by,
            expires_at, created_by)
        select coalesce(n.id, job_batch_id(v_time, n.place)), n.task_type, coalesce(n.payload, '{}'),
            coalesce(n.run_at, now()), greatest(coalesce(n.max_attempts, 5), 1), coalesce(n.priority, 0),
            n.concurrency_key, coalesce(n.in_line, false), n.blocked_by, n.expires_at, v_created_by
        from unnest(p_ids, p_task_types, p_payloads, p_run_at, p_max_attempts, v_priorities, v_keys, v_in_line,
            p_blocked_by, v_expires_at) with ordinality
            as n (id, task_type, payload, run_at, max_attempts, priority, concurrency_key, in_line, blocked_by,
                expires_at, place)
        returning id;
        return;
    end if;
    return query
    insert into job_queue (id, task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key, in_line,
        blocked_by, expires_at, created_by)
    select coalesce(n.id, job_batch_id(v_time, n.place)), n.task_type, coalesce(n.payload, '{}'),
        coalesce(n.run_at, now()), greatest(coalesce(n.max_attempts, 5), 1), coalesce(n.priority, 0), n.dedupe_key,
        n.concurrency_key, coalesce(n.in_line, false), n.blocked_by, n.expires_at, v_created_by
    from unnest(p_ids, p_task_types, p_payloads, p_run_at, p_max_attempts, v_priorities, p_dedupe_keys, v_keys, v_in_line,
        p_blocked_by, v_expires_at) with ordinality
        as n (id, task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key, in_line, blocked_by,
            expires_at, place)
    -- One order, because two batches with the same keys wait for each other's rows.
    order by n.dedupe_key, n.place
    on conflict (dedupe_key) where dedupe_key is not null and status in ('pending', 'running') do nothing
    returning id;
end
$$;

-- Enqueues many one-time jobs in one statement. All arrays have one element per job; those after the task types may be
-- null for the default, p_timeouts (of jobs with one of their own, in seconds) also one by one. The result does not contain jobs
-- whose dedupe key is taken. It waits for keys like job_queue_create.
create or replace function job_queue_create_many(
    p_task_types text[], p_payloads jsonb[], p_run_at timestamptz[], p_max_attempts integer[],
    p_priorities integer[], p_dedupe_keys text[], p_concurrency_keys text[], p_actor text,
    p_timeouts double precision[] default null
) returns setof uuid
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
declare
    v_refusal text;
    v_ids uuid[];
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    select r.words into v_refusal
    from unnest(p_task_types, p_payloads, p_priorities, p_run_at, p_dedupe_keys, p_concurrency_keys)
        as n (task_type, payload, priority, run_at, dedupe_key, concurrency_key)
    cross join lateral (select job_refusal(n.task_type, coalesce(n.payload, '{}'), n.priority, n.run_at, null,
        n.dedupe_key, n.concurrency_key) as words) r
    where r.words is not null limit 1;
    if found then
        perform job_queue_refuse(v_refusal || ' None was enqueued.');
    elsif exists (select from unnest(p_timeouts) t where not job_timeout_fits(t)) then
        perform job_queue_refuse('The timeout of a job is more than 0 seconds and at most 366 days. None was enqueued.');
    end if;
    if p_timeouts is null then
        return query select * from job_queue_insert(null, p_task_types, p_payloads, p_run_at, p_max_attempts, p_priorities,
            p_dedupe_keys, p_concurrency_keys, null, p_actor);
        return;
    end if;
    v_ids := array(select job_queue_insert(null, p_task_types, p_payloads, p_run_at, p_max_attempts, p_priorities,
        p_dedupe_keys, p_concurrency_keys, null, p_actor));
    insert into job_timeouts
    select i, p_timeouts[job_batch_place(i)] from unnest(v_ids) i where p_timeouts[job_batch_place(i)] is not null;
    return query select unnest(v_ids);
end
$$;
