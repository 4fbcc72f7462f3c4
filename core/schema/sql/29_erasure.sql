-- Erasure, for the owner alone. The caller's transaction makes a dry run of it: it rolls back.
--
-- What is erased is given as `marks`, a JSON object from each text about the person to what becomes of it:
--   a string   a text that is this one becomes the string, and a text that contains it becomes "[erased on …]"
--   a list     a short id: only a whole value of a JSON field of one of these names is meant
--   null       a longer text that belongs to somebody else, and is left

create or replace function job_erased_mark() returns text
language sql stable parallel safe
return '[erased on ' || to_char(now() at time zone 'UTC', 'YYYY-MM-DD') || ']';

-- A regular expression for one character of a text in each spelling: as it is, in JSON, in a web address, in HTML.
create or replace function job_scrub_character(p_one text) returns text
language sql immutable parallel safe
return case
    when p_one ~ '[[:space:]]' then '(?:[[:space:]]|\\[nrt]|%20|[+])+'
    when p_one ~ '[[:alnum:]]' and octet_length(p_one) = 1 then p_one
    else '(?:' || concat_ws('|', regexp_replace(p_one, '([].*+?^${}()|\\[-])', '\\\1'),
        case when p_one in ('"', '\') then '\\' || regexp_replace(p_one, '(\\)', '\\\1') end,
        regexp_replace(encode(convert_to(p_one, 'UTF8'), 'hex'), '(..)', '%\1', 'g'),
        '\\+u' || lpad(to_hex(ascii(p_one)), 4, '0'),
        '&#(?:' || ascii(p_one) || '|x' || to_hex(ascii(p_one)) || ');') || ')' end;

-- A regular expression for a text, a number or an id in each spelling. A number is no part of a longer number, nor a name
-- of a longer name. Escapes of programs and of web addresses before them (\n, %22) belong to neither.
create or replace function job_scrub_expression(p_text text) returns text
language sql immutable parallel safe
as $$
    select case
        when t.number then e.before || '(?<![0-9])|' || e.escapes || '[+]?' || string_agg(c.one, case when length(t.text) >= 10
            then '(?:[[:space:]().-]|%[0-9a-f]{2})*' else '' end order by c.nth) || '(?![0-9])'
        when t.text ~ '[[:space:]]' then e.before || '(?<![[:alpha:]])|' || e.escapes
            || string_agg(job_scrub_character(c.one), '' order by c.nth) || '(?![[:alpha:]])'
        when t.text ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
            string_agg(case c.one when '-' then '-?' else c.one end, '' order by c.nth)
        else string_agg(job_scrub_character(c.one), '' order by c.nth) end
    from (
        select case when n.number then regexp_replace(p_text, '[^0-9]', '', 'g')
            else regexp_replace(btrim(p_text), '[[:space:]]+', ' ', 'g') end as text, n.number
        from (select p_text ~ '^[+]?[0-9][0-9 ().-]*$' as number) n) t
    cross join (values ('(?:', '(?<=\\[bfnrt])|(?<=%[0-9a-f]{2}))')) e (before, escapes)
    cross join lateral string_to_table(t.text, null) with ordinality as c (one, nth)
    group by t.text, t.number, e.before, e.escapes
$$;

-- What the functions below need of marks, made once: the expressions `found` of all texts and `kept` of those of others, the
-- `forms` with what replaces each, longest first, the values of short ids by their `fields`, and the `mark`.
create or replace function job_scrub_rules(p_marks jsonb) returns jsonb
language sql stable
as $$
    select jsonb_build_object(
        'found', string_agg(job_scrub_expression(m.key), '|' order by length(m.key) desc, m.key)
            filter (where jsonb_typeof(m.value) = 'string'),
        'kept', string_agg(job_scrub_expression(m.key), '|' order by length(m.key) desc, m.key)
            filter (where jsonb_typeof(m.value) = 'null'),
        'forms', coalesce(jsonb_agg(jsonb_build_array(job_scrub_expression(m.key), m.value) order by length(m.key) desc,
            m.key) filter (where jsonb_typeof(m.value) = 'string'), '[]'),
        'fields', (
            select coalesce(jsonb_object_agg(f.name, f.ids), '{}') from (
                select n.name, jsonb_agg(s.key) as ids from jsonb_each(p_marks) s cross join lateral
                    jsonb_array_elements_text(case jsonb_typeof(s.value) when 'array' then s.value else '[]' end) n (name)
                group by n.name) f),
        'mark', job_erased_mark())
    from jsonb_each(p_marks) m
$$;

-- Whether a text contains one of the texts, outside those of others.
create or replace function job_scrub_hit(p_text text, p_rules jsonb) returns boolean
language sql immutable
return coalesce(case when p_rules ->> 'kept' is null then p_text
    else regexp_replace(p_text, p_rules ->> 'kept', ' ', 'gi') end ~* (p_rules ->> 'found'), false);

-- A text in which each of the texts is replaced and the rest stays, for a column that has to be unique.
create or replace function job_scrub_replaced(p_text text, p_rules jsonb) returns text
language plpgsql immutable
as $$
declare
    v_form jsonb;
begin
    if job_scrub_hit(p_text, p_rules) then
        for v_form in select f.value from jsonb_array_elements(p_rules -> 'forms') f loop
            p_text := regexp_replace(p_text, v_form ->> 0, replace(v_form ->> 1, '\', '\\'), 'gi');
        end loop;
    end if;
    return p_text;
end
$$;

-- What becomes of a text that is one of the texts as a whole, or a short id in one of its fields; null of any other.
create or replace function job_scrub_whole(p_text text, p_rules jsonb, p_field text) returns text
language sql immutable
return coalesce(
    case when p_text ~* ('^\s*(?:' || (p_rules ->> 'found') || ')\s*$') then (
        select f.value ->> 1 from jsonb_array_elements(p_rules -> 'forms') f
        where p_text ~* ('^\s*(?:' || (f.value ->> 0) || ')\s*$') limit 1) end,
    case when p_rules -> 'fields' -> p_field ? p_text then p_rules ->> 'mark' end);

-- A text without the person. What contains one of the texts is emptied, because its other words may name them too.
create or replace function job_scrub_text(p_text text, p_rules jsonb, p_field text default null) returns text
language sql immutable
return case when not job_scrub_hit(p_text, p_rules) then case when p_rules -> 'fields' -> p_field ? p_text
        then p_rules ->> 'mark' else p_text end
    else coalesce(job_scrub_whole(p_text, p_rules, p_field), p_rules ->> 'mark') end;

-- The same for every text, number and key in a JSON value. Out of a list, an entry that is the person is taken.
create or replace function job_scrub_json(p_value jsonb, p_rules jsonb, p_field text default null) returns jsonb
language plpgsql immutable
as $$
begin
    return case jsonb_typeof(p_value)
        when 'string' then to_jsonb(job_scrub_text(p_value #>> '{}', p_rules, p_field))
        when 'number' then coalesce(to_jsonb(job_scrub_whole(p_value #>> '{}', p_rules, p_field)), p_value)
        when 'array' then (
            select coalesce(jsonb_agg(job_scrub_json(e.value, p_rules, p_field) order by e.nth), '[]')
            from jsonb_array_elements(p_value) with ordinality as e (value, nth)
            where jsonb_typeof(e.value) not in ('string', 'number')
                or job_scrub_whole(e.value #>> '{}', p_rules, p_field) is null)
        when 'object' then (select coalesce(jsonb_object_agg(job_scrub_text(e.key, p_rules),
            job_scrub_json(e.value, p_rules, e.key)), '{}') from jsonb_each(p_value) e)
        else p_value end;
end
$$;

create or replace function job_scrub_array(p_texts text[], p_rules jsonb) returns text[]
language sql immutable
as $$
    select array_agg(job_scrub_text(t.text, p_rules) order by t.nth) from unnest(p_texts) with ordinality as t (text, nth)
$$;

-- Whether a job is about the person: a field at the top of its payload is one of the texts, or a list of nobody else.
create or replace function job_scrub_about(p_payload jsonb, p_rules jsonb) returns boolean
language plpgsql immutable
as $$
begin
    return jsonb_typeof(p_payload) = 'object' and exists (select from jsonb_each(p_payload) e
        where job_scrub_whole(case when jsonb_typeof(e.value) in ('string', 'number') then e.value #>> '{}' end,
                p_rules, e.key) is not null
            or jsonb_typeof(e.value) = 'array' and e.value <> '[]' and job_scrub_json(e.value, p_rules, e.key) = '[]');
end
$$;

-- The columns of a table that can have texts, each with what is erased in it, by the rules in $1. A column that has to be
-- unique keeps the rest of its text, and a key of a job that may be missing goes. Names of types and what a check allows are
-- code and no texts.
create or replace function job_scrub_columns(p_table text) returns table (name text, after text)
language sql stable
as $$
    select a.attname, format(case
            when a.attname in ('dedupe_key', 'concurrency_key') and not a.attnotnull
                then 'case when not job_scrub_hit(t.%1$I, $1) then t.%1$I end'
            when p_table = 'job_holds' and a.attname = 'value' then 'job_scrub_json(t.value, $1, t.key)'
            when a.atttypid = 'jsonb'::regtype then 'job_scrub_json(t.%1$I, $1)'
            when a.atttypid = 'text[]'::regtype then 'job_scrub_array(t.%1$I, $1)'
            when exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique
                and a.attnum = any (i.indkey)) then 'job_scrub_replaced(t.%1$I, $1)'
            else 'job_scrub_text(t.%1$I, $1)' end, a.attname)
    from pg_attribute a
    where a.attrelid = to_regclass(quote_ident(p_table)) and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        and a.atttypid = any (array['text', 'jsonb', 'text[]']::regtype[]) and a.attname <> 'task_type'
        and not exists (select from pg_constraint c where c.conrelid = a.attrelid and c.contype = 'c'
            and c.conkey = array[a.attnum])
$$;

-- Erases the texts in all columns of these tables, and returns each table with its changed rows. p_series are left.
create or replace function job_scrub(p_tables text[], p_marks jsonb, p_series uuid[] default '{}')
returns table (place text, rows bigint)
language plpgsql volatile
as $$
declare
    v_changes text;
    v_differs text;
    v_found text;
    v_rules constant jsonb := job_scrub_rules(p_marks);
    v_fields constant boolean := v_rules -> 'fields' <> '{}';
begin
    foreach place in array p_tables loop
        select string_agg(format('%I = %s', c.name, c.after), ', '),
            string_agg(format('%s is distinct from t.%I', c.after, c.name), ' or '),
            string_agg(format('t.%I::text', c.name), ', ')
        into v_changes, v_differs, v_found
        from job_scrub_columns(place) c;
        continue when v_changes is null;
        execute format('update %I t set %s where ($2 or concat_ws('' '', %s) ~* $3) and (%s)%s', place, v_changes, v_found,
            v_differs, case when place = 'job_queue' then ' and t.id <> all ($4)' else '' end)
        using v_rules, v_fields, v_rules ->> 'found', p_series;
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
        'job_poison', 'job_upkeep', 'job_alarms', 'job_failing_types', 'job_types', 'job_queue_settings', 'job_recheck',
        'job_error_groups', 'job_stat_errors', 'job_stat_delta', 'job_canaries', 'job_notes', 'job_error_mutes',
        'job_key_rates', 'job_unique_keys', 'job_flows', 'job_flow_members', 'job_producers',
        'job_holds', 'job_paused_queues']
$$;

-- Cancels these jobs where they wait, and returns how many. Refuses when one is running.
create or replace function job_erase_stop(p_jobs uuid[], p_actor text) returns bigint
language plpgsql volatile
as $$
declare
    v_open constant uuid[] := array(select q.id from job_queue q
        where q.id = any (p_jobs) and q.status in ('pending', 'running') order by q.id for update);
    v_running constant uuid := (select q.id from job_queue q where q.id = any (v_open) and q.status = 'running' limit 1);
begin
    if v_running is not null then
        raise exception using errcode = 'JD001', hint = 'running', message = format('Job %s, whose texts would be '
            'erased, is running. Nothing was erased. Wait for its end, or cancel it with "jobdeck cancel %s".',
            v_running, v_running);
    end if;
    perform job_queue_advance_lines(job_queue_make_cancelled(v_open, p_actor, btrim(job_erased_mark(), '[]')));
    return cardinality(v_open);
end
$$;

-- Erases the marks in the texts of the queue, for a plugin that erases a person. Jobs about them that wait are cancelled,
-- and those in the trash removed. A series about them is left as it is, since it would never run again: a person
-- decides. Refuses when a job that has one of the texts is running.
create or replace function job_erase_texts(p_marks jsonb, p_actor text) returns table (place text, rows bigint)
language plpgsql volatile
set lock_timeout = '2s'
as $$
declare
    v_rules constant jsonb := job_scrub_rules(p_marks);
    v_found constant text := v_rules ->> 'found';
    v_series constant uuid[] := array(select q.id from job_queue q where q.status = 'pending' and q.is_recurring
        and (job_scrub_about(q.payload, v_rules)
            or job_scrub_hit(concat_ws(' ', q.dedupe_key, q.concurrency_key), v_rules)));
begin
    return query select 'job_queue (cancelled)', s from job_erase_stop(array(
        select q.id from job_queue q where case q.status
            when 'pending' then not q.is_recurring and job_scrub_about(q.payload, v_rules)
            when 'running' then job_scrub_json(q.payload, v_rules) <> q.payload or job_scrub_hit(concat_ws(' ',
                q.checkpoint::text, q.progress::text, q.dedupe_key, q.concurrency_key), v_rules) end), p_actor) s
    where s > 0;
    return query with gone as (
        delete from job_trash t where job_scrub_about(t.job -> 'payload', v_rules)
            or job_scrub_hit(concat_ws(' ', t.job ->> 'dedupe_key', t.job ->> 'concurrency_key'), v_rules) returning 1)
    select 'job_trash', count(*) from gone having count(*) > 0;
    -- The hash of an error would confirm a guess of the text that it was made from.
    delete from job_error_mutes m using job_runs r
    where r.fingerprint = m.fingerprint and r.task_type = m.task_type and r.error ~* v_found
        and job_scrub_hit(r.error, v_rules);
    perform job_erase_keys(v_rules, v_series);
    perform job_erase_fingerprints(array(
        select r.run_token from job_runs r where r.fingerprint is not null and r.error ~* v_found
            and job_scrub_hit(r.error, v_rules)), v_rules);
    perform job_erase_groups(p_marks);
    return query select s.place, s.rows from job_scrub(job_tables_with_texts(), p_marks, v_series) s;
end
$$;

-- Removes the keys with one of the texts from jobs that wait or have ended, which frees those that wait in line behind
-- them, and the hashes of such keys.
create or replace function job_erase_keys(p_rules jsonb, p_series uuid[]) returns void
language plpgsql volatile
as $$
declare
    v_found constant text := p_rules ->> 'found';
    v_keyed constant uuid[] := array(
        select q.id from job_queue q where concat_ws(' ', q.dedupe_key, q.concurrency_key) ~* v_found
            and job_scrub_hit(concat_ws(' ', q.dedupe_key, q.concurrency_key), p_rules));
    v_lines constant text[] := array(
        select distinct q.concurrency_key from job_queue q where q.id = any (v_keyed) and q.id <> all (p_series)
            and job_scrub_hit(q.concurrency_key, p_rules));
begin
    perform job_key_hashes_erase(v_keyed || array(
        select r.job_id from job_runs r where concat_ws(' ', r.dedupe_key, r.concurrency_key) ~* v_found
            and job_scrub_hit(concat_ws(' ', r.dedupe_key, r.concurrency_key), p_rules)));
    update job_queue q set dedupe_key = case when not job_scrub_hit(q.dedupe_key, p_rules) then q.dedupe_key end,
        concurrency_key = case when q.concurrency_key <> all (v_lines) then q.concurrency_key end,
        in_line = q.in_line and q.concurrency_key <> all (v_lines), version = q.version + 1
    where q.id = any (v_keyed) and q.id <> all (p_series);
    perform job_queue_advance_lines(v_lines);
end
$$;

-- Removes what the queue has of the jobs with this key and value in their payload: payload, keys, output, error, log and
-- progress, also of their runs, and the texts about them in the audit. Those that wait are cancelled, those in the trash
-- removed, a series is left as it is. The rows stay, with type, times and outcome. Then erases the value everywhere else:
-- one of less than 8 characters where it is the whole value of this field. Returns each place with its rows, and what
-- remains. Refuses when no job has the value, or one of them is running.
create or replace function job_erase_payload(p_key text, p_value text, p_actor text)
returns table (place text, rows bigint, remains boolean)
language plpgsql volatile
set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
    v_marks jsonb := jsonb_build_object(p_value, case when length(p_value) >= 8 then to_jsonb(job_erased_mark())
        else to_jsonb(array[p_key]) end);
    v_jobs constant uuid[] := array(
        select q.id from job_queue q where q.payload ->> p_key = p_value
        union select r.job_id from job_runs r where r.payload ->> p_key = p_value
        union select t.job_id from job_trash t where t.job -> 'payload' ->> p_key = p_value
        union select a.job_id from job_audit a where a.job_id is not null and p_value in (
            a.before -> 'payload' ->> p_key, a.after -> 'payload' ->> p_key));
    v_series constant uuid[] := array(
        select q.id from job_queue q where q.id = any (v_jobs) and q.is_recurring and q.status = 'pending');
begin
    if cardinality(v_jobs) = 0 then
        perform job_queue_refuse('No job has this key and value in its payload. Nothing was erased.');
    end if;
    -- The longer values of this field in other jobs, as marks that are left: john.smith@x.org is not smith@x.org.
    v_marks := v_marks || (
        select coalesce(jsonb_object_agg(o.value, null), '{}') from (
            select q.payload ->> p_key as value from job_queue q union select r.payload ->> p_key from job_runs r) o
        where length(p_value) >= 8 and position(lower(p_value) in lower(o.value)) > 0
            and job_scrub_whole(o.value, job_scrub_rules(jsonb_build_object(p_value, '')), null) is null);
    return query
        select 'job_queue (cancelled)', s, false
        from job_erase_stop(array(select unnest(v_jobs) except select unnest(v_series)), p_actor) s where s > 0;
    perform job_erase_fingerprints(array(
        select r.run_token from job_runs r where r.job_id = any (v_jobs) and r.fingerprint is not null), null);
    perform job_key_hashes_erase(v_jobs);
    return query
        select e.place, e.rows, false from job_erase_jobs(v_jobs, v_series) e where e.rows > 0;
    update job_bulk b set words = null where position(p_key in b.words) > 0 and position(p_value in b.words) > 0;
    update job_bulk b set changes = null where b.changes -> 'set' ->> p_key = p_value and b.state <> 'running';
    return query select e.place || ' (elsewhere)', e.rows, false from job_erase_texts(v_marks, p_actor) e;
    return query select l.place, l.rows, true from job_erase_left(job_tables_with_texts(), v_marks) l;
    perform job_queue_write_audit(p_actor, 'erase', null, null, jsonb_build_object('payload_key', p_key, 'jobs',
        cardinality(v_jobs)), null);
end
$$;

-- A text for a search that knows no spelling: letters, digits and @ alone, in lower case.
create or replace function job_erase_squeezed(p_text text) returns text
language sql immutable parallel safe
return regexp_replace(regexp_replace(lower(p_text), '%40|&#64;|\\u0040', '@', 'g'), '\\[bfnrt]|[^[:alnum:]@]', '', 'g');

-- Searches these tables, in another way than they were erased, and the statistics of Postgres, which keep common values.
-- Returns each place that still has one of the texts with its rows, and each series. It collects the statistics first, so
-- that the values of before are gone from them.
create or replace function job_erase_left(p_tables text[], p_marks jsonb) returns table (place text, rows bigint)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    v_table text;
    -- Also as JSON may have written them, with other letters than those of ASCII escaped.
    v_texts constant text[] := array(
        select '%' || job_erase_squeezed(s.text) || '%' from jsonb_each(p_marks) m cross join lateral (
            select m.key as text union select string_agg(case when octet_length(c.one) = 1 then c.one
                else 'u' || lpad(to_hex(ascii(c.one)), 4, '0') end, '' order by c.nth)
            from string_to_table(m.key, null) with ordinality as c (one, nth)) s
        where jsonb_typeof(m.value) = 'string' and m.key !~ '^[0-9]{1,9}$');
    v_numbers constant text := (select '(^|[^0-9])(' || string_agg(m.key, '|') || ')([^0-9]|$)' from jsonb_each(p_marks) m
        where jsonb_typeof(m.value) = 'string' and m.key ~ '^[0-9]{1,9}$');
    v_others constant text := coalesce((select string_agg(job_erase_squeezed(m.key), '|' order by length(m.key) desc)
        from jsonb_each(p_marks) m where jsonb_typeof(m.value) = 'null'), '^$');
    v_paths constant jsonpath[] := array(
        select format('$.**.%s ? (@ == %s%s)', to_jsonb(f.name), to_jsonb(m.key),
            case when m.key ~ '^(0|[1-9][0-9]*)$' then ' || @ == ' || m.key else '' end)::jsonpath
        from jsonb_each(p_marks) m cross join lateral
            jsonb_array_elements_text(case jsonb_typeof(m.value) when 'array' then m.value else '[]' end) f (name));
begin
    foreach v_table in array p_tables loop
        continue when to_regclass(quote_ident(v_table)) is null;
        execute format('analyze %I', v_table);
        return query execute format($search$
            select case when r.series is null then %L else format('job_queue (series %%s)', r.series) end, count(*) from (
                select %s as series, to_jsonb(t) as row from %I t) r
            where regexp_replace(job_erase_squeezed(r.row::text), $1, ' ', 'g') like any ($2) or r.row::text ~ $3
                or exists (select from unnest($4) p where r.row @? p)
            group by r.series order by r.series nulls first $search$, v_table, case when v_table = 'job_queue'
                then 'case when t.is_recurring and t.status = ''pending'' then t.id end' else 'null::uuid' end, v_table)
        using v_others, v_texts, v_numbers, v_paths;
    end loop;
    return query
        select 'pg_stats of ' || s.tablename, count(*) from pg_stats s
        where s.schemaname = current_schema() and (s.tablename = any (p_tables) or s.tablename ~ '^job_runs_')
            and regexp_replace(job_erase_squeezed(concat_ws(' ', s.most_common_vals::text, s.histogram_bounds::text,
                s.most_common_elems::text)), v_others, ' ', 'g') like any (v_texts)
        group by s.tablename order by s.tablename;
end
$$;

-- The facts of a job in an audit row without what its producer or its handler wrote.
create or replace function job_erased_facts(p_facts jsonb) returns jsonb
language sql immutable
return p_facts - array['payload', 'output', 'last_error', 'checkpoint', 'progress', 'dedupe_key', 'concurrency_key'];

create or replace function job_erase_jobs(p_jobs uuid[], p_series uuid[]) returns table (place text, rows bigint)
language sql volatile
as $$
    with queued as (
        update job_queue set payload = '{}', output = null, checkpoint = null, progress = null,
            last_error = case when last_error is not null then job_erased_mark() end, dedupe_key = null,
            concurrency_key = null, in_line = false, version = version + 1
        where id = any (p_jobs) and id <> all (p_series) returning 1),
    runs as (
        update job_runs set payload = '{}', output = null, traceback = null, log = null, progress = null,
            dedupe_key = null, concurrency_key = null, error = case when error is not null then job_erased_mark() end
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
