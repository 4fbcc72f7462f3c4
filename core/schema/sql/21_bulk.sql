-- Bulk actions: the jobs are frozen with their versions when they are chosen, and carried out in batches that any worker continues.

-- Notes how many jobs were chosen. Without any there is no choice, and the answer is null.
create or replace function job_bulk_counted(p_bulk uuid, p_total integer) returns uuid
language plpgsql volatile
as $$
begin
    if p_total = 0 then
        delete from job_bulk where id = p_bulk;
        return null;
    end if;
    update job_bulk set total = p_total where id = p_bulk;
    return p_bulk;
end
$$;

-- Chooses all jobs in the queue that match, for an action on exactly these; null if none matches.
create or replace function job_bulk_choose(
    p_words text, p_status text, p_type text, p_text text, p_error text, p_key text, p_value text,
    p_attempts integer, p_age interval, p_outcome text, p_fingerprint text, p_payload jsonb[], p_actor text
) returns uuid
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, q.id, q.task_type, q.version from job_queue q
    where (p_status is null or q.status = p_status)
        and job_matches(q.id, q.task_type, q.payload, q.last_error, q.attempts, q.created_at, q.last_outcome,
            p_type, p_text, p_error, p_key, p_value, p_attempts, p_age, p_outcome, q.fingerprint, p_fingerprint)
        and (p_payload is null or q.payload @> any (p_payload));
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Chooses the jobs of a group of errors: those that failed with it, and those that wait for a retry after it.
create or replace function job_bulk_choose_alike(p_type text, p_fingerprint text, p_words text, p_actor text)
returns uuid
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, q.id, q.task_type, q.version from job_queue q
    where q.fingerprint = p_fingerprint and q.task_type = p_type and q.status in ('failed', 'pending');
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Chooses these jobs. p_versions has one element per id; null matches any version.
create or replace function job_bulk_choose_ids(
    p_ids uuid[], p_versions bigint[], p_words text, p_actor text
) returns uuid
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select distinct on (a.id) v_bulk, a.id, q.task_type, a.version from unnest(p_ids, p_versions) as a (id, version)
    left join job_queue q on q.id = a.id order by a.id;
    get diagnostics v_total = row_count;
    update job_bulk set total = v_total where id = v_bulk;
    return v_bulk;
end
$$;

-- Chooses jobs of an earlier bulk action again: all, those that it changed, or those that were refused. Each is frozen
-- at its version, except that one that has succeeded since the earlier choice gets a version that no job has: an action
-- refuses it.
create or replace function job_bulk_choose_again(p_bulk uuid, p_which text, p_actor text) returns uuid
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor)
    select b.words, p_actor from job_bulk b where b.id = p_bulk returning id into v_bulk;
    if v_bulk is null then
        perform job_queue_refuse('There is no such bulk action. Bulk actions are kept for 30 days.');
    end if;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, i.job_id, i.task_type, case when q.last_success_at > b.chosen_at then -1 else q.version end
    from job_bulk b join job_bulk_items i on i.bulk_id = b.id left join job_queue q on q.id = i.job_id
    where b.id = p_bulk and (p_which = 'all' or (p_which = 'done' and i.ok) or (p_which = 'refused' and not i.ok));
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Chooses the jobs whose payload a bulk edit has changed, each at the version that the edit made. So an undo refuses those
-- that were changed or claimed since.
create or replace function job_bulk_choose_edited(p_bulk uuid, p_actor text) returns uuid
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor, reverts)
    select b.words, p_actor, b.id from job_bulk b
    where b.id = p_bulk and b.action = 'edit' and b.state in ('finished', 'stopped') returning id into v_bulk;
    if v_bulk is null then
        perform job_queue_refuse('Only a bulk edit that has ended can be undone. Bulk actions are kept for 30 days.');
    end if;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, i.job_id, i.task_type, i.version from job_bulk_items i
    where i.bulk_id = p_bulk and i.code = 'was-edited';
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Starts an action on a choice; job_bulk_step carries it out.
create or replace function job_bulk_start(p_bulk uuid, p_action text, p_actor text, p_reason text) returns void
language plpgsql volatile security definer
as $$
declare
    v_bulk job_bulk;
begin
    perform job_refuse_outsiders();
    if p_action not in ('retry', 'cancel', 'delete', 'restore', 'edit', 'revert') then
        perform job_queue_refuse(format('There is no action %s.', p_action));
    end if;
    if p_action = 'edit' and not exists (select from job_bulk where id = p_bulk and changes is not null) then
        perform job_queue_refuse('A bulk edit needs its changes: choose the jobs with job_bulk_start_edit.');
    end if;
    if p_action = 'revert' and not exists (select from job_bulk where id = p_bulk and reverts is not null) then
        perform job_queue_refuse('Only the jobs of a bulk edit can get a former payload back: undo that bulk edit.');
    end if;
    update job_bulk set state = 'running', action = p_action, actor = p_actor, role = session_user, reason = p_reason,
        driver = p_actor, started_at = clock_timestamp(), stepped_at = clock_timestamp()
    where id = p_bulk and state = 'chosen' returning * into v_bulk;
    if not found then
        perform job_queue_refuse('This choice of jobs was already used, or is too old. Choose the jobs again.');
    end if;
    perform job_queue_write_audit(p_actor, 'bulk ' || p_action, null, null,
        jsonb_build_object('bulk', p_bulk, 'jobs', v_bulk.total, 'filter', v_bulk.words), p_reason);
end
$$;

-- The actor of the audit rows: the user who started the bulk action, whichever process runs this step.
create or replace function job_bulk_actor(p_bulk job_bulk) returns text
language sql stable
return case when (p_bulk).role = session_user then (p_bulk).actor
    else format('%s (%s), carried out by', (p_bulk).actor, (p_bulk).role) end;

-- Counts the answers of a batch, whose ids are in order, and ends the bulk action with the last one.
create or replace function job_bulk_advance(p_bulk uuid, p_ids uuid[], p_driver text) returns setof job_bulk
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
declare
    v_done integer;
    v_refused integer;
begin
    select count(*), count(*) filter (where not i.ok) into v_done, v_refused from job_bulk_items i
    where i.bulk_id = p_bulk and i.job_id = any (p_ids);
    return query update job_bulk b set done = b.done + v_done, refused = b.refused + v_refused,
        stepped_at = clock_timestamp(), driver = p_driver, trouble = null,
        reached = coalesce(p_ids[cardinality(p_ids)], b.reached),
        state = case when b.done + v_done >= b.total then 'finished' else b.state end,
        finished_at = case when b.done + v_done >= b.total then clock_timestamp() end
    where b.id = p_bulk returning b.*;
end
$$;

-- Gives these jobs the payloads back that they had before a bulk edit made these versions. The audit has them for as long
-- as payloads are kept there; the concurrency key followed from the payload, so it comes back too.
create or replace function job_bulk_revert(
    p_ids uuid[], p_versions bigint[], p_actor text, p_reason text
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_asked record;
begin
    for v_asked in
        select a.id, a.version, (
            select (select jsonb_object_agg(b.key, b.value) from jsonb_each(e.before) b
                where b.key in ('payload', 'concurrency_key'))
            -- Only the index by job: the one of the rows with payloads would be read whole, as would the key for the order.
            from (select u.id, u.before from job_audit u
                where u.job_id = a.id and u.action = 'edit' and (u.after ->> 'version')::bigint = a.version offset 0) e
            where e.before ? 'payload' order by e.id desc limit 1) as former
        from unnest(p_ids, p_versions) as a (id, version) order by a.id
    loop
        begin
            return query select e.job_id, e.ok and v_asked.former is not null,
                case when not e.ok then e.code when v_asked.former is null then 'former-not-kept'
                    when e.code = 'was-edited' then 'was-reverted' else e.code end,
                e.facts, e.status, e.version
            -- Without a former payload the edit is only tried, so that a job that has changed says that.
            from job_queue_edit(v_asked.id, v_asked.version, coalesce(v_asked.former, '{"payload": {}}'), p_actor,
                p_reason, v_asked.former is null) e;
        exception when lock_not_available then
            return query select v_asked.id, false, 'is-locked'::text, null::jsonb, q.status, q.version
            from (select) one left join job_queue q on q.id = v_asked.id;
        end;
    end loop;
end
$$;

-- Acts on the next jobs of a bulk action and stores their answers in one transaction, so that each job is changed once,
-- however often and by however many processes this is called. The audit row names the user who started the bulk
-- action, whichever process runs this step.
create or replace function job_bulk_step(p_bulk uuid, p_limit integer, p_driver text) returns setof job_bulk
language plpgsql volatile security definer
-- A plan that sorts would read all the jobs that are left for each batch.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_bulk job_bulk;
    v_ids uuid[];
    v_versions bigint[];
    v_actor text;
begin
    perform job_refuse_outsiders();
    select * into v_bulk from job_bulk b where b.id = p_bulk for update;
    if v_bulk.state is distinct from 'running' then
        return query select * from job_bulk b where b.id = p_bulk;
        return;
    end if;
    if v_bulk.action = 'edit' then
        perform job_queue_refuse('A bulk edit is carried out by a program that knows the task types of its jobs.');
    end if;
    select coalesce(array_agg(i.job_id order by i.job_id), '{}'), coalesce(array_agg(i.seen order by i.job_id), '{}')
    into v_ids, v_versions from (
        select i.job_id, i.seen from job_bulk_items i
        where i.bulk_id = p_bulk and i.ok is null and (v_bulk.reached is null or i.job_id > v_bulk.reached)
        order by i.job_id limit p_limit) i;
    v_actor := job_bulk_actor(v_bulk);
    if v_bulk.action = 'restore' then
        update job_bulk_items i set ok = r.ok, code = r.code, facts = r.facts, status = r.status, version = r.version
        from job_queue_restore(v_ids, v_actor, v_bulk.reason, false) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id and i.job_id = any (v_ids);
    elsif v_bulk.action = 'revert' then
        update job_bulk_items i set ok = r.ok, code = r.code, facts = r.facts, status = r.status, version = r.version
        from job_bulk_revert(v_ids, v_versions, v_actor, v_bulk.reason) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id and i.job_id = any (v_ids);
    else
        update job_bulk_items i set ok = r.ok, code = r.code, facts = r.facts, status = r.status, version = r.version
        from job_queue_act(v_bulk.action, v_ids, v_versions, v_actor, v_bulk.reason, false) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id and i.job_id = any (v_ids);
    end if;
    return query select * from job_bulk_advance(p_bulk, v_ids, p_driver);
end
$$;
