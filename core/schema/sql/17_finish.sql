-- The end of runs. A report counts only with the token of the job's run; what it makes of the job is in job_queue_settle.

do $$
begin
    if to_regtype('job_queue_move') is null then
        create type job_queue_move as (
            id uuid, token bigint, move text, is_recurring boolean, goes_on boolean, slot timestamptz,
            again_at timestamptz, started_at timestamptz, finished_at timestamptz, details jsonb, key text,
            recorded text, error_kind text, error text
        );
    end if;
end
$$;

-- Since when runs of this kind put a job off, one after another. The row ends with a run of another kind, unless that run was
-- handed back or lost; with a failure of a job that is not recurring, which somebody has retried; and with what an
-- operator does to the job. A series that has given up fails at each slot.
create or replace function job_queue_put_off_since(p_id uuid, p_is_recurring boolean, p_kind text) returns timestamptz
language plpgsql stable
set enable_seqscan = off set jit = off
as $$
declare
    v_before constant bigint := (select r.run_token from job_runs r
        where r.job_id = p_id and not r.late and (r.error_kind is distinct from p_kind and r.outcome not in ('released', 'lost')
            or r.outcome = 'failed' and not p_is_recurring)
        order by r.run_token desc limit 1);
    v_asked constant timestamptz := (select max(a.at) from job_audit a
        where a.job_id = p_id and a.action in ('retry', 'edit', 'restore', 'canary'));
begin
    return (select r.started_at from job_runs r
        where r.job_id = p_id and not r.late and r.error_kind = p_kind and r.run_token > coalesce(v_before, 0)
            and r.started_at > coalesce(v_asked, '-infinity')
        order by r.run_token limit 1);
end
$$;

-- The details of a run that puts its job off, and gives up some time after the first of such runs in a row: with `gave_up`
-- once that time is over.
create or replace function job_queue_put_off(p_id uuid, p_is_recurring boolean, p_details jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
as $$
declare
    v_since constant timestamptz := job_queue_put_off_since(p_id, p_is_recurring, p_details ->> 'error_kind');
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
-- another worker again. A run without `started_at` never began: its job was claimed, and waited for a slot.
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
        select q.*, r.outcome, case when r.details -> 'began' is distinct from 'false' then r.started_at end as began_at,
            r.finished_at,
            case when r.outcome = 'snoozed' and r.details ? 'give_up_after'
                then job_queue_put_off(q.id, q.is_recurring, r.details, p_now) else r.details end as details
        from job_queue q join report r on r.id = q.id and r.token = q.run_token
        where q.run_token = any (p_tokens) and q.status = 'running' and (r.outcome = 'lost' or q.locked_by = p_worker)
        order by q.id for update of q
    ), judged as (
        select h.*,
            -- A request counts also where the run succeeded all the same: what waits for the job does not start.
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
                    coalesce((h.details ->> 'retry_cap')::double precision, p_retry_cap)))) as retry_at,
            p_now + job_delay((h.details ->> 'delay')::double precision) as delayed
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
            j.is_recurring and not coalesce(j.slot >= j.expires_at and j.slot < job_no_slot(), false) as goes_on
        from judged j
    )
    select array_agg(row(
        d.id, d.run_token, d.move, d.is_recurring, d.goes_on, d.slot,
        case d.move when 'retry' then d.retry_at when 'continue' then d.delayed
            when 'snooze' then least(d.delayed, case when not job_series_runs_all(d.schedule) then d.slot end) end,
        d.began_at, d.finished_at, d.details, d.concurrency_key,
        case
            when d.outcome = 'lost' then 'lost'
            when d.move = 'cancel' then 'cancelled'
            when d.move = 'retry' then 'retried'
            when d.move = 'failure' then 'failed'
            else d.outcome
        end,
        case when d.move = 'cancel' then 'cancelled' else d.details ->> 'error_kind' end,
        case
            when d.move = 'cancel' and d.outcome <> 'lost' then format(
                'Cancelled by %s while it ran; the handler had %s.', coalesce(d.cancel_requested_by, 'its handler'),
                case d.outcome when 'cancelled' then 'stopped' when 'released' then 'returned the job'
                    when 'snoozed' then 'put the job off'
                    when 'failed' then 'failed: ' || coalesce(d.details ->> 'error', 'no reason given')
                    else d.outcome end)
            else d.details ->> 'error'
        end)::job_queue_move)
    into v_moves from decided d;
    return v_moves;
end
$$;

-- The row of the history for a run of this job. Its wait begins with the creation of a job that was due before. With p_removed
-- the job leaves the queue with it, and the row keeps the job's keys and producer. One expression, which the planner inlines.
create or replace function job_run_of(
    p_job job_queue, p_outcome text, p_started timestamptz, p_finished timestamptz, p_details jsonb, p_removed boolean,
    p_error_kind text, p_error text
) returns job_runs
language sql immutable parallel safe
return row(
    p_job.run_token, p_job.id, greatest(p_job.run_at, p_job.created_at), p_started, p_finished, p_job.attempts, false,
    p_removed, p_job.task_type, p_outcome, p_job.locked_by, p_job.payload, p_error_kind, p_error,
    case when p_outcome = any (job_outcomes(true)) or p_outcome = 'snoozed' and p_details ? 'give_up_after'
        then job_error_fingerprint(p_error_kind, p_error) end,
    p_details ->> 'traceback', nullif(p_details -> 'output', 'null'), p_details ->> 'log',
    coalesce(nullif(p_details -> 'progress', 'null'), p_job.progress),
    case when p_removed then p_job.concurrency_key end, case when p_removed then p_job.dedupe_key end,
    case when p_removed then p_job.created_by end, job_run_is_dry(p_job.payload, p_details))::job_runs;

-- Appends runs to the history and to the statistics. p_failures are the tokens of those after which the job failed
-- permanently; a series whose cycle failed goes on with its next slot.
create or replace function job_runs_record(p_runs job_runs[], p_failures bigint[]) returns void
language plpgsql volatile
set jit = off
as $$
begin
    insert into job_runs select r.* from unnest(p_runs) r;
    insert into job_stat_delta (minute, task_type, outcome, dry_run, fingerprint, sample_token, runs, permanent, first_at,
        last_at, bins, wait_seconds, duration_seconds)
    select job_stat_bucket(1, r.finished_at), r.task_type, r.outcome, r.dry_run, r.fingerprint, max(r.run_token),
        count(*), count(*) filter (where r.run_token = any (p_failures)), min(r.finished_at), max(r.finished_at),
        array_agg(job_stat_bins(r.started_at - r.due_at, r.finished_at - r.started_at)),
        sum(job_stat_seconds(r.started_at - r.due_at)), sum(job_stat_seconds(r.finished_at - r.started_at))
    from unnest(p_runs) r
    group by 1, r.task_type, r.outcome, r.dry_run, r.fingerprint;
end
$$;

-- Whether the newest run of this job put it off for a payload of a newer program: its group of errors is of that run.
create or replace function job_is_put_off(p_job job_queue) returns boolean
language sql immutable parallel safe
return (p_job).last_outcome = 'snoozed'
    and (p_job).fingerprint = job_error_fingerprint('newer_payload', (p_job).last_error);

-- Applies the table of outcomes to runs whose token still holds the job: appends each run to the history and gives its
-- job the next status. `p_details` has for each run, all optional: output, checkpoint, delay, retry_after, retry_base,
-- retry_cap (seconds), permanent, error_kind, error, traceback, log, progress, give_up_after, and `began`, false for a run
-- that never did: it is not in the history, and no attempt. `p_keys` are the keys of runs that the caller has already
-- finished: their lines advance with those of these runs.
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
    v_ids uuid[];
    v_keys text[];
begin
    perform job_refuse_outsiders();
    v_moves := job_queue_judge(
        p_worker, p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details, p_retry_base, p_retry_cap, v_now);
    if v_moves is null then
        perform job_queue_advance_lines(p_keys);
        return;
    end if;

    v_ids := array(select m.id from unnest(v_moves) m);
    perform job_runs_record(
        array(select job_run_of(q, m.recorded, m.started_at, m.finished_at, m.details,
                m.move = 'success' and not m.is_recurring, m.error_kind, m.error)
            from unnest(v_moves) m join job_queue q on q.id = m.id
            where q.id = any (v_ids) and m.started_at is not null),
        array(select m.token from unnest(v_moves) m where m.move = 'failure' and not m.goes_on));
    delete from job_queue q using unnest(v_moves) m
    where q.id = any (v_ids) and q.id = m.id and m.move = 'success' and not m.is_recurring;

    update job_queue q set
        status = n.status,
        run_at = case n.due when 'slot' then m.slot when 'again' then m.again_at else q.run_at end,
        attempts = case when n.attempts = 'none' then 0
            when n.attempts = 'not this' or m.started_at is null then greatest(q.attempts - 1, 0) else q.attempts end,
        checkpoint = case
            when m.move = 'continue' then m.details -> 'checkpoint'
            when m.is_recurring and m.move = 'success' then nullif(m.details -> 'checkpoint', 'null')
            when m.is_recurring and m.move = 'failure' then null
            else q.checkpoint
        end,
        slot_at = case
            when m.is_recurring and n.due = 'again'
                and (m.move <> 'snooze' or job_series_runs_all(q.schedule) or m.again_at < m.slot)
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
            when m.move = 'snooze' and q.last_outcome = 'snoozed' and (q.fingerprint is null or job_is_put_off(q)) then null
            else q.last_error
        end,
        fingerprint = case
            when m.move in ('success', 'continue') then null
            when m.move in ('retry', 'failure') or m.move = 'snooze' and m.details ? 'give_up_after'
                then job_error_fingerprint(m.details ->> 'error_kind', m.details ->> 'error')
            when m.move = 'snooze' and job_is_put_off(q) then null
            else q.fingerprint
        end,
        run_trace = case when m.started_at is null then q.run_trace when m.move <> 'success' then m.details ->> 'trace' end,
        last_outcome = case when m.started_at is null and m.move = 'release' then q.last_outcome else m.recorded end,
        last_run_dry = case when m.move in ('release', 'snooze') or m.started_at is null then q.last_run_dry
            else job_run_is_dry(q.payload, m.details) end,
        last_run_at = case when m.move in ('release', 'snooze') or m.started_at is null then q.last_run_at else v_now end,
        last_success_at = case when m.move = 'success' then v_now else q.last_success_at end,
        consecutive_failures = case m.move when 'success' then 0 when 'failure' then q.consecutive_failures + 1
            else q.consecutive_failures end,
        completed_at = case when n.status <> 'pending' then v_now end,
        in_line = q.concurrency_key is not null,
        progress = null, locked_by = null, run_token = null, lease_expires_at = null, started_at = null,
        cancel_requested_at = null, cancel_requested_by = null,
        updated_at = v_now, version = q.version + 1
    from unnest(v_moves) m
    -- The next state by the move and by whether the series has a next slot: when the job is due (at its next slot, again at a time
    -- of the move, or as it was), and which attempts count (none, not this one, or all).
    join (values
        ('success', true, 'pending', 'slot', 'none'),
        ('success', false, 'succeeded', 'same', 'all'),
        ('failure', true, 'pending', 'slot', 'none'),
        ('failure', false, 'failed', 'same', 'all'),
        ('cancel', null, 'cancelled', 'same', 'all'),
        ('continue', null, 'pending', 'again', 'none'),
        ('retry', null, 'pending', 'again', 'all'),
        ('snooze', null, 'pending', 'again', 'not this'),
        ('release', null, 'pending', 'same', 'not this')
    ) as n (move, goes_on, status, due, attempts) on n.move = m.move and coalesce(n.goes_on = m.goes_on, true)
    where q.id = any (v_ids) and q.id = m.id;

    select array_agg(m.key) into v_keys from unnest(v_moves) m where m.key is not null;
    v_keys := v_keys || p_keys || job_queue_release_waiting(
        array(select m.id from unnest(v_moves) m where m.move = 'success'),
        array(select m.id from unnest(v_moves) m where m.move = 'cancel' or m.move = 'failure' and not m.goes_on));
    perform job_queue_advance_lines(v_keys);
    -- The worker that returns a job has no slot for it, or is about to end.
    if exists (select from unnest(v_moves) m where m.move = 'release') then
        perform pg_notify(current_schema() || '.job_queue', '');
    end if;

    return query
    select m.id, m.token, m.recorded, q.status, q.run_at
    from unnest(v_moves) m left join job_queue q on q.id = m.id and q.id = any (v_ids);
end
$$;

-- Of these runs, those whose row another transaction has locked. The rows of the others are locked until the end of the
-- caller's transaction.
create or replace function job_queue_locked(p_worker text, p_tokens bigint[]) returns bigint[]
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
begin
    perform job_refuse_outsiders();
    return array(
        select q.run_token from job_queue q
        where q.run_token = any (p_tokens) and q.status = 'running' and q.locked_by = p_worker and q.id <> all (array(
            select f.id from job_queue f
            where f.run_token = any (p_tokens) and f.status = 'running' and f.locked_by = p_worker
            order by f.id for update skip locked)));
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
    v_runs job_runs[];
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
        returning q.id, q.run_token, q.concurrency_key,
            job_run_of(q, r.outcome, r.started_at, r.finished_at, r.details, true, null, null) as run
    )
    select array_agg(g.run_token), array_agg(g.id),
        array_agg(g.concurrency_key) filter (where g.concurrency_key is not null), array_agg(g.run)
    into v_done, v_removed, v_keys, v_runs from gone g;
    if exists (select from job_awaited) then
        perform pg_notify(current_schema() || '.job_done', a.job_id::text) from job_awaited a where a.job_id = any (p_ids);
    end if;
    if v_removed is not null then
        if exists (select from job_timeouts) then
            delete from job_timeouts t where t.job_id = any (v_removed);
        end if;
        perform job_runs_record(v_runs, '{}');
        if exists (select from job_queue q where q.status = 'pending' and q.blocked_by is not null) then
            v_keys := v_keys || job_queue_release_waiting(v_removed, '{}');
        end if;
        if cardinality(v_done) = cardinality(p_tokens) then
            if v_keys is not null then
                perform job_queue_advance_lines(v_keys);
            end if;
            return;
        end if;
    end if;

    -- What has left the queue is not found again.
    for job_id, run_token, recorded, status, run_at in
        select s.* from job_queue_settle(p_worker, p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details,
            p_retry_base, p_retry_cap, v_keys) s
    loop
        v_done := v_done || run_token;
        return next;
    end loop;
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
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = on set jit = off
as $$
begin
    -- The row of the lost run is the lock under which a report is recorded once, also if it is sent twice at a time.
    perform from job_runs l where l.run_token = any (p_tokens) and not l.late and l.outcome = 'lost'
    order by l.run_token for update;
    perform job_runs_record(array(
        select distinct on (r.token) row(
            r.token, r.id, l.due_at, r.started_at, r.finished_at, l.attempt, true, false, l.task_type, 'abandoned', p_worker,
            l.payload, 'lease_lost',
            'The worker reported after its lease had expired; its result was discarded.', null, null,
            nullif(r.details -> 'output', 'null'), r.details ->> 'log', null, null, null, null, job_run_is_dry(l.payload, r.details))::job_runs
        from unnest(p_ids, p_tokens, p_started, p_finished, p_details) as r (id, token, started_at, finished_at, details)
        join job_runs l on l.run_token = r.token and l.job_id = r.id and l.outcome = 'lost'
        where r.details -> 'began' is distinct from 'false'
            and not exists (select from job_runs e where e.run_token = r.token and e.late)), '{}');
    -- A run that never began left nothing in the history when it was reported before.
    return query
    select r.id, r.token, case when l.outcome is null and r.details -> 'began' = 'false' then 'released'
            when l.outcome = 'lost' or l.outcome is null then 'abandoned' else l.outcome end,
        q.status, q.run_at
    from unnest(p_ids, p_tokens, p_details) as r (id, token, details)
    left join job_runs l on l.run_token = r.token and l.job_id = r.id and not l.late
    left join job_queue q on q.id = r.id;
end
$$;
