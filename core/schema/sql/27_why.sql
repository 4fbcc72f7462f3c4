-- Why a job runs or does not, clause by clause as the claim asks, and how many jobs there are.

-- The running job of a type that holds its place longest, and since when; empty if none runs.
create or replace function job_place_holder(p_task_type text) returns jsonb
language sql stable
as $$
    select coalesce((
        select jsonb_build_object('holder', q.id, 'since', q.started_at) from job_queue q
        where q.status = 'running' and q.task_type = p_task_type order by q.started_at limit 1), '{}')
$$;

-- Why a job is or is not running: all clauses of the claim, each with a code and facts as evidence.
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
    v_hold job_holds;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue where id = p_id;
    if not found then
        return;
    end if;
    select * into v_hold from job_holds h where h.id = case when job_is_hold(v_job.blocked_by) then v_job.blocked_by
        else (select job_hold_of(v_job.task_type, v_job.payload) limit 1) end;
    if job_is_hold(v_job.blocked_by) then
        v_job.blocked_by := null;
        v_job.in_line := false;
    end if;
    -- A place in the line counts only for a job that waits for nothing else.
    v_job.in_line := v_job.in_line and v_job.status = 'pending' and v_job.blocked_by is null;
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
        (1, 'status', job_clause_pending(v_job.status), 'has-status', jsonb_build_object('status', case
            when v_job.status = 'running' and v_job.started_at is null then 'claimed' else v_job.status end)),
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
            when job_type_pause(v_job.task_type, v_now) ? 'queue' then 'queue-paused'
            else 'type-paused' end,
            jsonb_build_object('task_type', v_job.task_type) || coalesce(job_type_pause(v_job.task_type, v_now), '{}')),
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
        (8, 'concurrency', job_clause_first_in_line(v_job.in_line)
                and (v_holder is null or job_clause_key_free(v_job.concurrency_key, v_job.task_type)), case
            when v_job.concurrency_key is null then 'no-concurrency-key'
            when v_holder is not null and v_key_limit > 1 then 'concurrency-key-shared'
            when v_holder is not null then 'concurrency-key-busy'
            when v_workers > 0 and not job_type_can_run(v_job.task_type, v_now) then 'lets-others-pass'
            when v_job.in_line then 'behind-in-line'
            else 'concurrency-key-free' end, jsonb_build_object('holder', v_holder, 'max_per_key', v_key_limit,
                'goes_first', (select q.id from job_queue q where q.concurrency_key = v_job.concurrency_key
                    and q.status = 'pending' and q.blocked_by is null and not q.in_line
                    order by q.concurrency_key, q.priority desc, q.run_at limit 1),
                'running', case when v_key_limit > 1 then (select count(*) from job_queue q
                    where q.concurrency_key = v_job.concurrency_key and q.status = 'running') end));
    return query select 9, 'limit', s.opens_at is null, s.code, s.facts || case when s.code = 'type-full' then
        job_place_holder(v_job.task_type) else '{}' end
    from job_limit_state(v_job.task_type, v_now) s where s.code is not null and v_job.status = 'pending';
    return query select 10, 'limit of the key', o.at <= v_now, case when o.at <= v_now then 'key-has-place'
        else 'key-rate' end, jsonb_build_object('seconds', ceil(date_part('epoch', o.at - v_now)))
    from job_key_opens(v_job.concurrency_key, v_job.task_type, v_now) as o (at)
    where o.at is not null and v_job.concurrency_key is not null and v_job.status = 'pending';
    return query select 11, 'hold', false, 'is-held', jsonb_build_object('hold', v_hold.number, 'key', v_hold.key,
        'reason', v_hold.reason, 'paused_by', v_hold.held_by, 'paused_at', v_hold.held_at, 'until', v_hold.until)
    where v_hold.id is not null and v_job.status = 'pending';
    return query select 12, 'database', false, 'start-refused', jsonb_build_object('error', p.error, 'retry_at', p.retry_at)
    from job_poison p where p.job_id = p_id and p.version = v_job.version and v_job.status = 'pending';
end
$$;

-- Jobs by status, and as `removed` those that succeeded and left the queue: each counted up to p_most by its own index.
create or replace function job_queue_counts(
    p_most integer, out pending bigint, out running bigint, out succeeded bigint, out failed bigint,
    out cancelled bigint, out removed bigint
)
language sql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
    select job_refuse_outsiders();
    select
        (select count(*) from (
            select 1 from job_queue q where q.status = 'pending' and q.blocked_by is null and not q.in_line
            union all
            select 1 from job_queue q where q.status = 'pending' and (q.blocked_by is not null or q.in_line)
            limit p_most) found),
        (select count(*) from (select from job_queue q where q.status = 'running' limit p_most) found),
        (select count(*) from (select from job_queue q where q.status = 'succeeded' limit p_most) found),
        (select count(*) from (select from job_queue q where q.status = 'failed' limit p_most) found),
        (select count(*) from (select from job_queue q where q.status = 'cancelled' limit p_most) found),
        (select count(*) from (select from job_runs r where r.removed limit p_most) found)
$$;

-- The task types with pending jobs, at most 1000. `waiting` are a type's pending jobs, `overdue` those that are due for
-- longer than p_late and could be claimed, `due_since` the earliest due time of those that could be claimed. Each number
-- is exact, or there are that many at least: it was counted up to p_most; or up to 1000, where the types before it by name
-- had ten times p_most. Those that wait for another job or in a line are counted up to p_most for all types together.
create or replace function job_queue_backlog(p_late interval, p_most integer)
returns table (
    task_type text, waiting bigint, at_least boolean, overdue bigint, overdue_at_least boolean, due_since timestamptz
)
language plpgsql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
declare
    v_type text;
    v_beside jsonb;
    v_beside_jobs bigint;
    v_room bigint := 10 * p_most;
    v_most integer;
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
        due_since := job_queue_due_since(array[v_type]);
        overdue := job_queue_before(job_lanes_until(array[v_type], statement_timestamp() - p_late), v_most);
        -- Jobs that are overdue wait as well, so where these are v_most nothing else has to be counted.
        waiting := case when overdue >= v_most then overdue else (
            select count(*) from (
                select from job_queue q
                where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = v_type
                limit v_most
            ) found) end;
        v_room := v_room - case when overdue >= v_most then overdue else overdue + waiting end;
        at_least := waiting >= v_most or v_beside_jobs >= p_most;
        overdue_at_least := overdue >= v_most;
        waiting := waiting + coalesce((v_beside ->> v_type)::bigint, 0);
        return next;
    end loop;
end
$$;

-- The slots of live workers by kind of handler (thread, async, process), and how many jobs have one: a job takes a slot of its
-- worker from its claim on. With a type, only the slots of those workers that handle it, and of its kind.
create or replace function job_slots(p_task_type text)
returns table (worker_id text, kind text, slots integer, running bigint, oldest timestamptz)
language sql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set jit = off
as $$
    select job_refuse_outsiders();
    with lane as (
        select w.id, s.kind, (s.lane ->> 'slots')::integer as slots, s.lane -> 'types' as types
        from job_workers w cross join lateral jsonb_each(coalesce(w.slots, jsonb_build_object('thread',
            jsonb_build_object('slots', w.concurrency, 'types', to_jsonb(w.task_types))))) as s (kind, lane)
        where job_worker_is_alive(w.heartbeat_at, statement_timestamp())
            and s.kind in ('thread', 'async', 'process') and s.lane ->> 'slots' ~ '^[0-9]{1,6}$'
            and (p_task_type is null or s.lane -> 'types' ? p_task_type)
    )
    select l.id, l.kind, l.slots, least(count(q.locked_by), l.slots), min(q.started_at)
    from lane l left join (
        select r.locked_by, r.task_type, r.started_at from job_queue r
        where r.status = 'running' and r.lease_expires_at > statement_timestamp()
    ) q on q.locked_by = l.id and l.types ? q.task_type
    group by l.id, l.kind, l.slots order by l.id, l.kind
$$;

-- Whether a worker that handles this type has a free slot for it, as a code and facts; null without such a worker.
create or replace function job_slot_state(p_task_type text, out code text, out facts jsonb)
language sql stable
as $$
    select case when sum(s.running) < sum(s.slots) then 'slot-free' else 'slots-busy' end,
        jsonb_build_object('kind', min(s.kind), 'slots', sum(s.slots), 'running', sum(s.running), 'workers', count(*),
            'seconds', floor(date_part('epoch', statement_timestamp() - min(s.oldest))))
    from job_slots(p_task_type) s having count(*) > 0
$$;

-- What a job that could be claimed now waits for, as more clauses with codes and facts. `slot` is whether a worker that handles
-- its type has a slot for it, without such a worker there is none. `turn` is whether these workers claim other due jobs before
-- it: how many are ahead in the order of the claim, exact or `at_least` that many, and how many runs of all these types,
-- dry ones too, ended per second of the last full minute (null if none). No row if the job could not be claimed now.
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
    v_rate double precision;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue
    where id = p_id and status = 'pending' and blocked_by is null and not in_line and run_at <= v_now
        and not exists (select from job_hold_of(task_type, payload));
    if not found then
        return;
    end if;
    select array_agg(w.id) into v_workers from job_workers w
    where job_worker_is_alive(w.heartbeat_at, v_now) and v_job.task_type = any (w.task_types);
    v_types := array(
        select distinct t from job_workers w cross join unnest(w.task_types) t
        where w.id = any (v_workers) and job_clause_type_open(t, v_now));
    select job_queue_before(array_agg(case when l.priority = v_job.priority
        then row(l.task_type, l.priority, v_job.run_at, v_job.id, null)::job_lane
        else row(l.task_type, l.priority, v_now, l.id, null)::job_lane end), v_most)
    into v_ahead
    from unnest(job_claim_lanes(v_types)) l where l.priority >= v_job.priority;
    select nullif(sum(s.runs), 0)::double precision / 60 into v_rate from job_stat_list s
    where s.minutes = 1 and s.bucket = job_stat_bucket(1, statement_timestamp() - interval '1 minute')
        and s.task_type = any (v_types) and s.outcome = any (job_outcomes(true) || job_outcomes(false));
    return query select 'slot', s.code = 'slot-free', s.code, s.facts
    from job_slot_state(v_job.task_type) s where s.code is not null;
    return query values ('turn', v_ahead = 0, case when v_ahead = 0 then 'none-ahead' else 'others-ahead' end,
        jsonb_build_object('ahead', v_ahead, 'at_least', v_ahead >= v_most, 'per_second', v_rate));
end
$$;

-- Jobs by type that are running or failed; `job_queue_backlog` has the pending ones. If there are p_most failed jobs or more,
-- the last p_most that ended are counted, and a type has that many at_least.
create or replace function job_queue_type_jobs(p_most integer)
returns table (task_type text, running bigint, failed bigint, at_least boolean)
language sql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
    select job_refuse_outsiders();
    with failed as materialized (
        select q.task_type from job_queue q where q.status = 'failed'
        order by coalesce(q.completed_at, q.updated_at) desc, q.id desc limit p_most
    ), found as (
        select q.task_type, true as runs from job_queue q where q.status = 'running'
        union all
        select f.task_type, false from failed f
    )
    select f.task_type, count(*) filter (where f.runs), count(*) filter (where not f.runs),
        (select count(*) from failed) >= p_most and bool_or(not f.runs)
    from found f group by f.task_type
$$;

-- Since when the job waits that has waited longest; null if none is due. Jobs of paused types do not count.
create or replace function job_queue_oldest_due() returns timestamptz
language sql stable security definer
set enable_seqscan = off set enable_sort = off set jit = off
as $$
    select job_refuse_outsiders();
    select t from job_queue_due_since(job_types_open(job_queue_waiting_types(), clock_timestamp())) t
    where t <= statement_timestamp()
$$;

-- The rights of the current role.
create or replace function job_permissions(out can_view boolean, out can_operate boolean, out can_work boolean)
language sql stable
as $$
    select has_table_privilege('job_list', 'select'),
        has_function_privilege('job_queue_act(text, uuid[], bigint[], text, text, boolean)', 'execute'),
        has_function_privilege('job_queue_claim('
            || 'text, text[], integer, double precision, text[], integer[], timestamptz[], uuid[], boolean, integer)', 'execute')
$$;

-- The jobs of which a run was lost in this time, and how many were, of the newest p_limit of these runs: how many runs from
-- the first lost one on began, of how many their worker did not say whether they did, and the tokens of all of them. The
-- report of a worker that came back says that the run began. Dry runs changed nothing and do not count.
create or replace function job_lost_runs(p_since interval, p_task_type text, p_limit integer)
returns table (job_id uuid, lost bigint, tokens bigint[], began bigint, unclear bigint)
language plpgsql stable rows 50
set plan_cache_mode = force_custom_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
begin
    return query with lost as materialized (
        select r.job_id, r.run_token from job_run_list r
        where r.outcome = 'lost' and r.finished_at > now() - p_since and r.dry_run is not true
            and (p_task_type is null or r.task_type = p_task_type)
        order by r.finished_at desc limit p_limit
    ), first as (
        select l.job_id, count(*) as lost, min(l.run_token) as token, max(l.run_token) as newest from lost l group by l.job_id
    )
    select f.job_id, f.lost, array_agg(t.run_token order by t.run_token), count(*) filter (where t.began),
        count(*) filter (where not t.began)
    from first f cross join lateral (
        (select r.run_token, bool_or(r.late or r.outcome <> 'lost' or r.error_kind is distinct from 'begin_not_reported') as began
        from job_run_list r
        where r.job_id = f.job_id and r.run_token >= f.token and r.dry_run is not true
        group by r.run_token order by r.run_token limit 50)
        union all
        select q.run_token, q.started_at is not null from job_list q
        where q.id = f.job_id and q.status = 'running' and q.run_token > f.token
    ) t
    group by f.job_id, f.lost, f.newest order by f.newest desc;
end
$$;

-- What the newest p_most runs of all types say of this time, without dry runs. `read`: how many runs there are, and since when
-- if there are more in the time. `once` and `again`: how many jobs have one run, or several, of which none was lost. `same`:
-- one-time jobs with the same content that ended within an hour of the next one, some of their ids, for who may see payloads.
create or replace function job_runs_by_job(p_since interval, p_task_type text, p_most integer)
returns table (part text, task_type text, jobs bigint, first_at timestamptz, last_at timestamptz, job_ids uuid[])
language plpgsql stable rows 20
set plan_cache_mode = force_custom_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_reach constant bigint := job_run_reach(null, false, p_most);
    v_first constant bigint := coalesce(v_reach, -9223372036854775808);
    v_sees constant boolean := job_sees_payloads();
begin
    return query with newest as materialized (
        select r.job_id, r.task_type, r.finished_at, r.outcome,
            case when r.removed and v_sees and pg_column_size(r.payload) <= 16384 then r.payload end as payload
        from job_run_list r
        where r.run_token >= v_first and not r.late and r.finished_at > now() - p_since and r.dry_run is not true
            and (p_task_type is null or r.task_type = p_task_type)
    ), each_job as (
        select count(*) as runs, bool_or(n.outcome = 'lost') as lost from newest n group by n.job_id
    ), alike as (
        select n.task_type, n.payload, array_agg(n.job_id order by n.finished_at) as ids,
            array_agg(n.finished_at order by n.finished_at) as times
        from newest n where n.payload <> '{}' group by n.task_type, n.payload having count(*) > 1
    ), same as (
        select a.task_type, count(*) as jobs, min(t.at) as first_at, max(t.at) as last_at,
            (array_agg(t.id order by t.at))[1:5] as job_ids
        from alike a cross join lateral (
            select u.id, u.at, least(u.at - lag(u.at) over (order by u.at), lead(u.at) over (order by u.at) - u.at) as apart
            from unnest(a.ids, a.times) u (id, at)) t
        where t.apart <= interval '1 hour' group by a.task_type, a.payload order by 4 desc limit 20
    )
    select 'same', s.* from same s
    union all select 'read', null, count(*), case when v_reach is not null then min(n.finished_at) end, null, null from newest n
    union all select 'once', null, count(*) filter (where e.runs = 1), null, null, null from each_job e where not e.lost
    union all select 'again', null, count(*) filter (where e.runs > 1), null, null, null from each_job e where not e.lost;
end
$$;
