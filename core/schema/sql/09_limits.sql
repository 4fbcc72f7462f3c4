-- The limits of task types: how many jobs of a type run over all workers, and how many start in a period.
--
-- A claim locks the rows of the limited types that it was asked for, and leaves out those that another claim has locked. The
-- lock lasts until the claim commits, so a count made after it is exact: reports only make it smaller. Jobs of types
-- without limits are not in the index of limited runs, and their claims find no row here. A job that waits for a limit has
-- no mark: it is in the index of claims and due, and claims leave its lane out.

-- A range of the index of claims: the jobs of one type and priority behind a place. `room` is how many jobs of the type may
-- start now, null for a type without limits.
do $$
begin
    if to_regtype('job_lane') is null then
        create type job_lane as (task_type text, priority integer, run_at timestamptz, id uuid, room integer);
    end if;
end
$$;

-- How many jobs of each of these limited types run; a type of which none runs may be missing. Claims mark the jobs of limited
-- types, and their number is read from the index of the marks. Upkeep marks the jobs that were claimed before the first limit of
-- their type; for an hour after it, all running jobs of the type are counted, in one look at all running jobs for all such types.
create or replace function job_limit_running(p_types job_types[]) returns jsonb
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_hashjoin = on set jit = off
as $$
declare
    v_new constant text[] := array(
        select t.task_type from unnest(p_types) t where t.limited_at > clock_timestamp() - interval '1 hour');
begin
    return coalesce((
        select jsonb_object_agg(t.task_type, (
            select count(*) from job_queue q where q.status = 'running' and q.limited and q.task_type = t.task_type))
        from unnest(p_types) t where t.limited_at > clock_timestamp() - interval '1 hour' is not true), '{}')
    || case when v_new <> '{}' then coalesce((
        select jsonb_object_agg(r.task_type, r.jobs) from (
            select q.task_type, count(*) as jobs from job_queue q
            where q.status = 'running' and q.task_type in (select unnest(v_new)) group by q.task_type) r), '{}') else '{}' end;
end
$$;

-- These lanes without those of limited types of which no job may start, the others with the room of their type, and when it
-- was counted: the jobs must not start before. The rows of the types are locked until the end of the transaction, and types
-- that another claim has locked are left to it.
--
-- A claim takes no more jobs of a limited type than its worker runs at a time, because jobs that wait in a worker keep their
-- places from others, and start later than the rate has counted. Where there are more places than all workers of the types
-- have slots, the worker has the share of the places that its slots are of all slots, since the others need the other
-- places alone. A claim takes half of this share, so that one half runs while the other is claimed, and no more than the
-- share of a tenth of a second of the rate.
create or replace function job_limits_admit(
    p_lanes job_lane[], p_worker text, p_limit integer, out lanes job_lane[], out counted_at timestamptz
)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set jit = off set lock_timeout = '50ms'
as $$
declare
    v_asked constant text[] := array(select distinct l.task_type from unnest(p_lanes) l);
    v_limited constant text[] := array(select t.task_type from job_types t where t.limited and t.task_type = any (v_asked));
    v_locked job_types[] := array(select t from job_types t where t.limited and t.task_type = any (v_asked)
        order by t.task_type for update skip locked);
    v_type job_types;
    v_room bigint;
    v_types text[] := '{}';
    v_places text[] := '{}';
    v_running jsonb;
    v_rooms jsonb;
    v_slots constant integer := (select w.concurrency from job_workers w where w.id = p_worker);
    v_share constant double precision := case when p_limit > v_slots then v_slots::double precision / nullif((
        select sum(w.concurrency) from job_workers w
        where job_worker_is_alive(w.heartbeat_at, clock_timestamp()) and w.task_types && v_limited), 0) end;
begin
    if cardinality(v_locked) = 0 and v_asked <@ v_limited then
        -- The claim has nothing else to do, so it waits for the other claim, which takes milliseconds.
        begin
            v_locked := array(select t from job_types t where t.limited and t.task_type = any (v_asked)
                order by t.task_type for update);
        exception when lock_not_available then
            null;
        end;
    end if;
    -- After the locks, since runs that end while this claim waits for them are not counted.
    counted_at := clock_timestamp();
    v_running := job_limit_running(array(select t from unnest(v_locked) t where t.max_running is not null));
    foreach v_type in array v_locked loop
        v_room := least(p_limit, greatest(v_slots, ceil(v_share * least(
            v_type.max_running / 2.0, v_type.rate_runs / (10.0 * v_type.rate_seconds)))), job_rate_places(
            v_type.rate_until, v_type.rate_burst, v_type.rate_runs, v_type.rate_seconds, counted_at));
        v_types := v_types || v_type.task_type;
        v_places := v_places || greatest(
            least(v_room, v_type.max_running - coalesce((v_running ->> v_type.task_type)::bigint, 0)), 0)::text;
    end loop;
    -- Types that another claim has locked have no room.
    v_rooms := jsonb_object(v_limited, array_fill('0'::text, array[cardinality(v_limited)])) || jsonb_object(v_types, v_places);
    lanes := array(
        select row(l.task_type, l.priority, l.run_at, l.id, r.room)::job_lane
        from unnest(p_lanes) with ordinality as l (task_type, priority, run_at, id, room, place)
        cross join lateral (select (v_rooms ->> l.task_type)::integer as room) r
        where r.room is null or r.room > 0 order by l.place);
end
$$;

-- Uses up the rates of these types for jobs that start now. The caller has locked the jobs and the types.
create or replace function job_limits_spend(p_jobs tid[], p_types text[], p_at timestamptz) returns void
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = off set enable_hashjoin = on set jit = off
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
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_type job_types;
    v_running bigint;
begin
    select * into v_type from job_types where task_type = p_task_type and limited;
    if not found then
        return;
    end if;
    v_running := coalesce((job_limit_running(array[v_type]) ->> p_task_type)::bigint, 0);
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
    end if;
    facts := jsonb_build_object('task_type', p_task_type, 'running', v_running, 'max_running', v_type.max_running,
        'rate_runs', v_type.rate_runs, 'rate_seconds', v_type.rate_seconds,
        'seconds', ceil(date_part('epoch', opens_at - p_at)));
end
$$;

-- Why these limits of a type cannot be; null if they can.
create or replace function job_limits_refusal(p_type job_types) returns text
language sql immutable
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
        when p_type.queue !~ '^[A-Za-z0-9_.-]{1,100}$' then
            'The name of a queue has 1 to 100 letters, digits, dots, hyphens and underscores. Nothing was changed.'
        when not job_priority_fits(p_type.priority) then format(
            'A priority must be between -100 and 100, and %s is not. Nothing was changed.', p_type.priority)
        when p_type.rate_burst is not null and p_type.rate_runs is null then
            'A burst is how many runs of a rate may start at once, and the type has no rate. Nothing was changed.'
        -- Workers look once a second, so a smaller burst would not reach the rate.
        when p_type.rate_burst not between ceil(p_type.rate_runs::numeric / p_type.rate_seconds) and 1000000 then
            format('The burst of this rate must be between %s, the runs of one second, and 1,000,000, and %s is not. '
                'Nothing was changed.', ceil(p_type.rate_runs::numeric / p_type.rate_seconds), p_type.rate_burst)
    end
$$;

-- The names of the values that code and operators can set.
create or replace function job_value_names() returns text[]
language sql immutable parallel safe
return array['max_running', 'max_per_key', 'rate_runs', 'rate_seconds', 'rate_burst', 'key_rate_runs', 'key_rate_seconds',
    'max_age_seconds', 'priority', 'queue'];

-- What operators have set of a type after these changes. The text "code" takes a value back; a null is kept where the code names
-- a value, since that would hold otherwise. A rate is one value.
create or replace function job_values_own(p_own jsonb, p_code jsonb, p_changes jsonb) returns jsonb
language plpgsql immutable
as $$
declare
    v_rate constant text[] := array['rate_runs', 'rate_seconds', 'rate_burst'];
    v_back text[] := array(select c.key from jsonb_each(p_changes) c where c.value = '"code"');
    v_own jsonb := p_own;
begin
    if v_back && v_rate then
        v_back := v_back || v_rate;
    elsif p_changes ?| v_rate then
        v_own := p_code - array(select k from jsonb_object_keys(p_code) k where k <> all (v_rate)) || v_own;
    end if;
    v_own := (v_own || p_changes) - v_back;
    if v_own ->> 'rate_runs' is null and not p_changes ? 'rate_burst' then
        v_own := v_own - 'rate_burst';
    end if;
    return (select coalesce(jsonb_object_agg(o.key, o.value), '{}') from jsonb_each(v_own) o
        where o.key = any (job_value_names()) and (o.value <> 'null' or p_code ? o.key));
end
$$;

-- The type with the values that hold: those of operators, else those of the code.
create or replace function job_values_held(p_type job_types, p_code jsonb, p_own jsonb) returns job_types
language sql immutable
as $$
    select jsonb_populate_record(p_type, jsonb_object(job_value_names(), array_fill(null::text, array[cardinality(job_value_names())])) || p_code || p_own)
$$;

-- Whether a release was first seen before another one. Volatile, so that it sees a release that has just come.
create or replace function job_release_precedes(p_release text, p_other text) returns boolean
language sql volatile
as $$
    select exists (select from job_releases r join job_releases o on r.first_seen < o.first_seen
        where r.name = p_release and o.name = p_other)
$$;

-- Takes what the code of a release says of its types, {"type": {"max_running": 5}}. A release that was first seen before the one
-- that declared the values of a type changes none.
create or replace function job_types_code(p_worker text, p_release text, p_code jsonb) returns void
language plpgsql volatile security definer
set lock_timeout = '900ms'
as $$
declare
    v_release constant text := left(p_release, 200);
    v_values job_type_values;
    v_was job_types;
    v_type job_types;
begin
    perform job_release_note(p_release);
    update job_workers set release = v_release, code = p_code
    where id = p_worker and (release, code) is distinct from (v_release, p_code);
    for v_values in
        insert into job_type_values as v (task_type, code, release, declared_at)
        select n.key, n.value, v_release, clock_timestamp() from jsonb_each(p_code) n
        where not exists (select from job_type_values o where o.task_type = n.key and (o.code, o.release) = (n.value, v_release))
        order by n.key
        on conflict (task_type) do update
        set code = excluded.code, release = excluded.release, declared_at = excluded.declared_at
        where v.release is null or not job_release_precedes(excluded.release, v.release)
        returning v.*
    loop
        insert into job_types (task_type) select v_values.task_type where v_values.code || v_values.own <> '{}'
        on conflict (task_type) do nothing;
        select * into v_was from job_types where task_type = v_values.task_type for update;
        v_type := job_values_held(v_was, v_values.code, v_values.own);
        if v_type is distinct from v_was then
            perform job_queue_refuse(r) from job_limits_refusal(v_type) r where r is not null;
            perform job_limits_keep(v_was, v_type);
        end if;
    end loop;
end
$$;

-- Refuses limits in p_changes that are no whole numbers.
create or replace function job_limits_refuse_others(p_changes jsonb) returns void
language plpgsql immutable
as $$
declare
    v_name text;
    v_value jsonb;
begin
    for v_name, v_value in
        select c.key, c.value from jsonb_each(p_changes) c
        where c.key = any (job_value_names()) and c.key <> 'queue' and jsonb_typeof(c.value) <> 'null' and c.value <> '"code"'
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
set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_keys text[];
begin
    update job_types set max_running = p_after.max_running, rate_runs = p_after.rate_runs,
        rate_seconds = p_after.rate_seconds, rate_burst = p_after.rate_burst, max_per_key = p_after.max_per_key,
        key_rate_runs = p_after.key_rate_runs, key_rate_seconds = p_after.key_rate_seconds,
        max_age_seconds = p_after.max_age_seconds, priority = p_after.priority, queue = p_after.queue,
        rate_until = case when (p_before.rate_runs, p_before.rate_seconds, p_before.rate_burst)
            is not distinct from (p_after.rate_runs, p_after.rate_seconds, p_after.rate_burst) then rate_until end
    where task_type = p_after.task_type;
    if not p_before.limited then
        update job_types set limited_at = clock_timestamp()
        where task_type = p_after.task_type and limited;
    end if;
    if p_after.max_per_key > coalesce(p_before.max_per_key, 1) then
        perform job_queue_ask_recheck(array(select q.concurrency_key from job_queue q
            where q.status = 'pending' and q.blocked_by is null and q.in_line and q.task_type = p_after.task_type), null);
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
        select array_agg(concurrency_key) into v_keys from due;
        perform job_queue_ask_recheck(v_keys, null);
    end if;
    perform pg_notify(current_schema() || '.job_queue', '');
end
$$;

-- Marks running jobs that were claimed before the first limit of their type, for two hours after that limit: a claim that began
-- before it may commit late. A job whose row is locked is marked the next time.
create or replace function job_limits_mark() returns void
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
declare
    v_types constant text[] := array(
        select t.task_type from job_types t where t.limited and t.limited_at > clock_timestamp() - interval '2 hours');
begin
    if cardinality(v_types) > 0 then
        update job_queue set limited = true where id in (
            select q.id from job_queue q
            where q.status = 'running' and q.limited is not true and q.task_type = any (v_types)
            for update skip locked);
    end if;
end
$$;
