-- What health judges: failing types, the backlog over time, and why due jobs cannot start; and one slot of a series.

-- Judges the runs of each type that ended since the judgement before. Nothing changes where none did, so a pause keeps the
-- verdict; it becomes a note if for an hour no run ended and no job is due. A verdict rises only if one of these runs
-- failed: runs are counted, not compared by time, so no step of the clock raises one. It falls when runs have ended for
-- 15 minutes in which nothing as bad was found, or, if so few end, when none of the last 20 failed.
create or replace function job_stats_judge(p_at timestamptz) returns void
language plpgsql volatile
as $$
declare
    v_levels constant text[] := array['warning', 'critical'];
begin
    with ended as (
        select s.task_type, sum(s.runs)::bigint as runs,
            coalesce(sum(s.runs) filter (where s.outcome = any (job_outcomes(true))), 0)::bigint as failed
        from job_stat_list s
        where s.minutes = 0 and not s.dry_run and s.outcome = any (job_outcomes(true) || job_outcomes(false))
        group by s.task_type
    ), changed as materialized (
        select e.task_type, e.runs as seen_runs, e.failed as seen_failed, e.failed > coalesce(f.seen_failed, 0) as may_rise
        from ended e left join job_failing_types f using (task_type)
        where e.failed <> coalesce(f.seen_failed, 0) or f.verdict is not null and e.runs <> f.seen_runs
    ), counted as (
        select c.*, s.runs is null as unknown, s.last_at, s.last_failed_at, j.runs, j.failed, s.runs < 20 as few,
            s.failed_in_a_row, s.runs < 20 and s.failed_in_a_row >= 3 as in_a_row, s.lost,
            coalesce(t.lost_jobs, 20) as lost_limit, n.runs as new_runs, n.first_at as new_since,
            case when s.usual_runs > 0 then s.usual end as usual, s.warning_share, s.critical_share,
            case when j.runs >= 20 then j.failed::double precision / j.runs else 0 end as share
        from changed c
        left join job_failure_shares(p_at, array(select h.task_type from changed h)) s using (task_type)
        left join job_types t using (task_type)
        cross join lateral job_new_error(c.task_type, p_at) n
        left join lateral (
            select s.runs, s.failed where s.runs >= 20
            union all
            select l.runs, l.failed from job_last_runs(c.task_type, p_at) l where s.runs < 20
        ) j on true
    ), judged as (
        select c.*, f.since, f.verdict as was, w.before, least(coalesce(f.calm_since, p_at), p_at) as calm_since,
            case
                when c.unknown then w.before
                when c.share >= c.critical_share or c.lost >= 10 * c.lost_limit then 2
                when c.share >= c.warning_share or c.lost >= c.lost_limit or c.new_runs is not null or c.in_a_row then 1
                else 0
            end as found
        from counted c left join job_failing_types f using (task_type)
        cross join lateral (select coalesce(array_position(v_levels, f.verdict), 0) as before) w
    ), decided as (
        select j.*, case
            when j.found > j.before and j.may_rise or j.found < j.before and (
                    j.calm_since <= p_at - interval '15 minutes' or j.few and j.runs >= 20 and j.failed = 0)
                then v_levels[j.found]
            when j.found > 0 or j.before > 0 then j.was
        end as verdict
        from judged j
    )
    insert into job_failing_types as f (task_type, verdict, since, calm_since, judged_at, last_at, last_failed_at, runs,
        failed, few, failed_in_a_row, in_a_row, lost, lost_limit, new_runs, new_since, usual, warning_share,
        critical_share, seen_runs, seen_failed)
    select d.task_type, d.verdict, case when d.before > 0 then least(d.since, p_at) else p_at end,
        case when d.found < d.before and d.verdict = d.was then d.calm_since end, p_at, d.last_at, d.last_failed_at,
        coalesce(d.runs, 0), coalesce(d.failed, 0), coalesce(d.few, true), coalesce(d.failed_in_a_row, 0),
        coalesce(d.in_a_row, false), coalesce(d.lost, 0), d.lost_limit, d.new_runs, d.new_since, d.usual,
        d.warning_share, d.critical_share, d.seen_runs, d.seen_failed
    from decided d
    on conflict (task_type) do update set verdict = excluded.verdict, since = excluded.since,
        calm_since = excluded.calm_since, judged_at = excluded.judged_at,
        last_at = coalesce(excluded.last_at, f.last_at), last_failed_at = coalesce(excluded.last_failed_at, f.last_failed_at),
        runs = excluded.runs, failed = excluded.failed, few = excluded.few,
        failed_in_a_row = excluded.failed_in_a_row, in_a_row = excluded.in_a_row, lost = excluded.lost,
        lost_limit = excluded.lost_limit, new_runs = excluded.new_runs, new_since = excluded.new_since,
        usual = excluded.usual, warning_share = excluded.warning_share, critical_share = excluded.critical_share,
        seen_runs = excluded.seen_runs, seen_failed = excluded.seen_failed,
        facet_at = case when array_position(v_levels, excluded.verdict) <= array_position(v_levels, f.verdict)
            then f.facet_at end;
    update job_failing_types f set (facet_key, facet_share, facet_token, facet_at) = (
        select x.key, x.failed::double precision / x.everywhere, x.run_token, p_at from (values (1)) one (n)
        left join lateral (
            select o.* from job_facets(f.task_type, null) o
            where o.odd and o.facet = 'payload' and o.failed > 0 and o.everywhere >= 10 limit 1) x on true)
    where f.task_type in (select n.task_type from job_failing_types n
        where n.verdict = any (v_levels) and n.facet_at is null limit 10);
    update job_failing_types f set verdict = case when f.verdict <> 'note' then 'note' end, calm_since = null
    where f.verdict = 'note' and f.last_at <= p_at - interval '1 day'
        or f.verdict <> 'note' and f.last_at <= p_at - interval '1 hour' and not exists (
            select from job_queue q where q.task_type = f.task_type and q.status = 'running')
            and coalesce(job_queue_due_since(array[f.task_type]) > p_at, true);
end
$$;

-- The most jobs that were due and waited for a worker in each bucket, by type. `minutes` is the length of a bucket: 5, 15,
-- 120 or 480, as in job_stats. The empty type has all types together; without this row, nobody counted. Once a minute the
-- part 'backlog' of upkeep counts.
create table if not exists job_backlog (
    minutes smallint not null,
    bucket timestamptz not null,
    task_type text not null,
    waiting bigint not null,
    at_least boolean not null,
    primary key (minutes, bucket, task_type)
) with (fillfactor = 70);

-- The pauses of a window, among all that operators did in it.
create index if not exists job_audit_pauses on job_audit (at) where action in ('pause', 'resume');

-- Counts the backlog for the present buckets. Returns the number of types with one.
create or replace function job_backlog_sample() returns bigint
language sql volatile
as $$
    with found as materialized (
        select b.task_type, b.overdue as waiting, b.overdue_at_least as at_least
        from job_queue_backlog(interval '0', 10001) b where b.overdue > 0
    ), counted as (
        select f.task_type, f.waiting, f.at_least from found f where f.task_type <> ''
        union all
        select '', coalesce(sum(f.waiting), 0), coalesce(bool_or(f.at_least), false) from found f
    ), kept as (
        insert into job_backlog as b (minutes, bucket, task_type, waiting, at_least)
        select l.minutes, job_stat_bucket(l.minutes, clock_timestamp()), c.task_type, c.waiting, c.at_least
        from counted c cross join unnest(array[5, 15, 120, 480]::smallint[]) as l (minutes)
        on conflict (minutes, bucket, task_type) do update set
            at_least = case when excluded.waiting > b.waiting then excluded.at_least else b.at_least end,
            waiting = greatest(b.waiting, excluded.waiting)
    )
    select count(*) from found
$$;

-- The time that 9 of 10 runs of this type do not exceed, in seconds; null if none succeeded.
create or replace function job_usual_seconds(p_task_type text) returns double precision
language sql stable
as $$
    with bin as (
        select d.bin, sum(d.runs) as runs from job_stats t
        cross join unnest(t.durations) with ordinality as d (runs, bin)
        where t.minutes = 0 and t.task_type = p_task_type and not t.dry_run and t.outcome = any (job_outcomes(false))
        group by d.bin
    ), summed as (
        select b.bin, sum(b.runs) over (order by b.bin) as so_far, sum(b.runs) over () as total from bin b
    )
    select (job_stat_edges())[min(s.bin)] from summed s where s.total > 0 and s.so_far >= 0.9 * s.total
$$;

-- The jobs that run for long, among the 500 that were claimed first: for more than three times as long as 9 of 10 runs of their
-- type take, and for 30 seconds at least; of a type without a success, for 5 minutes. `long` is false for the others.
create or replace function job_queue_long_runs(p_at timestamptz)
returns table (id uuid, task_type text, key text, started_at timestamptz, usual double precision, long boolean)
language sql stable
set enable_seqscan = off set jit = off
as $$
    with run as materialized (
        select q.id, q.task_type, q.concurrency_key, q.started_at from job_queue q
        where q.status = 'running' order by q.run_token limit 500
    ), usual as materialized (
        select t.task_type, job_usual_seconds(t.task_type) as seconds
        from (select distinct r.task_type from run r where r.started_at <= p_at - interval '30 seconds') t
    )
    select r.id, r.task_type, r.concurrency_key, r.started_at, u.seconds,
        coalesce(r.started_at <= p_at - make_interval(secs => greatest(coalesce(3 * u.seconds, 300), 30)), false)
    from run r left join usual u on u.task_type = r.task_type
$$;

-- Of each of these limited types and of each key, whether long runs hold all places: how many run, and the one that holds
-- longest.
create or replace function job_queue_held_places(p_at timestamptz, p_types text[])
returns table (cause text, name text, places bigint, facts jsonb)
language sql stable
as $$
    with run as materialized (select * from job_queue_long_runs(p_at))
    select case when g.is_key then 'key held' else 'type full' end, g.name, count(*), jsonb_build_object(
        'holder', (array_agg(g.id order by g.started_at))[1], 'since', min(g.started_at),
        'usual', (array_agg(g.usual order by g.started_at))[1], 'running', count(*))
    from (
        select true as is_key, r.key as name, r.* from run r where r.key is not null
        union all
        select false, r.task_type, r.* from run r where r.task_type = any (p_types)
    ) g group by g.is_key, g.name having bool_and(g.long)
$$;

-- The types whose due jobs cannot be claimed: paused, without a worker while workers are alive, or with all their places held by
-- long runs; and as `order` the type of the job that has waited longest of all others, with what it waits for.
create or replace function job_queue_held_types(p_at timestamptz)
returns table (cause text, task_type text, since timestamptz, facts jsonb)
language plpgsql stable
as $$
#variable_conflict use_column
declare
    v_waiting constant text[] := job_queue_waiting_types();
    v_open constant text[] := job_types_open(v_waiting, p_at);
    v_workers constant bigint := (select count(*) from job_workers w where job_worker_is_alive(w.heartbeat_at, p_at));
    v_handled constant text[] := array(select distinct t from job_workers w cross join unnest(w.task_types) t
        where job_worker_is_alive(w.heartbeat_at, p_at));
    v_limited constant text[] := array(select t.task_type from job_types t
        where t.max_running is not null and t.task_type = any (v_open));
    v_held constant jsonb := case when v_limited <> '{}' then (select jsonb_object_agg(h.name, h.facts || jsonb_build_object(
            'max_running', t.max_running))
        from job_queue_held_places(p_at, v_limited) h join job_types t on t.task_type = h.name
        where h.cause = 'type full' and h.places >= t.max_running) end;
    v_named boolean := false;
begin
    return query
    select case when t.set_aside then 'set aside' else 'type paused' end, w.name, d.since, job_type_pause(w.name, p_at)
    from unnest(v_waiting) as w (name) left join job_types t on t.task_type = w.name
    cross join lateral job_queue_due_since(array[w.name]) as d (since)
    where w.name <> all (v_open) and d.since <= p_at;

    for cause, task_type, since, facts in
        select c.cause, o.name, d.since,
            case when c.cause = 'type full' then v_held -> o.name else jsonb_build_object('workers', v_workers) end
        from unnest(v_open) as o (name) cross join lateral job_queue_due_since(array[o.name]) as d (since)
        cross join lateral (select case
            when v_workers > 0 and o.name <> all (v_handled) and not exists (
                -- A type that the calls of a scheduler run has no worker, and its jobs start.
                select from job_stat_list s where s.task_type = o.name and s.minutes = 0
                    and s.last_at >= greatest(d.since, p_at - interval '15 minutes')) then 'no worker'
            when v_held ? o.name then 'type full' else 'order' end as cause) c
        where d.since <= p_at order by d.since
    loop
        if cause <> 'order' then
            return next;
        elsif not v_named then
            v_named := true;
            facts := coalesce(
                (select s.facts || jsonb_build_object('code', s.code) || case when s.code = 'type-full'
                        then job_place_holder(task_type) else '{}' end
                    from job_limit_state(task_type, p_at) s where s.opens_at is not null),
                (select s.facts || jsonb_build_object('code', s.code) from job_slot_state(task_type) s), '{}');
            return next;
        end if;
    end loop;
end
$$;

-- The jobs that were put off because no worker knows fields of their payload, by group of errors, with the time at which
-- the first fails. That one is looked for among the first 100 that were enqueued.
create or replace function job_queue_newer_payloads(p_most integer)
returns table (task_type text, jobs bigint, since timestamptz, deadline timestamptz, facts jsonb)
language sql stable
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
    select g.task_type, j.jobs, f.since, f.since + interval '1 hour', jsonb_build_object('error', f.error, 'handling', (
        select count(*) from job_workers w
        where g.task_type = any (w.task_types) and job_worker_is_alive(w.heartbeat_at, statement_timestamp())))
    from (
        (select e.task_type, e.fingerprint from job_error_groups e
        where e.error_kind = 'newer_payload' order by e.last_at desc limit 100)
        union
        select d.task_type, d.fingerprint from job_stat_delta d
        where d.outcome = 'snoozed' and d.fingerprint is not null
    ) g
    cross join lateral (
        select count(*) as jobs from (
            select from job_queue q
            where q.fingerprint = g.fingerprint and q.task_type = g.task_type and q.status = 'pending' limit p_most) n
    ) j
    cross join lateral (
        select min(coalesce(job_queue_put_off_since(n.id, n.is_recurring, 'newer_payload'), n.updated_at)) as since,
            min(n.last_error) as error
        from (
            select q.id, q.is_recurring, q.last_error, q.updated_at from job_queue q
            where q.fingerprint = g.fingerprint and q.task_type = g.task_type and q.status = 'pending'
            order by q.id limit 100) n
    ) f
    where j.jobs > 0
$$;

-- Why due jobs cannot start for a reason that is not the queue's own order, by cause and type: how many, since when, and when
-- the first expires or fails. Jobs are counted up to p_most. The cause `order` is of job_queue_held_types, and not counted.
-- The cause `line` is the queue's own order as well, and is looked for only without it: jobs whose key other runs have, none of
-- which runs for long. Of all types together 1,001 are read, behind p_most keys.
create or replace function job_queue_cannot_run(p_most integer)
returns table (cause text, task_type text, jobs bigint, since timestamptz, deadline timestamptz, facts jsonb)
language sql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
    select job_refuse_outsiders();
    with held as materialized (
        select t.cause, t.task_type, case when t.cause = 'order' then 0 else job_queue_before(
            job_lanes_until(array[t.task_type], statement_timestamp()), p_most) end as jobs, t.since, t.facts
        from job_queue_held_types(statement_timestamp()) t
    ), in_line as materialized (
        select w.task_type, h.name, h.facts, count(*) as jobs, min(w.since) as since
        from job_queue_held_places(statement_timestamp(), '{}') h cross join lateral (
            select q.task_type, greatest(q.run_at, q.created_at) as since from job_queue q
            where q.status = 'pending' and q.blocked_by is null and q.in_line and q.concurrency_key = h.name
                and q.run_at <= statement_timestamp() order by q.task_type, q.priority desc limit p_most) w
        where job_types_open(array[w.task_type], statement_timestamp()) <> '{}' and h.places >= job_key_limit(w.task_type)
        group by w.task_type, h.name, h.facts
    ), line as materialized (
        select n.task_type, count(*) as jobs, min(n.since) as since from (
            select w.task_type, w.since from (
                select q.concurrency_key as name from job_queue q
                where q.status = 'running' and q.concurrency_key is not null
                group by q.concurrency_key order by q.concurrency_key limit p_most) k
            cross join lateral (
                select q.task_type, greatest(q.run_at, q.created_at) as since from job_queue q
                where q.status = 'pending' and q.blocked_by is null and q.in_line and q.concurrency_key = k.name
                    and q.run_at <= statement_timestamp() order by q.task_type, q.priority desc limit 1001) w
            where not exists (select from held h where h.cause = 'order')
                and not exists (select from in_line i where i.name = k.name and i.task_type = w.task_type) limit 1001) n
        group by n.task_type
    ), found as materialized (
        select h.cause, h.task_type, h.jobs, h.since, null::timestamptz as deadline, h.facts from held h
        union all
        select 'newer payload', n.task_type, n.jobs, n.since, n.deadline, n.facts from job_queue_newer_payloads(p_most) n
        union all
        select 'key held', l.task_type, least(sum(l.jobs), p_most), min(l.since), null,
            (array_agg(l.facts order by l.facts ->> 'since'))[1] || jsonb_build_object('keys', count(*))
        from in_line l group by l.task_type
        union all
        select 'line', l.task_type, l.jobs, l.since, null, jsonb_build_object(
            'at_least', (select sum(a.jobs) from line a) > 1000)
        from line l
        union all
        select 'series paused', s.task_type, count(*), min(greatest(s.run_at, s.created_at)), null, jsonb_build_object(
            'job', (array_agg(s.id order by s.run_at))[1], 'paused_at', min(s.updated_at))
        from (
            select q.id, q.task_type, q.run_at, q.created_at, q.updated_at from job_queue q
            where q.is_recurring and q.status = 'pending' and q.blocked_by = q.id and q.run_at <= statement_timestamp()
            order by q.run_at limit 500) s
        group by s.task_type
        union all
        -- Not by `expiring`, because other jobs of the type expire as well.
        select 'held', h.task_type, least(sum(w.jobs), p_most), min(h.held_at), min(w.expires_at), jsonb_build_object(
            'holds', count(*), 'hold', min(h.number), 'key', (array_agg(h.key order by h.number))[1], 'paused_at', min(h.held_at),
            'paused_by', (array_agg(h.held_by order by h.number))[1], 'reason', (array_agg(h.reason order by h.number))[1],
            'resume_at', (array_agg(h.until order by h.number))[1])
        from job_holds h cross join lateral (
            select count(*) as jobs, min(n.expires_at) as expires_at from (
                select q.expires_at from job_queue q where q.status = 'pending' and q.blocked_by = h.id
                    and q.run_at <= statement_timestamp() limit p_most) n) w
        where w.jobs > 0 group by h.task_type
    ), expiring as materialized (
        -- Only the first 1,000 that expire: no index has them by type.
        select e.task_type, min(e.expires_at) as at from (
            select q.task_type, q.expires_at from job_queue q
            where q.status = 'pending' and q.expires_at is not null and exists (
                select from found where found.cause not in ('order', 'line'))
            order by q.expires_at limit 1000) e
        group by e.task_type
    )
    select f.cause, f.task_type, f.jobs, f.since, least(f.deadline, e.at), f.facts
    from found f left join expiring e on e.task_type = f.task_type and f.cause not in ('order', 'line', 'held')
        and (e.at < (f.facts ->> 'resume_at')::timestamptz) is not false
    order by f.since
$$;

-- Why this cannot be done with a series: 'skip', 'pause' or 'resume'; null if it can. p_next is the slot that it runs at then.
create or replace function job_series_refusal(
    p_job job_queue, p_version bigint, p_action text, p_next timestamptz
) returns text
language sql immutable
return case
    when p_version <> (p_job).version then 'has-changed'
    when p_action = 'skip' then case
        when not (p_job).is_recurring then 'skip-once'
        when (p_job).status = 'running' then 'skip-running'
        when (p_job).status <> 'pending' then 'skip-ended'
        when (p_job).blocked_by = (p_job).id then 'series-paused'
        when p_next >= job_no_slot() then 'skip-without-slots'
        when (p_job).expires_at <= p_next then 'skip-last' end
    when not (p_job).is_recurring then 'pause-once'
    when (p_job).status not in ('pending', 'running') then 'pause-ended'
    when p_action = 'pause' and (p_job).blocked_by = (p_job).id then 'already-paused'
    when p_action = 'pause' and (p_job).blocked_by is not null and not job_is_hold((p_job).blocked_by) then 'pause-blocked'
    when p_action = 'resume' and (p_job).blocked_by is distinct from (p_job).id then 'not-paused'
end;

-- Skips the next run of a series, pauses one series, or resumes it (p_action is 'skip', 'pause' or 'resume').
-- A skipped series is due at the slot after its next run. A late run counts as the next one, and so does the retry of a failed
-- one. A paused series blocks itself, so it is in no index of the claim, and no claim has to look at anything more. A
-- running cycle ends as usual. A resumed series runs at its next slot: missed ones are not made up.
create or replace function job_series_act(
    p_id uuid, p_version bigint, p_action text, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_job job_queue;
    v_after job_queue;
    v_from timestamptz;
    v_next timestamptz;
    v_facts jsonb;
    v_refusal text;
begin
    perform job_refuse_outsiders();
    perform job_queue_refuse(format('A series has no action %s. Nothing was changed.', p_action))
    where p_action in ('skip', 'pause', 'resume') is not true;
    begin
        select * into v_job from job_queue q where q.id = p_id for update;
    exception when lock_not_available then
        return query select p_id, false, 'is-locked', null::jsonb, null::text, null::bigint;
        return;
    end;
    if v_job.id is null then
        return query select p_id, false, job_queue_absence('edit', p_id),
            jsonb_build_object('job', p_id) || job_last_deed(p_id, 0), null::text, null::bigint;
        return;
    end if;
    -- The time after which its next slot is looked for; null if it stays where it is.
    v_from := case
        when p_action = 'skip' then greatest(coalesce(v_job.slot_at, v_job.run_at),
            case when not job_series_runs_all(v_job.schedule) then v_now end)
        when p_action = 'resume' and v_job.status = 'pending' and v_job.run_at <= v_now then v_now end;
    v_next := case when v_from is null then v_job.run_at
        else job_series_slot(v_job.recurrence_interval_minutes, v_job.schedule, v_job.slots,
            coalesce(v_job.anchor_at, v_job.run_at), v_from) end;
    v_refusal := job_series_refusal(v_job, p_version, p_action, v_next);
    v_facts := jsonb_build_object('status', v_job.status, 'run_at', v_next, 'blocker', v_job.blocked_by, 'job', p_id)
        || case when v_refusal = 'has-changed' then job_last_deed(p_id, p_version) else '{}' end;
    if v_refusal is not null or p_dry_run then
        return query select p_id, v_refusal is null, coalesce(v_refusal, case p_action
            when 'skip' then 'would-skip' when 'pause' then 'would-pause' else 'would-resume' end),
            v_facts, v_job.status, v_job.version;
        return;
    end if;
    update job_queue q set
        blocked_by = case p_action when 'pause' then q.id when 'skip' then q.blocked_by end, run_at = v_next,
        slot_at = case when v_from is null then q.slot_at end,
        attempts = case when v_from is null then q.attempts else 0 end,
        anchor_at = case when p_action = 'skip' then v_next else coalesce(q.anchor_at, q.run_at) end,
        in_line = q.status = 'pending' and q.concurrency_key is not null, updated_at = v_now, version = q.version + 1
    where q.id = p_id;
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    select * into v_after from job_queue q where q.id = p_id;
    perform job_queue_write_audit(p_actor, case p_action when 'skip' then 'skip' else p_action || ' series' end, p_id,
        job_audit_facts(v_job), job_audit_facts(v_after), p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return query select p_id, true, case p_action
        when 'skip' then 'was-skipped' when 'pause' then 'was-paused' else 'was-resumed' end,
        v_facts, v_after.status, v_after.version;
end
$$;
