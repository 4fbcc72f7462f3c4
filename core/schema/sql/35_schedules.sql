-- Schedules.
--
-- A program parses cron expressions, the database keeps the slots that it found: the functions above take the next of
-- them. Workers write more before they are used up. When they are, the job is due at job_no_slot(), so that no claim takes
-- it, until a worker has written more.

-- The interval in whole minutes of a schedule, if it has one, and what the series stores of it beside. `seconds` is null unless
-- they are a number.
create or replace function job_series_read(
    p_schedule jsonb, out seconds bigint, out minutes integer, out schedule jsonb
)
language plpgsql immutable
as $$
begin
    seconds := case when p_schedule ->> 'seconds' ~ '^[0-9]{1,10}$' then p_schedule ->> 'seconds' end;
    minutes := case when seconds % 60 = 0 then seconds / 60 end;
    schedule := jsonb_strip_nulls(jsonb_build_object('cron', p_schedule -> 'cron', 'zone', p_schedule -> 'zone',
        'seconds', case when minutes is null then seconds end, 'name', p_schedule -> 'name',
        'catch_up', nullif(p_schedule -> 'catch_up', '"one"')));
end
$$;

-- Enqueues a series like job_series_create, or with p_declared one of a program, which has a name and a key made of it.
create or replace function job_series_add(
    p_task_type text, p_payload jsonb, p_schedule jsonb, p_slots timestamptz[], p_run_at timestamptz,
    p_max_attempts integer, p_priority integer, p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid,
    p_expires_at timestamptz, p_actor text, p_declared boolean, out job_id uuid, out created boolean
)
language plpgsql volatile
as $$
declare
    v_read constant record := job_series_read(p_schedule);
    v_slots constant timestamptz[] := case when v_read.schedule ? 'cron' then coalesce(p_slots, '{}') end;
    v_refusal constant text := job_refusal(p_task_type, p_payload, p_priority, p_run_at, p_expires_at,
        case when not p_declared then p_dedupe_key end, p_concurrency_key);
    v_first uuid;
begin
    if v_refusal is not null then
        perform job_queue_refuse(v_refusal);
    elsif p_schedule ? 'name' and not p_declared then
        perform job_queue_refuse('Only a series that a program declares has a name. Leave the name out of the schedule. '
            'Nothing was enqueued.');
    elsif v_read.seconds not between 1 and 3155760000 then
        perform job_queue_refuse('The interval of a recurring job must be between 1 second and 100 years.');
    elsif v_read.seconds > 999999999 and v_read.minutes is null then
        perform job_queue_refuse('An interval of more than 31 years must be whole minutes.');
    elsif not coalesce(job_schedule_fits(true, v_read.minutes, v_read.schedule, v_slots), false)
        or (p_schedule ? 'seconds') <> (v_read.seconds is not null) or octet_length(v_read.schedule::text) > 1000
    then
        perform job_queue_refuse('A schedule has either seconds, or a cron expression with its zone; its catch_up is one, '
            'all or none. Nothing was enqueued.');
    elsif not job_slots_fit(v_slots) then
        perform job_queue_refuse('A series has at most 1,100 slots, between the years 1 and 9999. Nothing was enqueued.');
    end if;
    -- A series with a dedupe key is told apart by it.
    if p_dedupe_key is null then
        select q.id into v_first from job_queue q
        where q.is_recurring and q.status in ('pending', 'running') and q.task_type = p_task_type
            and q.payload = p_payload and q.recurrence_interval_minutes is not distinct from v_read.minutes
            and q.schedule ->> 'seconds' is not distinct from v_read.schedule ->> 'seconds'
            and q.schedule ->> 'cron' is not distinct from v_read.schedule ->> 'cron'
            and q.schedule ->> 'zone' is not distinct from v_read.schedule ->> 'zone'
            and (q.expires_at is null or q.expires_at > now())
        order by q.created_at, q.id limit 1;
        if found then
            perform job_queue_refuse(format('Job %s is a series of %s with the same payload and schedule. A dedupe key '
                'allows both. Nothing was enqueued.', v_first, p_task_type));
        end if;
    end if;
    select c.job_id, c.created into job_id, created from job_queue_add(p_task_type, p_payload,
        case when v_slots is not null
            then job_first_slot(v_slots, coalesce(p_run_at - interval '1 microsecond', now())) else p_run_at end,
        p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_expires_at, p_actor) c;
    if created then
        update job_queue q set is_recurring = true, recurrence_interval_minutes = v_read.minutes,
            schedule = nullif(v_read.schedule, '{}'), slots = v_slots, anchor_at = q.run_at,
            -- The maximum age of the type is one of one-time jobs.
            expires_at = p_expires_at
        where q.id = job_id;
    end if;
end
$$;

-- Enqueues a series like job_queue_create. p_schedule has `seconds`, or `cron` with its `zone`; `catch_up` ("one", "all" or
-- "none") is optional. Without slots, the next worker writes those of the expression. A cron series is due at its first slot
-- from p_run_at on (null: after now).
create or replace function job_series_create(
    p_task_type text, p_payload jsonb, p_schedule jsonb, p_slots timestamptz[], p_run_at timestamptz,
    p_max_attempts integer, p_priority integer, p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid,
    p_expires_at timestamptz, p_actor text, out job_id uuid, out created boolean
)
language sql volatile security definer
set lock_timeout = '1500ms'
as $$
    select job_refuse_outsiders();
    select s.job_id, s.created from job_series_add(p_task_type, p_payload, p_schedule, p_slots, p_run_at,
        p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_expires_at, p_actor, false) s
$$;

-- Puts off series that have missed their slot to their next slot, which may be due: the 500 that are due first, since others wait
-- for a claim. If there may be more, idle workers are woken, whose claims pass over the next ones.
create or replace function job_series_pass_missed(p_now timestamptz) returns void
language plpgsql volatile
as $$
declare
    v_most constant integer := 500;
    v_passed integer;
    v_keys text[];
begin
    with missed as (
        select q.id from job_queue q
        where q.status = 'pending' and q.blocked_by is null and job_clause_missed(q, p_now)
            and q.id not in (select p.job_id from job_poison p where p.retry_at > p_now)
        order by q.run_at limit v_most for update skip locked
    ), passed as (
        update job_queue q set
            run_at = job_series_slot(q.recurrence_interval_minutes, q.schedule, q.slots, coalesce(q.anchor_at, q.run_at),
                p_now - interval '1 minute'),
            attempts = 0, anchor_at = coalesce(q.anchor_at, q.run_at), in_line = q.concurrency_key is not null,
            updated_at = p_now, version = q.version + 1
        from missed m where q.id = m.id
        returning q.concurrency_key
    )
    select count(*), array_agg(distinct concurrency_key) filter (where concurrency_key is not null)
    into v_passed, v_keys from passed;
    perform job_queue_advance_lines(v_keys);
    perform pg_notify(current_schema() || '.job_queue', '') where v_passed = v_most;
end
$$;

-- The cron series that have fewer than ten slots left, or all of them, and the time after which each needs slots. A series
-- that makes up all slots needs those since the last that it served; one that ran out, those since then. When all are
-- written again, the slot that is next is among them, wherever the zone's rules have moved it.
create or replace function job_series_short(p_all boolean, p_limit integer)
returns table (job_id uuid, cron text, zone text, after timestamptz, at timestamptz)
language sql stable security definer
set enable_seqscan = off set jit = off
as $$
    select job_refuse_outsiders();
    select q.id, q.schedule ->> 'cron', q.schedule ->> 'zone', case
            when job_series_runs_all(q.schedule) and q.blocked_by is distinct from q.id
                then coalesce(q.slot_at, case when q.run_at < job_no_slot() then q.run_at end,
                    (select max(s) from unnest(q.slots) s), q.updated_at)
            when q.run_at >= job_no_slot() then q.updated_at
            else greatest(statement_timestamp() - interval '1 minute',
                q.run_at - case when p_all then interval '25 hours' else '0' end)
        end, statement_timestamp()
    from job_queue q
    where q.slots is not null and q.status in ('pending', 'running')
        and (p_all or coalesce(q.slots[cardinality(q.slots) - 9], '-infinity') <= statement_timestamp())
    order by coalesce(q.slots[cardinality(q.slots) - 9], '-infinity') limit p_limit
$$;

-- Writes the slots of a series after a time, if it still has this expression and zone. A series that had run out is due at
-- the first of them, and one whose next slot the zone's rules have moved, where it is now. Without slots, p_trouble says
-- why there are none. A series that another transaction has locked is left out.
create or replace function job_series_fill(
    p_id uuid, p_cron text, p_zone text, p_after timestamptz, p_slots timestamptz[], p_trouble text
) returns boolean
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_job job_queue;
    v_run_at timestamptz;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue q
    where q.id = p_id and q.status in ('pending', 'running') and q.schedule ->> 'cron' = p_cron
        and q.schedule ->> 'zone' = p_zone
    for update skip locked;
    if v_job.id is null or p_slots is null and v_job.last_error is not distinct from p_trouble then
        return false;
    end if;
    if p_slots is null then
        update job_queue q set last_error = p_trouble, version = q.version + 1 where q.id = p_id;
        return true;
    end if;
    v_run_at := case
        when v_job.status <> 'pending' then v_job.run_at
        -- It may have run since its slots were looked for.
        when v_job.run_at >= job_no_slot() then job_first_slot(p_slots, case
            when job_series_runs_all(v_job.schedule) then p_after
            else greatest(p_after, v_job.updated_at,
                case when v_job.schedule ->> 'catch_up' = 'none' then v_now - interval '1 minute' end) end)
        when v_job.slot_at is null and v_job.run_at > v_now and v_job.run_at = any (v_job.slots)
            and v_job.run_at <> all (p_slots) and v_job.run_at > p_after
            and v_job.run_at < (select max(s) from unnest(p_slots) s)
            then coalesce((select s from unnest(p_slots) s where s > v_now
                order by greatest(s - v_job.run_at, v_job.run_at - s), s limit 1), v_job.run_at)
        else v_job.run_at end;
    if v_run_at = v_job.run_at then
        update job_queue q set slots = p_slots where q.id = p_id and q.slots <> p_slots;
        return found;
    end if;
    update job_queue q set slots = p_slots, run_at = v_run_at, in_line = q.concurrency_key is not null,
        updated_at = v_now, version = q.version + 1
    where q.id = p_id;
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    perform pg_notify(current_schema() || '.job_queue', '');
    return true;
end
$$;

-- Makes the series that a program declares for its task types those of the queue: creates, changes and cancels them.
-- p_wanted has an object for each: name, task_type, payload, schedule, slots, max_attempts, concurrency_key. Returns the
-- names that are left for the next call, because their job runs, is locked, or another job has their dedupe key.
create or replace function job_series_declare(p_types text[], p_wanted jsonb, p_actor text) returns text[]
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
declare
    v_left text[] := '{}';
    v_wanted constant job_queue[] := array(
        select jsonb_populate_record(null::job_queue, w || jsonb_build_object('dedupe_key', 'schedule:' || (w ->> 'name'),
            'schedule', (w -> 'schedule') || jsonb_build_object('name', w -> 'name')))
        from jsonb_array_elements(p_wanted) w order by w ->> 'name');
    v_name text;
    v_one job_queue;
    v_job job_queue;
    v_minutes integer;
    v_schedule jsonb;
    v_moved boolean;
begin
    perform job_refuse_outsiders();
    -- Another worker may enqueue the same series now, which this waits for: before it holds the lock of any row.
    perform job_series_add(w.task_type, w.payload, w.schedule, w.slots, null, w.max_attempts, null, w.dedupe_key,
        w.concurrency_key, null, null, p_actor, true)
    from unnest(v_wanted) w where job_queue_holder(w.dedupe_key) is null;
    foreach v_one in array v_wanted loop
        v_name := v_one.schedule ->> 'name';
        select * into v_job from job_queue q
        where q.dedupe_key = v_one.dedupe_key and q.status in ('pending', 'running') for update skip locked;
        if v_job.id is null then
            v_left := v_left || v_name;
            continue;
        end if;
        select r.minutes, r.schedule into v_minutes, v_schedule from job_series_read(v_one.schedule) r;
        continue when v_job.schedule = v_schedule and v_job.recurrence_interval_minutes is not distinct from v_minutes
            and v_job.payload = v_one.payload and v_job.max_attempts = v_one.max_attempts
            and v_job.concurrency_key is not distinct from v_one.concurrency_key;
        if v_job.status = 'running' or v_job.schedule ->> 'name' is distinct from v_name then
            v_left := v_left || v_name;
            continue;
        end if;
        v_moved := v_job.recurrence_interval_minutes is distinct from v_minutes
            or v_job.schedule - 'catch_up' <> v_schedule - 'catch_up';
        update job_queue q set
            payload = v_one.payload, max_attempts = v_one.max_attempts, concurrency_key = v_one.concurrency_key,
            recurrence_interval_minutes = v_minutes, schedule = v_schedule,
            slots = case when v_schedule ? 'cron' then v_one.slots end,
            run_at = case
                when not v_moved then q.run_at
                when v_schedule ? 'cron' then job_first_slot(v_one.slots, clock_timestamp())
                else job_series_slot(v_minutes, v_schedule, null, coalesce(q.anchor_at, q.run_at), clock_timestamp()) end,
            -- The slots of another expression may be before the one that was skipped.
            anchor_at = case when not (v_moved and v_schedule ? 'cron') then q.anchor_at end,
            slot_at = case when not v_moved then q.slot_at end, attempts = case when v_moved then 0 else q.attempts end,
            in_line = v_one.concurrency_key is not null, updated_at = clock_timestamp(), version = q.version + 1
        where q.id = v_job.id;
        perform job_queue_advance_lines(array[v_job.concurrency_key, v_one.concurrency_key]);
        perform job_queue_write_audit(p_actor, 'edit', v_job.id, job_audit_facts(v_job), v_schedule,
            'Its declaration in the code has changed.');
    end loop;
    for v_job in
        select q.* from job_queue q
        where q.is_recurring and q.status in ('pending', 'running') and q.schedule ? 'name'
            and q.task_type = any (p_types)
            and q.schedule ->> 'name' not in (select w ->> 'name' from jsonb_array_elements(p_wanted) w)
        order by q.id for update skip locked
    loop
        v_name := v_job.schedule ->> 'name';
        if v_job.status = 'running' then
            v_left := v_left || v_name;
            continue;
        end if;
        perform job_queue_advance_lines(job_queue_make_cancelled(array[v_job.id], p_actor,
            'The code does not declare it any more.'));
        update job_queue q set last_error = 'The code that runs now does not declare this series.' where q.id = v_job.id;
    end loop;
    return v_left;
end
$$;
