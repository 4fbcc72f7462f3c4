-- Bulk actions: the jobs are frozen with their versions when they are chosen, and carried out in batches that any worker continues.

-- Chooses jobs for an action on exactly these, each frozen at its version; null if there are none. p_by says which:
--   ids                 those of p_ids; p_versions has one element per id, and null matches any version
--   filter              those in the queue that match
--   group               those of a group of errors: they failed with it, or wait for a retry after it
--   all, done, refused  those of the earlier bulk action p_bulk: all, those that it changed, or those that were refused
--   edited              those whose payload the bulk edit p_bulk has changed, for its undo: each at the version that the edit
--                       made, so that the undo refuses those that were changed or claimed since
create or replace function job_bulk_choose(
    p_by text, p_actor text, p_words text default null, p_ids uuid[] default null, p_versions bigint[] default null,
    p_bulk uuid default null, p_status text default null, p_type text default null, p_text text default null,
    p_error text default null, p_key text default null, p_value text default null, p_attempts integer default null,
    p_age interval default null, p_outcome text default null, p_fingerprint text default null,
    p_payload jsonb[] default null
) returns uuid
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_earlier job_bulk;
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    select * into v_earlier from job_bulk b where b.id = p_bulk;
    if p_by = 'edited' and (v_earlier.action = 'edit' and v_earlier.state in ('finished', 'stopped')) is not true then
        perform job_queue_refuse('Only a bulk edit that has ended can be undone. Bulk actions are kept for 30 days.');
    elsif p_bulk is not null and v_earlier.id is null then
        perform job_queue_refuse('There is no such bulk action. Bulk actions are kept for 30 days.');
    end if;
    insert into job_bulk (words, actor, reverts)
    values (coalesce(p_words, v_earlier.words), p_actor, case when p_by = 'edited' then p_bulk end)
    returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select distinct on (a.id) v_bulk, a.id, q.task_type, a.version
    from unnest(p_ids, p_versions) as a (id, version) left join job_queue q on q.id = a.id
    where p_by = 'ids'
    union all
    select v_bulk, q.id, q.task_type, q.version from job_queue q
    where p_by = 'filter' and (p_status is null or q.status = p_status)
        and job_matches(q.id, q.task_type, q.payload, q.last_error, q.attempts, q.created_at, q.last_outcome,
            p_type, p_text, p_error, p_key, p_value, p_attempts, p_age, p_outcome, q.fingerprint, p_fingerprint)
        and (p_payload is null or q.payload @> any (p_payload))
    union all
    select v_bulk, q.id, q.task_type, q.version from job_queue q
    where p_by = 'group' and q.fingerprint = p_fingerprint and q.task_type = p_type
        and q.status in ('failed', 'pending')
    union all
    select v_bulk, i.job_id, i.task_type, case
        when p_by = 'edited' then i.version
        -- No job has this version, so an action refuses one that has succeeded since the earlier choice.
        when q.last_success_at > v_earlier.chosen_at then -1
        else q.version end
    from job_bulk_items i left join job_queue q on q.id = i.job_id
    where i.bulk_id = p_bulk and (p_by = 'all' or p_by = 'done' and i.ok or p_by = 'refused' and not i.ok
        or p_by = 'edited' and i.code = 'was-edited');
    get diagnostics v_total = row_count;
    if v_total = 0 then
        delete from job_bulk where id = v_bulk;
        return null;
    end if;
    update job_bulk set total = v_total where id = v_bulk;
    return v_bulk;
end
$$;

-- Starts an action on a choice; job_bulk_step carries it out, and job_bulk_edit_step an edit. An edit has p_changes of the
-- payloads: {"set": {key: value}, "unset": [key]}.
create or replace function job_bulk_start(
    p_bulk uuid, p_action text, p_changes jsonb, p_actor text, p_reason text
) returns void
language plpgsql volatile security definer
as $$
declare
    v_bulk job_bulk;
begin
    perform job_refuse_outsiders();
    if p_action not in ('retry', 'cancel', 'delete', 'restore', 'edit', 'revert') then
        perform job_queue_refuse(format('There is no action %s.', p_action));
    end if;
    if p_action = 'edit' and (
        jsonb_typeof(p_changes -> 'set') = 'object' and jsonb_typeof(p_changes -> 'unset') = 'array') is not true
    then
        perform job_queue_refuse('A bulk edit needs its changes: an object of keys to set and a list of keys to unset.');
    end if;
    if p_action = 'revert' and not exists (select from job_bulk where id = p_bulk and reverts is not null) then
        perform job_queue_refuse('Only the jobs of a bulk edit can get a former payload back: undo that bulk edit.');
    end if;
    update job_bulk set state = 'running', action = p_action, changes = p_changes, actor = p_actor, role = session_user,
        reason = p_reason, driver = p_actor, started_at = clock_timestamp(), stepped_at = clock_timestamp()
    where id = p_bulk and state = 'chosen' returning * into v_bulk;
    if not found then
        perform job_queue_refuse('This choice of jobs was already used, or is too old. Choose the jobs again.');
    end if;
    perform job_queue_write_audit(p_actor, 'bulk ' || p_action, null, null,
        jsonb_build_object('bulk', p_bulk, 'jobs', v_bulk.total, 'filter', v_bulk.words), p_reason);
end
$$;

-- The next jobs of a bulk action, with the versions at which they were frozen.
create or replace function job_bulk_next(p_bulk uuid, p_limit integer)
returns table (job_id uuid, task_type text, seen bigint)
language sql stable
-- A plan that sorts would read all the jobs that are left for each batch.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
    select i.job_id, i.task_type, i.seen from job_bulk_items i
    where i.bulk_id = p_bulk and i.ok is null and i.job_id >= coalesce(
        (select b.reached from job_bulk b where b.id = p_bulk), '00000000-0000-0000-0000-000000000000')
    order by i.job_id limit p_limit
$$;

-- Acts on the next jobs of a bulk action and stores their answers in one transaction, so that each job is changed once,
-- however often and by however many processes this is called. A bulk edit has p_edits for its next jobs: see job_bulk_edit.
create or replace function job_bulk_carry_out(p_bulk uuid, p_limit integer, p_edits jsonb[], p_driver text)
returns setof job_bulk
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_bulk job_bulk;
    v_actor text;
    v_ids uuid[];
    v_versions bigint[];
    v_done integer;
    v_refused integer;
begin
    select * into v_bulk from job_bulk b where b.id = p_bulk for update;
    if v_bulk.state = 'running' and (v_bulk.action = 'edit') = (p_edits is not null) then
        -- The audit rows name the user who started the bulk action, whichever process runs this step.
        v_actor := case when v_bulk.role = session_user then v_bulk.actor
            else format('%s (%s), carried out by', v_bulk.actor, v_bulk.role) end;
        select coalesce(array_agg(n.job_id), '{}'), coalesce(array_agg(n.seen), '{}') into v_ids, v_versions
        from job_bulk_next(p_bulk, p_limit) n
        where p_edits is null or n.job_id in (select (e ->> 'id')::uuid from unnest(p_edits) e);
        with answered as (
            update job_bulk_items i set ok = r.ok, code = r.code, facts = r.facts, status = r.status, version = r.version
            from (
                select * from job_queue_act(v_bulk.action, v_ids, v_versions, v_actor, v_bulk.reason, false)
                where v_bulk.action in ('retry', 'cancel', 'delete')
                union all
                select * from job_queue_restore(v_ids, v_actor, v_bulk.reason, false) where v_bulk.action = 'restore'
                union all
                select * from job_bulk_edit(v_bulk, v_ids, v_versions, p_edits, v_actor)
                where v_bulk.action in ('edit', 'revert')) r
            where i.bulk_id = p_bulk and i.job_id = r.job_id and i.job_id = any (v_ids)
            returning i.ok
        )
        select count(*), count(*) filter (where not a.ok) into v_done, v_refused from answered a;
        update job_bulk b set done = b.done + v_done, refused = b.refused + v_refused, trouble = null,
            stepped_at = clock_timestamp(), driver = p_driver,
            reached = coalesce(v_ids[cardinality(v_ids)], b.reached),
            state = case when b.done + v_done >= b.total then 'finished' else b.state end,
            finished_at = case when b.done + v_done >= b.total then clock_timestamp() end
        where b.id = p_bulk;
    end if;
    return query select * from job_bulk b where b.id = p_bulk;
end
$$;

create or replace function job_bulk_step(p_bulk uuid, p_limit integer, p_driver text) returns setof job_bulk
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    select job_queue_refuse('A bulk edit is carried out by a program that knows the task types of its jobs.')
    from job_bulk b where b.id = p_bulk and b.state = 'running' and b.action = 'edit';
    select * from job_bulk_carry_out(p_bulk, p_limit, null, p_driver)
$$;

-- For workers: locks a bulk action without a batch in the last 10 seconds, or one that the same worker has resumed. With
-- p_types it is a bulk edit whose next jobs are of these types, without them another action. Another worker, or "jobdeck bulk
-- resume", takes the other edits.
create or replace function job_bulk_take(p_worker text, p_types text[], p_limit integer) returns uuid
language sql volatile security definer
set jit = off
as $$
    select job_refuse_outsiders();
    select b.id from job_bulk b
    where b.state = 'running' and (b.action = 'edit') = (p_types is not null)
        and (b.driver = p_worker or b.stepped_at < clock_timestamp() - interval '10 seconds')
        and not exists (select from job_bulk_next(b.id, p_limit) n where n.task_type <> all (p_types))
    order by b.stepped_at limit 1 for update skip locked
$$;

-- Notes why a worker could not carry out a batch, which is tried again after 10 seconds.
create or replace function job_bulk_failed(p_bulk uuid, p_trouble text) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    update job_bulk set trouble = p_trouble, stepped_at = clock_timestamp(), driver = null
    where id = p_bulk and state = 'running'
$$;

-- For workers: carries out one batch of a bulk action that is no edit, and returns whether more work is waiting. An error is
-- stored with the action and does not affect the worker.
create or replace function job_bulk_continue(p_worker text, p_limit integer) returns boolean
language plpgsql volatile security definer
as $$
declare
    v_bulk constant uuid := job_bulk_take(p_worker, null, p_limit);
begin
    if v_bulk is null then
        update job_upkeep set succeeded_at = clock_timestamp() where part = (
            select u.part from job_upkeep u where u.part = 'bulk'
                and not exists (select from job_bulk b where b.state = 'running' and b.trouble is not null)
            for update skip locked);
        return false;
    end if;
    begin
        return (select s.state = 'running' from job_bulk_carry_out(v_bulk, p_limit, null, p_worker) s);
    exception when others then
        perform job_bulk_failed(v_bulk, sqlerrm);
        return false;
    end;
end
$$;

-- Stops a bulk action after its last complete batch; false if it had already ended.
create or replace function job_bulk_stop(p_bulk uuid, p_actor text) returns boolean
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    update job_bulk set state = 'stopped', stopped_by = job_actor(p_actor), finished_at = clock_timestamp()
    where id = p_bulk and state = 'running';
    if found then
        perform job_queue_write_audit(p_actor, 'bulk stop', null, null, jsonb_build_object('bulk', p_bulk), null);
    end if;
    return found;
end
$$;

-- Deletes a choice on which no action was started.
create or replace function job_bulk_drop(p_bulk uuid) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    delete from job_bulk where id = p_bulk and state = 'chosen'
$$;
