-- Which rows job_queue takes. Triggers refuse what no function would write, give keys to jobs that are enqueued by INSERT or COPY,
-- and wake workers. A row that is refused changes nothing.

create or replace function job_queue_refuse(p_sentence text) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'JD001', message = p_sentence;
end
$$;

-- Whether this is a dedupe key of the series that programs declare. job_series_declare alone enqueues under such a key: a job of
-- somebody else that had it would keep the series from being made.
create or replace function job_key_is_declared(p_dedupe_key text) returns boolean
language sql immutable parallel safe
return coalesce(starts_with(p_dedupe_key, 'schedule:'), false);

-- Why a job with these values is not enqueued; null if it is. Keys are in indexes, which take no long values.
create or replace function job_refusal(
    p_task_type text, p_payload jsonb, p_priority integer, p_run_at timestamptz, p_expires_at timestamptz,
    p_dedupe_key text, p_concurrency_key text
) returns text
language sql stable parallel safe
return case
    when coalesce(trim(p_task_type), '') = '' or not job_priority_fits(p_priority)
        then 'A job needs a task type and a priority between -100 and 100.'
    when jsonb_typeof(p_payload) is distinct from 'object' then 'A payload must be a JSON object.'
    when not (job_is_a_time(p_run_at) and job_is_a_time(p_expires_at))
        then 'A due time and an expiry must be between the years 1 and 9999.'
    when octet_length(p_dedupe_key) > 1000 or octet_length(p_concurrency_key) > 1000
        then format('A key may have 1,000 bytes; this one has %s. Use a hash of it.',
            greatest(octet_length(p_dedupe_key), octet_length(p_concurrency_key)))
    when job_key_is_declared(p_dedupe_key) then
        'A dedupe key that begins with "schedule:" belongs to a series that a program declares. Choose another key.'
    -- A job of somebody else that had it would keep those of Quick Sync from being enqueued.
    when coalesce(starts_with(p_dedupe_key, 'quick-sync:'), false) and not has_function_privilege(session_user,
        'job_queue_act(text, uuid[], bigint[], text, text, boolean)', 'execute') then
        'A dedupe key that begins with "quick-sync:" belongs to Quick Sync, which operators use. Choose another key.'
end;

-- The concurrency key of a payload by the rule of its task type; null without a rule. It is the key that a producer
-- with the type's handler computes: a text, a truth value or a whole number of up to 15 digits counts, every other value is
-- as if it was missing.
create or replace function job_key_by_rule(p_task_type text, p_rule text, p_payload jsonb) returns text
language sql immutable parallel safe
return case
    when p_rule = 'type' then p_task_type
    when p_rule like 'key:%' then substr(p_rule, 5)
    when p_rule like 'payload:%' then (
        select case
            when jsonb_typeof(v) in ('string', 'boolean') and v #>> '{}' <> ''
                or jsonb_typeof(v) = 'number' and v #>> '{}' ~ '^-?[0-9]{1,15}$'
            then p_task_type || ':' || (v #>> '{}')
            else p_task_type
        end
        -- A payload may spell a key in both ways.
        from coalesce(p_payload -> substr(p_rule, 9),
            p_payload -> lower(regexp_replace(substr(p_rule, 9), '([A-Z])', '_\1', 'g'))) v)
end;

-- The same by the rule that workers wrote. A key that is too long for the indexes is replaced by its hash.
create or replace function job_key_of(p_task_type text, p_payload jsonb) returns text
language sql stable
as $$
    select case when octet_length(k.key) > 1000 then t.task_type || ':' || md5(k.key) else k.key end
    from job_types t cross join lateral (select job_key_by_rule(t.task_type, t.concurrency, p_payload) as key) k
    where t.task_type = p_task_type and t.concurrency is not null
$$;

-- Refuses the rows of a statement if one of them breaks a rule. A constraint of the table would be read and prepared again
-- by each statement; this function is prepared once in a session. Its error names a rule as a
-- constraint. After an INSERT the function sends a hint to idle workers, which also poll: a second
-- trigger would take longer. The channel is named after the schema, so that the queues of a database do not wake each
-- other's workers. A search path would make each enqueue slower, so the function calls only what is built in.
create or replace function job_queue_after_write() returns trigger
language plpgsql
as $$
declare
    v_id uuid;
    v_rule text;
    v_sent boolean;
begin
    select broken.id, broken.rule into v_id, v_rule from (select n.id, case
        when n.status not in ('pending', 'running', 'succeeded', 'failed', 'cancelled') then 'status'
        when n.attempts < 0 or n.max_attempts < 1 then 'attempts'
        when least(n.cycle, n.consecutive_failures, n.version) < 0 or tg_op = 'INSERT'
            and greatest(n.attempts, n.cycle, n.consecutive_failures, n.version) > 1000000000 then 'counts'
        when n.priority not between -100 and 100 then 'priority'
        when tg_op = 'INSERT' and btrim(n.task_type) = '' then 'type'
        when tg_op = 'INSERT' and n.in_line and n.concurrency_key is null then 'line'
        when least(n.run_at, n.expires_at, n.anchor_at, n.slot_at, n.created_at, n.updated_at, n.completed_at, n.last_run_at,
                n.last_success_at, n.started_at, n.lease_expires_at, n.cancel_requested_at) < '0001-01-02 00:00+00'
            or greatest(n.run_at, n.expires_at, n.anchor_at, n.slot_at, n.created_at, n.updated_at, n.completed_at,
                n.last_run_at, n.last_success_at, n.started_at, n.lease_expires_at, n.cancel_requested_at)
                >= '9999-12-31 00:00+00' then 'times'
        when (n.recurrence_interval_minutes is not null or n.schedule is not null) and not n.is_recurring
            and n.status in ('pending', 'running') then 'recurrence'
        when n.status = 'running' and n.run_token is null and tg_op = 'UPDATE' then 'claim'
        when n.status = 'running' and (n.run_token is null or n.lease_expires_at is null or n.locked_by is null)
            or n.status <> 'running' and (n.run_token is not null or n.lease_expires_at is not null) then 'lease'
        end as rule
        from new_rows n offset 0  -- so that the rules are prepared once
    ) broken
    where broken.rule is not null limit 1;
    if v_rule is null then
        -- An assignment takes less time than PERFORM.
        v_sent := tg_op = 'INSERT'
            and pg_catalog.pg_notify(pg_catalog.concat(tg_table_schema, '.job_queue'), '') is not null;
        return null;
    end if;
    raise exception using table = 'job_queue', constraint = 'job_queue_' || v_rule || '_check',
        errcode = case when v_rule in ('recurrence', 'claim') then 'JD001' else 'check_violation' end,
        message = case v_rule
            when 'status' then 'The status of a job is pending, running, succeeded, failed or cancelled.'
            when 'attempts' then 'A job has made 0 attempts or more, and may make at least 1.'
            when 'counts' then 'The attempts, cycles, failures in a row and version of a job are from 0 to at most 1,000,000,000.'
            when 'priority' then 'A priority must be between -100 and 100.'
            when 'type' then 'A job needs a task type of at most 200 bytes.'
            when 'line' then 'A job without a concurrency key is in no line.'
            when 'times' then 'All times of a job must be between the years 1 and 9999.'
            when 'recurrence' then 'A job that is not recurring has no interval. Make it recurring, or leave the interval out.'
            when 'claim' then format('Job %s cannot be set to running by hand: it would have no token that protects its '
                'result. Claim it with a function.', v_id)
            else 'A running job has a run token, a lease and the name of its worker. Another job has no token and no lease.'
            end || ' Nothing was changed.';
end
$$;
create or replace trigger job_queue_inserted after insert on job_queue
    referencing new table as new_rows for each statement execute function job_queue_after_write();
create or replace trigger job_queue_updated after update on job_queue
    referencing new table as new_rows for each statement execute function job_queue_after_write();
-- Also where session_replication_role leaves other triggers out, as constraints are checked there too.
alter table job_queue enable always trigger job_queue_inserted, enable always trigger job_queue_updated;

-- Refuses values that are too long for an index. The index of lines holds a job that waits for another one only once that
-- one has ended, so it would refuse the other one's report.
create or replace function job_refuse_long_values(
    p_task_type text, p_dedupe_key text, p_concurrency_key text, p_fingerprint text
) returns void
language plpgsql
as $$
begin
    if octet_length(p_task_type) > 200 then
        raise exception using table = 'job_queue', constraint = 'job_queue_type_check', errcode = 'check_violation',
            message = 'A job needs a task type of at most 200 bytes. Nothing was changed.';
    elsif greatest(octet_length(p_dedupe_key), octet_length(p_concurrency_key), octet_length(p_fingerprint)) > 1000 then
        raise exception using table = 'job_queue', constraint = 'job_queue_keys_check', errcode = 'check_violation',
            message = 'A key may have 1,000 bytes. Use a hash of it. Nothing was changed.';
    end if;
end
$$;

-- Refuses such values in a change, and counts that a claim could not raise any more: the claim would fail, with all jobs that it
-- takes.
create or replace function job_hand_values() returns trigger
language plpgsql security definer
as $$
begin
    perform job_refuse_long_values(new.task_type, new.dedupe_key, new.concurrency_key, new.fingerprint);
    if tg_argv[0] = 'counts' and (new.attempts - 1 > old.attempts or new.cycle - 1 > old.cycle
        or new.consecutive_failures - 1 > old.consecutive_failures or new.version - 1 > old.version)
    then
        raise exception using table = 'job_queue', constraint = 'job_queue_counts_check', errcode = 'check_violation',
            message = 'The attempts, cycles, failures in a row and version of a job are from 0 to at most 1,000,000,000. '
                'Nothing was changed.';
    end if;
    return new;
end
$$;
-- A condition is prepared again by each statement, so it is short, and the function looks at each value.
create or replace trigger job_hand_values before update of task_type, dedupe_key, concurrency_key, fingerprint on job_queue
    for each row when (octet_length(concat(new.task_type, new.dedupe_key, new.concurrency_key, new.fingerprint)) > 200)
    execute function job_hand_values();
create or replace trigger job_hand_counts before update of attempts, cycle, consecutive_failures, version on job_queue
    for each row when (greatest(new.attempts, new.cycle, new.consecutive_failures, new.version) > 1000000000)
    execute function job_hand_values('counts');

-- Refuses the rhythm of a series that does not fit.
create or replace function job_refuse_rhythm(p_minutes integer, p_schedule jsonb, p_slots timestamptz[]) returns void
language plpgsql
as $$
begin
    if not job_slots_fit(p_slots) then
        perform job_queue_refuse('A series has at most 1,100 slots, between the years 1 and 9999. Nothing was changed.');
    elsif not job_schedule_fits(true, p_minutes, p_schedule, p_slots) then
        perform job_queue_refuse(case when p_schedule is null
            then 'A recurring job needs an interval of 1 minute or more, and at most 100 years. Nothing was changed.'
            else 'A schedule has one of minutes, seconds and a cron expression with zone and slots. Use the function '
                'job_series_create. Nothing was changed.' end);
    end if;
end
$$;

-- Refuses a new job with values that are too long, or with a rhythm that does not fit. Asks upkeep to judge its blocker once more
-- when the transaction that enqueues has ended: a blocker that ends before that does not see the job. Gives a job that was not
-- enqueued by a function the key of its type's rule, and its place in line. A row that brings a key of its own is in the index at
-- once; a claim puts it into the line while the key is busy (13).
create or replace function job_queue_before_insert() returns trigger
language plpgsql security definer
as $$
begin
    -- Before a constraint of the original's table says it in other words.
    if not new.is_recurring and num_nonnulls(new.recurrence_interval_minutes, new.schedule) > 0
        and new.status in ('pending', 'running')
    then
        perform job_queue_refuse('A job that is not recurring has no interval. Make it recurring, or leave the interval out. '
            'Nothing was changed.');
    end if;
    perform job_refuse_long_values(new.task_type, new.dedupe_key, new.concurrency_key, new.fingerprint);
    if new.status in ('pending', 'running') then
        if new.is_recurring then
            perform job_refuse_rhythm(new.recurrence_interval_minutes, new.schedule, new.slots);
        else
            new.slots := null;
        end if;
    end if;
    if new.blocked_by is not null then
        perform job_queue_ask_recheck(null, array[new.blocked_by]);
    end if;
    if new.created_by is not null or new.concurrency_key is not null or new.status <> 'pending' then
        return new;
    end if;
    new.concurrency_key := job_key_of(new.task_type, new.payload);
    if new.expires_at is null and not new.is_recurring then
        new.expires_at := new.run_at + make_interval(secs => (
            select t.max_age_seconds from job_types t where t.task_type = new.task_type));
    end if;
    if new.concurrency_key is not null then
        new.in_line := job_queue_joins_line(new.concurrency_key, new.priority, new.run_at, new.task_type);
        if new.in_line then
            perform job_queue_ask_recheck(array[new.concurrency_key], null);
        end if;
    end if;
    return new;
end
$$;
-- The functions write created_by, so most of their jobs do not pay for this. One trigger, since each condition is prepared again by
-- each statement.
create or replace trigger job_queue_before_insert before insert on job_queue
    for each row when (new.created_by is null or new.blocked_by is not null or new.is_recurring or new.slots is not null
        or octet_length(concat(new.task_type, new.dedupe_key, new.concurrency_key, new.fingerprint)) > 200)
    execute function job_queue_before_insert();

-- Refuses a pending or running series whose interval or schedule does not fit; takes slots from a job that is no series.
-- Claims and reports do not change these, so they do not pay for this.
create or replace function job_refuse_interval() returns trigger
language plpgsql security definer
as $$
begin
    if not new.is_recurring then
        new.slots := null;
    else
        perform job_refuse_rhythm(new.recurrence_interval_minutes, new.schedule, new.slots);
    end if;
    return new;
end
$$;
create or replace trigger job_hand_interval
    before update of is_recurring, recurrence_interval_minutes, schedule, slots on job_queue
    for each row when (new.status in ('pending', 'running') and (new.is_recurring or new.slots is not null))
    execute function job_refuse_interval();
create or replace trigger job_hand_series before update of status on job_queue
    for each row when (new.is_recurring and new.status = 'pending' and old.status not in ('pending', 'running'))
    execute function job_refuse_interval();

-- An UPDATE by hand of the status of a job that is not pending. A running job can be cancelled: that becomes a request, as
-- the functions make it. A job that is set to pending joins the line of its key.
create or replace function job_hand_update() returns trigger
language plpgsql security definer
as $$
begin
    if old.status = 'running' and new.status <> 'running' and new.run_token is not null then
        if new.status <> 'cancelled' then
            raise exception using errcode = 'JD001', message = format('Job %s is running, so its status cannot be set to '
                '%s. Wait until it has ended, or cancel it. Nothing was changed.', old.id, new.status);
        end if;
        old.cancel_requested_at := coalesce(old.cancel_requested_at, clock_timestamp());
        old.cancel_requested_by := coalesce(old.cancel_requested_by, '(' || session_user || ')');
        return old;
    elsif new.status = 'pending' and old.status <> 'running' then
        new.concurrency_key := coalesce(new.concurrency_key, job_key_of(new.task_type, new.payload));
        new.in_line := job_queue_joins_line(new.concurrency_key, new.priority, new.run_at, new.task_type);
        if new.in_line then
            perform job_queue_ask_recheck(array[new.concurrency_key], null);
        end if;
    end if;
    return new;
end
$$;
-- Claims update pending jobs, and the other functions change the version, so they do not pay for this.
create or replace trigger job_hand_update before update of status on job_queue
    for each row when (old.status <> 'pending' and new.version = old.version) execute function job_hand_update();

-- Writes the rules of the task types that a worker handles; a null means no rule. Returns those types whose earlier jobs
-- may have no key: job_types_fill_keys gives them one.
create or replace function job_types_declare(p_types text[], p_rules text[]) returns text[]
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    insert into job_types as t (task_type, concurrency, keyless)
    select n.task_type, n.rule, true from unnest(p_types, p_rules) as n (task_type, rule)
    where n.rule is not null and not exists (
        select from job_types o where o.task_type = n.task_type and o.concurrency = n.rule)
    order by n.task_type
    on conflict (task_type) do update set concurrency = excluded.concurrency, keyless = true;
    update job_types t set concurrency = null, keyless = false
    from unnest(p_types, p_rules) as n (task_type, rule)
    where t.task_type = n.task_type and n.rule is null and t.concurrency is not null;
    return array(select task_type from job_types where keyless and task_type = any (p_types) order by task_type);
end
$$;

-- Gives keys to those of the next p_limit jobs after an id that have none, of these types. Returns the last id, and null
-- when there is none left: then the types have all their keys.
create or replace function job_types_fill_keys(p_types text[], p_after uuid, p_limit integer) returns uuid
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
declare
    v_ids constant uuid[] := array(select q.id from job_queue q
        where q.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000') order by q.id limit p_limit);
    v_keys text[];
    v_locks integer[];
begin
    perform job_refuse_outsiders();
    with free as (
        select q.id, job_key_of(q.task_type, q.payload) as key from job_queue q
        where q.id = any (v_ids) and q.concurrency_key is null and q.status <> 'running' and q.task_type = any (p_types)
        order by q.id for update skip locked
    ), keyed as (
        -- All wait at first; the first of each line is put forward below.
        update job_queue q set concurrency_key = f.key, in_line = q.status = 'pending'
        from free f where q.id = f.id and f.key is not null
        returning q.concurrency_key
    )
    select array_agg(distinct concurrency_key) into v_keys from keyed;
    -- Of jobs that run already without a key, one holds it; the others end beside it. Claims leave a key out whose lock is
    -- not free, so that none of them waits for this transaction.
    v_locks := job_queue_try_locks(array(
        select job_key_of(q.task_type, q.payload) from job_queue q
        where q.id = any (v_ids) and q.concurrency_key is null and q.status = 'running' and q.task_type = any (p_types)));
    begin
        with free as (
            select q.id, job_key_of(q.task_type, q.payload) as key, q.started_at from job_queue q
            where q.id = any (v_ids) and q.concurrency_key is null and q.status = 'running'
                and q.task_type = any (p_types)
            order by q.id for update skip locked
        )
        update job_queue q set concurrency_key = f.key
        from (select distinct on (key) id, key from free where key is not null order by key, started_at) f
        where q.id = f.id and job_lock_slot(f.key) = any (v_locks) and not job_key_is_busy(f.key);
    exception when unique_violation then
        null;
    end;
    perform job_queue_advance_lines(v_keys);
    if cardinality(v_ids) < p_limit then
        update job_types set keyless = false where task_type = any (p_types);
        return null;
    end if;
    return v_ids[cardinality(v_ids)];
end
$$;

-- Who did something: the name that a client gives, and in brackets at the end the role that signed in, which no client
-- can choose.
-- The name is short and has no white space but single spaces, so that it does not push the role out of sight.
create or replace function job_actor(p_actor text) returns text
language sql stable
return coalesce(nullif(trim(left(regexp_replace(left(p_actor, 1000), case getdatabaseencoding() when 'UTF8'
        then '[[:space:][:cntrl:]\u00a0\u00ad\u115f\u1160\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufeff]+'
        else '[[:space:][:cntrl:]]+' end, ' ', 'g'), 100)), '') || ' ', '') || '(' || session_user || ')';
