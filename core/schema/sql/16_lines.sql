-- Lines: the jobs that wait for the same concurrency key, all but the first out of the index of claims. Whatever frees a key moves
-- its line; what an open transaction hid is looked at again by upkeep.
--
-- The way of a job that waits for a blocker and then for its key: the report of the blocker's end (17) calls
-- job_queue_release_waiting, which takes the blocker away and puts the job into the line; the same report calls
-- job_queue_advance_lines, which puts the best due job of the line, or else the one due first, into the index of claims. A
-- blocker whose end did not see the job, because its enqueue had not committed, is judged by upkeep (18).
--
-- A new or retried job that is more urgent than those of its key in the index goes into it beside them, and the claim takes the
-- best. A job that comes from the line does not: while one of its key is in the index and due, the line waits.

-- Whether a new job with this key waits behind one that will run before it. A job that waits for a blocker is not in its way.
-- Two concurrent enqueues may both get false: then both are in the claim's index, and the claim takes one of them.
create or replace function job_queue_joins_line(
    p_key text, p_priority integer, p_run_at timestamptz, p_task_type text
) returns boolean
language plpgsql stable
set enable_seqscan = off set enable_sort = off
as $$
declare
    v_waits constant boolean := p_key is not null and (
        (select true from job_queue where concurrency_key = p_key and status = 'running' order by key_place limit 1)
            is not null
        or exists (
            select from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.priority >= p_priority and q.run_at <= p_run_at
                and (select true from job_poison p where p.job_id = q.id) is null
        )
    );
begin
    if v_waits and job_key_limit(p_task_type) > 1 then
        return job_key_limit(p_task_type) <= job_key_running(p_key) + (
            select count(*) from job_queue
            where concurrency_key = p_key and status = 'pending' and blocked_by is null and not in_line
                and priority >= p_priority and run_at <= p_run_at);
    end if;
    return v_waits;
end
$$;

-- Which jobs of a batch wait behind other jobs with their concurrency key, in the batch or in the queue; one value per key, in
-- the same order. A job with a blocker waits until its blocker has ended, and no other waits behind it.
create or replace function job_queue_join_lines(
    p_keys text[], p_task_types text[], p_priorities integer[], p_run_at timestamptz[], p_blocked_by uuid[]
) returns boolean[]
language sql stable
set enable_seqscan = off
as $$
    with batch as (
        select n.key, n.task_type, coalesce(n.priority, 0) as priority, coalesce(n.run_at, now()) as run_at,
            n.blocked_by is not null as blocked, n.place
        from unnest(p_keys, p_task_types, p_priorities, p_run_at, p_blocked_by) with ordinality
            as n (key, task_type, priority, run_at, blocked_by, place)
    ), lined as (
        select b.place, b.key is not null and (b.blocked
            or count(*) over earlier >= coalesce(t.max_per_key, 1) and min(b.run_at) over earlier <= b.run_at
            or job_queue_joins_line(b.key, b.priority, b.run_at, b.task_type)) as in_line
        from batch b left join job_types t on t.task_type = b.task_type
        window earlier as (partition by b.key, b.blocked order by b.priority desc, b.run_at, b.place
            rows between unbounded preceding and 1 preceding)
    )
    select array_agg(in_line order by place) from lined
$$;

-- Asks to look at these lines and blockers once this transaction has ended: until then, a run that ends does not see the new
-- jobs. Upkeep does; with p_due_at, so does the next claim from then on.
create or replace function job_queue_ask_recheck(p_keys text[], p_blockers uuid[], p_due_at timestamptz default null)
returns void
language plpgsql volatile
as $$
begin
    insert into job_recheck (concurrency_key, blocker, due_at)
    select distinct k, null::uuid, p_due_at from unnest(p_keys) k where k is not null
    union all select distinct null, b, p_due_at from unnest(p_blockers) b where b is not null;
end
$$;

-- The next job of each lane of a line, the lanes being its task types (of p_types, if that is not null) and priorities.
-- Two index probes for each lane, however long the line is.
create or replace function job_queue_line_lanes(p_key text, p_types text[])
returns table (task_type text, priority integer, run_at timestamptz, id uuid)
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with recursive lane (task_type, priority, run_at, id) as (
        (select q.task_type, q.priority, q.run_at, q.id from job_queue q
        where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
        order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1)
        union all
        select next.* from lane l cross join lateral (
            (select q.task_type, q.priority, q.run_at, q.id from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.task_type = l.task_type and q.priority < l.priority
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1)
            union all
            (select q.task_type, q.priority, q.run_at, q.id from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.task_type > l.task_type
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1)
            order by task_type limit 1
        ) next
    )
    select l.* from lane l where p_types is null or l.task_type = any (p_types);
end
$$;

-- The next job in a line, of these types (null: of any), locked: the best of those that are due, else the one due first.
-- A locked job gives way to the next that is due. Null if there is none.
create or replace function job_queue_lock_next_in_line(p_key text, p_at timestamptz, p_types text[])
returns job_queue
language plpgsql volatile
as $$
declare
    v_job job_queue;
    v_next uuid;
begin
    select l.id into v_next from job_queue_line_lanes(p_key, p_types) l
    order by l.run_at > p_at, case when l.run_at <= p_at then l.priority end desc, l.run_at, l.priority desc, l.id
    limit 1;
    if v_next is null then
        return null;
    end if;
    -- By its id alone: with the line's predicate, the planner may read the whole line for it.
    select * into v_job from job_queue q where q.id = v_next for update skip locked;
    if v_job.concurrency_key is distinct from p_key or v_job.status <> 'pending' or v_job.blocked_by is not null
        or not v_job.in_line
    then
        perform job_queue_ask_recheck(array[p_key], null, p_at + interval '1 second');
        select c.* into v_job from job_queue_line_lanes(p_key, p_types) l
        cross join lateral (
            select * from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.task_type = l.task_type and q.priority = l.priority and q.run_at <= p_at
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1 for update skip locked
        ) c
        order by c.priority desc, c.run_at, c.id limit 1;
    end if;
    return v_job;
end
$$;

-- Puts the next job of a line, of these types (null: of any), into the claim's index, and returns its type. Another job
-- of the key that is there and due keeps it out, unless this job can run and the other cannot. The caller has the lock
-- of the key.
create or replace function job_queue_put_first(p_key text, p_now timestamptz, p_types text[]) returns text
language plpgsql volatile
as $$
declare
    v_job constant job_queue := job_queue_lock_next_in_line(p_key, p_now, p_types);
begin
    -- The order makes the planner read job_queue_keyed.
    if v_job.id is not null and (
        select true from job_queue q
        where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and not q.in_line
            and q.run_at <= greatest(v_job.run_at, p_now)
            and (select true from job_poison p where p.job_id = q.id) is null
            and (job_type_can_run(q.task_type, p_now) or not job_type_can_run(v_job.task_type, p_now))
        order by q.priority desc limit 1
    ) is null then
        update job_queue set in_line = false where id = v_job.id;
    end if;
    return v_job.task_type;
end
$$;

-- Puts the next job of a line into the claim's index beside those of its key that run or are there and due, if its type
-- has a place left for the key. Returns whether it did. The caller has the lock of the key.
create or replace function job_queue_put_beside(p_key text, p_now timestamptz) returns boolean
language plpgsql volatile
as $$
declare
    v_job constant job_queue := job_queue_lock_next_in_line(p_key, p_now, null);
begin
    if v_job.id is null or job_key_limit(v_job.task_type) <= job_key_running(p_key) + (
        select count(*) from (
            select from job_queue q
            where job_clause_claimable(q) and q.concurrency_key = p_key and q.run_at <= greatest(v_job.run_at, p_now)
            order by q.priority desc) waiting)
    then
        return false;
    end if;
    update job_queue set in_line = false where id = v_job.id;
    return true;
end
$$;

-- Puts these jobs, each the next of one of these lines, into the claim's index, and returns the other keys. No job that
-- another transaction has locked is put there, nor one that has left its line. Null if there is no other key.
create or replace function job_queue_put_all_first(p_keys text[], p_jobs uuid[]) returns text[]
language plpgsql volatile
as $$
declare
    v_free uuid[];
    v_keys text[];
begin
    select array_agg(l.id), array_agg(l.concurrency_key) into v_free, v_keys from (
        select q.id, q.concurrency_key, q.status, q.blocked_by, q.in_line from job_queue q
        where q.id = any (array_remove(p_jobs, null))
        offset 0  -- By their ids alone: with the line's predicate, the planner may read whole lines for them.
        for update skip locked
    ) l
    where l.concurrency_key = any (p_keys) and l.status = 'pending' and l.blocked_by is null and l.in_line;
    if v_free is null then
        return p_keys;
    end if;
    update job_queue set in_line = false where id = any (v_free);
    if cardinality(v_keys) = cardinality(p_keys) then
        return null;
    end if;
    return array(select k from unnest(p_keys) k where k <> all (v_keys) order by k);
end
$$;

-- Puts the next job of each line into the claim's index, unless a job of the key runs. If its type cannot run (paused, or
-- no live worker handles it), it stays there, and the next of a type that can run is put beside it by job_queue_put_first. A
-- type that is at its limit can run, so its job keeps the others waiting. Where types let several jobs of a key run,
-- job_queue_put_beside fills the places. No lock is waited for: a claim tries a key again whose lock is not free, after
-- p_delay. A lock is held for milliseconds, so idle workers are woken to try again at once, if there is no delay.
create or replace function job_queue_advance_lines(p_keys text[], p_delay interval default '0') returns void
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_locks constant integer[] := job_queue_try_locks(p_keys);
    v_later text[];
    v_lines text[];
    v_front_types text[];
    v_busy boolean[];
    v_next uuid[];
    v_next_types text[];
    v_several boolean;
    v_key text;
    v_type text;
    v_open_types text[];
begin
    select array_agg(k.key) filter (where not k.mine),
        array_agg(k.key) filter (where k.waits), array_agg(k.busy) filter (where k.waits),
        array_agg(case when k.waits then (
            select q.task_type from job_queue q
            where q.concurrency_key = k.key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.run_at <= v_now
                and (select true from job_poison p where p.job_id = q.id) is null
            order by q.concurrency_key, q.priority desc limit 1) end) filter (where k.waits),
        array_agg(k.next) filter (where k.waits), array_agg(k.next_type) filter (where k.waits)
    into v_later, v_lines, v_busy, v_front_types, v_next, v_next_types
    from (
        select d.key, d.mine, f.id is not null as waits, f.id is not null and (
            select true from job_queue r where r.concurrency_key = d.key and r.status = 'running'
            order by r.concurrency_key, r.key_place limit 1) is not null as busy,
            -- The next one of a line is known where all of it is of one type, and the first one in the index is due.
            case when f.run_at <= v_now and f.task_type = (
                select q.task_type from job_queue q
                where q.concurrency_key = d.key and q.status = 'pending' and q.blocked_by is null and q.in_line
                order by q.concurrency_key desc, q.task_type desc, q.priority, q.run_at desc, q.id desc limit 1)
            then f.id end as next, f.task_type as next_type
        from (
            select k as key, job_lock_slot(k) = any (v_locks) as mine
            from (select distinct k from unnest(p_keys) k where k is not null) each
        ) d
        -- Most keys of one-time jobs have nothing that waits.
        left join lateral (
            select q.id, q.task_type, q.run_at from job_queue q
            where d.mine and q.concurrency_key = d.key and q.status = 'pending' and q.blocked_by is null and q.in_line
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1
        ) f on true
        offset 0  -- so that each key is looked for once
    ) k;
    if v_lines is not null then
        v_several := exists (select from job_types t where t.max_per_key > 1);
        if not v_several then
            -- A key of which a job runs stays as it is, and one whose first job is due and can run.
            v_open_types := array(select t from (select distinct unnest(v_front_types || v_next_types) as t) each
                where t is not null and job_type_can_run(t, v_now));
            select array_agg(l.key order by l.key),
                array_agg(l.next) filter (where l.head is null and l.next_type = any (v_open_types))
            into v_lines, v_next
            from unnest(v_lines, v_busy, v_front_types, v_next, v_next_types) as l (key, busy, head, next, next_type)
            where not l.busy and (l.head is null or l.head <> all (v_open_types));
            v_lines := job_queue_put_all_first(v_lines, v_next);
            v_open_types := null;
        end if;
        foreach v_key in array coalesce(v_lines, '{}') loop
            if not job_key_is_busy(v_key) then
                v_type := job_queue_put_first(v_key, v_now, null);
                -- No type, if the next job is locked and no other is due.
                if v_type is null or v_type <> all (v_open_types)
                    or v_open_types is null and not job_type_can_run(v_type, v_now)
                then
                    v_open_types := coalesce(v_open_types, job_types_that_can_run(v_now));
                    perform job_queue_put_first(v_key, v_now, v_open_types);
                end if;
            end if;
            while v_several and job_queue_put_beside(v_key, v_now) loop
            end loop;
        end loop;
    end if;
    if v_later is not null then
        perform job_queue_ask_recheck(v_later, null, v_now + p_delay);
        perform pg_notify(current_schema() || '.job_queue', '') where p_delay = '0';
    end if;
end
$$;

-- The jobs that wait for these blockers, locked, up to 1,000; with p_failed also the members of flows that wait for another
-- blocker now, but cannot run without one of these. If there are more, or another transaction has locked some, the
-- blockers are written to job_recheck.
create or replace function job_queue_lock_waiting(p_blockers uuid[], p_failed boolean) returns uuid[]
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_nestloop = on
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_most constant integer := 1000;
    v_found uuid[];
    v_locked uuid[];
begin
    -- With an equality the planner might use another index than the one that begins with blocked_by.
    v_found := array(
        select w.id from unnest(p_blockers) as b (id) cross join lateral (
            -- Not a paused series, which blocks itself.
            select q.id from job_queue q where q.status = 'pending' and q.blocked_by between b.id and b.id
                and q.id <> b.id
            order by q.blocked_by, q.id) w
        limit v_most);
    if p_failed then
        v_found := v_found || array(
            select distinct q.id from job_dependencies d join job_queue q on q.id = d.job_id
            where d.blocker_id = any (p_blockers) and d.needs = 'success' and d.outcome is null and q.status = 'pending'
                and q.id <> all (v_found)
            limit v_most);
    end if;
    if cardinality(v_found) = 0 then
        return v_found;
    end if;
    v_locked := array(
        select q.id from job_queue q
        where q.id = any (v_found) and q.status = 'pending'
            and (q.blocked_by = any (p_blockers) or p_failed and job_is_member(q.id))
        order by q.id for update skip locked);
    if cardinality(v_locked) < cardinality(v_found) or cardinality(v_found) >= v_most then
        perform job_queue_ask_recheck(null, p_blockers);
    end if;
    return v_locked;
end
$$;

-- Releases jobs whose blocker succeeded, and cancels jobs (and the jobs that wait for them) whose blocker can no longer
-- succeed. Members of flows are judged by all their blockers; a success cancels a member that needs a failure. Returns the keys
-- whose lines the caller has to advance.
create or replace function job_queue_release_waiting(p_succeeded uuid[], p_hopeless uuid[]) returns text[]
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_waiting uuid[] := job_queue_lock_waiting(p_succeeded, false);
    v_ended uuid[] := p_hopeless;
    v_judged record;
    v_keys text[];
begin
    if cardinality(v_waiting) > 0 then
        v_judged := job_judge_waiting(v_waiting);
        v_ended := v_ended || v_judged.cancelled;
        with released as (
            update job_queue set blocked_by = null, updated_at = v_now, version = version + 1,
                in_line = concurrency_key is not null
            where id = any (v_judged.plain)
            returning concurrency_key
        )
        select array_agg(concurrency_key) || v_judged.keys into v_keys from released;
        -- The worker that reports the end may handle other types, or have no slot for all of them.
        perform pg_notify(current_schema() || '.job_queue', '');
    end if;
    while cardinality(v_ended) > 0 loop
        v_waiting := job_queue_lock_waiting(v_ended, true);
        exit when cardinality(v_waiting) = 0;
        update job_dependencies d set outcome = job_blocker_outcome(d.blocker_id)
        where d.blocker_id = any (v_ended) and d.job_id = any (v_waiting) and d.outcome is null;
        v_judged := job_judge_waiting(v_waiting);
        update job_queue set status = 'cancelled', completed_at = v_now, updated_at = v_now,
            version = version + 1, last_outcome = 'cancelled',
            last_error = job_blocker_verdict(blocked_by)
        where id = any (v_judged.plain);
        v_ended := v_judged.plain || v_judged.cancelled;
        -- Not left to the caller: most callers that only cancel look at no keys.
        perform job_queue_advance_lines(v_judged.keys);
        -- Others than those that are cancelled: members for which an end of any kind is enough.
        perform pg_notify(current_schema() || '.job_queue', '') where cardinality(v_waiting) > cardinality(v_ended);
    end loop;
    return v_keys;
end
$$;
