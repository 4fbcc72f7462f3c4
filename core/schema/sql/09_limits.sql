-- How many jobs of a limited type run. The caller has locked the row of the type.
create or replace function job_limit_running(p_type job_types) returns bigint
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_running bigint;
    v_uncounted bigint;
begin
    select count(*) into v_running from job_queue q
    where q.status = 'running' and q.limited and q.task_type = p_type.task_type;
    if p_type.uncounted then
        select count(*) into v_uncounted from job_queue q
        where q.status = 'running' and q.limited is not true and q.task_type = p_type.task_type;
        if v_uncounted = 0 then
            update job_types set uncounted = false where task_type = p_type.task_type;
        end if;
        v_running := v_running + v_uncounted;
    end if;
    return v_running;
end
$$;

-- Locks the rows of these limited types until the end of the transaction, but for those that another claim has locked.
-- A claim that has nothing else to do (p_wait) waits for the other one, which takes milliseconds.
create or replace function job_limits_lock(p_types text[], p_wait boolean) returns setof job_types
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off set lock_timeout = '50ms'
as $$
declare
    v_locked job_types[];
begin
    return query select * from job_types t where t.limited and t.task_type = any (p_types)
        order by t.task_type for update skip locked;
    if found or not p_wait then
        return;
    end if;
    begin
        v_locked := array(select t from job_types t where t.limited and t.task_type = any (p_types)
            order by t.task_type for update);
    exception when lock_not_available then
        -- The locks that this block has got are lost with it. Rows that it had returned would stay.
        return query select * from job_types t where t.limited and t.task_type = any (p_types)
            order by t.task_type for update skip locked;
        return;
    end;
    return query select * from unnest(v_locked);
end
$$;

-- Of these limited types, those of which jobs may start, how many, and when they were counted: the jobs must not start
-- before. The rows of the types are locked until the end of the transaction. A claim takes no more jobs of a limited
-- type than its worker runs at a time, because jobs that wait in a worker keep their places from others, and start later
-- than the rate has counted. Where there are more places than all workers of the types have slots, the worker has the
-- share of the places that its slots are of all slots, since the others need the other places alone. A claim takes half
-- of this share, so that one half runs while the other is claimed, and no more than the share of a tenth of a second of
-- the rate.
create or replace function job_limits_admit(
    p_types text[], p_worker text, p_limit integer, p_wait boolean, out types text[], out places integer[],
    out counted_at timestamptz
)
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_type job_types;
    v_locked constant job_types[] := array(select l from job_limits_lock(p_types, p_wait) l);
    v_places bigint;
    v_slots constant integer := (select w.concurrency from job_workers w where w.id = p_worker);
    v_share constant double precision := case when p_limit > v_slots then v_slots::double precision / nullif((
        select sum(w.concurrency) from job_workers w
        where w.heartbeat_at > clock_timestamp() - interval '2 minutes' and w.task_types && p_types), 0) end;
begin
    -- After the locks, since runs that end while this claim waits for them are not counted.
    counted_at := clock_timestamp();
    foreach v_type in array v_locked loop
        -- A claim that began before the limit may not have committed yet.
        continue when v_type.limited_at between counted_at - interval '1 second' and counted_at + interval '1 second';
        v_places := least(p_limit, greatest(v_slots, ceil(v_share * least(
            v_type.max_running / 2.0, v_type.rate_runs / (10.0 * v_type.rate_seconds)))), job_rate_places(
            v_type.rate_until, v_type.rate_burst, v_type.rate_runs, v_type.rate_seconds, counted_at));
        if v_places > 0 and v_type.max_running is not null then
            v_places := least(v_places, v_type.max_running - job_limit_running(v_type));
        end if;
        if v_places > 0 then
            types := types || v_type.task_type;
            places := places || v_places::integer;
        end if;
    end loop;
end
$$;

-- How many jobs of each lane a claim takes where a type may have several lanes: like the ranking in job_queue_claim, with
-- the places that the types of some lanes have (p_free, null for a type without limits).
create or replace function job_limits_rank(
    p_types text[], p_priorities integer[], p_run_at timestamptz[], p_ids uuid[], p_free integer[], p_room integer,
    p_now timestamptz, p_but tid[]
) returns integer[]
language plpgsql volatile
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(
        select coalesce(h.jobs, 0)::integer from generate_subscripts(p_types, 1) as s (place)
        left join (
            select best.place, count(*) as jobs
            from (
                select r.place from (
                    select l.place, l.priority, l.free, c.run_at, c.id, row_number() over (
                        partition by l.task_type order by l.priority desc, c.run_at, c.id) as number
                    from unnest(p_types, p_priorities, p_run_at, p_ids, p_free) with ordinality
                        as l (task_type, priority, run_at, id, free, place)
                    cross join lateral (
                        select q.run_at, q.id from job_queue q
                        where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                            and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type
                            and q.priority = l.priority and (q.run_at, q.id) > (l.run_at, l.id)
                            and job_clause_due(q.run_at, p_now) and job_clause_unexpired(q.expires_at, p_now)
                            and job_clause_key_free(q.concurrency_key, q.task_type) and q.ctid <> all (p_but)
                        order by q.run_at, q.id limit least(p_room, l.free)
                    ) c
                ) r
                where r.free is null or r.number <= r.free
                order by r.priority desc, r.run_at, r.id limit p_room
            ) best
            group by best.place
        ) h on h.place = s.place
        order by s.place);
end
$$;

-- These places without those of jobs, the last in the order of claims, that are more than their limited type has places.
-- The caller has locked the jobs.
create or replace function job_limits_within(p_jobs tid[], p_types text[], p_places integer[]) returns tid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_over constant tid[] := array(
        select c.job from (
            select q.ctid as job, q.task_type, row_number() over (
                partition by q.task_type order by q.priority desc, q.run_at, q.id) as number
            from job_queue q where q.ctid = any (p_jobs) and q.task_type = any (p_types)
        ) c
        join unnest(p_types, p_places) as l (task_type, places) on l.task_type = c.task_type and c.number > l.places);
begin
    if cardinality(v_over) = 0 then
        return p_jobs;
    end if;
    return array(select j.job from unnest(p_jobs) as j (job) where j.job <> all (v_over));
end
$$;

-- The places that are left in each lane (null for a type without limits) after these jobs, which the caller has locked.
create or replace function job_limits_left(p_types text[], p_free integer[], p_jobs tid[]) returns integer[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    return array(
        select case when l.free is not null then greatest(l.free - coalesce(n.jobs, 0), 0)::integer end
        from unnest(p_types, p_free) with ordinality as l (task_type, free, place)
        left join (
            select q.task_type, count(*) as jobs from job_queue q where q.ctid = any (p_jobs) group by q.task_type
        ) n on n.task_type = l.task_type
        order by l.place);
end
$$;

-- Uses up the rates of these types for jobs that start now. The caller has locked the jobs and the types.
create or replace function job_limits_spend(p_jobs tid[], p_types text[], p_at timestamptz) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    update job_types t
    set rate_until = job_rate_after(t.rate_until, t.rate_burst, t.rate_runs, t.rate_seconds, p_at, n.jobs)
    from (select q.task_type, count(*) as jobs from job_queue q where q.ctid = any (p_jobs) group by q.task_type) n
    where t.task_type = n.task_type and t.task_type = any (p_types) and t.rate_runs is not null;
end
$$;

-- What the limits of a type say now, for people: a code and facts, and from when on a claim may find a place. All null
-- without limits; `opens_at` is null if there is a place.
create or replace function job_limit_state(
    p_task_type text, p_at timestamptz, out code text, out facts jsonb, out opens_at timestamptz
)
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_type job_types;
    v_running bigint;
begin
    select * into v_type from job_types where task_type = p_task_type and limited;
    if not found then
        return;
    end if;
    select count(*) into v_running from job_queue q
    where q.status = 'running' and q.limited and q.task_type = p_task_type;
    if v_type.uncounted then
        v_running := v_running + (select count(*) from job_queue q
            where q.status = 'running' and q.limited is not true and q.task_type = p_task_type);
    end if;
    if v_running >= v_type.max_running then
        code := 'type-full';
        -- Nobody knows when a run ends; workers look again after a second.
        opens_at := p_at + interval '1 second';
    elsif job_rate_places(v_type.rate_until, v_type.rate_burst, v_type.rate_runs, v_type.rate_seconds, p_at) < 1
    then
        code := 'type-rate';
        opens_at := job_rate_opens(v_type.rate_until, v_type.rate_burst, v_type.rate_runs, v_type.rate_seconds, p_at);
    else
        code := 'type-has-place';
        if v_type.limited_at between p_at - interval '1 second' and p_at + interval '1 second' then
            opens_at := v_type.limited_at + interval '1 second';
        end if;
    end if;
    facts := jsonb_build_object('task_type', p_task_type, 'running', v_running, 'max_running', v_type.max_running,
        'rate_runs', v_type.rate_runs, 'rate_seconds', v_type.rate_seconds,
        'seconds', ceil(date_part('epoch', opens_at - p_at)));
end
$$;

-- Why these limits of a type cannot be; null if they can.
create or replace function job_limits_refusal(p_type job_types) returns text
language sql immutable
set search_path from current
as $$
    select case
        when p_type.max_running not between 1 and 1000000 then format('A limit of runs at the same time must be between 1 '
            'and 1,000,000, and %s is not. To run none, pause the type. Nothing was changed.', p_type.max_running)
        when p_type.max_per_key not between 1 and 1000 then format('A limit of runs for each key must be between 1 and '
            '1,000, and %s is not. Nothing was changed.', p_type.max_per_key)
        when (p_type.rate_runs is null) <> (p_type.rate_seconds is null)
            or (p_type.key_rate_runs is null) <> (p_type.key_rate_seconds is null)
        then 'A rate needs a number of runs and a period in seconds. Nothing was changed.'
        when p_type.rate_runs not between 1 and 1000000 or p_type.key_rate_runs not between 1 and 1000000 then format(
            'A rate must have between 1 and 1,000,000 runs, and %s is not. To run none, pause the type. Nothing was '
            'changed.', case when p_type.rate_runs between 1 and 1000000 then p_type.key_rate_runs
                else coalesce(p_type.rate_runs, p_type.key_rate_runs) end)
        when p_type.rate_seconds not between 1 and 2678400 or p_type.key_rate_seconds not between 1 and 2678400 then
            'The period of a rate must be between a second and 31 days. Nothing was changed.'
        when p_type.max_age_seconds not between 1 and 31622400 then
            'The maximum age of a job must be between a second and 366 days. Nothing was changed.'
        when p_type.rate_burst is not null and p_type.rate_runs is null then
            'A burst is how many runs of a rate may start at once, and the type has no rate. Nothing was changed.'
        -- Workers look once a second, so a smaller burst would not reach the rate.
        when p_type.rate_burst not between ceil(p_type.rate_runs::numeric / p_type.rate_seconds) and 1000000 then
            format('The burst of this rate must be between %s, the runs of one second, and 1,000,000, and %s is not. '
                'Nothing was changed.', ceil(p_type.rate_runs::numeric / p_type.rate_seconds), p_type.rate_burst)
    end
$$;

-- Refuses limits in p_changes that are no whole numbers.
create or replace function job_limits_refuse_others(p_changes jsonb) returns void
language plpgsql immutable
set search_path from current
as $$
declare
    v_name text;
    v_value jsonb;
begin
    for v_name, v_value in
        select c.key, c.value from jsonb_each(p_changes) c
        where c.key in ('max_running', 'max_per_key', 'rate_runs', 'rate_seconds', 'rate_burst', 'key_rate_runs',
            'key_rate_seconds', 'max_age_seconds')
            and jsonb_typeof(c.value) <> 'null'
    loop
        if jsonb_typeof(v_value) <> 'number' or v_value #>> '{}' !~ '^-?[0-9]{1,9}$' then
            perform job_queue_refuse(format('A limit is a whole number, and %s is not one for %s. Nothing was changed.',
                left(v_value #>> '{}', 40), v_name));
        end if;
    end loop;
end
$$;

-- Keeps the changed limits of a type, whose row the caller has locked: from when on they count, and the lines that may move.
create or replace function job_limits_keep(p_before job_types, p_after job_types) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    update job_types set max_running = p_after.max_running, rate_runs = p_after.rate_runs,
        rate_seconds = p_after.rate_seconds, rate_burst = p_after.rate_burst, max_per_key = p_after.max_per_key,
        key_rate_runs = p_after.key_rate_runs, key_rate_seconds = p_after.key_rate_seconds,
        max_age_seconds = p_after.max_age_seconds,
        rate_until = case when (p_before.rate_runs, p_before.rate_seconds, p_before.rate_burst)
            is not distinct from (p_after.rate_runs, p_after.rate_seconds, p_after.rate_burst) then rate_until end
    where task_type = p_after.task_type;
    if not p_before.limited then
        update job_types set limited_at = clock_timestamp(), uncounted = true
        where task_type = p_after.task_type and limited;
    end if;
    if p_after.max_per_key > coalesce(p_before.max_per_key, 1) then
        insert into job_recheck (concurrency_key) select distinct q.concurrency_key from job_queue q
        where q.status = 'pending' and q.blocked_by is null and q.in_line and q.task_type = p_after.task_type;
    end if;
    if (p_before.key_rate_runs, p_before.key_rate_seconds)
        is distinct from (p_after.key_rate_runs, p_after.key_rate_seconds)
    then
        -- Jobs that are due when the earlier rate lets them start are due now. Claims hold them to the new rate.
        with held as (
            select q.id from job_queue q join job_key_rates r on r.key_hash = md5(q.concurrency_key)::uuid
                and r.rate_runs = p_before.key_rate_runs and r.rate_seconds = p_before.key_rate_seconds
            where q.status = 'pending' and q.task_type = p_after.task_type and q.run_at > v_now
                and abs(date_part('epoch', q.run_at - job_rate_opens(r.used_until, null, r.rate_runs, r.rate_seconds, v_now)))
                    < 0.001
            for update of q skip locked
        ), due as (
            update job_queue q set run_at = v_now from held h where q.id = h.id returning q.concurrency_key
        )
        insert into job_recheck (concurrency_key) select distinct concurrency_key from due;
    end if;
    perform pg_notify(current_schema() || '.job_queue', '');
end
$$;

-- Which jobs of a batch wait in the line of their key, where the types of the batch let several jobs with a key run; like
-- job_queue_join_lines.
create or replace function job_key_join_lines(
    p_keys text[], p_task_types text[], p_priorities integer[], p_run_at timestamptz[]
) returns boolean[]
language sql stable
set search_path from current set enable_seqscan = off
as $$
    with batch as (
        select n.key, n.task_type, coalesce(n.priority, 0) as priority, coalesce(n.run_at, now()) as run_at, n.place,
            row_number() over (partition by n.key order by coalesce(n.priority, 0) desc, n.run_at, n.place) as number
        from unnest(p_keys, p_task_types, p_priorities, p_run_at) with ordinality
            as n (key, task_type, priority, run_at, place)
    )
    select array_agg(b.key is not null and (b.number > coalesce(t.max_per_key, 1)
        or job_queue_joins_line(b.key, b.priority, b.run_at, b.task_type)) order by b.place)
    from batch b left join job_types t on t.task_type = b.task_type
$$;

-- Puts the next job of a line into the claim's index beside those of its key that run or are there and due, if its type
-- lets so many run. Returns whether it did. The caller has the lock of the key.
create or replace function job_queue_put_beside(p_key text, p_now timestamptz) returns boolean
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_job constant job_queue := job_queue_lock_next_in_line(p_key, p_now, null);
begin
    if v_job.id is null or job_key_limit(v_job.task_type) <= job_key_running_now(p_key) + (
        select count(*) from (
            select from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.run_at <= greatest(v_job.run_at, p_now)
            order by q.priority desc) waiting)
    then
        return false;
    end if;
    update job_queue set in_line = false where id = v_job.id;
    return true;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Unique within a period: a dedupe key that goes on to count for a time, whatever becomes of its job
-------------------------------------------------------------------------------------------------------

