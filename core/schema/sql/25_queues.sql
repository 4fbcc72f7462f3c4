-- The pause of a queue, which holds all types with its label.

-- The types that are paused, by themselves or with their queue, for reading. Where both hold, this is the pause of the type.
create or replace view job_paused_types as
select n.task_type, case when own.holds then t.paused_reason else q.reason end as reason,
    case when own.holds then t.paused_by else q.paused_by end as paused_by,
    case when own.holds then t.paused_at else q.paused_at end as paused_at,
    case when own.holds then t.resume_at else q.resume_at end as resume_at,
    coalesce(t.set_aside, false) as set_aside, case when not own.holds then q.queue end as queue
from (select task_type from job_types union select unnest(task_types) from job_workers) n
left join job_types t using (task_type)
left join job_paused_queues q on q.queue = coalesce(t.queue, 'default')
cross join lateral (select t.paused_at is not null
    and (q.queue is null or t.set_aside or t.resume_at is null or t.resume_at > now()) as holds) own
where (own.holds or q.queue is not null) and (select job_may_read_views());

-- The pause that holds a type at a time, its own before that of its queue, which it names; null without one.
create or replace function job_type_pause(p_task_type text, p_at timestamptz) returns jsonb
language plpgsql stable
as $$
begin
    return coalesce(
        (select jsonb_build_object('paused_at', t.paused_at, 'paused_by', t.paused_by, 'reason', t.paused_reason,
            'resume_at', t.resume_at)
        from job_types t
        where t.task_type = p_task_type and t.paused_at is not null and (t.resume_at is null or t.resume_at > p_at)),
        (select to_jsonb(q) from job_paused_queues q
        where q.queue = coalesce((select t.queue from job_types t where t.task_type = p_task_type), 'default')
            and (q.resume_at is null or q.resume_at > p_at)));
end
$$;

-- Pauses all types of a queue, also those that join it later, from the next claim of each worker on.
create or replace function job_queue_pause_queue(
    p_queue text, p_reason text, p_resume_at timestamptz, p_actor text
) returns void
language plpgsql volatile security definer
as $$
declare
    v_queues constant text[] := array(
        select 'default' union select t.queue from job_types t where t.queue is not null order by 1);
begin
    perform job_refuse_outsiders();
    if p_resume_at <= clock_timestamp() then
        perform job_queue_refuse('The time to resume is in the past. Choose a later one.');
    end if;
    if p_queue <> all (v_queues) then
        perform job_queue_refuse(format('No task type is in the queue %s. The queues are %s. Nothing was changed.',
            left(p_queue, 100), array_to_string(v_queues, ', ')));
    end if;
    insert into job_paused_queues as q (queue, reason, paused_by, resume_at)
    values (p_queue, p_reason, job_actor(p_actor), p_resume_at)
    on conflict (queue) do update set reason = excluded.reason, paused_by = excluded.paused_by,
        paused_at = excluded.paused_at, resume_at = excluded.resume_at;
    perform job_queue_write_audit(p_actor, 'pause', null, null, jsonb_build_object('queue', p_queue,
        'resume_at', p_resume_at), p_reason);
end
$$;

-- Ends the pause of a queue. Types of it that are paused by themselves stay paused.
create or replace function job_queue_resume_queue(p_queue text, p_actor text) returns void
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    delete from job_paused_queues q where q.queue = p_queue;
    if not found then
        perform job_queue_refuse(format('The queue %s is not paused. Nothing was changed.', left(p_queue, 100)));
    end if;
    perform job_queue_write_audit(p_actor, 'resume', null, null, jsonb_build_object('queue', p_queue), null);
    perform pg_notify(current_schema() || '.job_queue', '');
end
$$;
