-- The claim: which jobs a worker gets.
--
-- job_queue_claim first asks: is the queue held, is a canary wanted, which is taken alone, and is processing on? Lines and missed
-- slots that are due to be looked at come before any other job. Then it asks these questions, in this order; where a
-- question's function is in another part, its number is named. A worker that brings its lanes knows the first half of 2.
--   1. Which types may start jobs now?                         job_types_open (11), by pauses
--   2. Where are their jobs in the index of claims?            job_claim_lanes
--      How many jobs of each type may start?                   job_limits_admit (09), by places and rates
--   3. Which series come first?                                job_claim_series
--   4. Which of the other jobs are the best?                   job_claim_pick
--   5. Which of these does no hold keep?                       job_claim_unheld (13)
--   6. Which of these have a place for their key?              job_claim_keys (13)
-- 3 and 4 leave out jobs that are set aside, and lock those that they return. 4 looks on in place of the jobs that are held. A
-- job that 6 refuses because its key is taken leaves the index of claims; nothing is looked for in its place, unless all were
-- refused: the next claim takes others, also of a type whose room they had.
-- job_claim_start makes the jobs running, and uses up the rates of their types. A canary is not held up by pauses; it is asked
-- for the limit of its type and for its key (24).
-- The functions below have the planner's settings of job_queue_claim, which calls them, where they name none. Nothing compares each
-- type with each job or each other type, so that the work rises with the number of types and no faster.

-- The lanes of these task types, the best first: each priority that has jobs in the index of claims, found by one probe each.
create or replace function job_claim_lanes(p_types text[]) returns job_lane[]
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return array(
        with recursive lane (task_type, priority) as (
            select t.task_type, (
                select q.priority from job_queue q
                where job_clause_claimable(q) and q.task_type = t.task_type
                order by q.task_type, q.priority desc limit 1)
            from unnest(p_types) as t (task_type)
            union all
            select l.task_type, (
                select q.priority from job_queue q
                where job_clause_claimable(q) and q.task_type = l.task_type and q.priority < l.priority
                order by q.task_type, q.priority desc limit 1)
            from lane l where l.priority is not null
        )
        select row(l.task_type, l.priority, '-infinity', '00000000-0000-0000-0000-000000000000', null)::job_lane
        from lane l where l.priority is not null order by l.priority desc);
end
$$;

-- These jobs, which the caller has locked, without those that are too many for the room of their type: the last ones in the order
-- of claims.
create or replace function job_claim_within(p_jobs tid[], p_lanes job_lane[]) returns tid[]
language plpgsql volatile
set enable_nestloop = off set enable_hashjoin = on
as $$
begin
    return array(
        select r.job from (
            select q.ctid as job, l.room,
                row_number() over (partition by q.task_type order by q.priority desc, q.run_at, q.id) as number
            from job_queue q join (select distinct l.task_type, l.room from unnest(p_lanes) l) l on l.task_type = q.task_type
            where q.ctid = any (p_jobs)) r
        where r.room is null or r.number <= r.room);
end
$$;

-- These lanes with the room that some jobs leave, which the caller has locked. Lanes without room are left out.
create or replace function job_claim_left(p_lanes job_lane[], p_jobs tid[]) returns job_lane[]
language plpgsql volatile
set enable_nestloop = off set enable_hashjoin = on
as $$
begin
    return array(
        select row(l.task_type, l.priority, l.run_at, l.id, l.room - coalesce(n.jobs, 0))::job_lane
        from unnest(p_lanes) with ordinality as l (task_type, priority, run_at, id, room, place)
        left join (select q.task_type, count(*) as jobs from job_queue q where q.ctid = any (p_jobs) group by q.task_type) n
            on n.task_type = l.task_type
        where l.room is null or l.room > coalesce(n.jobs, 0) order by l.place);
end
$$;

-- Locks and returns due series, up to half of a claim: behind more jobs than workers can run, they would come too late. A
-- claim of one job takes a series every second time, and a limited type gives half of its room. No series goes before a
-- job of a higher priority that can start.
create or replace function job_claim_series(
    p_lanes job_lane[], p_limited boolean, p_most integer, p_now timestamptz
) returns tid[]
language plpgsql volatile
set enable_incremental_sort = off
as $$
declare
    -- The lanes begin with the best.
    v_best constant integer := (
        select l.priority from unnest(p_lanes) l cross join lateral (
            select from job_queue q
            where job_clause_startable(q, p_now) and q.task_type = l.task_type and q.priority = l.priority
                and (q.run_at, q.id) > (l.run_at, l.id)
                and q.id not in (select p.job_id from job_poison p where p.retry_at > p_now)
            order by q.run_at, q.id limit 1) c
        limit 1);
    v_most constant integer := greatest(p_most / 2, round(random())::integer);
    -- A hundred more than the claim takes, because other claims may have locked the first ones.
    v_found constant tid[] := array(
        select c.ctid from unnest(p_lanes) l cross join lateral (
            select q.ctid, q.run_at, q.id from job_queue q
            where job_clause_startable(q, p_now) and q.is_recurring and q.task_type = l.task_type and q.priority = l.priority
                and q.id not in (select p.job_id from job_poison p where p.retry_at > p_now)
            -- Of the indexes of lanes, only the one of series has this order.
            order by q.run_at, q.created_at limit v_most + 100) c
        where l.priority >= v_best and v_most > 0
        order by l.priority desc, c.run_at, c.id limit v_most + 100);
    v_jobs tid[];
begin
    if cardinality(v_found) = 0 then
        return v_found;
    end if;
    v_jobs := array(
        select c.ctid from (
            -- By their places alone: with the condition of an index, the planner may read all of it.
            select q.ctid, q.status, q.blocked_by, q.in_line from job_queue q where q.ctid = any (v_found)
            order by q.priority desc, q.run_at, q.id offset 0 for update skip locked) c
        where job_clause_pending(c.status) and job_clause_unblocked(c.blocked_by) and job_clause_first_in_line(c.in_line)
        limit v_most);
    return case when p_limited then job_claim_within(v_jobs, array(
        select row(l.task_type, l.priority, l.run_at, l.id,
            case when l.room is not null then greatest(l.room / 2, round(random())) end)::job_lane
        from unnest(p_lanes) l)) else v_jobs end;
end
$$;

-- How many of the best p_most due jobs each of these lanes has, without the jobs in p_but. Null where the room of their types lets
-- them have no more than p_most together: then a claim takes all that they let start. The first look reads twice the share that
-- each lane would have of as many jobs. Only where all that was read of a lane is among the best, a second look reads more of it.
create or replace function job_claim_rank(p_lanes job_lane[], p_most integer, p_now timestamptz, p_but tid[])
returns integer[]
language plpgsql volatile
as $$
declare
    v_share constant integer := least(p_most, 2 * p_most / cardinality(p_lanes) + 1);
    v_most integer[] := array_fill(v_share, array[cardinality(p_lanes)]);
    v_shares integer[];
begin
    if (select sum(least(l.room, p_most)) from unnest(p_lanes) l) <= p_most then
        return null;
    end if;
    loop
        v_shares := array(
            select sum(s.jobs)::integer from (
                select best.place, 1 as jobs
                from (
                    select l.place
                    from unnest(p_lanes, v_most) with ordinality as l (task_type, priority, run_at, id, room, most, place)
                    cross join lateral (
                        select q.run_at, q.id from job_queue q
                        where job_clause_startable(q, p_now) and q.task_type = l.task_type and q.priority = l.priority
                            and (q.run_at, q.id) > (l.run_at, l.id) and q.ctid <> all (p_but)
                            and q.id not in (select p.job_id from job_poison p where p.retry_at > p_now)
                        order by q.run_at, q.id limit least(l.most, l.room)
                    ) c
                    order by l.priority desc, c.run_at, c.id limit p_most
                ) best
                union all select place, 0 from generate_subscripts(p_lanes, 1) place
            ) s
            group by s.place order by s.place);
        exit when v_share = p_most or v_share <> all (v_shares) or p_most = any (v_most);
        -- A lane of which some jobs were read in vain has no more among the best.
        v_most := array(select case when s = v_share then p_most else s end from unnest(v_shares) s);
    end loop;
    return v_shares;
end
$$;

-- Locks and returns the best p_most due jobs of these lanes, without the jobs in p_but, which the claim has already. The
-- ranking also counts jobs that another transaction has locked, and more jobs of a limited type with several lanes than it
-- has room for. A second look takes others in their place, best lane first.
create or replace function job_claim_pick(
    p_lanes job_lane[], p_limited boolean, p_most integer, p_now timestamptz, p_but tid[]
) returns tid[]
language plpgsql volatile
as $$
declare
    v_open constant job_lane[] := case when p_limited then job_claim_left(p_lanes, p_but) else p_lanes end;
    v_lanes job_lane[] := v_open;
    -- The first jobs of a lane that are not locked are the best, so one lane needs no ranking.
    v_shares integer[] := case when cardinality(v_open) > 1 then job_claim_rank(v_open, p_most, p_now, p_but) end;
    v_wanted constant bigint := case when v_shares is not null then (select sum(s) from unnest(v_shares) s) end;
    v_jobs tid[] := '{}';
    v_taken tid[] := p_but;
begin
    loop
        v_jobs := v_jobs || array(
            select c.ctid
            from unnest(v_lanes, v_shares) as l (task_type, priority, run_at, id, room, share)
            cross join lateral (
                select q.ctid from job_queue q
                where job_clause_startable(q, p_now) and q.task_type = l.task_type and q.priority = l.priority
                    and (q.run_at, q.id) > (l.run_at, l.id) and q.ctid <> all (v_taken)
                    and q.id not in (select p.job_id from job_poison p where p.retry_at > p_now)
                order by q.run_at, q.id limit least(coalesce(l.share, p_most), l.room)
                for update of q skip locked
            ) c
            limit p_most - cardinality(v_jobs));
        if p_limited then
            v_jobs := job_claim_within(v_jobs, v_open);
        end if;
        exit when v_shares is null or cardinality(v_jobs) >= v_wanted;
        v_shares := null;
        v_taken := p_but || v_jobs;
        v_lanes := case when p_limited then job_claim_left(v_open, v_jobs) else v_open end;
    end loop;
    return v_jobs;
end
$$;

-- Gives the worker the jobs that the caller has locked: tokens, leases and the places of their keys, and uses up what they
-- take of the rates of their types, if those are among the types with limits (p_limited). If they are more than p_free, some wait
-- in the worker for a slot: then all are only claimed (`started_at` is null) until a heartbeat says that their run has begun.
create or replace function job_claim_start(
    p_worker text, p_jobs tid[], p_key_jobs tid[], p_key_places smallint[], p_limited text[], p_now timestamptz,
    p_lease_seconds double precision, p_free integer default null
) returns table (
    id uuid, run_token bigint, task_type text, payload jsonb, attempt integer, max_attempts integer,
    due_at timestamptz, claimed_at timestamptz, is_recurring boolean, checkpoint jsonb, cycle integer, priority integer
)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    v_began constant timestamptz := case when cardinality(p_jobs) > p_free then null else p_now end;
begin
    if cardinality(p_limited) > 0 then
        perform job_limits_spend(p_jobs, p_limited, p_now);
    end if;
    return query
    with taken as (
        update job_queue q
        set status = 'running', attempts = q.attempts + 1, run_token = nextval('job_run_token_seq'),
            locked_by = p_worker, started_at = v_began, updated_at = p_now, version = q.version + 1,
            lease_expires_at = p_now + make_interval(secs => p_lease_seconds), blocked_by = null, in_line = false,
            anchor_at = case when q.is_recurring then coalesce(q.anchor_at, q.run_at) end,
            -- A subquery, because it is searched by a hash of its values.
            limited = cardinality(p_limited) > 0 and q.task_type in (select unnest(p_limited)),
            key_place = p_key_places[array_position(p_key_jobs, q.ctid)]
        -- The rows are locked, so their ctid has not changed.
        where q.ctid = any (p_jobs)
        returning q.id, q.run_token, q.task_type, q.payload, q.attempts, q.max_attempts, q.run_at, q.slot_at,
            q.is_recurring, q.checkpoint, q.cycle, q.priority
    )
    select t.id, t.run_token, t.task_type, t.payload, t.attempts, t.max_attempts, coalesce(t.slot_at, t.run_at), p_now,
        t.is_recurring, t.checkpoint, t.cycle, t.priority
    from taken t order by t.priority desc, t.run_at, t.id;
end
$$;

-- Of these jobs, which the caller has locked, sets aside those that the database refuses to start. All are tried together, and each
-- half of them that fails; nothing is started. Returns how many were set aside.
create or replace function job_claim_try(p_worker text, p_jobs tid[]) returns integer
language plpgsql volatile
as $$
declare
    v_half constant integer := cardinality(p_jobs) / 2;
begin
    if cardinality(p_jobs) = 0 then
        return 0;
    end if;
    begin
        -- A place that no running job has.
        perform job_claim_start(p_worker, p_jobs, p_jobs[1:1], '{32767}', '{}', clock_timestamp(), 60);
        set constraints all immediate;
        raise exception using errcode = 'JD000', message = 'They can be started, which is taken back.';
    exception
        when sqlstate 'JD000' then
            return 0;
        when others then
            if v_half = 0 then
                insert into job_poison (job_id, version, error, retry_at)
                select q.id, q.version, sqlstate || ' ' || sqlerrm, clock_timestamp() + interval '1 minute'
                from job_queue q where q.ctid = p_jobs[1]
                on conflict (job_id) do update set run_token = null, version = excluded.version, error = excluded.error,
                    retry_at = excluded.retry_at;
                return 1;
            end if;
    end;
    return job_claim_try(p_worker, p_jobs[1:v_half]) + job_claim_try(p_worker, p_jobs[v_half + 1:]);
end
$$;

-- After a claim of these types that failed: sets aside the jobs that made it fail, so that the next one finds the others. Of each
-- lane it tries as many as a claim of p_limit may take. Returns how many were set aside. A claim that tried each job itself
-- would take longer.
create or replace function job_queue_set_aside(p_worker text, p_types text[], p_limit integer) returns integer
language plpgsql volatile security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_lane job_lane;
    v_found integer := 0;
begin
    perform job_refuse_outsiders();
    foreach v_lane in array job_claim_lanes(job_types_open(p_types, v_now)) loop
        v_found := v_found + job_claim_try(p_worker, array(
            select q.ctid from job_queue q
            where job_clause_claimable(q) and job_clause_due(q.run_at, v_now) and q.task_type = v_lane.task_type
                and q.priority = v_lane.priority
                and q.id not in (select p.job_id from job_poison p where p.retry_at > v_now)
            order by q.run_at, q.id limit greatest(p_limit, 100) for update skip locked));
    end loop;
    if v_found > 0 then
        perform job_queue_advance_lines(array(
            select q.concurrency_key from job_poison p join job_queue q on q.id = p.job_id
            where p.retry_at > v_now and q.status = 'pending' and q.concurrency_key is not null));
    end if;
    return v_found;
end
$$;

-- Claims up to p_limit jobs of the given types for a worker, best first.
--
-- Each lane is one range of one index, so that jobs that are not due, of other types, blocked or behind a busy key cost
-- nothing. The planner's settings force that plan whatever the statistics say.
--
-- A worker says how many slots it has free (p_free); without that, each job begins with the claim.
--
-- A runner outside this program (p_outside) claims while the queue is held, and jobs of the types that are set aside.
--
-- Under load, the dead index entries of jobs claimed since the last vacuum come before the next jobs, and every claim
-- has to skip all of them. So a worker may pass the lanes and the last claimed job of each (p_lane_...). Then only jobs
-- behind those are read; jobs that came before them meanwhile are left to the next claim without lanes.
create or replace function job_queue_claim(
    p_worker text, p_types text[], p_limit integer, p_lease_seconds double precision,
    p_lane_types text[] default null, p_lane_priorities integer[] default null,
    p_lane_run_at timestamptz[] default null, p_lane_ids uuid[] default null, p_outside boolean default false,
    p_free integer default null
) returns table (
    id uuid, run_token bigint, task_type text, payload jsonb, attempt integer, max_attempts integer,
    due_at timestamptz, claimed_at timestamptz, is_recurring boolean, checkpoint jsonb, cycle integer, priority integer
)
language plpgsql volatile security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_there record;
    v_types text[] := p_types;
    v_lanes job_lane[];
    v_jobs tid[] := '{}';
    v_about record;
    v_keys record;
    v_limited text[] := '{}';
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    -- One query for all that a claim has to know before it looks for jobs. The calls of functions would take longer.
    select coalesce(s.processing_enabled or s.resume_at <= v_now, false) as processing, s.held_by is not null as held,
        exists (select from job_canaries c where c.task_type = any (p_types) and c.run_token is null) as canary,
        exists (select from job_recheck r where r.due_at <= v_now) as lines,
        exists (select from job_queue q where q.status = 'pending' and q.blocked_by is null
            and job_clause_missed(q, v_now)) as missed,
        exists (select from job_types t where t.task_type = any (p_types) and t.paused_at is not null)
            or exists (select from job_paused_queues) as paused,
        exists (select from job_types t where t.task_type = any (p_types) and t.limited) as limited,
        exists (select from job_queue q where q.is_recurring and job_clause_pending(q.status)
            and job_clause_due(q.run_at, v_now)) as series
    into v_there from (select 1) one left join job_queue_settings s on s.id = 1;
    if v_there.held and not p_outside then
        return;
    end if;
    if v_there.canary and not p_outside then
        return query select * from job_queue_take_canary(p_worker, p_types, p_lease_seconds);
        if found then
            return;
        end if;
    end if;
    if p_limit < 1 or not v_there.processing then
        return;
    end if;
    if v_there.lines then
        perform job_queue_check_rows(
            array(select r.ctid from job_recheck r where r.due_at <= v_now limit 500), '0.2 seconds');
    end if;
    if v_there.missed then
        perform job_series_pass_missed(v_now);
    end if;
    if v_there.paused or p_outside then
        v_types := job_types_open(p_types, v_now, p_outside, v_there.held);
    end if;
    v_lanes := case when p_lane_types is null then job_claim_lanes(v_types) else array(
        select row(l.task_type, l.priority, l.run_at, l.id, null)::job_lane
        from unnest(p_lane_types, p_lane_priorities, p_lane_run_at, p_lane_ids) as l (task_type, priority, run_at, id)
        where l.task_type = any (v_types) order by l.priority desc) end;
    if v_there.limited then
        select a.lanes, a.counted_at into v_lanes, v_now from job_limits_admit(v_lanes, p_worker, p_limit) a;
        v_limited := array(select distinct l.task_type from unnest(v_lanes) l where l.room is not null);
    end if;
    if v_there.series and cardinality(v_lanes) > 0 then
        v_jobs := job_claim_series(v_lanes, v_there.limited, p_limit, v_now);
    end if;
    -- Once, or while there are held jobs among those that it finds, or only jobs that leave the index for their key.
    for look in 1..20 loop
        if cardinality(v_lanes) > 0 and cardinality(v_jobs) < p_limit then
            v_jobs := v_jobs || job_claim_pick(v_lanes, v_there.limited, p_limit - cardinality(v_jobs), v_now, v_jobs);
        end if;
        if v_jobs = '{}' then
            return;
        end if;
        assert cardinality(v_jobs) <= p_limit, 'job_queue_claim would take more jobs than it was asked for';
        -- After the jobs were picked: a hold that was committed before is seen, and one that comes now waits for their rows.
        select cardinality(v_jobs) as found, exists (select from job_holds h where h.task_type = any (p_types)) as holds,
            exists (select from job_queue q where q.ctid = any (v_jobs) and q.concurrency_key is not null) as keyed
        into v_about;
        if v_about.holds then
            v_jobs := job_claim_unheld(v_jobs, p_types, v_lanes, v_now);
            continue when cardinality(v_jobs) < v_about.found and look < 20;
        end if;
        select v_jobs as taken, null::tid[] as jobs, null::smallint[] as places, false as moved into v_keys;
        if v_about.keyed then
            select k.* into v_keys from job_claim_keys(v_jobs, v_now) k;
        end if;
        exit when v_keys.taken <> '{}' or not v_keys.moved;
        v_jobs := '{}';
    end loop;
    return query select * from job_claim_start(
        p_worker, v_keys.taken, v_keys.jobs, v_keys.places, v_limited, v_now, p_lease_seconds, p_free);
end
$$;
