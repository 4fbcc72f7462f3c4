-- Why a job runs or does not, clause by clause as the claim asks, and how many jobs there are.

-- Why a job is or is not running: all clauses of the claim in its order, each with a code and facts as evidence.
create or replace function job_queue_why(p_id uuid)
returns table (place integer, clause text, holds boolean, code text, facts jsonb)
language plpgsql stable security definer
set jit = off
as $$
declare
    v_job job_queue;
    v_now timestamptz := clock_timestamp();
    v_switch job_queue_settings;
    v_pause job_types;
    v_workers integer;
    v_handling integer;
    v_holder uuid;
    v_key_limit integer;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue where id = p_id;
    if not found then
        return;
    end if;
    select * into v_switch from job_queue_settings where id = 1;
    select * into v_pause from job_types where task_type = v_job.task_type;
    select count(*), count(*) filter (where v_job.task_type = any (w.task_types)) into v_workers, v_handling
    from job_workers w where job_worker_is_alive(w.heartbeat_at, v_now);
    if exists (select from job_canaries c where c.job_id = p_id and c.run_token is null) then
        return query select * from job_queue_why_canary(v_job, v_workers, v_handling);
        return;
    end if;
    select q.id into v_holder from job_queue q
    where q.concurrency_key = v_job.concurrency_key and q.status = 'running' and q.id <> v_job.id limit 1;
    v_key_limit := job_key_limit(v_job.task_type);

    return query values
        (1, 'status', job_clause_pending(v_job.status), 'has-status', jsonb_build_object('status', v_job.status)),
        (2, 'processing', job_clause_processing(v_now), case
            when v_switch.id is null then 'no-settings'
            when v_switch.held_by is not null then 'queue-held'
            when job_clause_processing(v_now) then 'processing-on'
            else 'processing-off' end,
            jsonb_build_object('paused_at', v_switch.paused_at, 'paused_by', v_switch.paused_by,
                'reason', v_switch.paused_reason, 'who', v_switch.held_by)),
        (3, 'type not paused', job_clause_type_open(v_job.task_type, v_now), case
            when job_clause_type_open(v_job.task_type, v_now) then 'type-open'
            when v_pause.set_aside then 'type-set-aside'
            else 'type-paused' end,
            jsonb_build_object('task_type', v_job.task_type, 'paused_at', v_pause.paused_at,
                'paused_by', v_pause.paused_by, 'reason', v_pause.paused_reason)),
        (4, 'worker', v_handling > 0, case
            when v_workers = 0 then 'no-worker'
            when v_handling = 0 then 'no-worker-for-type'
            when v_workers = 1 then 'one-worker'
            else 'some-workers' end, jsonb_build_object('workers', v_workers, 'handling', v_handling)),
        (5, 'due', job_clause_due(v_job.run_at, v_now), case
            when job_clause_due(v_job.run_at, v_now) then 'due-since' when v_job.run_at >= job_no_slot() then 'no-slots'
            when v_job.status = 'pending' and v_job.last_outcome = 'snoozed' then 'put-off'
            else 'due-later' end,
            jsonb_build_object('run_at', v_job.run_at, 'reason',
                case when v_job.last_outcome = 'snoozed' then job_run_last_error(p_id) end)),
        (6, 'expiry', job_clause_unexpired(v_job.expires_at, v_now), case
            when v_job.expires_at is null then 'never-expires'
            when v_job.expires_at > v_now then 'expires-later'
            else 'has-expired' end, jsonb_build_object('expires_at', v_job.expires_at)),
        (7, 'dependencies', job_clause_unblocked(v_job.blocked_by), case
            when v_job.blocked_by is null then 'no-blocker' when v_job.blocked_by = v_job.id then 'paused-alone'
            when job_flow_waits(p_id) then 'waits-for-members'
            else 'waits-for-blocker' end, job_flow_evidence(p_id) ||
            jsonb_build_object('job', v_job.id, 'blocker', v_job.blocked_by,
                'status', coalesce((select q.status from job_queue q where q.id = v_job.blocked_by), 'gone'))),
        -- A place in the line counts only while the job waits.
        (8, 'concurrency', job_clause_first_in_line(v_job.in_line and v_job.status = 'pending')
                and (v_holder is null or job_clause_key_free(v_job.concurrency_key, v_job.task_type)), case
            when v_job.concurrency_key is null then 'no-concurrency-key'
            when v_holder is not null and v_key_limit > 1 then 'concurrency-key-shared'
            when v_holder is not null then 'concurrency-key-busy'
            when v_workers > 0 and not job_type_can_run(v_job.task_type, v_now) then 'lets-others-pass'
            when v_job.in_line and v_job.status = 'pending' then 'behind-in-line'
            else 'concurrency-key-free' end, jsonb_build_object('holder', v_holder, 'max_per_key', v_key_limit,
                'running', case when v_key_limit > 1 then (select count(*) from job_queue q
                    where q.concurrency_key = v_job.concurrency_key and q.status = 'running') end));
    return query select 9, 'limit', s.opens_at is null, s.code, s.facts
    from job_limit_state(v_job.task_type, v_now) s where s.code is not null and v_job.status = 'pending';
    return query select 10, 'limit of the key', o.at <= v_now, case when o.at <= v_now then 'key-has-place'
        else 'key-rate' end, jsonb_build_object('seconds', ceil(date_part('epoch', o.at - v_now)))
    from job_key_opens(v_job.concurrency_key, v_job.task_type, v_now) as o (at)
    where o.at is not null and v_job.concurrency_key is not null and v_job.status = 'pending';
end
$$;

-- About how many rows there are, from the sample: pending jobs ('pending'), those of a type ('type'), jobs of another
-- status ('status'), jobs that succeeded and left the queue ('removed'), or claimable jobs before a place in each of these
-- lanes ('before'). The rows that stand for the most are read first, until there are 1000 (a standard error of 3 %).
-- `proves` says that there are more than p_most: by Chernoff's bound, fewer rows would give so large a sample only once
-- in e^64 times.
create or replace function job_sample_count(
    p_what text, p_name text, p_most integer, p_types text[] default null, p_priorities integer[] default null,
    p_run_at timestamptz[] default null, p_ids uuid[] default null, out jobs bigint, out proves boolean
)
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_step integer := 16384;
    v_seen bigint := 0;
begin
    loop
        v_seen := v_seen + case p_what
            when 'pending' then (
                select count(*) from job_queue q
                where q.status = 'pending' and uuid_hash(q.id) & 63 = 0 and job_sample_step(uuid_hash(q.id)) = v_step)
            when 'type' then (
                select count(*) from job_queue q
                where q.status = 'pending' and uuid_hash(q.id) & 63 = 0 and job_sample_step(uuid_hash(q.id)) = v_step
                    and q.task_type = p_name)
            when 'status' then (
                select count(*) from job_queue q
                where q.status = p_name and q.status <> 'pending' and uuid_hash(q.id) & 63 = 0
                    and job_sample_step(uuid_hash(q.id)) = v_step)
            when 'removed' then (
                select count(*) from job_runs r
                where r.removed and hashint8(r.run_token) & 63 = 0
                    and job_sample_step(hashint8(r.run_token)) = v_step)
            else (
                select count(*) from unnest(p_types, p_priorities, p_run_at, p_ids) as l (task_type, priority, run_at, id)
                cross join lateral (
                    select from job_queue q
                    where q.status = 'pending' and q.blocked_by is null and not q.in_line
                        and uuid_hash(q.id) & 63 = 0 and job_sample_step(uuid_hash(q.id)) = v_step
                        and q.task_type = l.task_type and q.priority = l.priority
                        and (q.run_at, q.id) < (l.run_at, l.id)
                    offset 0 -- Each lane is one range of the index: the planner would read the whole sample instead.
                ) d)
            end;
        exit when v_seen >= 1000 or v_step = 64;
        v_step := v_step / 2;
    end loop;
    jobs := v_seen * v_step;
    proves := v_seen >= p_most::double precision / v_step + 12 * sqrt(p_most::double precision / v_step) + 40;
end
$$;

-- What was counted up to p_most, if it is less than that; else the estimate, and at least p_most. So numbers from p_most
-- on are estimates. A null was not counted, because the sample proves that it is more.
create or replace function job_counted_or_about(p_counted bigint, p_about bigint, p_most integer) returns bigint
language sql immutable parallel safe
return case when p_counted < p_most then p_counted else greatest(p_about, p_most) end;

-- Claimable jobs before a place in each of these lanes: exact below p_most, from there on an estimate.
create or replace function job_queue_before(
    p_types text[], p_priorities integer[], p_run_at timestamptz[], p_ids uuid[], p_most integer
) returns bigint
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_drawn record;
begin
    select * into v_drawn from job_sample_count('before', null, p_most, p_types, p_priorities, p_run_at, p_ids);
    return job_counted_or_about(case when not v_drawn.proves then (
        select count(*) from (
            select from unnest(p_types, p_priorities, p_run_at, p_ids) as l (task_type, priority, run_at, id)
            cross join lateral (
                select from job_queue q
                where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                    and q.priority = l.priority and (q.run_at, q.id) < (l.run_at, l.id)
                limit p_most
            ) d limit p_most
        ) found) end, v_drawn.jobs, p_most);
end
$$;

-- Jobs by status, and as `removed` those that succeeded and left the queue: each exact below p_most, counted by its own
-- index, and from there on an estimate, which is not less than p_most.
create or replace function job_queue_counts(
    p_most integer, out pending bigint, out running bigint, out succeeded bigint, out failed bigint,
    out cancelled bigint, out removed bigint
)
language plpgsql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_drawn record;
begin
    perform job_refuse_outsiders();
    select * into v_drawn from job_sample_count('pending', null, p_most);
    pending := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line limit p_most) found)
        + (select count(*) from (select from job_queue q
            where q.status = 'pending' and (q.blocked_by is not null or q.in_line) limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'running', p_most);
    running := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'running' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'succeeded', p_most);
    succeeded := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'succeeded' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'failed', p_most);
    failed := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'failed' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'cancelled', p_most);
    cancelled := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'cancelled' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('removed', null, p_most);
    removed := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_runs r where r.removed limit p_most) found) end, v_drawn.jobs, p_most);
end
$$;

-- The task types with pending jobs, at most 1000. `waiting` are a type's pending jobs, `overdue` those that are due for
-- longer than p_late and could be claimed, `due_since` the earliest due time of those that could be claimed. A number is
-- exact unless its `about` is true: then it is beyond p_most; or the types before it by name had ten times as many.
-- Where more than p_most jobs wait for another job or in a line, those of each type are an estimate.
create or replace function job_queue_backlog(p_late interval, p_most integer)
returns table (
    task_type text, waiting bigint, waiting_about boolean, overdue bigint, overdue_about boolean, due_since timestamptz
)
language plpgsql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
declare
    v_type text;
    v_beside jsonb;
    v_beside_jobs bigint;
    v_drawn record;
    v_room integer := 10 * p_most;
    v_most integer;
    v_free bigint;
begin
    perform job_refuse_outsiders();
    select coalesce(jsonb_object_agg(b.task_type, b.jobs), '{}'), coalesce(sum(b.jobs), 0)
    into v_beside, v_beside_jobs
    from (
        select w.task_type, count(*) as jobs from (
            select q.task_type from job_queue q
            where q.status = 'pending' and (q.blocked_by is not null or q.in_line)
            order by q.run_at, q.id limit p_most
        ) w group by w.task_type
    ) b;
    for v_type in
        select t from unnest(job_queue_waiting_types()) t union select jsonb_object_keys(v_beside) order by 1 limit 1000
    loop
        task_type := v_type;
        v_most := least(p_most, greatest(v_room, 1000));
        select * into v_drawn from job_sample_count('type', v_type, v_most);
        v_free := case when not v_drawn.proves then (
            select count(*) from (
                select from job_queue q
                where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = v_type
                limit v_most
            ) found) end;
        waiting_about := not coalesce(v_free < v_most and v_beside_jobs < p_most, false);
        waiting := coalesce(v_free, v_most) + coalesce((v_beside ->> v_type)::bigint, 0);
        if waiting_about then
            waiting := greatest(waiting, v_drawn.jobs);
        end if;
        select min(h.run_at), job_queue_before(array_agg(l.task_type), array_agg(l.priority),
            array_agg(statement_timestamp() - p_late), array_agg('00000000-0000-0000-0000-000000000000'::uuid), v_most)
        into due_since, overdue
        from unnest(job_claim_lanes(array[v_type])) l
        cross join lateral (
            select q.run_at from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                and q.priority = l.priority
            order by q.run_at, q.id limit 1
        ) h;
        overdue_about := overdue >= v_most;
        v_room := v_room - coalesce(least(v_free, v_most), 0)::integer - least(overdue, v_most)::integer;
        return next;
    end loop;
end
$$;

-- Whether the workers that handle this job's type claim other due jobs before it, as one more clause with a code and facts:
-- how many are ahead in the order of the claim, exact up to 10,000 or `estimated`, and how many runs of all these types
-- end per second. No row if the job could not be claimed now.
create or replace function job_queue_turn(p_id uuid) returns table (clause text, holds boolean, code text, facts jsonb)
language plpgsql stable security definer
set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_most constant integer := 10001;
    v_job job_queue;
    v_workers text[];
    v_types text[];
    v_ahead bigint;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue
    where id = p_id and status = 'pending' and blocked_by is null and not in_line and run_at <= v_now;
    if not found then
        return;
    end if;
    select array_agg(w.id) into v_workers from job_workers w
    where job_worker_is_alive(w.heartbeat_at, v_now) and v_job.task_type = any (w.task_types);
    v_types := array(
        select distinct t from job_workers w cross join unnest(w.task_types) t
        where w.id = any (v_workers) and job_clause_type_open(t, v_now));
    select job_queue_before(array_agg(l.task_type), array_agg(l.priority),
        array_agg(case when l.priority = v_job.priority then v_job.run_at else v_now end),
        array_agg(case when l.priority = v_job.priority then v_job.id
            else '00000000-0000-0000-0000-000000000000'::uuid end), v_most)
    into v_ahead
    from unnest(job_claim_lanes(v_types)) l where l.priority >= v_job.priority;
    return query values ('turn', v_ahead = 0, case when v_ahead = 0 then 'none-ahead' else 'others-ahead' end,
        jsonb_build_object('ahead', v_ahead, 'estimated', v_ahead >= v_most, 'per_second', job_finish_rate(v_types)));
end
$$;

-- Jobs by type that are running or failed; `job_queue_backlog` has the pending ones. If there are more than p_most failed jobs
-- in all, their numbers are estimates from at least 4,000 jobs of the sample, and `about` is true. A type of which these have
-- no job is then left out.
create or replace function job_queue_type_jobs(p_most integer)
returns table (task_type text, running bigint, failed bigint, about boolean)
language plpgsql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_drawn constant record := job_sample_count('status', 'failed', p_most);
    v_all constant bigint := case when not v_drawn.proves then (
        select count(*) from (select from job_queue q where q.status = 'failed' limit p_most) found) end;
    v_about constant boolean := coalesce(v_all, p_most) >= p_most;
    v_step integer := 16384;
    v_seen bigint := 0;
begin
    perform job_refuse_outsiders();
    while v_about loop
        v_seen := v_seen + (
            select count(*) from job_queue q
            where q.status = 'failed' and q.status <> 'pending' and uuid_hash(q.id) & 63 = 0
                and job_sample_step(uuid_hash(q.id)) = v_step);
        exit when v_seen >= 4000 or v_step = 64;
        v_step := v_step / 2;
    end loop;
    return query
    with found (task_type, status, jobs) as (
        select q.task_type, 'running', 1 from job_queue q where q.status = 'running'
        union all
        select q.task_type, 'failed', 1 from job_queue q where q.status = 'failed' and not v_about
        union all
        select q.task_type, 'failed', v_step from job_queue q
        where q.status = 'failed' and q.status <> 'pending' and uuid_hash(q.id) & 63 = 0
            and job_sample_step(uuid_hash(q.id)) >= v_step and v_about
    )
    select f.task_type, coalesce(sum(f.jobs) filter (where f.status = 'running'), 0),
        coalesce(sum(f.jobs) filter (where f.status = 'failed'), 0),
        v_about and coalesce(bool_or(f.status = 'failed'), false)
    from found f group by f.task_type;
end
$$;

-- The due time of the job that has waited longest; null if none is due. Jobs of paused types do not count.
create or replace function job_queue_oldest_due() returns timestamptz
language sql stable security definer
set enable_seqscan = off set enable_sort = off set jit = off
as $$
    select job_refuse_outsiders();
    select min(h.run_at)
    from unnest(job_claim_lanes(array(
        select t from unnest(job_queue_waiting_types()) t where job_clause_type_open(t, clock_timestamp())))) l
    cross join lateral (
        select q.run_at from job_queue q
        where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
            and q.priority = l.priority and q.run_at <= statement_timestamp()
        order by q.run_at, q.id limit 1
    ) h
$$;

-- The rights of the current role.
create or replace function job_permissions(out can_view boolean, out can_operate boolean, out can_work boolean)
language sql stable
as $$
    select has_table_privilege('job_list', 'select'),
        has_function_privilege('job_queue_act(text, uuid[], bigint[], text, text, boolean)', 'execute'),
        has_function_privilege('job_queue_claim('
            || 'text, text[], integer, double precision, text[], integer[], timestamptz[], uuid[], boolean)', 'execute')
$$;
