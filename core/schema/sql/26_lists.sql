-- What lists show. Views redact payloads for those who may not see them.

-- A payload as a viewer sees it: keys and plain values, no text that may name a person.
create or replace function job_redact_payload(p_payload jsonb) returns jsonb
language sql immutable parallel safe
as $$
    select coalesce(jsonb_object_agg(e.key, case
        when jsonb_typeof(e.value) in ('boolean', 'number', 'null') then e.value
        when jsonb_typeof(e.value) = 'array' then to_jsonb(format('%s hidden', jsonb_array_length(e.value)))
        when e.value #>> '{}' ~ '^[0-9a-fA-F-]{36}$' then e.value
        else '"hidden"'::jsonb end), '{}')
    from jsonb_each(case when jsonb_typeof(p_payload) = 'object' then p_payload else '{}' end) e
$$;

-- Whether the current role sees whole payloads, which it does if it may read the table itself. A session that reads for
-- somebody else, such as an assistant, can ask with the setting jobdeck.as_viewer to see what a viewer sees.
create or replace function job_sees_payloads() returns boolean
language sql stable parallel safe
return has_table_privilege('job_queue'::regclass, 'select')
    and current_setting('jobdeck.as_viewer', true) is distinct from 'on';

create or replace view job_list as
select q.id, q.task_type,
    case when job_sees_payloads() then q.payload else job_redact_payload(q.payload) end as payload,
    q.status, q.run_at, q.attempts, q.max_attempts, q.created_at, q.updated_at, q.version, q.priority, q.last_error,
    case when job_sees_payloads() then q.output end as output, q.completed_at, q.is_recurring,
    q.recurrence_interval_minutes, q.expires_at, q.last_run_at, q.dedupe_key, q.concurrency_key, q.blocked_by,
    case when job_sees_payloads() then q.checkpoint end as checkpoint,
    case when job_sees_payloads() then q.progress else q.progress - 'log' end as progress,
    q.locked_by, q.run_token, q.lease_expires_at, q.started_at, q.cancel_requested_at, q.cancel_requested_by, q.anchor_at,
    q.consecutive_failures, q.last_outcome, q.last_success_at, q.created_by,
    case when q.status = 'pending' then q.run_at end as next_run_at,
    case when q.status = 'pending' and q.run_at <= now() and q.blocked_by is null
        then extract(epoch from now() - q.run_at)::double precision end as overdue_seconds,
    q.in_line, coalesce(q.completed_at, q.updated_at) as ended_at, false as removed, q.fingerprint, q.last_run_dry,
    q.schedule, q.slots, substring(coalesce(q.run_trace, q.trace_context) from '^00-([0-9a-f]{32})-') as trace_id,
    (select t.seconds from job_timeouts t where t.job_id = q.id) as timeout_seconds
from job_queue q
where (select job_may_read_views())
with check option;

-- One-time jobs that succeeded and left the queue, with the columns of jobs. Columns that the history does not store
-- are null; created_at comes from the id, if the id contains its time.
create or replace view job_removed_list as
select r.job_id as id, r.task_type,
    case when job_sees_payloads() then r.payload else job_redact_payload(r.payload) end as payload,
    'succeeded'::text as status, r.due_at as run_at, r.attempt as attempts,
    null::integer as max_attempts, case when made.at <= r.started_at then made.at end as created_at,
    r.finished_at as updated_at, 0::bigint as version, null::integer as priority, null::text as last_error,
    case when job_sees_payloads() then r.output end as output,
    r.finished_at as completed_at, false as is_recurring, r.finished_at as last_run_at, r.outcome as last_outcome,
    r.finished_at as last_success_at, r.run_token as left_with, true as removed, r.concurrency_key, r.dedupe_key,
    r.created_by, null::text as fingerprint, r.dry_run as last_run_dry
from job_runs r
cross join lateral (
    select case when substr(r.job_id::text, 15, 1) = '7' then to_timestamp(
        ('x0000' || replace(left(r.job_id::text, 13), '-', ''))::bit(64)::bigint / 1000.0) end as at
) made
where r.removed and (select job_may_read_views());

-- Deleted jobs with the columns of jobs, as long as they can be restored.
create or replace view job_trash_list as
select q.id, q.task_type,
    case when job_sees_payloads() then q.payload else job_redact_payload(q.payload) end as payload,
    q.status, q.run_at, q.attempts, q.max_attempts, q.created_at, q.updated_at, q.version, q.priority, q.last_error,
    case when job_sees_payloads() then q.output end as output, q.completed_at, q.is_recurring,
    q.recurrence_interval_minutes, q.expires_at, q.last_run_at, q.dedupe_key, q.concurrency_key, q.blocked_by,
    case when job_sees_payloads() then q.checkpoint end as checkpoint, q.anchor_at, q.consecutive_failures,
    q.last_outcome, q.last_success_at, q.created_by, t.deleted_at, t.deleted_by, t.reason, q.last_run_dry, q.schedule,
    q.slots
from job_trash t cross join lateral jsonb_populate_record(null::job_queue, t.job) q
where (select job_may_read_views());

-- The part of a filter that reads the payload. Text is matched literally, and the payload value of the key p_want_key by its
-- beginning, because lists show the beginning of an id.
create or replace function job_payload_matches(
    p_payload jsonb, p_beside text, p_want_text text, p_want_key text, p_want_value text
) returns boolean
language sql stable parallel safe
return (p_want_text is null or position(lower(p_want_text) in lower(concat_ws(' ', p_beside, p_payload))) > 0)
    and (p_want_key is null or starts_with(lower(p_payload ->> p_want_key), lower(p_want_value)));

-- Whether a job matches a filter; null matches everything. One expression, so that the planner inlines it, drops unused
-- conditions, and can use an index for the others. For that, it names the payload once: in a view it is an expression.
create or replace function job_matches(
    p_id uuid, p_task_type text, p_payload jsonb, p_error text, p_attempts integer, p_created_at timestamptz,
    p_outcome text, p_want_type text, p_want_text text, p_want_error text, p_want_key text,
    p_want_value text, p_want_attempts integer, p_want_age interval, p_want_outcome text, p_fingerprint text,
    p_want_fingerprint text
) returns boolean
language sql stable parallel safe
return (p_want_type is null or position(lower(p_want_type) in lower(p_task_type)) > 0)
    and (p_want_text is null and p_want_key is null or job_payload_matches(
        p_payload, concat_ws(' ', p_id, p_task_type, p_error), p_want_text, p_want_key, p_want_value))
    and (p_want_error is null or position(lower(p_want_error) in lower(p_error)) > 0)
    and (p_want_attempts is null or p_attempts >= p_want_attempts)
    and (p_want_age is null or p_created_at <= now() - p_want_age)
    and (p_want_outcome is null or p_outcome = p_want_outcome)
    and (p_want_fingerprint is null or p_fingerprint = p_want_fingerprint);

-- The value that the order p_sort compares; null for the natural order.
create or replace function job_order_key(
    p_sort text, p_id uuid, p_created_at timestamptz, p_task_type text, p_status text, p_attempts integer,
    p_run_at timestamptz, p_updated_at timestamptz, p_last_run_at timestamptz, p_error text
) returns text
language sql stable parallel safe
return case p_sort
    -- Jobs enqueued together have the same time, and the order of their ids.
    when 'created' then coalesce(to_char(p_created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), repeat('0', 20)) || p_id
    when 'task' then p_task_type
    when 'status' then p_status
    when 'attempts' then lpad(p_attempts::text, 10, '0')
    when 'run_at' then to_char(p_run_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS')
    when 'updated' then to_char(p_updated_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS')
    -- Jobs that have not run, or that have no error, come last in descending order.
    when 'last_run' then coalesce(to_char(p_last_run_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), '')
    when 'error' then coalesce(left(p_error, 100), '')
end;

-- The open notes as this role sees them: who sees no payloads may not read what people wrote either.
create or replace view job_note_list as
select n.id, n.at, n.actor, case when job_sees_payloads() then n.note else 'hidden' end as note, n.until
from job_notes n where n.acknowledged_at is null and n.until > now() and (select job_may_read_views())
with check option;

create or replace view job_run_list as
select r.run_token, r.late, r.job_id, r.task_type,
    case when job_sees_payloads() then r.payload else job_redact_payload(r.payload) end as payload,
    r.attempt, r.worker_id, r.due_at, r.started_at, r.finished_at, r.outcome, r.removed, r.error_kind, r.error,
    r.fingerprint, r.traceback, case when job_sees_payloads() then r.output end as output,
    case when job_sees_payloads() then r.log end as log,
    case when job_sees_payloads() then r.progress else r.progress - 'log' end as progress, r.dry_run
from job_runs r
where (select job_may_read_views())
with check option;

-- The last token that was drawn.
create or replace function job_run_last_token() returns bigint
language plpgsql stable security definer
as $$
begin
    perform job_refuse_outsiders();
    return (select s.last_value from job_run_token_seq s);
end
$$;

-- Ranges of tokens, newest first, from a token (null: the last one that was drawn) back to p_from (null: the first one). Each is
-- eight times as long as the one before.
create or replace function job_run_steps(p_before bigint, p_from bigint) returns table (first bigint, last bigint)
language plpgsql stable
as $$
declare
    v_least constant bigint := coalesce(p_from, -9223372036854775808);
    v_width bigint := 1000000;
begin
    last := coalesce(p_before, 9223372036854775807);
    first := least(job_run_last_token(), p_before);
    loop
        first := case when first > v_width then greatest(first - v_width, v_least) else v_least end;
        return next;
        exit when first <= v_least;
        last := first - 1;
        v_width := 8 * v_width;
    end loop;
end
$$;

-- The newest runs before a place, which is a token and `late`, or from the newest on; null matches every type and outcome,
-- and p_from is the oldest token to be read. The tokens are read in steps, planned each for its own tokens: so Postgres
-- plans and opens the newest partitions alone, unless a page is not full after these.
create or replace function job_run_page(
    p_task_type text, p_outcome text, p_before bigint, p_before_late boolean, p_from bigint, p_limit integer
) returns setof job_run_list
language plpgsql stable rows 50
set plan_cache_mode = force_custom_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off set enable_sort = off
as $$
declare
    v_step record;
    v_left integer := p_limit;
    v_found integer;
begin
    for v_step in select * from job_run_steps(p_before, p_from) loop
        return query select r.* from job_run_list r
        where r.run_token >= v_step.first and r.run_token <= v_step.last
            and (p_before is null or (r.run_token, r.late) < (p_before, p_before_late))
            and (p_task_type is null or r.task_type = p_task_type) and (p_outcome is null or r.outcome = p_outcome)
        order by r.run_token desc, r.late desc limit v_left;
        get diagnostics v_found = row_count;
        v_left := v_left - v_found;
        exit when v_left <= 0;
    end loop;
end
$$;

-- The token of the p_most-th run before a place, as in job_run_page; null if there are fewer.
create or replace function job_run_reach(p_before bigint, p_before_late boolean, p_most integer) returns bigint
language plpgsql stable
set plan_cache_mode = force_custom_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off set enable_sort = off
as $$
declare
    v_step record;
    v_left integer := p_most;
    v_found record;
begin
    for v_step in select * from job_run_steps(p_before, null) loop
        select count(*) as runs, min(n.run_token) as token into v_found from (
            select r.run_token from job_run_list r
            where r.run_token >= v_step.first and r.run_token <= v_step.last
                and (p_before is null or (r.run_token, r.late) < (p_before, p_before_late))
            order by r.run_token desc, r.late desc limit v_left) n;
        v_left := v_left - v_found.runs;
        if v_left <= 0 then
            return v_found.token;
        end if;
    end loop;
    return null;
end
$$;

-- What is odd about failed runs of a type, of one group of errors or of all, or about these jobs of it: for each key of their
-- payloads, for worker and attempt, the value that they have most often compared with the runs of the type. The newest 500 are
-- read, of a group those among the newest 10,000 failed runs of the queue. A value of a payload is personal, so it is not
-- returned: the run or the job has it, for those who may read it.
--
-- Compared is with the first tries, because the later tries of jobs that fail would make their values usual. A value is odd
-- that 10 runs have, and twice the usual share, of a key with 200 values at most. Attempts are never odd: what fails is tried
-- again.
create or replace function job_facets(p_task_type text, p_fingerprint text, p_jobs uuid[] default null)
returns table (facet text, key text, value text, job_id uuid, run_token bigint, these bigint, sampled bigint,
    everywhere bigint, failed bigint, compared bigint, odd boolean)
language plpgsql stable security definer
set plan_cache_mode = force_custom_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
declare
    v_most constant integer := 500;
    v_tokens bigint[];
    v_jobs uuid[];
    v_payloads jsonb[];
    v_workers text[];
    v_attempts integer[];
    v_before bigint;
begin
    perform job_refuse_outsiders();
    select array_agg(r.run_token), array_agg(r.job_id), array_agg(r.payload), array_agg(r.worker_id), array_agg(r.attempt)
    into v_tokens, v_jobs, v_payloads, v_workers, v_attempts
    from (
        (select n.run_token, n.job_id, n.payload, n.worker_id, n.attempt from (
            select r.* from job_runs r where p_jobs is null and r.outcome in ('failed', 'retried', 'lost')
                and r.finished_at <= case when p_fingerprint is null then 'infinity' else (
                    select max(g.last_at) from job_error_group_list g
                    where g.fingerprint = p_fingerprint and g.task_type = p_task_type) end
            order by r.finished_at desc limit 10000) n
        where n.task_type = p_task_type and (p_fingerprint is null or n.fingerprint = p_fingerprint) limit v_most)
        union all
        (select null, q.id, q.payload, null, q.attempts from job_queue q
        where q.id = any (p_jobs) and q.task_type = p_task_type limit v_most)
        union all
        (select r.run_token, r.job_id, r.payload, r.worker_id, r.attempt from unnest(p_jobs) j (id)
        cross join lateral job_removed_job(j.id) l join job_runs r on r.run_token = l.left_with and not r.late
        where l.task_type = p_task_type limit v_most)
    ) r;
    if v_jobs is null then
        return;
    end if;
    v_before := (select max(t.token) + 1 from unnest(v_tokens) t (token));
    return query with first_tries as materialized (
        -- The page hides the payload where the session reads for a viewer.
        select r.payload, r.worker_id, f.outcome from (
            select t.run_token, t.outcome from job_run_reach(v_before, false, 20000) b (reach)
            cross join lateral job_run_page(p_task_type, null, v_before, false, b.reach, 4 * v_most) t
            where not t.late and t.attempt = 1 and cardinality(v_jobs) >= 10 order by t.run_token desc limit v_most) f
        cross join lateral (select * from job_runs r where r.run_token = f.run_token and not r.late limit 1) r
    ), compared as (
        select true as mine, s.run_token, s.job_id, s.payload, s.worker_id, s.attempt, null as outcome
        from unnest(v_tokens, v_jobs, v_payloads, v_workers, v_attempts) s (run_token, job_id, payload, worker_id, attempt)
        union all
        select false, null, null, f.payload, f.worker_id, null, f.outcome from first_tries f
    ), named as (
        select c.*, f.facet, f.key, f.value from compared c cross join lateral (
            select 'payload', e.key, e.value from (
                select * from jsonb_each(case when jsonb_typeof(c.payload) = 'object' and pg_column_size(c.payload) <= 16384
                    then c.payload else '{}' end) limit 100) e
            union all
            select w.name, w.name, to_jsonb(w.value) from (values ('worker', c.worker_id),
                ('release', (select d.release from job_workers d where d.id = c.worker_id)),
                ('attempt', case when c.attempt > 1 then 'later' when c.attempt = 1 then 'first' end)) w (name, value)
            where w.value is not null
        ) f (facet, key, value)
    ), counted as (
        select t.facet, t.key, t.value, (array_agg(t.job_id) filter (where t.mine))[1] as job_id,
            max(t.run_token) filter (where t.mine) as run_token, count(*) filter (where t.mine) as these,
            count(*) filter (where not t.mine) as everywhere,
            count(*) filter (where not t.mine and t.outcome = any (job_outcomes(true))) as failed
        from named t group by t.facet, t.key, t.value
    ), judged as (
        select c.*, count(*) over (partition by c.facet, c.key) as values, a.sampled, a.compared, c.facet <> 'attempt'
            and c.these >= 10 and a.compared >= 10 and c.these * a.compared >= 2 * c.everywhere * a.sampled as odd
        from counted c cross join (
            select cardinality(v_jobs)::bigint as sampled, (select count(*) from first_tries) as compared) a
        where c.these > 0
    ), best as (
        select distinct on (j.facet, j.key) j.* from judged j where j.values <= 200
        order by j.facet, j.key, j.odd desc, j.these desc, j.everywhere, j.value
    )
    select b.facet, b.key, case when b.facet <> 'payload' then b.value #>> '{}' end, b.job_id, b.run_token, b.these, b.sampled,
        b.everywhere, b.failed, b.compared, b.odd
    from best b order by b.odd desc, b.facet = 'attempt', b.these desc, b.everywhere, b.facet, b.key limit 50;
end
$$;

-- The newest runs of one job, like job_run_page. They may be in any partition, so the plan has all of them: it is kept, since
-- to make it takes longer than to look into each of them.
create or replace function job_run_page_of(
    p_job uuid, p_task_type text, p_outcome text, p_before bigint, p_before_late boolean, p_limit integer
) returns setof job_run_list
language plpgsql stable rows 50
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_high constant bigint := coalesce(p_before, 9223372036854775807);
    v_late constant boolean := p_before is null or p_before_late;
begin
    return query select r.* from job_run_list r
    where r.job_id = p_job and r.run_token <= v_high and (r.run_token < v_high or v_late and not r.late)
        and (p_task_type is null or r.task_type = p_task_type) and (p_outcome is null or r.outcome = p_outcome)
    order by r.run_token desc, r.late desc limit p_limit;
end
$$;

-- The outcomes of the last p_limit runs of each of these jobs, newest first. The runs of a job are one range of an index in
-- each partition; of an equality the planner expects few, and might sort all that a series has.
create or replace function job_run_outcomes(p_jobs uuid[], p_limit integer)
returns table (job_id uuid, outcomes text[])
language plpgsql stable
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off set enable_sort = off
as $$
begin
    return query select j.id, array(
        select r.outcome from job_run_list r where r.job_id = j.id and not r.late
        order by r.run_token desc limit p_limit)
    from unnest(p_jobs) as j (id);
end
$$;

-- The last success of a job that left the queue with it and is not there again. A series that is there may have very many
-- runs, and left with none of them.
create or replace function job_removed_job(p_job uuid) returns setof job_removed_list
language plpgsql stable rows 1
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    if not exists (select from job_list j where j.id = p_job) then
        return query select r.* from job_removed_list r where r.id = p_job order by r.left_with desc limit 1;
    end if;
end
$$;

-- The error of a job's last run. A function of its own, so that it is planned only where it is asked for.
create or replace function job_run_last_error(p_job uuid) returns text
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
begin
    return (select r.error from job_runs r where r.job_id = p_job and not r.late order by r.run_token desc limit 1);
end
$$;

create or replace view job_audit_list as
select a.id, a.at, a.actor, a.action, a.job_id,
    case when job_sees_payloads() or not a.before ? 'payload' then a.before
        else a.before || jsonb_build_object('payload', job_redact_payload(a.before -> 'payload')) end as before,
    case when job_sees_payloads() or not a.after ? 'payload' then a.after
        else a.after || jsonb_build_object('payload', job_redact_payload(a.after -> 'payload')) end as after,
    a.reason
from job_audit a
where (select job_may_read_views())
with check option;
