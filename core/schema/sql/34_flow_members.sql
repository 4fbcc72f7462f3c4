-- Flows as a whole: cancelling, outcomes, retention and views.

-- Cancels all members of a flow that wait, and asks those that run. Members that another transaction has locked for long make
-- it refuse, because a flow is cancelled as a whole. Returns how many were cancelled, were asked, and had ended before.
create or replace function job_flow_cancel(
    p_flow uuid, p_actor text, p_reason text, p_dry_run boolean, out cancelled bigint, out asked bigint, out ended bigint
)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
declare
    v_jobs uuid[];
    v_open job_queue[];
begin
    perform job_refuse_outsiders();
    perform from job_flows f where f.id = p_flow for no key update;
    if not found then
        perform job_queue_refuse(format('There is no flow %s. "jobdeck flow" lists them.', p_flow));
    end if;
    v_jobs := array(select m.job_id from job_flow_members m where m.flow_id = p_flow);
    if cardinality(job_queue_lock_jobs(v_jobs)) < cardinality(v_jobs) then
        perform job_queue_refuse('Another session has locked members of this flow. Nothing was cancelled; try again.');
    end if;
    v_open := array(select q from job_queue q where q.id = any (v_jobs) and (
        q.status = 'pending' or q.status = 'running' and q.cancel_requested_at is null));
    cancelled := (select count(*) from unnest(v_open) o where o.status = 'pending');
    asked := cardinality(v_open) - cancelled;
    ended := cardinality(v_jobs) - (
        select count(*) from job_queue q where q.id = any (v_jobs) and q.status in ('pending', 'running'));
    if p_dry_run or cardinality(v_open) = 0 then
        return;
    end if;
    perform job_queue_advance_lines(job_queue_make_cancelled(array(select o.id from unnest(v_open) o), p_actor,
        coalesce(p_reason, 'with its flow')));
end
$$;

-- How the jobs ended that a job waited for, with the outputs of those that succeeded; in the order of their ids.
create or replace function job_flow_outcomes(p_job uuid)
returns table (name text, job_id uuid, task_type text, outcome text, output jsonb, error text)
language plpgsql stable security definer
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    perform job_refuse_outsiders();
    return query
    select coalesce(m.name, d.blocker_id::text), d.blocker_id, coalesce(m.task_type, r.task_type, q.task_type), d.outcome,
        case when d.outcome in ('succeeded', 'partial') then r.output end,
        case when d.outcome not in ('succeeded', 'partial') then coalesce(q.last_error, r.error) end
    from job_dependencies d
    left join job_flow_members m on m.job_id = d.blocker_id
    left join job_queue q on q.id = d.blocker_id
    left join lateral (
        select n.task_type, n.output, n.error from job_runs n where n.job_id = d.blocker_id and not n.late
        order by n.run_token desc limit 1) r on true
    where d.job_id = p_job order by d.blocker_id;
end
$$;

-- Removes flows from before p_before of which no member is in the queue or in the trash. Returns p_limit if there may be more.
create or replace function job_flow_retain(p_before timestamptz, p_limit integer) returns bigint
language plpgsql volatile
as $$
declare
    v_most constant integer := 100;
    v_old constant uuid[] := array(
        select f.id from job_flows f where f.created_at < p_before and not exists (
            select from job_flow_members m where m.flow_id = f.id and (
                exists (select from job_queue q where q.id = m.job_id)
                or exists (select from job_trash t where t.job_id = m.job_id)))
        order by f.created_at limit v_most for update skip locked);
begin
    delete from job_dependencies d using job_flow_members m where m.flow_id = any (v_old) and d.job_id = m.job_id;
    delete from job_flow_members m where m.flow_id = any (v_old);
    delete from job_flows f where f.id = any (v_old);
    return case when cardinality(v_old) = v_most then p_limit else cardinality(v_old) end;
end
$$;

create or replace view job_flow_list as
select f.id, f.name, f.created_at, f.created_by, f.final from job_flows f
-- One without a name is of a job that waits behind another one.
where f.name <> '' and (select job_may_read_views())
with check option;

-- The members with their state: `blocked`, the status of the job in the queue, `succeeded` of one that left it with success,
-- `deleted`, or `gone` when nothing is stored of it any more.
create or replace view job_flow_member_list as
select m.flow_id, m.job_id, m.name, m.task_type, m.needs, m.added_by, m.set_aside, case
        when q.status = 'pending' and q.blocked_by is not null then 'blocked'
        when q.status = 'running' and q.started_at is null then 'claimed'
        when q.status is not null then q.status
        when r.outcome is not null then 'succeeded'
        when t.job_id is not null then 'deleted'
        else 'gone' end as state,
    coalesce(q.last_outcome, r.outcome) as last_outcome, q.last_error, coalesce(q.attempts, r.attempt) as attempts,
    coalesce(q.completed_at, r.finished_at) as ended_at
from job_flow_members m
left join job_queue q on q.id = m.job_id
left join lateral (
    select n.outcome, n.attempt, n.finished_at from job_runs n
    where n.job_id = m.job_id and n.removed and q.id is null limit 1) r on true
left join job_trash t on t.job_id = m.job_id
where (select job_may_read_views());

create or replace view job_dependency_list as
select d.job_id, d.blocker_id, d.needs, d.outcome from job_dependencies d
where (select job_may_read_views())
with check option;
