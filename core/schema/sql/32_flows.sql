-- Flows: jobs that wait for several others.
--
-- A member waits for one blocker at a time (`blocked_by`), so claims, and the ends of other jobs, look at nothing more. When
-- this blocker has ended, the member waits for another one that has not, or is released.
--
-- What releases a member locks its row, then reads its blockers in a new statement. What lets an ended blocker run once more
-- (a retry, an undo), or adds a blocker, locks the members that wait for it in the same transaction. So a member is never
-- released while one of its blockers waits or runs. A blocker that ends while a member begins to wait for it is found by
-- job_queue_check_again (docs/decisions/flows.md).

create table if not exists job_flows (
    id uuid primary key,
    name text not null,
    created_at timestamptz not null default clock_timestamp(),
    created_by text not null,
    -- Once a member has begun that needs a failure, no member for whose failure it waited is retried or restored.
    final boolean not null default false
);
create index if not exists job_flows_created_at on job_flows (created_at);

-- The ids of members rise in the order in which they were given.
create table if not exists job_flow_members (
    job_id uuid primary key,
    flow_id uuid not null,
    name text not null,
    task_type text not null,
    -- What it needs of its blockers: the success of all, the end of all, or the end of all with a failure among them.
    needs text not null constraint job_flow_members_needs_check check (needs in ('success', 'end', 'failure')),
    -- The member whose run added this one.
    added_by uuid,
    -- Why the queue cancelled it: a blocker did not succeed (`lost`), or it needs a failure and there was none (`skipped`).
    set_aside text constraint job_flow_members_set_aside_check check (set_aside in ('lost', 'skipped'))
);
create index if not exists job_flow_members_flow on job_flow_members (flow_id, name);

-- Whom each member waits for. `outcome` is how the blocker ended, from when the member is judged; null before.
create table if not exists job_dependencies (
    job_id uuid not null,
    blocker_id uuid not null,
    -- That of the member.
    needs text not null constraint job_dependencies_needs_check check (needs in ('success', 'end', 'failure')),
    outcome text constraint job_dependencies_outcome_check
        check (outcome in ('succeeded', 'partial', 'failed', 'cancelled', 'deleted')),
    primary key (job_id, blocker_id)
) with (fillfactor = 80);
create index if not exists job_dependencies_blocker on job_dependencies (blocker_id);
create index if not exists job_dependencies_open on job_dependencies (job_id, blocker_id) where outcome is null;
create index if not exists job_dependencies_bad on job_dependencies (job_id, blocker_id)
    where outcome in ('failed', 'cancelled', 'deleted');

create or replace function job_is_member(p_job uuid) returns boolean
language sql stable
as $$ select exists (select from job_flow_members where job_id = p_job) $$;

-- Whether a member has blockers by which it was not judged yet.
create or replace function job_flow_waits(p_job uuid) returns boolean
language sql stable
as $$ select exists (select from job_dependencies where job_id = p_job and outcome is null) $$;

-- Whether a waiting member still has to be judged by this blocker.
create or replace function job_flow_asks(p_blocker uuid) returns boolean
language sql stable
as $$
    select exists (
        select from job_dependencies d join job_queue q on q.id = d.job_id
        where d.blocker_id = p_blocker and d.outcome is null and q.status = 'pending')
$$;

-- How a blocker ended; null while it waits or runs. A series ends well by its last success alone: what it did before is not the
-- success that a job waits for.
create or replace function job_blocker_outcome(p_blocker uuid) returns text
language sql stable
return (
    select case
        when q.status in ('pending', 'running') then null
        when q.status = 'succeeded' then case when q.last_success_at >= q.completed_at then 'succeeded' else 'cancelled' end
        when q.status is not null then q.status
        else coalesce((
            select r.outcome from job_runs r where r.job_id = p_blocker and r.removed
            order by r.run_token desc limit 1), 'deleted')
    end
    from (select) one left join job_queue q on q.id = p_blocker);

-- Why a job is cancelled that waits for the success of this blocker, which has ended without one.
create or replace function job_blocker_verdict(p_blocker uuid) returns text
language sql stable
return format('Cancelled because its blocker, job %s, %s.', p_blocker, coalesce((
    select case when q.status = 'failed' then 'failed permanently'
        when q.status = 'succeeded' or q.completed_at >= q.expires_at then 'expired' else 'was cancelled' end
    from job_queue q where q.id = p_blocker), 'was deleted'));

-- What `why` says of a member: how many of its blockers have not ended, of how many, and the names of the first three.
create or replace function job_flow_evidence(p_job uuid) returns jsonb
language sql stable
as $$
    select coalesce((
        select jsonb_build_object('open', count(*) filter (where q.status in ('pending', 'running')),
            'total', count(*), 'needs', max(d.needs), 'behind', (select d2.blocker_id from job_dependencies d2
                join job_flow_members w on w.job_id = d2.job_id join job_flows f on f.id = w.flow_id and f.name = ''
                where d2.job_id = p_job limit 1),
            'names', to_jsonb((array_agg(coalesce(m.name, d.blocker_id::text) order by d.blocker_id)
                filter (where q.status in ('pending', 'running')))[1:3]))
        from job_dependencies d left join job_queue q on q.id = d.blocker_id
        left join job_flow_members m on m.job_id = d.blocker_id
        where d.job_id = p_job having count(*) > 0), '{}')
$$;

-- Of jobs that wait, judges the members of flows by all their blockers: each waits for a blocker that has not ended, can run,
-- or is cancelled. The caller has locked them in an earlier statement; they are pending, or were cancelled as `lost`. Returns
-- those that are cancelled now, those that wait again after they were, the keys whose lines the caller has to advance, and as
-- `plain` the jobs that are in no flow, which wait for one blocker.
create or replace function job_judge_waiting(
    p_jobs uuid[], out cancelled uuid[], out revived uuid[], out keys text[], out plain uuid[]
)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_jobs constant uuid[] := array(select m.job_id from job_flow_members m where m.job_id = any (p_jobs));
    v_live uuid[];
    v_next uuid[];
begin
    cancelled := '{}';
    revived := '{}';
    plain := p_jobs;
    if cardinality(v_jobs) = 0 then
        return;
    end if;
    plain := array(select j from unnest(p_jobs) j where j <> all (v_jobs));
    -- The last blocker that has not ended, since jobs end about in the order of their ids: so few ends concern the member,
    -- and no blocker is read twice.
    v_live := array(
        select l.id from unnest(v_jobs) with ordinality as j (id, place) left join lateral (
            select d.blocker_id as id from job_dependencies d join job_queue q on q.id = d.blocker_id
            where d.job_id = j.id and d.outcome is null and q.status in ('pending', 'running')
            order by d.blocker_id desc limit 1) l on true
        order by j.place);
    update job_dependencies d set outcome = job_blocker_outcome(d.blocker_id)
    from unnest(v_jobs, v_live) as j (id, live)
    where d.job_id = j.id and d.outcome is null and (j.live is null or d.blocker_id > j.live);
    with judged as (
        select m.job_id, j.live, bad.id as bad, case
                when m.needs = 'success' and bad.id is not null then 'lost'
                when j.live is not null then 'wait'
                when m.needs = 'failure' and bad.id is null then 'skipped'
                else 'run' end as move
        from unnest(v_jobs, v_live) as j (id, live) join job_flow_members m on m.job_id = j.id
        left join lateral (
            select d.blocker_id as id from job_dependencies d
            where d.job_id = j.id and d.outcome in ('failed', 'cancelled', 'deleted')
            order by d.blocker_id limit 1) bad on true
    ), wanted as (
        select q.id, j.move, q.status as before, q.blocked_by is null as unblocked,
            case when j.move in ('lost', 'skipped') then 'cancelled' else 'pending' end as status,
            case j.move when 'lost' then j.bad when 'wait' then j.live end as blocker,
            case j.move
                when 'skipped' then 'Not needed: all jobs that it waited for succeeded.'
                when 'lost' then job_blocker_verdict(j.bad)
            end as error
        from judged j join job_queue q on q.id = j.job_id
        -- Another job may have taken its dedupe key since it was cancelled.
        where q.status = 'pending' or j.move in ('lost', 'skipped') or q.dedupe_key is null
            or job_queue_holder(q.dedupe_key) is null
    ), moved as (
        update job_queue q set status = w.status, blocked_by = w.blocker,
            last_error = case when w.status = 'cancelled' then w.error when q.status = 'pending' then q.last_error end,
            last_outcome = case when w.status = 'cancelled' then w.status when q.status = 'pending' then q.last_outcome end,
            completed_at = case when w.status = 'cancelled' then v_now end,
            -- As after a retry.
            expires_at = case when w.status = 'cancelled' or q.status = 'pending' or q.expires_at > v_now
                then q.expires_at end,
            in_line = w.status = 'pending' and q.concurrency_key is not null, updated_at = v_now, version = q.version + 1
        from wanted w where q.id = w.id and (q.status <> w.status or q.blocked_by is distinct from w.blocker)
        returning q.id, q.concurrency_key, q.status, q.blocked_by, w.before, w.unblocked, w.move
    ), noted as (
        update job_flow_members m set set_aside = case when v.status = 'cancelled' then v.move end
        from moved v where m.job_id = v.id and m.set_aside is distinct from case when v.status = 'cancelled' then v.move end
    )
    select coalesce(array_agg(v.id) filter (where v.status = 'cancelled' and v.before = 'pending'), '{}'),
        coalesce(array_agg(v.id) filter (where v.status = 'pending' and v.before = 'cancelled'), '{}'),
        -- One that could run and waits again was perhaps the first of its line.
        array_agg(distinct v.concurrency_key) filter (where v.move = 'run' or v.unblocked),
        array_agg(distinct v.blocked_by) filter (where v.move = 'wait')
    into cancelled, revived, keys, v_next from moved v;
    -- The next blocker may be ending in a transaction that does not see that this member waits for it.
    perform job_queue_ask_recheck(null, v_next);
end
$$;

-- Keeps how these jobs ended for the members that waited for them, before the jobs leave the queue: a job that never ran is
-- not in the history.
create or replace function job_flow_note_ends(p_ids uuid[]) returns void
language sql volatile
set enable_seqscan = off set jit = off
as $$
    update job_dependencies d set outcome = job_blocker_outcome(d.blocker_id)
    where d.blocker_id = any (p_ids) and d.outcome is null
$$;

-- Called after jobs were retried or restored. They wait for their blockers again, and the members of flows that wait for them,
-- or were cancelled because of them and could run now, wait for them.
create or replace function job_flow_wait_again(p_jobs uuid[]) returns void
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_judged record;
    v_live uuid[];
    v_again uuid[];
    v_waiting uuid[] := array(
        select q.id from job_flow_members m join job_queue q on q.id = m.job_id
        where m.job_id = any (p_jobs) and (q.status = 'pending' or q.status = 'cancelled' and m.set_aside = 'lost')
        order by q.id for update of q);
begin
    if cardinality(v_waiting) > 0 then
        update job_flow_members m set set_aside = null from job_queue q
        where m.job_id = any (v_waiting) and q.id = m.job_id and q.status = 'pending' and m.set_aside is not null;
        -- What has succeeded does not change; the history may have lost it. Nor does the end of a blocker that is gone.
        update job_dependencies d set outcome = job_blocker_outcome(d.blocker_id)
        where d.job_id = any (v_waiting) and d.outcome not in ('succeeded', 'partial')
            and job_blocker_outcome(d.blocker_id) is distinct from 'deleted';
    end if;
    v_judged := job_judge_waiting(v_waiting);
    v_again := v_waiting;
    v_live := array(select q.id from job_queue q where q.id = any (p_jobs) and q.status in ('pending', 'running'));
    loop
        if cardinality(v_waiting) > 0 then
            -- A blocker that ends in another transaction sees these members cancelled or deleted until this one has ended.
            -- So upkeep judges all blockers without which they cannot run.
            perform job_queue_ask_recheck(null, array(
                select d.blocker_id from job_dependencies d
                where d.job_id = any (v_again) and d.outcome is null and d.needs = 'success'));
            perform job_queue_advance_lines(v_judged.keys);
            perform job_queue_release_waiting('{}', v_judged.cancelled);
        end if;
        exit when not exists (select from job_dependencies d where d.blocker_id = any (v_live));
        v_waiting := array(
            select q.id from job_queue q where q.id in (select d.job_id from job_dependencies d where d.blocker_id = any (v_live))
                -- One that has run already does not wait again.
                and (q.status = 'pending' and q.attempts = 0 or q.status = 'cancelled' and exists (
                    select from job_flow_members m where m.job_id = q.id and m.set_aside = 'lost'))
            order by q.id for update);
        update job_dependencies d set outcome = null
        where d.blocker_id = any (v_live) and d.job_id = any (v_waiting) and d.outcome is not null;
        v_judged := job_judge_waiting(v_waiting);
        v_live := v_judged.revived;
        v_again := v_live;
    end loop;
end
$$;

-- Why a member that has ended cannot be retried: it needs the success of a blocker that has ended without one, or the
-- failure of one where all have succeeded.
create or replace function job_flow_refusal(p_job uuid, out code text, out facts jsonb)
language sql stable
set enable_seqscan = off
as $$
    with ended as (
        select d.blocker_id as id, d.needs, case when d.outcome in ('succeeded', 'partial') then d.outcome
            else job_blocker_outcome(d.blocker_id) end as outcome
        from job_dependencies d where d.job_id = p_job
    )
    select r.code, r.facts from (
        select 'hopeless-blocker' as code, jsonb_build_object('blocker', e.id, 'status', nullif(e.outcome, 'deleted')) as facts,
            e.id
        from ended e where e.needs = 'success' and e.outcome not in ('succeeded', 'partial')
        union all
        select 'not-needed', '{}', null
        where (select bool_and(e.needs = 'failure' and coalesce(e.outcome in ('succeeded', 'partial'), false)) from ended e)
    ) r order by r.id limit 1
$$;

-- The member that has begun because of a failure, after which this member would run again, and whether the flow is final then;
-- null if there is none. Of a final flow it stays as it is until the end of the transaction.
create or replace function job_flow_callback(p_job uuid, out callback text, out final boolean)
language plpgsql volatile
set enable_seqscan = off
as $$
declare
    v_waiting constant uuid[] := array(select d.job_id from job_dependencies d
        join job_flow_members m on m.job_id = d.job_id where d.blocker_id = p_job and m.needs = 'failure' order by 1);
begin
    if cardinality(v_waiting) > 0 then
        final := (select f.final from job_flow_members m join job_flows f on f.id = m.flow_id where m.job_id = v_waiting[1]);
        if final then
            perform from job_queue q where q.id = any (v_waiting) order by q.id for update;
        end if;
        callback := (select m.name from job_flow_members m left join job_queue q on q.id = m.job_id
            where m.job_id = any (v_waiting) and (q.status = 'running' or q.attempts > 0
                or exists (select from job_runs r where r.job_id = m.job_id))
            order by m.job_id limit 1);
    end if;
    final := final and callback is not null;
end
$$;

do $$
begin
    if to_regtype('job_flow_given') is null then
        create type job_flow_given as (
            place bigint, id uuid, name text, task_type text, payload jsonb, run_at timestamptz, max_attempts integer,
            timeout double precision, priority integer, dedupe_key text, concurrency_key text, after text[], after_jobs uuid[],
            needs text
        );
    end if;
end
$$;
