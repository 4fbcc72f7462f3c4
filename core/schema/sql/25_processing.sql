-- Notes, muted errors, settings of types, workers and their runs.

-- Leaves a note for the next shift, for up to 30 days, and returns its id. The audit does not repeat its text.
create or replace function job_note_add(p_note text, p_days integer, p_actor text) returns bigint
language plpgsql volatile security definer
as $$
declare
    v_id bigint;
begin
    perform job_refuse_outsiders();
    if length(btrim(p_note)) not between 1 and 2000 then
        perform job_queue_refuse('A note has 1 to 2,000 characters.');
    end if;
    if p_days not between 1 and 30 then
        perform job_queue_refuse('A note is shown for 1 to 30 days.');
    end if;
    insert into job_notes (actor, note, until)
    values (job_actor(p_actor), btrim(p_note), clock_timestamp() + make_interval(days => p_days)) returning id into v_id;
    perform job_queue_write_audit(p_actor, 'note', null, null, jsonb_build_object('note', v_id, 'days', p_days), null);
    return v_id;
end
$$;

-- Acknowledges a note, which is shown no longer.
create or replace function job_note_acknowledge(p_id bigint, p_actor text) returns void
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    update job_notes set acknowledged_at = clock_timestamp(), acknowledged_by = job_actor(p_actor)
    where id = p_id and acknowledged_at is null and until > clock_timestamp();
    if not found then
        perform job_queue_refuse(format('There is no open note %s. "jobdeck note" lists the open ones.', p_id));
    end if;
    perform job_queue_write_audit(p_actor, 'acknowledge', null, null, jsonb_build_object('note', p_id), null);
end
$$;

-- Mutes a group of errors until a time; with null it is muted no longer.
create or replace function job_error_mute(
    p_task_type text, p_fingerprint text, p_until timestamptz, p_actor text, p_reason text
) returns void
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    if p_until <= clock_timestamp() then
        perform job_queue_refuse('The time until which the errors are muted is in the past. Choose a later one.');
    end if;
    if p_until > clock_timestamp() + interval '365 days' then
        perform job_queue_refuse('Errors are muted for 365 days at most. Choose an earlier time.');
    end if;
    delete from job_error_mutes where task_type = p_task_type and fingerprint = p_fingerprint;
    if not found and p_until is null then
        perform job_queue_refuse('This group of errors is not muted.');
    end if;
    if p_until is not null then
        insert into job_error_mutes (task_type, fingerprint, until, reason, actor)
        values (p_task_type, p_fingerprint, p_until, p_reason, job_actor(p_actor));
    end if;
    perform job_queue_write_audit(p_actor, case when p_until is null then 'unmute errors' else 'mute errors' end, null,
        null, jsonb_build_object('task_type', p_task_type, 'fingerprint', p_fingerprint, 'until', p_until), p_reason);
end
$$;

-- A share as people write it: 0.25 is 25 %.
create or replace function job_percent(p_share double precision) returns text
language sql immutable parallel safe
return trim(trim_scale(round((p_share * 100)::numeric, 2))::text) || ' %';

-- Changes settings of a task type. Keys of p_changes: warning_share, critical_share, lost_jobs, muted_until, set_aside, and
-- those of job_value_names; null resets one, and "code" makes the value of the type's code hold again. A type without a row has the
-- settings that hold for all types.
create or replace function job_type_set(p_task_type text, p_changes jsonb, p_actor text, p_reason text) returns void
language plpgsql volatile security definer
set lock_timeout = '900ms'
as $$
declare
    v_type job_types;
    v_was job_types;
    v_before jsonb;
    v_limits constant text[] := job_value_names();
    v_values job_type_values;
begin
    perform job_refuse_outsiders();
    perform job_queue_refuse(format('A task type has no setting %s. Nothing was changed.', string_agg(k, ', ' order by k)))
    from jsonb_object_keys(p_changes) k
    where k <> all (v_limits || array['warning_share', 'critical_share', 'lost_jobs', 'muted_until', 'set_aside'])
    having count(*) > 0;
    if coalesce(trim(p_task_type), '') = '' or p_changes = '{}' then
        perform job_queue_refuse('Name a task type and a setting to change. Nothing was changed.');
    elsif not job_is_a_time((p_changes ->> 'muted_until')::timestamptz) then
        perform job_queue_refuse('A time must be between the years 1 and 9999. Nothing was changed.');
    elsif (p_changes ->> 'muted_until')::timestamptz <= clock_timestamp() then
        perform job_queue_refuse('The time until which to mute is in the past. Choose a later one. Nothing was changed.');
    elsif (p_changes ->> 'set_aside')::boolean and coalesce(trim(p_reason), '') = '' then
        perform job_queue_refuse('Say in the reason which runner has the task type. Nothing was changed.');
    end if;
    insert into job_types (task_type) values (p_task_type) on conflict (task_type) do nothing;
    perform job_limits_refuse_others(p_changes);
    select * into v_type from job_types where task_type = p_task_type for update;
    v_was := v_type;
    v_before := to_jsonb(v_type);
    v_type := jsonb_populate_record(v_type, p_changes - v_limits);
    v_type.set_aside := coalesce(v_type.set_aside, false);
    if p_changes ?| v_limits then
        insert into job_type_values (task_type) values (p_task_type) on conflict (task_type) do nothing;
        select * into v_values from job_type_values where task_type = p_task_type for update;
        v_values.own := job_values_own(v_values.own, v_values.code, p_changes);
        update job_type_values set own = v_values.own where task_type = p_task_type;
        v_type := job_values_held(v_type, v_values.code, v_values.own);
    end if;
    perform job_queue_refuse(r) from job_limits_refusal(v_type) r where r is not null;
    perform job_queue_refuse(format('A threshold must be more than 0 %% and at most 100 %%, and %s is not. Nothing was changed.',
        job_percent(share)))
    -- Not a number is greater than all numbers.
    from unnest(array[v_type.warning_share, v_type.critical_share]) share where share <= 0 or share > 1;
    if v_type.warning_share > v_type.critical_share then
        perform job_queue_refuse(format(
            'The threshold for a warning, %s, must not be above the one for critical, %s. Nothing was changed.',
            job_percent(v_type.warning_share), job_percent(v_type.critical_share)));
    elsif v_type.lost_jobs not between 1 and 1000000000 then
        perform job_queue_refuse(format('The number of jobs that fail permanently must be from 1 to 1,000,000,000, and %s is '
            'not. Nothing was changed.', v_type.lost_jobs));
    end if;
    if p_changes ? 'muted_until' then
        v_type.muted_by := case when v_type.muted_until is not null then job_actor(p_actor) end;
        v_type.muted_reason := case when v_type.muted_until is not null then p_reason end;
    end if;
    if v_type.set_aside is distinct from (v_before ->> 'set_aside')::boolean then
        v_type.paused_at := case when v_type.set_aside then clock_timestamp() end;
        v_type.paused_by := case when v_type.set_aside then job_actor(p_actor) end;
        v_type.paused_reason := case when v_type.set_aside then p_reason end;
        v_type.resume_at := null;
        perform pg_notify(current_schema() || '.job_queue', '');
    elsif p_changes ? 'set_aside' then
        perform job_queue_refuse(format('The task type %s is %s set aside. Nothing was changed.', p_task_type,
            case when v_type.set_aside then 'already' else 'not' end));
    end if;
    update job_types set warning_share = v_type.warning_share, critical_share = v_type.critical_share,
        lost_jobs = v_type.lost_jobs, muted_until = v_type.muted_until, muted_by = v_type.muted_by, muted_reason = v_type.muted_reason,
        set_aside = v_type.set_aside, paused_at = v_type.paused_at, paused_by = v_type.paused_by,
        paused_reason = v_type.paused_reason, resume_at = v_type.resume_at
    where task_type = p_task_type;
    if p_changes ?| v_limits then
        perform job_limits_keep(v_was, v_type);
    end if;
    perform job_queue_write_audit(p_actor, 'set type', null,
        (select jsonb_object_agg(k, v_before -> k) from jsonb_object_keys(p_changes) k)
            || jsonb_build_object('task_type', p_task_type),
        p_changes || jsonb_build_object('task_type', p_task_type), p_reason);
end
$$;

-- Notes that a worker is alive, what it runs, and the slots of each kind of handler (see job_workers).
create or replace function job_worker_report(
    p_id text, p_host text, p_pid integer, p_mode text, p_version text, p_concurrency integer, p_types text[],
    p_running integer, p_slots jsonb default null
) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    insert into job_workers as w (id, host, pid, mode, version, concurrency, task_types, running, slots)
    values (p_id, p_host, p_pid, p_mode, p_version, p_concurrency, p_types, p_running, p_slots)
    on conflict (id) do update set heartbeat_at = clock_timestamp(), running = excluded.running, slots = excluded.slots,
        concurrency = excluded.concurrency, task_types = excluded.task_types, mode = excluded.mode
$$;

-- Notes the release of a worker that starts.
create or replace function job_release_note(p_name text) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    insert into job_releases (name) select left(p_name, 200) where p_name <> '' on conflict (name) do nothing
$$;

create or replace function job_worker_remove(p_id text) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    delete from job_workers where id = p_id
$$;

-- The task types with a job in the claim's index.
create or replace function job_queue_waiting_types() returns text[]
language sql stable
set enable_seqscan = off set enable_sort = off set jit = off
as $$
    with recursive type (name) as (
        (select q.task_type from job_queue q where q.status = 'pending' and q.blocked_by is null and not q.in_line
        order by q.task_type limit 1)
        union all
        select (select q.task_type from job_queue q where q.status = 'pending' and q.blocked_by is null
            and not q.in_line and q.task_type > t.name order by q.task_type limit 1)
        from type t where t.name is not null
    )
    select array(select name from type where name is not null)
$$;

-- Since when a claimable job of these types waits, or the earliest time at which one will be due; null if there are none. A
-- job waits from the later of its due time and its creation: where the first of a lane is due before it was created, the first
-- 100 are looked at.
create or replace function job_queue_due_since(p_types text[]) returns timestamptz
language sql stable
set enable_seqscan = off set enable_sort = off set jit = off
as $$
    select min(case when h.run_at >= h.created_at then h.run_at else (
        select min(greatest(n.run_at, n.created_at)) from (
            select q.run_at, q.created_at from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                and q.priority = l.priority
            order by q.run_at, q.id limit 100
        ) n) end)
    from unnest(job_claim_lanes(p_types)) l
    cross join lateral (
        select q.run_at, q.created_at from job_queue q
        where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
            and q.priority = l.priority
        order by q.run_at, q.id limit 1
    ) h
$$;

-- The lanes of these types, each up to the jobs that are due before a time.
create or replace function job_lanes_until(p_types text[], p_at timestamptz) returns job_lane[]
language sql stable
as $$
    select array_agg(row(l.task_type, l.priority, p_at, l.id, null)::job_lane) from unnest(job_claim_lanes(p_types)) l
$$;

-- Claimable jobs before a place in each of these lanes, counted up to p_most.
create or replace function job_queue_before(p_lanes job_lane[], p_most integer) returns bigint
language sql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
    select count(*) from (
        select from unnest(p_lanes) l
        cross join lateral (
            select from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                and q.priority = l.priority and (q.run_at, q.id) < (l.run_at, l.id)
            limit p_most
        ) d limit p_most
    ) found
$$;

-- Opens the record of a cycle or window, with the number of jobs that are due and could be claimed, counted up to 10,001.
create or replace function job_worker_run_open(p_source text, p_worker text, p_http_method text)
returns uuid
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    insert into job_worker_runs (started_at, source, worker_id, http_method, due_before)
    values (clock_timestamp(), p_source, p_worker, p_http_method, job_queue_before(job_lanes_until(
        job_types_open(job_queue_waiting_types(), statement_timestamp()), statement_timestamp()), 10001)) returning id
$$;

-- Updates the counts of an open record, and its other columns where they are given. Only the role that opened it does. With p_end
-- it closes the record, which does not change any more.
create or replace function job_worker_run_note(
    p_id uuid, p_claimed integer, p_succeeded integer, p_failed integer, p_released integer,
    p_status text default null, p_message text default null, p_http_status integer default null,
    p_error text default null, p_results jsonb default null, p_end boolean default false
) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    select job_queue_refuse('Another role opened this record of a worker run. Nothing was changed.')
    from job_worker_runs w where p_end and w.id = p_id and w.opened_by <> session_user;
    update job_worker_runs set claimed = p_claimed, processed = p_succeeded + p_failed, succeeded = p_succeeded,
        failed = p_failed, released = p_released, status = coalesce(p_status, status),
        message = coalesce(p_message, message), http_status = coalesce(p_http_status, http_status),
        error_message = p_error, results = p_results, noted_at = case when p_end then noted_at else clock_timestamp() end,
        completed_at = case when p_end then clock_timestamp() end,
        duration_ms = case when p_end then extract(epoch from clock_timestamp() - started_at) * 1000 end
    where id = p_id and completed_at is null and coalesce(opened_by = session_user, true)
$$;

-- Whether a scheduler started a cycle.
create or replace function job_is_scheduled(p_source text) returns boolean
language sql immutable parallel safe
return p_source = 'timer' or p_source like '%cron%';

-- Sets the interval in minutes at which a scheduler should call; the health verdict uses it.
create or replace function job_queue_expect_trigger(p_minutes integer) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    update job_queue_settings set trigger_minutes = p_minutes where id = 1 and trigger_minutes <> p_minutes
$$;

-- Raises an alarm; false if one of this name is already raised.
create or replace function job_alarm_raise(p_name text) returns boolean
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    insert into job_alarms (name) values (p_name) on conflict (name) do nothing;
    return found;
end
$$;

-- Clears an alarm and returns when it was raised; null if there was none.
create or replace function job_alarm_clear(p_name text) returns timestamptz
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    delete from job_alarms where name = p_name returning since
$$;
