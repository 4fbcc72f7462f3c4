-------------------------------------------------------------------------------------------------------
-- 5. Claim, heartbeat, checkpoint
-------------------------------------------------------------------------------------------------------

-- The lanes of some task types: each priority with claimable jobs, found by one index probe each.
create or replace function job_queue_lanes(p_types text[])
returns table (task_type text, priority integer)
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with recursive lane (task_type, priority) as (
        select t.task_type, (
            select q.priority from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = t.task_type
            order by q.task_type, q.priority desc limit 1)
        from unnest(p_types) as t (task_type)
        union all
        select l.task_type, (
            select q.priority from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                and q.priority < l.priority
            order by q.task_type, q.priority desc limit 1)
        from lane l where l.priority is not null
    )
    select lane.task_type, lane.priority from lane where lane.priority is not null;
end
$$;

-- The same as job_queue_take_keys where each key lets one job run and no key has a rate: a few statements for all keys. The
-- caller has the locks of these slots.
create or replace function job_queue_take_single_keys(p_places tid[], p_slots integer[]) returns tid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_nestloop = on set enable_hashjoin = on
set enable_sort = on set jit = off
as $$
declare
    v_keys text[];
    v_ids uuid[];
    v_refused tid[];
    v_others uuid[];
begin
    select array_agg(c.key) filter (where c.takes), array_agg(c.id) filter (where c.takes),
        array_agg(c.place) filter (where not c.takes)
    into v_keys, v_ids, v_refused
    from (
        select f.place, f.key, f.id, f.number = 1 and job_slot(f.key) = any (p_slots)
            -- The order makes the planner read the index of running keys.
            and (select true from job_queue r where r.concurrency_key = f.key and r.status = 'running'
                order by r.concurrency_key, r.key_place limit 1) is null as takes
        from (
            select q.ctid as place, q.id, q.concurrency_key as key,
                row_number() over (partition by q.concurrency_key order by q.priority desc, q.run_at, q.id) as number
            from job_queue q where q.ctid = any (p_places) and q.concurrency_key is not null
        ) f
        offset 0  -- so that each key is looked for once
    ) c;
    -- Other jobs in the claim's index with such a key (inserted out of order, or at the same time) would slow down
    -- every claim while the key is busy.
    v_others := array(
        select o.id from unnest(v_keys, v_ids) as t (key, id) cross join lateral (
            select q.id from job_queue q
            where q.concurrency_key = t.key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.id <> t.id
            order by q.concurrency_key, q.priority desc
        ) o);
    if cardinality(v_others) > 0 then
        update job_queue set in_line = true where id in (
            select q.id from job_queue q
            where q.id = any (v_others) and q.status = 'pending' and q.blocked_by is null and not q.in_line
            for update skip locked);
    end if;
    if v_refused is null then
        return p_places;
    end if;
    return array(select c.place from unnest(p_places) as c (place) where c.place <> all (v_refused));
end
$$;

-- Of the candidates, which the caller has locked, those that may run: the first in claim order of each concurrency key,
-- if no job with the key is running, or as many as their type lets run (p_several; else one). The key's lock is tried and
-- not waited for; it decides between two claims that do not see each other.
create or replace function job_queue_take_keys(p_places tid[], p_several boolean) returns tid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_job record;
    v_refused tid[] := '{}';
    v_taken text[] := '{}';
    v_takers uuid[] := '{}';
    v_most integer;
    -- The types with a rate for each key, the keys whose rate is used up, and the jobs that wait in the lines of these.
    v_paced constant text[] := array(select t.task_type from job_types t where t.key_rate_runs is not null);
    v_held text[] := '{}';
    v_waiting uuid[] := '{}';
    v_now constant timestamptz := clock_timestamp();
    v_opens timestamptz;
    v_slots constant integer[] := job_queue_try_locks(array(
        select q.concurrency_key from job_queue q where q.ctid = any (p_places) and q.concurrency_key is not null));
begin
    if not p_several and cardinality(v_paced) = 0 then
        return job_queue_take_single_keys(p_places, v_slots);
    end if;
    for v_job in
        select q.ctid as place, q.id, q.task_type, q.concurrency_key as key from job_queue q
        where q.ctid = any (p_places) and q.concurrency_key is not null
        order by q.priority desc, q.run_at, q.id
    loop
        if job_slot(v_job.key) <> all (v_slots) or v_job.key = any (v_held) then
            v_refused := v_refused || v_job.place;
            v_waiting := v_waiting || case when v_job.key = any (v_held) then v_job.id end;
            continue;
        elsif v_job.key = any (v_taken) or job_key_is_busy_now(v_job.key) then
            v_most := case when p_several then job_key_limit(v_job.task_type) else 1 end;
            if v_most = 1 or v_most <= job_key_running_now(v_job.key)
                + coalesce(cardinality(array_positions(v_taken, v_job.key)), 0)
            then
                v_refused := v_refused || v_job.place;
                continue;
            end if;
        end if;
        if v_job.task_type = any (v_paced) then
            -- An erasure takes long, and is not waited for.
            if not job_key_rates_lock(v_job.key) then
                v_refused := v_refused || v_job.place;
                continue;
            end if;
            v_opens := job_key_opens(v_job.key, v_job.task_type, v_now);
            if v_opens > v_now then
                v_refused := v_refused || v_job.place;
                if job_key_hold(v_job.id, v_opens, v_now) then
                    v_held := v_held || v_job.key;
                else
                    v_waiting := v_waiting || v_job.id;
                end if;
                continue;
            end if;
            perform job_key_spend(v_job.key, v_job.task_type, v_now);
        end if;
        v_taken := v_taken || v_job.key;
        v_takers := v_takers || v_job.id;
    end loop;
    update job_queue set in_line = true where id = any (v_waiting);
    -- Other jobs in the claim's index with such a key (inserted out of order, or at the same time) would slow down
    -- every claim while the key is busy.
    update job_queue set in_line = true where id in (
        select q.id from job_queue q
        where q.concurrency_key = any (v_taken) and q.status = 'pending' and q.blocked_by is null and not q.in_line
            and q.id <> all (v_takers) and (job_key_limit(q.task_type) = 1 or job_key_limit(q.task_type)
                <= job_key_running_now(q.concurrency_key) + cardinality(array_positions(v_taken, q.concurrency_key)))
        for update skip locked);
    return array(select c.place from unnest(p_places) as c (place) where c.place <> all (v_refused));
end
$$;

-- Called with a lock held, so it must see rows that were committed since the claim began: therefore volatile.
create or replace function job_key_is_busy_now(p_key text) returns boolean
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    return (select true from job_queue where concurrency_key = p_key and status = 'running' order by key_place limit 1)
        is not null;
end
$$;

-- Claims up to p_limit jobs of the given types for a worker, best first.
--
-- Constant conditions (switch, paused types) are read first. Then each lane is one range of one index, so that jobs
-- that are not due, of other types, blocked or behind a busy key cost nothing. The planner's settings force that plan
-- whatever the statistics say.
--
-- Under load, the dead index entries of jobs claimed since the last vacuum come before the next jobs, and every claim
-- has to skip all of them. So a worker may pass the lanes and the last claimed job of each (p_lane_...). Then only jobs
-- behind those are read; jobs that came before them meanwhile are left to the next claim without lanes.
create or replace function job_queue_claim(
    p_worker text, p_types text[], p_limit integer, p_lease_seconds double precision,
    p_lane_types text[] default null, p_lane_priorities integer[] default null,
    p_lane_run_at timestamptz[] default null, p_lane_ids uuid[] default null
) returns table (
    id uuid, run_token bigint, task_type text, payload jsonb, attempt integer, max_attempts integer,
    due_at timestamptz, claimed_at timestamptz, is_recurring boolean, checkpoint jsonb, cycle integer, priority integer
)
language plpgsql volatile security definer
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_open text[];
    v_canary boolean;
    v_on boolean;
    v_lines boolean;
    v_missed boolean;
    v_paused boolean;
    v_due_series boolean;
    v_types text[];
    v_priorities integer[];
    v_run_at timestamptz[];
    v_ids uuid[];
    v_quotas integer[];
    v_room integer;
    v_wanted bigint;
    v_series tid[] := '{}';
    v_places tid[];
    v_more tid[];
    v_keyed boolean;
    v_several boolean;
    -- The types with limits, those of them that have places, and these places; the places of the type of each lane.
    v_limited text[];
    v_open_types text[];
    v_open_places integer[];
    v_free integer[];
    -- With limits: whether all lanes have the same priority, so that no type has two of them; whether there is room for
    -- all that the types have places for.
    v_level boolean;
    v_whole boolean;
    v_key_jobs tid[];
    v_key_numbers smallint[];
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    -- One query for all that a claim has to know before it looks for jobs: some of these are rules that have functions, whose
    -- calls would take longer than the query.
    select exists (select from job_canaries c where c.task_type = any (p_types) and c.run_token is null),
        coalesce((select (s.processing_enabled or s.resume_at <= v_now)
                and (s.runner = 'jobdeck' or p_worker = job_earlier_runner())
            from job_queue_settings s where s.id = 1), false),
        exists (select from job_lines_due where retry_at <= v_now),
        exists (select from job_queue q where q.status = 'pending' and q.blocked_by is null and q.slot_at is null
            and q.schedule ->> 'catch_up' = 'none' and q.run_at <= v_now - interval '1 minute'),
        exists (select from job_types t where t.task_type = any (p_types) and (t.set_aside
            or t.paused_at is not null and (t.resume_at is null or t.resume_at > v_now))),
        array(select t.task_type from job_types t where t.limited and t.task_type = any (p_types)),
        exists (select from job_queue q where q.is_recurring and job_clause_pending(q.status)
            and job_clause_due(q.run_at, v_now))
    into v_canary, v_on, v_lines, v_missed, v_paused, v_limited, v_due_series;
    if v_canary and p_worker <> job_earlier_runner() then
        return query select * from job_queue_take_canary(p_worker, p_types, p_lease_seconds);
        if found then
            return;
        end if;
    end if;
    if p_limit < 1 or not v_on then
        return;
    end if;
    if v_lines then
        perform job_queue_retry_lines(v_now);
    end if;
    if v_missed then
        perform job_series_pass_missed(v_now);
    end if;
    v_open := p_types;
    if v_paused then
        v_open := job_types_open(p_types, v_now);
        if p_worker = job_earlier_runner() then
            -- The earlier runner takes jobs of types that are set aside for it.
            v_open := v_open || array(select t.task_type from job_types t
                where t.set_aside and t.task_type = any (p_types) and t.task_type <> all (v_open));
        end if;
    end if;
    if p_lane_types is null then
        select array_agg(l.task_type), array_agg(l.priority), array_agg('-infinity'::timestamptz),
            array_agg('00000000-0000-0000-0000-000000000000'::uuid)
        into v_types, v_priorities, v_run_at, v_ids
        from job_queue_lanes(v_open) l;
    else
        select array_agg(l.task_type), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id)
        into v_types, v_priorities, v_run_at, v_ids
        from unnest(p_lane_types, p_lane_priorities, p_lane_run_at, p_lane_ids) as l (task_type, priority, run_at, id)
        where l.task_type = any (v_open);
    end if;
    if v_types is null then
        return;
    end if;
    if v_limited && v_types then
        v_limited := array(select u from unnest(v_limited) u where u = any (v_types));
        select a.types, a.places, a.counted_at into v_open_types, v_open_places, v_now
        from job_limits_admit(v_limited, p_worker, p_limit, v_types <@ v_limited) a;
        select array_agg(l.task_type), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id),
            array_agg(o.places)
        into v_types, v_priorities, v_run_at, v_ids, v_free
        from unnest(v_types, v_priorities, v_run_at, v_ids) as l (task_type, priority, run_at, id)
        left join unnest(v_open_types, v_open_places) as o (task_type, places) on o.task_type = l.task_type
        where l.task_type <> all (v_limited) or o.places is not null;
        if v_types is null then
            return;
        end if;
        v_level := (select min(u) = max(u) from unnest(v_priorities) u);
    end if;

    -- Behind more due jobs than this claim takes, up to half of it are series, which would come too late otherwise. A
    -- claim of one job takes a series every second time. The second round ranks for the places that the series leave.
    loop
        v_room := p_limit - cardinality(v_series);
        v_wanted := v_room;
        v_quotas := array[v_room];
        if v_level then
            v_whole := (select sum(coalesce(u, p_limit)) from unnest(v_free) u) <= v_room;
        end if;
        if v_whole then
            -- A lane of a type without limits has no number of its own, which would be no limit at all.
            v_quotas := array(select coalesce(u, v_room) from unnest(v_free) u);
            v_wanted := (select sum(u) from unnest(v_quotas) u);
        elsif not v_level then
            v_quotas := job_limits_rank(v_types, v_priorities, v_run_at, v_ids, v_free, v_room, v_now, v_series);
            v_wanted := (select sum(u) from unnest(v_quotas) u);
        elsif array_length(v_types, 1) > 1 then
            v_quotas := array(
                select coalesce(h.jobs, 0)::integer from generate_subscripts(v_types, 1) as s (place)
                left join (
                    select best.place, count(*) as jobs
                    from (
                        select l.place
                        from unnest(v_types, v_priorities, v_run_at, v_ids, v_free) with ordinality
                            as l (task_type, priority, run_at, id, free, place)
                        cross join lateral (
                            select q.run_at, q.id from job_queue q
                            where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                                and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type
                                and q.priority = l.priority and (q.run_at, q.id) > (l.run_at, l.id)
                                and job_clause_due(q.run_at, v_now)
                                and job_clause_unexpired(q.expires_at, v_now)
                                and job_clause_key_free(q.concurrency_key, q.task_type) and q.ctid <> all (v_series)
                            order by q.run_at, q.id limit least(v_room, l.free)
                        ) c
                        order by l.priority desc, c.run_at, c.id limit v_room
                    ) best
                    group by best.place
                ) h on h.place = s.place
                order by s.place);
            v_wanted := (select sum(u) from unnest(v_quotas) u);
        end if;
        -- A type with limits may have more due jobs than places.
        exit when not v_due_series or v_wanted < p_limit and (v_open_types is null or cardinality(v_series) > 0);
        -- The index holds series by their due time; those of the best priority are chosen among the first thousand.
        v_series := array(
            select q.ctid from job_queue q
            where q.is_recurring and job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                and job_clause_first_in_line(q.in_line) and job_clause_due(q.run_at, v_now)
                and q.priority >= (select max(l.priority) from unnest(v_priorities, v_quotas) as l (priority, quota)
                    where l.quota > 0)
                and q.task_type = any (v_types)
                and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key, q.task_type)
            order by q.run_at limit 1000);
        exit when cardinality(v_series) = 0;
        v_series := array(
            select q.ctid from job_queue q
            where q.ctid = any (v_series) and job_clause_pending(q.status) and job_clause_first_in_line(q.in_line)
            order by q.priority desc, q.run_at, q.id limit greatest(p_limit / 2, round(random())::integer)
            for update of q skip locked);
        if v_open_types is not null then
            v_series := job_limits_within(v_series, v_open_types,
                array(select greatest(u / 2, round(random())::integer) from unnest(v_open_places) u));
            v_free := job_limits_left(v_types, v_free, v_series);
        end if;
        exit when cardinality(v_series) = 0;
    end loop;
    if v_wanted = 0 and cardinality(v_series) = 0 then
        return;
    end if;

    select v_series || array_agg(c.ctid), bool_or(c.keyed) or cardinality(v_series) > 0 into v_places, v_keyed
    from (
        select c.ctid, c.keyed
        from unnest(v_types, v_priorities, v_run_at, v_ids, v_quotas) as l (task_type, priority, run_at, id, quota)
        cross join lateral (
            select q.ctid, q.concurrency_key is not null as keyed from job_queue q
            where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type and q.priority = l.priority
                and (q.run_at, q.id) > (l.run_at, l.id) and job_clause_due(q.run_at, v_now)
                and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key, q.task_type)
                and q.ctid <> all (v_series)
            order by q.run_at, q.id limit l.quota
            for update of q skip locked
        ) c
    ) c;
    -- The ranking of several lanes also counted jobs that are locked. Others take their places, best lane first.
    if cardinality(v_places) < v_wanted + cardinality(v_series) and array_length(v_types, 1) > 1
        and v_whole is not true
    then
        v_more := array(
            select c.ctid
            from (
                select * from unnest(v_types, v_priorities, v_run_at, v_ids, v_free)
                    as u (task_type, priority, run_at, id, free)
                order by u.priority desc
            ) l
            cross join lateral (
                select q.ctid from job_queue q
                where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                    and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type and q.priority = l.priority
                    and (q.run_at, q.id) > (l.run_at, l.id) and job_clause_due(q.run_at, v_now)
                    and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key, q.task_type)
                    and q.ctid <> all (v_places)
                order by q.run_at, q.id limit least(p_limit - cardinality(v_places), l.free)
                for update of q skip locked
            ) c
            limit p_limit - cardinality(v_places));
        v_places := v_places || v_more;
        v_keyed := true;
        if v_open_types is not null then
            v_places := job_limits_within(v_places, v_open_types, v_open_places);
        end if;
    end if;
    if v_keyed then
        -- Asked once: with a limit that is raised between the two, jobs would start that get no place.
        v_several := exists (select from job_types t where t.max_per_key > 1 and t.task_type = any (v_types));
        v_places := job_queue_take_keys(v_places, v_several);
        if v_several then
            select k.jobs, k.numbers into v_key_jobs, v_key_numbers from job_key_places(v_places) k;
        end if;
    end if;
    assert cardinality(v_places) <= p_limit, 'job_queue_claim would take more jobs than it was asked for';
    -- Two conditions, since a query costs something even where no type has a limit.
    if v_open_types is not null then
        if exists (select from job_types t where t.rate_runs is not null and t.task_type = any (v_open_types)) then
            perform job_limits_spend(v_places, v_open_types, v_now);
        end if;
    end if;

    return query
    with taken as (
        update job_queue q
        set status = 'running', attempts = q.attempts + 1, run_token = nextval('job_run_token_seq'),
            locked_by = p_worker, started_at = v_now, updated_at = v_now, version = q.version + 1,
            lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
            anchor_at = case when q.is_recurring then coalesce(q.anchor_at, q.run_at) end,
            limited = v_open_types is not null and q.task_type = any (v_limited),
            key_place = case when v_key_jobs is not null then v_key_numbers[array_position(v_key_jobs, q.ctid)] end
        -- The rows are locked, so their ctid has not changed.
        where q.ctid = any (v_places)
        returning q.id, q.run_token, q.task_type, q.payload, q.attempts, q.max_attempts, q.run_at, q.slot_at,
            q.is_recurring, q.checkpoint, q.cycle, q.priority
    )
    select t.id, t.run_token, t.task_type, t.payload, t.attempts, t.max_attempts, coalesce(t.slot_at, t.run_at), v_now,
        t.is_recurring, t.checkpoint, t.cycle, t.priority
    from taken t order by t.priority desc, t.run_at, t.id;
end
$$;

