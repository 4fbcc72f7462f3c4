-- Erasure, for the owner alone. The caller's transaction makes a dry run of it: it rolls back.

-- A text as a regular expression that matches this text alone.
create or replace function job_scrub_literal(p_text text) returns text
language sql immutable parallel safe
return regexp_replace(p_text, '([].*+?^${}()|\\[-])', '\\\1', 'g');

-- A text with every mark's key replaced by its value, whatever its case. A key within a longer word or address is
-- another one, and is left; escapes of programs and of web addresses before it (\n, %22) belong to no word.
create or replace function job_scrub_text(p_text text, p_marks jsonb) returns text
language plpgsql immutable
as $$
declare
    v_mark record;
begin
    for v_mark in select m.key, m.value from jsonb_each_text(p_marks) m order by length(m.key) desc, m.key loop
        p_text := regexp_replace(p_text, '(?:(?<![[:alnum:]._%+-])|(?<=\\[nrt])|(?<=%[0-9a-f]{2}))'
            || job_scrub_literal(v_mark.key) || '(?![.]?[[:alnum:]_-])', v_mark.value, 'gi');
    end loop;
    return p_text;
end
$$;

-- The same for every text, number and key in a JSON value.
create or replace function job_scrub_json(p_value jsonb, p_marks jsonb) returns jsonb
language plpgsql immutable
as $$
declare
    v_text text := p_value #>> '{}';
begin
    return case jsonb_typeof(p_value)
        when 'string' then to_jsonb(job_scrub_text(v_text, p_marks))
        when 'number' then case when job_scrub_text(v_text, p_marks) = v_text then p_value
            else to_jsonb(job_scrub_text(v_text, p_marks)) end
        when 'array' then (select coalesce(jsonb_agg(job_scrub_json(e.value, p_marks) order by e.nth), '[]')
            from jsonb_array_elements(p_value) with ordinality as e (value, nth))
        when 'object' then (select coalesce(jsonb_object_agg(job_scrub_text(e.key, p_marks),
            job_scrub_json(e.value, p_marks)), '{}') from jsonb_each(p_value) e)
        else p_value end;
end
$$;

create or replace function job_scrub_array(p_texts text[], p_marks jsonb) returns text[]
language sql immutable
as $$
    select array_agg(job_scrub_text(t.text, p_marks) order by t.nth)
    from unnest(p_texts) with ordinality as t (text, nth)
$$;

-- A regular expression that finds texts, also in JSON, that have one of the marks' keys in them, perhaps within a longer
-- word. Null without marks.
create or replace function job_scrub_pattern(p_marks jsonb) returns text
language sql immutable
as $$
    select string_agg(distinct job_scrub_literal(f.form), '|') from jsonb_object_keys(p_marks) k
    cross join lateral (values (k), (btrim(to_jsonb(k)::text, '"'))) as f (form)
$$;

-- Replaces the marks' keys by their values in all texts of these tables, and returns each table with its changed rows.
create or replace function job_scrub(p_tables text[], p_marks jsonb) returns table (place text, rows bigint)
language plpgsql volatile
as $$
declare
    v_changes text;
    v_differs text;
    v_found text;
    v_pattern constant text := job_scrub_pattern(p_marks);
begin
    foreach place in array p_tables loop
        select string_agg(format('%1$I = %2$s(t.%1$I, $1)', a.attname, f.name), ', '),
            string_agg(format('%2$s(t.%1$I, $1) is distinct from t.%1$I', a.attname, f.name), ' or '),
            string_agg(format('t.%I::text', a.attname), ', ')
        into v_changes, v_differs, v_found
        from pg_attribute a join (values ('text'::regtype, 'job_scrub_text'), ('jsonb', 'job_scrub_json'),
            ('text[]', 'job_scrub_array')) as f (type, name) on f.type = a.atttypid
        where a.attrelid = to_regclass(quote_ident(place)) and a.attnum > 0 and not a.attisdropped
            and a.attgenerated = '';
        continue when v_changes is null;
        execute format('update %I t set %s where concat_ws('' '', %s) ~* $2 and (%s)', place, v_changes, v_found,
            v_differs) using p_marks, v_pattern;
        get diagnostics rows = row_count;
        if rows > 0 then
            return next;
        end if;
    end loop;
end
$$;

-- The tables of the queue that can have texts about people.
create or replace function job_tables_with_texts() returns text[]
language sql immutable
as $$
    select array['job_queue', 'job_runs', 'job_trash', 'job_audit', 'job_bulk', 'job_bulk_items', 'job_worker_runs',
        'job_poison', 'job_upkeep', 'job_alarms', 'job_types', 'job_queue_settings', 'job_recheck',
        'job_error_groups', 'job_stat_errors', 'job_stat_delta', 'job_canaries', 'job_notes', 'job_error_mutes',
        'job_key_rates', 'job_unique_keys', 'job_flows', 'job_flow_members', 'job_producers']
$$;

-- Cancels these jobs where they wait, and returns how many. Refuses when one is running.
create or replace function job_erase_stop(p_jobs uuid[], p_actor text) returns bigint
language plpgsql volatile
as $$
declare
    v_job job_queue;
    v_cancelled bigint := 0;
    v_keys text[];
begin
    for v_job in select * from job_queue q where q.id = any (p_jobs) and q.status in ('pending', 'running')
        order by q.id for update
    loop
        if v_job.status = 'running' then
            perform job_queue_refuse(format('Job %s, whose texts would be erased, is running. Nothing was erased. Wait '
                'for its end, or cancel it with "jobdeck cancel %s".', v_job.id, v_job.id));
        end if;
        perform job_queue_write_audit(p_actor, 'cancel', v_job.id, job_audit_facts(v_job),
            job_audit_facts(job_queue_make_cancelled(v_job, p_actor)), 'erasure');
        v_cancelled := v_cancelled + 1;
        v_keys := v_keys || v_job.concurrency_key;
    end loop;
    perform job_queue_advance_lines(v_keys);
    return v_cancelled;
end
$$;

-- Counts a failed run in another group of errors.
create or replace function job_stat_move_error(p_run job_runs, p_fingerprint text) returns void
language plpgsql volatile
set jit = off
as $$
declare
    v_bucket constant timestamptz := job_stat_bucket(5, p_run.finished_at);
begin
    update job_stat_errors e set runs = e.runs - 1
    where e.fingerprint = p_run.fingerprint and e.task_type = p_run.task_type and e.bucket = v_bucket;
    -- Without a row, the run was counted as `other`, and stays there.
    if found and p_run.fingerprint <> p_fingerprint then
        insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
        values (p_run.task_type, p_fingerprint, v_bucket, 1)
        on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + 1;
        insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
        values (p_run.task_type, p_fingerprint, p_run.error_kind, '[erased]', p_run.run_token, p_run.finished_at,
            p_run.finished_at)
        on conflict (fingerprint, task_type) do update set sample_token = greatest(g.sample_token, excluded.sample_token),
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
    end if;
end
$$;

-- Gives failed runs, and the jobs whose newest failed run is one of them, the fingerprint that their error has after the
-- erasure of these marks (null: of the whole error), and counts them in that group.
create or replace function job_erase_fingerprints(p_tokens bigint[], p_marks jsonb) returns void
language plpgsql volatile
set jit = off
as $$
declare
    v_run job_runs;
    v_after text;
begin
    -- Nobody else adds up now, and no run is counted by its fingerprint of before later.
    perform from job_upkeep u where u.part = 'stats' for update;
    while job_stats_compact(1000) > 0 loop
        null;
    end loop;
    for v_run in select r.* from job_runs r where r.run_token = any (p_tokens) and r.fingerprint is not null
        order by r.run_token
    loop
        v_after := job_error_fingerprint(v_run.error_kind, case when p_marks is null then '[erased]'
            else job_scrub_text(v_run.error, p_marks) end);
        perform job_stat_move_error(v_run, v_after);
        update job_runs r set fingerprint = v_after where r.run_token = v_run.run_token and r.late = v_run.late;
        -- The order of the tokens leaves the fingerprint of the newest run.
        update job_queue q set fingerprint = v_after where q.id = v_run.job_id and q.fingerprint is not null;
    end loop;
    delete from job_stat_errors e where e.runs <= 0;
    delete from job_error_groups g where not exists (
        select from job_stat_errors e where e.fingerprint = g.fingerprint and e.task_type = g.task_type);
end
$$;

-- The same for groups of which the history no longer has a run, by their pattern. Groups that become one are added up.
create or replace function job_erase_groups(p_marks jsonb) returns void
language plpgsql volatile
set jit = off
as $$
declare
    v_group job_error_groups;
    v_pattern text;
    v_after text;
begin
    for v_group in select g.* from job_error_groups g where g.pattern ~* job_scrub_pattern(p_marks) loop
        v_pattern := job_scrub_text(v_group.pattern, p_marks);
        continue when v_pattern = v_group.pattern;
        v_after := job_error_fingerprint(v_group.error_kind, v_pattern);
        delete from job_error_groups g where g.fingerprint = v_group.fingerprint and g.task_type = v_group.task_type;
        insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
        values (v_group.task_type, v_after, v_group.error_kind, v_pattern, v_group.sample_token, v_group.first_at,
            v_group.last_at)
        on conflict (fingerprint, task_type) do update set sample_token = greatest(g.sample_token, excluded.sample_token),
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
        insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
        select o.task_type, v_after, o.bucket, o.runs from job_stat_errors o
        where o.fingerprint = v_group.fingerprint and o.task_type = v_group.task_type and v_after <> v_group.fingerprint
        on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + excluded.runs;
        delete from job_stat_errors e where e.fingerprint = v_group.fingerprint and e.task_type = v_group.task_type
            and v_after <> v_group.fingerprint;
    end loop;
end
$$;

-- Replaces the marks' keys by their values in the texts of the queue, for a plugin that erases a person. Jobs that
-- have one of them in their payload, checkpoint or keys are cancelled, since they could not run any more.
create or replace function job_erase_texts(p_marks jsonb, p_actor text) returns table (place text, rows bigint)
language plpgsql volatile
set lock_timeout = '2s'
as $$
declare
    v_pattern constant text := job_scrub_pattern(p_marks);
begin
    place := 'job_queue (cancelled)';
    rows := job_erase_stop(array(
        select q.id from job_queue q where q.status in ('pending', 'running') and concat_ws(' ', q.payload::text,
            q.checkpoint::text, q.progress::text, q.dedupe_key, q.concurrency_key) ~* v_pattern), p_actor);
    if rows > 0 then
        return next;
    end if;
    -- The hash of an error would confirm a guess of the text that it was made from.
    delete from job_error_mutes m using job_runs r
    where r.fingerprint = m.fingerprint and r.task_type = m.task_type and r.error ~* v_pattern;
    perform job_key_hashes_erase(array(
        select q.id from job_queue q where concat_ws(' ', q.dedupe_key, q.concurrency_key) ~* v_pattern
        union select r.job_id from job_runs r where concat_ws(' ', r.dedupe_key, r.concurrency_key) ~* v_pattern
        union select t.job_id from job_trash t
        where concat_ws(' ', t.job ->> 'dedupe_key', t.job ->> 'concurrency_key') ~* v_pattern));
    perform job_erase_fingerprints(array(
        select r.run_token from job_runs r where r.fingerprint is not null and r.error ~* v_pattern), p_marks);
    perform job_erase_groups(p_marks);
    return query select s.place, s.rows from job_scrub(job_tables_with_texts(), p_marks) s;
end
$$;

-- Removes what the queue has of the jobs with this key and value in their payload: payload, keys, output, error, log and
-- progress, also of their runs, and the texts about them in the audit. Those that wait are cancelled, those in the trash
-- removed. The rows stay, with type, times and outcome. Returns each place with its rows. Refuses when no job has the
-- value, or one of them is running.
create or replace function job_erase_payload(p_key text, p_value text, p_actor text)
returns table (place text, rows bigint)
language plpgsql volatile
set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
    v_jobs uuid[] := array(
        select q.id from job_queue q where q.payload ->> p_key = p_value
        union select r.job_id from job_runs r where r.payload ->> p_key = p_value
        union select t.job_id from job_trash t where t.job -> 'payload' ->> p_key = p_value
        union select a.job_id from job_audit a where a.job_id is not null and p_value in (
            a.before -> 'payload' ->> p_key, a.after -> 'payload' ->> p_key));
begin
    if cardinality(v_jobs) = 0 then
        perform job_queue_refuse('No job has this key and value in its payload. Nothing was erased.');
    end if;
    return query
        with cancelled as (select job_erase_stop(v_jobs, p_actor) as rows)
        select 'job_queue (cancelled)', c.rows from cancelled c where c.rows > 0;
    perform job_erase_fingerprints(array(
        select r.run_token from job_runs r where r.job_id = any (v_jobs) and r.fingerprint is not null), null);
    perform job_key_hashes_erase(v_jobs);
    return query
        select e.place, e.rows from job_erase_jobs(v_jobs) e where e.rows > 0;
    update job_bulk b set words = null where position(p_key in b.words) > 0 and position(p_value in b.words) > 0;
    update job_bulk b set changes = null where b.changes -> 'set' ->> p_key = p_value and b.state <> 'running';
    -- A short value, such as 5, is also a part of other texts.
    if length(p_value) >= 8 then
        perform job_erase_groups(jsonb_build_object(p_value, '[erased]'));
        return query select s.place || ' (elsewhere)', s.rows
        from job_scrub(job_tables_with_texts(), jsonb_build_object(p_value, '[erased]')) s;
    end if;
    perform job_queue_write_audit(p_actor, 'erase', null, null, jsonb_build_object('payload_key', p_key, 'jobs',
        cardinality(v_jobs)), null);
end
$$;

-- The facts of a job in an audit row without what its producer or its handler wrote.
create or replace function job_erased_facts(p_facts jsonb) returns jsonb
language sql immutable
return p_facts - array['payload', 'output', 'last_error', 'checkpoint', 'progress', 'dedupe_key', 'concurrency_key'];

create or replace function job_erase_jobs(p_jobs uuid[]) returns table (place text, rows bigint)
language sql volatile
as $$
    with queued as (
        update job_queue set payload = '{}', output = null, checkpoint = null, progress = null,
            last_error = case when last_error is not null then '[erased]' end, dedupe_key = null,
            concurrency_key = null, in_line = false, version = version + 1
        where id = any (p_jobs) returning 1),
    runs as (
        update job_runs set payload = '{}', output = null, traceback = null, log = null, progress = null,
            dedupe_key = null, concurrency_key = null, error = case when error is not null then '[erased]' end
        where job_id = any (p_jobs) returning 1),
    trash as (delete from job_trash where job_id = any (p_jobs) returning 1),
    poison as (delete from job_poison where job_id = any (p_jobs) returning 1),
    audit as (
        update job_audit set reason = null, before = job_erased_facts(before), after = job_erased_facts(after)
        where job_id = any (p_jobs) returning 1),
    items as (
        update job_bulk_items set facts = null where job_id = any (p_jobs) returning 1),
    worker_runs as (
        update job_worker_runs set results = (
            select jsonb_agg(e.value order by e.nth) from jsonb_array_elements(results) with ordinality as e (value, nth)
            where (e.value ->> 'id') <> all (p_jobs::text[]))
        where jsonb_typeof(results) = 'array' and exists (select from jsonb_array_elements(results) e
            where (e.value ->> 'id') = any (p_jobs::text[])) returning 1)
    select 'job_queue', count(*) from queued union all select 'job_runs', count(*) from runs
    union all select 'job_trash', count(*) from trash union all select 'job_poison', count(*) from poison
    union all select 'job_audit', count(*) from audit union all select 'job_bulk_items', count(*) from items
    union all select 'job_worker_runs', count(*) from worker_runs
$$;
