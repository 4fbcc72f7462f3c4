-- The last questions of a claim: which of the jobs that it has locked no hold keeps, and which have a place for their
-- concurrency key.

-- Of these jobs of these types, which the caller has locked, those that no hold keeps (36), in their order. The others wait for
-- their hold from then on. Where those are most of the jobs, so do the held ones among the next 1,000 of each lane: a claim of
-- one job would else pass as many held ones as it has looks.
create or replace function job_claim_unheld(p_jobs tid[], p_types text[], p_lanes job_lane[], p_now timestamptz) returns tid[]
language plpgsql volatile
as $$
declare
    v_rows tid[];
    v_ids uuid[];
    v_holds uuid[];
begin
    select array_agg(q.ctid), array_agg(q.id), array_agg(h.id) into v_rows, v_ids, v_holds
    from job_queue q cross join lateral job_hold_of(q.task_type, q.payload) as h (id) where q.ctid = any (p_jobs);
    if v_rows is null then
        return p_jobs;
    end if;
    -- Those of a hold that is released just now are left to the next claim.
    perform job_hold_mark(v_ids, v_holds);
    if p_lanes is not null and cardinality(v_rows) * 2 > cardinality(p_jobs) then
        v_ids := array(
            select c.id from unnest(p_lanes) l cross join lateral (
                select q.id, q.task_type, q.payload from job_queue q
                where job_clause_claimable(q) and job_clause_due(q.run_at, p_now) and q.task_type = l.task_type
                    and q.priority = l.priority and (q.run_at, q.id) > (l.run_at, l.id)
                order by q.run_at, q.id limit 1000) c
            where exists (select from job_hold_of(c.task_type, c.payload)));
        perform job_claim_unheld(array(
            select q.ctid from job_queue q where q.id = any (v_ids) for update skip locked), p_types, null, p_now);
    end if;
    return array(select j from unnest(p_jobs) j where j <> all (v_rows));
end
$$;

-- Of these jobs, which the caller has locked, those whose key has a place for them, in the order of claims (`taken`). Where a
-- key may have several, `jobs` and `places` say the place of each among the running jobs of its key, null for the first. The
-- lock of a key is tried and not waited for; it decides between two claims that do not see each other. What these jobs use
-- of the rates of keys is used up here. Where these jobs take the last places of a key, or find them taken, the other jobs of it leave
-- the index of claims (`moved`). A job whose key's lock was not free stays there.
create or replace function job_claim_keys(
    p_jobs tid[], p_now timestamptz, out taken tid[], out jobs tid[], out places smallint[], out moved boolean
)
language plpgsql volatile
set enable_seqscan = off set enable_nestloop = on set enable_hashjoin = on
set enable_sort = on set jit = off
as $$
declare
    v_locks constant integer[] := job_queue_try_locks(array(
        select q.concurrency_key from job_queue q where q.ctid = any (p_jobs) and q.concurrency_key is not null));
    v_paced constant text[] := array(select t.task_type from job_types t where t.key_rate_runs is not null);
    v_rates tid[];
    v_refused tid[];
    v_takers uuid[];
    v_keys text[];
    v_starts integer[];
    v_early uuid[];
    v_numbers bigint[];
    v_others uuid[];
begin
    if v_paced <> '{}' then
        -- What is stored of the rates; an erasure, which takes long, is not waited for.
        v_rates := array(
            select r.ctid from job_key_rates r where r.key_hash in (
                select md5(q.concurrency_key)::uuid from job_queue q
                where q.ctid = any (p_jobs) and q.concurrency_key is not null)
            for update skip locked);
    end if;
    -- A new statement, which sees what was committed before the locks were taken. `room` is how many more jobs of the key may
    -- run, `starts` how many its rate lets start, and `number` the place of a job among those of the key that have room.
    with keyed as (
        select q.ctid as job, q.id, q.concurrency_key as key, q.priority, q.run_at, coalesce(t.max_per_key, 1) as most,
            job_lock_slot(q.concurrency_key) = any (v_locks) and (q.task_type <> all (v_paced) or not exists (
                select from job_key_rates r where r.key_hash = md5(q.concurrency_key)::uuid and r.ctid <> all (v_rates))) as mine,
            -- The order makes the planner read the index of running keys.
            coalesce(t.max_per_key, 1) - (select count(*) from (
                select from job_queue r where r.concurrency_key = q.concurrency_key and r.status = 'running'
                order by r.concurrency_key, r.key_place) r) as room,
            case when q.task_type = any (v_paced) then (
                select job_rate_places(max(r.used_until), null, t.key_rate_runs, t.key_rate_seconds, p_now)
                from job_key_rates r where r.key_hash = md5(q.concurrency_key)::uuid and r.rate_runs = t.key_rate_runs
                    and r.rate_seconds = t.key_rate_seconds) end as starts
        from job_queue q left join job_types t on t.task_type = q.task_type
        where q.ctid = any (p_jobs) and q.concurrency_key is not null
        offset 0  -- so that each key is looked for once
    ), numbered as (
        select k.*, row_number() over (partition by k.key, k.room > 0 order by k.priority desc, k.run_at, k.id) as number
        from keyed k
    ), judged as (
        select n.*, case when not n.mine or n.number > n.room then 'refuse'
            when n.number > n.starts then 'wait' else 'take' end as verdict
        from numbered n
    )
    select array_agg(j.job) filter (where j.verdict <> 'take'), array_agg(j.id) filter (where j.verdict = 'take'),
        array_agg(j.key) filter (where j.verdict = 'take' or j.mine and j.room <= 0),
        array_agg((j.verdict = 'take')::integer) filter (where j.verdict = 'take' or j.mine and j.room <= 0),
        array_agg(j.id) filter (where j.verdict = 'wait'),
        array_agg(j.job) filter (where j.verdict = 'take' and j.most > 1),
        array_agg(j.number) filter (where j.verdict = 'take' and j.most > 1)
    into v_refused, v_takers, v_keys, v_starts, v_early, jobs, v_numbers from judged j;
    if jobs is not null then
        places := array(
            select nullif((
                select p.place from generate_series(0, job_key_limit(q.task_type)) as p (place)
                where p.place not in (select coalesce(r.key_place, 0) from job_queue r
                    where r.concurrency_key = q.concurrency_key and r.status = 'running')
                order by p.place offset n.number - 1 limit 1), 0)::smallint
            from unnest(jobs, v_numbers) with ordinality as n (job, number, nth) join job_queue q on q.ctid = n.job
            order by n.nth);
    end if;
    taken := p_jobs;
    if v_refused is not null then
        taken := array(select j from unnest(p_jobs) j where j <> all (v_refused));
    end if;
    if v_paced <> '{}' then
        insert into job_key_rates as r (key_hash, rate_runs, rate_seconds, used_until)
        select md5(q.concurrency_key)::uuid, t.key_rate_runs, t.key_rate_seconds,
            job_rate_after(null, null, t.key_rate_runs, t.key_rate_seconds, p_now, count(*))
        from job_queue q join job_types t on t.task_type = q.task_type
        where q.id = any (v_takers) and t.key_rate_runs is not null group by 1, 2, 3
        on conflict (key_hash, rate_runs, rate_seconds) do update set used_until = excluded.used_until
            + (job_rate_after(r.used_until, null, r.rate_runs, r.rate_seconds, p_now, 0) - p_now);
        -- The best of a key is due when the rate lets it start, and stays in the index. The others wait in line, and so does
        -- the best where another one of the key is due then that is as urgent, unless that one cannot run and this one can.
        update job_queue q set in_line = not h.stays, run_at = case when h.stays then h.opens else q.run_at end,
            slot_at = case when not h.stays then q.slot_at when q.is_recurring then coalesce(q.slot_at, q.run_at) end
        from (
            select w.id, w.opens, w.number = 1 and not exists (
                select from job_queue o
                where o.concurrency_key = w.concurrency_key and o.id <> w.id and o.status = 'pending' and o.blocked_by is null
                    and not o.in_line and o.priority >= w.priority and o.run_at > p_now
                    and o.run_at <= w.opens + interval '1 millisecond'
                    and (job_type_can_run(o.task_type, p_now) or not job_type_can_run(w.task_type, p_now))) as stays
            from (select q.id, q.concurrency_key, q.task_type, q.priority,
                    job_key_opens(q.concurrency_key, q.task_type, p_now) as opens,
                    row_number() over (partition by q.concurrency_key order by q.priority desc, q.run_at, q.id) as number
                from job_queue q where q.id = any (v_early)) w) h
        where q.id = h.id;
    end if;

    -- Other jobs in the claim's index with such a key (inserted out of order, or at the same time) would slow down every claim
    -- while the key is busy.
    v_others := array(
        select o.id from (
            select k.key, sum(k.starts) as jobs from unnest(v_keys, v_starts) as k (key, starts) group by k.key) k
        cross join lateral (
            select q.id, q.task_type from job_queue q
            where q.concurrency_key = k.key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.id <> all (coalesce(v_takers, '{}')) and (select true from job_poison p where p.job_id = q.id) is null
            order by q.concurrency_key, q.priority desc) o
        where job_key_limit(o.task_type) = 1 or job_key_limit(o.task_type) <= job_key_running(k.key) + k.jobs);
    moved := v_others <> '{}' or v_early is not null;
    if v_others <> '{}' then
        update job_queue set in_line = true where id in (
            select q.id from job_queue q
            where q.id = any (v_others) and q.status = 'pending' and q.blocked_by is null and not q.in_line
            for update skip locked);
    end if;
end
$$;
