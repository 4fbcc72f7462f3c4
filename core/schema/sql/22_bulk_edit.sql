-- Bulk edits of payloads, which only a program carries out that knows the task types of the jobs.

-- Starts an edit of the payloads of the chosen jobs. p_changes: {"set": {key: value}, "unset": [key]}.
create or replace function job_bulk_start_edit(p_bulk uuid, p_changes jsonb, p_actor text, p_reason text) returns void
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    if jsonb_typeof(p_changes -> 'set') is distinct from 'object'
        or jsonb_typeof(p_changes -> 'unset') is distinct from 'array'
    then
        perform job_queue_refuse('The changes of a bulk edit are an object of keys to set and a list of keys to unset.');
    end if;
    update job_bulk set changes = p_changes where id = p_bulk and state = 'chosen';
    perform job_bulk_start(p_bulk, 'edit', p_actor, p_reason);
end
$$;

-- Locks a bulk edit and returns its next jobs, each with the version at which it was frozen.
create or replace function job_bulk_edit_next(p_bulk uuid, p_limit integer)
returns table (job_id uuid, seen bigint)
language plpgsql volatile security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_bulk job_bulk;
begin
    perform job_refuse_outsiders();
    select * into v_bulk from job_bulk b where b.id = p_bulk and b.state = 'running' and b.action = 'edit' for update;
    return query select i.job_id, i.seen from job_bulk_items i
    where i.bulk_id = v_bulk.id and i.ok is null and (v_bulk.reached is null or i.job_id > v_bulk.reached)
    order by i.job_id limit p_limit;
end
$$;

-- For workers: locks a bulk edit without a batch in the last 10 seconds, or one that the same worker has resumed, and
-- returns its next jobs, if the worker handles all their types. Another worker, or "jobdeck bulk resume", takes the others.
create or replace function job_bulk_edit_take(p_worker text, p_types text[], p_limit integer)
returns table (bulk_id uuid, job_id uuid, seen bigint)
language plpgsql volatile security definer
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
declare
    v_bulk job_bulk;
    v_known boolean;
begin
    perform job_refuse_outsiders();
    for v_bulk in
        select * from job_bulk b
        where b.state = 'running' and b.action = 'edit'
            and (b.driver = p_worker or b.stepped_at < clock_timestamp() - interval '10 seconds')
        order by b.stepped_at for update skip locked
    loop
        select bool_and(i.task_type is null or i.task_type = any (p_types)) into v_known from (
            select i.task_type from job_bulk_items i
            where i.bulk_id = v_bulk.id and i.ok is null and (v_bulk.reached is null or i.job_id > v_bulk.reached)
            order by i.job_id limit p_limit) i;
        if v_known then
            return query select v_bulk.id, n.job_id, n.seen from job_bulk_edit_next(v_bulk.id, p_limit) n;
            return;
        end if;
    end loop;
end
$$;

-- Notes why a worker could not carry out a batch of a bulk edit, which is tried again after 10 seconds.
create or replace function job_bulk_edit_failed(p_bulk uuid, p_trouble text) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    update job_bulk set trouble = p_trouble, stepped_at = clock_timestamp(), driver = null
    where id = p_bulk and state = 'running' and action = 'edit'
$$;

-- Edits the next jobs of a bulk edit and stores their answers. The caller has validated each payload: an element of
-- p_changes is the changes of job_queue_edit, or null if there is nothing to change, and one of p_refusals the sentence
-- by which the task type refuses them.
create or replace function job_bulk_edit_step(
    p_bulk uuid, p_ids uuid[], p_versions bigint[], p_changes jsonb[], p_refusals text[], p_driver text
) returns setof job_bulk
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
declare
    v_bulk job_bulk;
    v_asked record;
    v_done record;
begin
    perform job_refuse_outsiders();
    select * into v_bulk from job_bulk b where b.id = p_bulk for update;
    if v_bulk.state is distinct from 'running' or v_bulk.action <> 'edit' then
        return query select * from job_bulk b where b.id = p_bulk;
        return;
    end if;
    for v_asked in
        select a.id, a.version, a.changes, a.refusal
        from unnest(p_ids, p_versions, p_changes, p_refusals) as a (id, version, changes, refusal)
        join job_bulk_items i on i.bulk_id = p_bulk and i.job_id = a.id and i.ok is null order by a.id
    loop
        begin
            if v_asked.refusal is not null then
                select false as ok, 'not-admitted' as code, jsonb_build_object('sentence', v_asked.refusal) as facts,
                    q.status, q.version into v_done from (select) one left join job_queue q on q.id = v_asked.id;
            elsif v_asked.changes is null then
                select true as ok, 'nothing-to-change' as code, null::jsonb as facts, q.status, q.version into v_done
                from (select) one left join job_queue q on q.id = v_asked.id;
            else
                select e.ok, e.code, e.facts, e.status, e.version into v_done from job_queue_edit(v_asked.id,
                    v_asked.version, v_asked.changes, job_bulk_actor(v_bulk), v_bulk.reason, false) e;
            end if;
        exception when lock_not_available then
            select false as ok, 'is-locked' as code, null::jsonb as facts, q.status, q.version into v_done
            from job_queue q where q.id = v_asked.id;
        end;
        update job_bulk_items i set ok = v_done.ok, code = v_done.code, facts = v_done.facts, status = v_done.status,
            version = v_done.version
        where i.bulk_id = p_bulk and i.job_id = v_asked.id;
    end loop;
    return query select * from job_bulk_advance(p_bulk, p_ids, p_driver);
end
$$;

-- For workers: resumes a bulk action without a batch in the last 10 seconds, or one that the same worker has resumed.
-- Not a bulk edit, whose payloads a program validates that knows their types: see job_bulk_edit_take.
-- Returns whether more work is waiting. An error is stored with the action and does not affect the worker.
create or replace function job_bulk_continue(p_worker text, p_limit integer) returns boolean
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_bulk uuid;
    v_state text;
begin
    perform job_refuse_outsiders();
    select b.id into v_bulk from job_bulk b
    where b.state = 'running' and b.action <> 'edit' and (b.driver = p_worker or b.stepped_at < clock_timestamp() - interval '10 seconds')
    order by b.stepped_at limit 1 for update skip locked;
    if not found then
        update job_upkeep set succeeded_at = clock_timestamp() where part = (
            select u.part from job_upkeep u where u.part = 'bulk'
                and not exists (select from job_bulk b where b.state = 'running' and b.trouble is not null)
            for update skip locked);
        return false;
    end if;
    begin
        select s.state into v_state from job_bulk_step(v_bulk, p_limit, p_worker) s;
        return v_state = 'running';
    exception when others then
        update job_bulk set trouble = sqlerrm, stepped_at = clock_timestamp(), driver = null where id = v_bulk;
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

-- The answers of a bulk action in the order of the ids; `ok` is null for jobs that no batch has reached.
create or replace function job_bulk_result(p_bulk uuid, p_refused boolean, p_after uuid, p_limit integer)
returns table (job_id uuid, task_type text, ok boolean, code text, facts jsonb, status text, version bigint)
language sql stable security definer
set enable_seqscan = off set jit = off
as $$
    select job_refuse_outsiders();
    select i.job_id, i.task_type, i.ok, i.code, i.facts, i.status, i.version
    from job_bulk_items i
    where i.bulk_id = p_bulk and (not p_refused or not i.ok) and (p_after is null or i.job_id > p_after)
    order by i.job_id limit p_limit
$$;
