-- The end of runs. A report counts only with the token that holds the job; what it makes of the job is in job_queue_settle.

do $$
begin
    if to_regtype('job_queue_move') is null then
        create type job_queue_move as (
            id uuid, token bigint, move text, is_recurring boolean, is_over boolean, slot timestamptz,
            retry_at timestamptz, outcome text, started_at timestamptz, finished_at timestamptz, details jsonb,
            key text, cancelled_by text, recorded text
        );
    end if;
end
$$;

-- The details of a run that puts its job off, and gives up some time after the first of such runs in a row: with `gave_up`
-- once that time is over. The row ends with a run of another kind, unless that run was handed back or lost; with a failure
-- of a job that is not recurring, which somebody has retried; and with what an operator does to the job. A series that has
-- given up fails at each slot.
create or replace function job_queue_put_off(p_id uuid, p_is_recurring boolean, p_details jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
set enable_seqscan = off set jit = off
as $$
declare
    v_kind constant text := p_details ->> 'error_kind';
    v_before constant bigint := (select r.run_token from job_runs r
        where r.job_id = p_id and not r.late and (r.error_kind is distinct from v_kind and r.outcome not in ('released', 'lost')
            or r.outcome = 'failed' and not p_is_recurring)
        order by r.run_token desc limit 1);
    v_asked constant timestamptz := (select max(a.at) from job_audit a
        where a.job_id = p_id and a.action in ('retry', 'edit', 'restore', 'canary'));
    v_since constant timestamptz := (select r.started_at from job_runs r
        where r.job_id = p_id and not r.late and r.error_kind = v_kind and r.run_token > coalesce(v_before, 0)
            and r.started_at > coalesce(v_asked, '-infinity')
        order by r.run_token limit 1);
begin
    if coalesce(v_since + job_delay((p_details ->> 'give_up_after')::double precision) > p_now, true) then
        return p_details;
    end if;
    return p_details || jsonb_build_object('gave_up', true, 'error', format('%s It was first put off %s minutes ago, so it has '
        'failed.', p_details ->> 'error', floor(date_part('epoch', p_now - v_since) / 60)));
end
$$;

-- What becomes of these runs, for those whose token still holds the job: null if none does. The rows of their jobs are locked. A
-- worker reports only runs that it claimed: after a crash without synchronous commit, a token may have been given to
-- another worker again.
create or replace function job_queue_judge(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_outcomes text[], p_started timestamptz[],
    p_finished timestamptz[], p_details jsonb[], p_retry_base double precision, p_retry_cap double precision,
    p_now timestamptz
) returns job_queue_move[]
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
declare
    v_moves job_queue_move[];
begin
    with report as (
        -- A run that is twice in a batch counts once.
        select distinct on (r.token) * from unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
            as r (id, token, outcome, started_at, finished_at, details)
    ), held as (
        select q.*, r.outcome, r.started_at as began_at, r.finished_at,
            case when r.outcome = 'snoozed' and r.details ? 'give_up_after'
                then job_queue_put_off(q.id, q.is_recurring, r.details, p_now) else r.details end as details
        from job_queue q join report r on r.id = q.id and r.token = q.run_token
        where q.run_token = any (p_tokens) and q.status = 'running' and (r.outcome = 'lost' or q.locked_by = p_worker)
        order by q.id for update of q
    ), judged as (
        select h.*,
            h.cancel_requested_at is not null or h.outcome = 'cancelled' as cancels,
            -- After a clock that was set back during the run, its slot is still to come, and is not served again.
            case when h.is_recurring
                then job_series_slot(h.recurrence_interval_minutes, h.schedule, h.slots, coalesce(h.anchor_at, h.run_at),
                    case when job_series_runs_all(h.schedule) then coalesce(h.slot_at, h.run_at)
                        else greatest(p_now, h.run_at) end)
            end as slot,
            h.outcome in ('failed', 'lost') and not coalesce((h.details ->> 'permanent')::boolean, false)
                and h.attempts < h.max_attempts as may_retry,
            p_now + job_delay(coalesce(
                (h.details ->> 'retry_after')::double precision,
                job_backoff(h.attempts, coalesce((h.details ->> 'retry_base')::double precision, p_retry_base),
                    coalesce((h.details ->> 'retry_cap')::double precision, p_retry_cap)))) as retry_at
        from held h
    ), decided as (
        select j.*,
            case
                when j.cancels then 'cancel'
                when j.outcome in ('succeeded', 'partial') then 'success'
                when j.outcome = 'continued' then 'continue'
                when j.outcome = 'released' then 'release'
                when j.outcome = 'snoozed' and not coalesce(j.details ? 'gave_up', false) then 'snooze'
                when j.may_retry and (j.slot is null or j.retry_at < j.slot or job_series_runs_all(j.schedule))
                    and (not j.is_recurring or j.expires_at is null or j.retry_at < j.expires_at) then 'retry'
                else 'failure'
            end as move,
            -- The series is over when its next slot is at or past its end.
            j.is_recurring and j.expires_at is not null and j.slot >= j.expires_at and j.slot < job_no_slot() as is_over
        from judged j
    )
    select array_agg(row(
        d.id, d.run_token, d.move, d.is_recurring, d.is_over, d.slot, d.retry_at, d.outcome, d.began_at,
        d.finished_at, d.details, d.concurrency_key, d.cancel_requested_by,
        case
            when d.outcome = 'lost' then 'lost'
            when d.move = 'cancel' then 'cancelled'
            when d.move = 'retry' then 'retried'
            when d.move = 'failure' then 'failed'
            else d.outcome
        end)::job_queue_move)
    into v_moves from decided d;
    return v_moves;
end
$$;

-- Appends these runs, whose jobs are still in the queue, to the history and to the statistics.
create or replace function job_runs_record(p_ids uuid[], p_moves job_queue_move[]) returns void
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
begin
    with noted as (
        insert into job_runs as r (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, removed, error_kind, error, fingerprint, traceback, output, log, progress,
            concurrency_key, dedupe_key, created_by, dry_run)
        select m.token, m.id, q.task_type, q.payload, q.attempts, q.locked_by, q.run_at, m.started_at, m.finished_at,
            m.recorded, m.move = 'success' and not m.is_recurring, e.kind, e.error,
            case when m.recorded = any (job_outcomes(true)) then job_error_fingerprint(e.kind, e.error) end,
            m.details ->> 'traceback', nullif(m.details -> 'output', 'null'), m.details ->> 'log',
            coalesce(nullif(m.details -> 'progress', 'null'), q.progress),
            case when m.move = 'success' and not m.is_recurring then q.concurrency_key end,
            case when m.move = 'success' and not m.is_recurring then q.dedupe_key end,
            case when m.move = 'success' and not m.is_recurring then q.created_by end,
            job_run_is_dry(q.payload, m.details)
        from unnest(p_moves) m
        join job_queue q on q.id = m.id
        cross join lateral (
            select
                case when m.move = 'cancel' then 'cancelled' else m.details ->> 'error_kind' end as kind,
                case
                    when m.move = 'cancel' and m.outcome <> 'lost' then format(
                        'Cancelled by %s while it ran; the handler had %s.', coalesce(m.cancelled_by, 'its handler'),
                        case m.outcome when 'cancelled' then 'stopped' when 'released' then 'returned the job' when 'snoozed' then 'put the job off'
                            when 'failed' then 'failed: ' || coalesce(m.details ->> 'error', 'no reason given')
                            else m.outcome end)
                    else m.details ->> 'error'
                end as error
        ) e
        where q.id = any (p_ids)
        returning r.run_token, r.task_type, r.due_at, r.started_at, r.finished_at, r.outcome, r.dry_run, r.fingerprint
    )
    insert into job_stat_delta (minute, task_type, outcome, dry_run, fingerprint, sample_token, runs, permanent, first_at,
        last_at, bins, wait_seconds, duration_seconds)
    select job_stat_bucket(1, n.finished_at), n.task_type, n.outcome, n.dry_run, n.fingerprint, max(n.run_token),
        count(*), count(*) filter (where m.move = 'failure'), min(n.finished_at), max(n.finished_at),
        array_agg(job_stat_bins(n.started_at - n.due_at, n.finished_at - n.started_at)),
        sum(job_stat_seconds(n.started_at - n.due_at)), sum(job_stat_seconds(n.finished_at - n.started_at))
    from noted n join unnest(p_moves) m on m.token = n.run_token
    group by 1, n.task_type, n.outcome, n.dry_run, n.fingerprint;
end
$$;

-- Applies the table of outcomes to runs whose token still holds the job: appends each run to the history and gives its
-- job the next status. `p_details` has for each run, all optional: output, checkpoint, delay, retry_after, retry_base,
-- retry_cap (seconds), permanent, error_kind, error, traceback, log, progress, give_up_after. `p_keys` are the keys of runs that the
-- caller has already finished.
create or replace function job_queue_settle(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_outcomes text[], p_started timestamptz[],
    p_finished timestamptz[], p_details jsonb[], p_retry_base double precision, p_retry_cap double precision,
    p_keys text[]
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language plpgsql volatile security definer
set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_moves job_queue_move[];
    v_keys text[];
begin
    perform job_refuse_outsiders();
    v_moves := job_queue_judge(
        p_worker, p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details, p_retry_base, p_retry_cap, v_now);
    if v_moves is null then
        return;
    end if;

    perform job_runs_record(p_ids, v_moves);
    delete from job_queue q using unnest(v_moves) m
    where q.id = any (p_ids) and q.id = m.id and m.move = 'success' and not m.is_recurring;

    update job_queue q set
        status = case
            when m.move = 'cancel' then 'cancelled'
            when m.move = 'success' and m.is_over then 'succeeded'
            when m.move = 'failure' and (not m.is_recurring or m.is_over) then 'failed'
            else 'pending'
        end,
        run_at = case
            when m.move = 'cancel' then q.run_at
            when m.move in ('success', 'failure') and m.is_recurring and not m.is_over then m.slot
            when m.move = 'continue'
                then v_now + job_delay((m.details ->> 'delay')::double precision)
            when m.move = 'snooze'
                then least(v_now + job_delay((m.details ->> 'delay')::double precision),
                    case when not job_series_runs_all(q.schedule) then m.slot end)
            when m.move = 'retry' then m.retry_at
            else q.run_at
        end,
        attempts = case
            when m.move in ('release', 'snooze') then greatest(q.attempts - 1, 0)
            when m.move = 'continue' or m.is_recurring and m.move in ('success', 'failure') and not m.is_over then 0
            else q.attempts
        end,
        checkpoint = case
            when m.move = 'continue' then m.details -> 'checkpoint'
            when m.is_recurring and m.move = 'success' then nullif(m.details -> 'checkpoint', 'null')
            when m.is_recurring and m.move = 'failure' then null
            else q.checkpoint
        end,
        slot_at = case
            when m.is_recurring and (m.move in ('retry', 'continue') or m.move = 'snooze'
                and (job_series_runs_all(q.schedule)
                    or v_now + job_delay((m.details ->> 'delay')::double precision) < m.slot))
            then coalesce(q.slot_at, q.run_at)
            -- A slot that was begun is not missed.
            when m.move = 'release'
                then coalesce(q.slot_at, case when q.schedule ->> 'catch_up' = 'none' then q.run_at end) end,
        cycle = q.cycle + (m.is_recurring and m.move in ('success', 'failure'))::integer,
        output = case when m.move = 'success' then nullif(m.details -> 'output', 'null') else q.output end,
        last_error = case
            when m.move in ('success', 'continue') then null
            when m.move in ('retry', 'failure') then coalesce(m.details ->> 'error', 'The run failed without a reason.')
            when m.move = 'snooze' and m.details ? 'give_up_after' then m.details ->> 'error'
            -- The reason for which the run before put the job off does not hold any more.
            when m.move = 'snooze' and q.last_outcome = 'snoozed' and q.fingerprint is null then null
            else q.last_error
        end,
        fingerprint = case
            when m.move in ('success', 'continue') then null
            when m.move in ('retry', 'failure')
                then job_error_fingerprint(m.details ->> 'error_kind', m.details ->> 'error')
            when m.move = 'snooze' and m.details ? 'give_up_after' then null
            else q.fingerprint
        end,
        run_trace = case when m.move <> 'success' then m.details ->> 'trace' end,
        last_outcome = m.recorded,
        last_run_dry = case when m.move in ('release', 'snooze') then q.last_run_dry
            else job_run_is_dry(q.payload, m.details) end,
        last_run_at = case when m.move in ('release', 'snooze') then q.last_run_at else v_now end,
        last_success_at = case when m.move = 'success' then v_now else q.last_success_at end,
        consecutive_failures = case m.move when 'success' then 0 when 'failure' then q.consecutive_failures + 1
            else q.consecutive_failures end,
        completed_at = case
            when m.move = 'cancel' or m.move = 'failure' and (not m.is_recurring or m.is_over)
                or m.move = 'success' and m.is_over then v_now
        end,
        in_line = q.concurrency_key is not null,
        progress = null, locked_by = null, run_token = null, lease_expires_at = null, started_at = null,
        cancel_requested_at = null, cancel_requested_by = null,
        updated_at = v_now, version = q.version + 1
    from unnest(v_moves) m
    where q.id = any (p_ids) and q.id = m.id and not (m.move = 'success' and not m.is_recurring);

    select array_agg(m.key) into v_keys from unnest(v_moves) m where m.key is not null;
    v_keys := v_keys || p_keys || job_queue_release_waiting(
        array(select m.id from unnest(v_moves) m where m.move = 'success'), '{}', '');
    perform job_queue_release_waiting('{}', array(select m.id from unnest(v_moves) m
        where m.move = 'failure' and (not m.is_recurring or m.is_over)), 'failed permanently');
    perform job_queue_release_waiting('{}', array(select m.id from unnest(v_moves) m where m.move = 'cancel'),
        'was cancelled');
    perform job_queue_advance_lines(v_keys);

    return query
    select m.id, m.token, m.recorded, q.status, q.run_at
    from unnest(v_moves) m left join job_queue q on q.id = m.id and q.id = any (p_ids);
end
$$;

-- Of these runs, those whose row another transaction has locked. The rows of the others are locked until the end of the
-- caller's transaction.
create or replace function job_queue_locked(p_worker text, p_tokens bigint[]) returns bigint[]
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
declare
    v_running constant bigint[] := array(select q.run_token from job_queue q
        where q.run_token = any (p_tokens) and q.status = 'running' and q.locked_by = p_worker);
    v_free constant bigint[] := array(select q.run_token from job_queue q
        where q.run_token = any (p_tokens) and q.status = 'running' and q.locked_by = p_worker
        order by q.id for update skip locked);
begin
    perform job_refuse_outsiders();
    return array(select t from unnest(v_running) t where t <> all (v_free));
end
$$;

-- Finishes a batch of runs for a worker. Returns one row per run, except for one-time jobs that succeeded and left the
-- queue. A report that is sent again is not applied again: for a token that no longer holds its job, the recorded
-- outcome is returned, and the run is recorded as `abandoned` if the reaper had recorded it as lost. A row that another
-- transaction has locked is waited for half a second (SQLSTATE 55P03): the worker then leaves out the runs that
-- job_queue_locked names, and reports them later.
create or replace function job_queue_finish(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_outcomes text[], p_started timestamptz[],
    p_finished timestamptz[], p_details jsonb[], p_retry_base double precision, p_retry_cap double precision
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language plpgsql volatile security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan set lock_timeout = '500ms'
as $$
#variable_conflict use_column
declare
    v_done bigint[];
    v_removed uuid[];
    v_keys text[];
    v_settled record;
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    -- A handler's own transaction may have a snapshot from before jobs that wait for these. Upkeep looks after its commit.
    if current_setting('transaction_isolation') <> 'read committed' then
        perform job_queue_ask_recheck(
            array(select q.concurrency_key from job_queue q where q.run_token = any (p_tokens)), p_ids);
    end if;
    -- Most runs are one-time jobs that succeeded: one statement for all of them.
    with gone as (
        delete from job_queue q
        using unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
            as r (id, token, outcome, started_at, finished_at, details)
        where q.run_token = any (p_tokens) and q.run_token = r.token and q.id = r.id and q.status = 'running'
            and q.locked_by = p_worker and r.outcome in ('succeeded', 'partial') and not q.is_recurring
            and q.cancel_requested_at is null
        returning q.id, q.run_token, q.task_type, q.payload, q.attempts, q.locked_by, q.run_at, q.progress,
            q.concurrency_key, q.dedupe_key, q.created_by, r.outcome, r.started_at, r.finished_at, r.details,
            job_run_is_dry(q.payload, r.details) as dry_run
    ), history as (
        insert into job_runs (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, removed, output, log, progress, concurrency_key, dedupe_key, created_by, dry_run)
        select g.run_token, g.id, g.task_type, g.payload, g.attempts, g.locked_by, g.run_at, g.started_at,
            g.finished_at, g.outcome, true, nullif(g.details -> 'output', 'null'), g.details ->> 'log',
            coalesce(nullif(g.details -> 'progress', 'null'), g.progress), g.concurrency_key, g.dedupe_key,
            g.created_by, g.dry_run
        from gone g
    ), counted as (
        insert into job_stat_delta (minute, task_type, outcome, dry_run, runs, first_at, last_at, bins, wait_seconds,
            duration_seconds)
        select job_stat_bucket(1, g.finished_at), g.task_type, g.outcome, g.dry_run, count(*), min(g.finished_at),
            max(g.finished_at), array_agg(job_stat_bins(g.started_at - g.run_at, g.finished_at - g.started_at)),
            sum(job_stat_seconds(g.started_at - g.run_at)), sum(job_stat_seconds(g.finished_at - g.started_at))
        from gone g group by 1, g.task_type, g.outcome, g.dry_run
    )
    select array_agg(g.run_token), array_agg(g.id),
        array_agg(g.concurrency_key) filter (where g.concurrency_key is not null)
    into v_done, v_removed, v_keys from gone g;
    if exists (select from job_awaited) then
        perform pg_notify(current_schema() || '.job_done', a.job_id::text) from job_awaited a where a.job_id = any (p_ids);
    end if;
    if v_removed is not null then
        if exists (select from job_queue q where q.status = 'pending' and q.blocked_by is not null) then
            v_keys := v_keys || job_queue_release_waiting(v_removed, '{}', '');
        end if;
        if cardinality(v_done) = cardinality(p_tokens) then
            if v_keys is not null then
                perform job_queue_advance_lines(v_keys);
            end if;
            return;
        end if;
    end if;

    for v_settled in
        select s.* from (
            select array_agg(r.id order by r.id) as ids, array_agg(r.token order by r.id) as tokens,
                array_agg(r.outcome order by r.id) as outcomes, array_agg(r.started_at order by r.id) as started,
                array_agg(r.finished_at order by r.id) as finished, array_agg(r.details order by r.id) as details
            from unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
                as r (id, token, outcome, started_at, finished_at, details)
            where v_done is null or r.token <> all (v_done)
        ) rest
        cross join lateral job_queue_settle(p_worker, rest.ids, rest.tokens, rest.outcomes, rest.started,
            rest.finished, rest.details, p_retry_base, p_retry_cap, v_keys) s
    loop
        v_done := v_done || v_settled.run_token;
        job_id := v_settled.job_id;
        run_token := v_settled.run_token;
        recorded := v_settled.recorded;
        status := v_settled.status;
        run_at := v_settled.run_at;
        return next;
    end loop;
    if v_keys is not null then
        perform job_queue_advance_lines(v_keys);
    end if;
    if coalesce(cardinality(v_done), 0) < cardinality(p_tokens) then
        return query select l.* from job_queue_note_late(p_worker, p_ids, p_tokens, p_started, p_finished, p_details) l
        where v_done is null or l.run_token <> all (v_done);
    end if;
end
$$;

-- The recorded outcomes of runs whose token no longer holds a job. If that is `lost`, the worker reports late: that is
-- recorded once, and its result is discarded.
create or replace function job_queue_note_late(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_started timestamptz[], p_finished timestamptz[],
    p_details jsonb[]
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language sql volatile
set enable_seqscan = off set enable_nestloop = on set jit = off
as $$
    with report as (
        select r.*, l.task_type, l.payload, l.attempt, l.due_at, l.outcome
        from unnest(p_ids, p_tokens, p_started, p_finished, p_details)
            as r (id, token, started_at, finished_at, details)
        left join job_runs l on l.run_token = r.token and l.job_id = r.id and not l.late
    ), noted as (
        insert into job_runs as l (run_token, late, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, error_kind, error, log, dry_run)
        select r.token, true, r.id, r.task_type, r.payload, r.attempt, p_worker, r.due_at, r.started_at,
            r.finished_at, 'abandoned', 'lease_lost',
            'The worker reported after its lease had expired; its result was discarded.',
            r.details ->> 'log', job_run_is_dry(r.payload, r.details)
        from report r where r.outcome = 'lost'
        on conflict (run_token, late) do nothing
        returning l.task_type, l.due_at, l.started_at, l.finished_at, l.outcome, l.dry_run
    ), counted as (
        insert into job_stat_delta (minute, task_type, outcome, dry_run, runs, first_at, last_at, bins, wait_seconds,
            duration_seconds)
        select job_stat_bucket(1, n.finished_at), n.task_type, n.outcome, n.dry_run, count(*), min(n.finished_at),
            max(n.finished_at), array_agg(job_stat_bins(n.started_at - n.due_at, n.finished_at - n.started_at)),
            sum(job_stat_seconds(n.started_at - n.due_at)), sum(job_stat_seconds(n.finished_at - n.started_at))
        from noted n group by 1, n.task_type, n.outcome, n.dry_run
    )
    select r.id, r.token, case when r.outcome = 'lost' or r.outcome is null then 'abandoned' else r.outcome end,
        q.status, q.run_at
    from report r left join job_queue q on q.id = r.id
$$;
