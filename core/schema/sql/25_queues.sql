-- Pauses: of all task types, of one, and of a queue, which holds all types with its label.

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

-- Pauses all task types, one, or those of a queue, also those that join it later: from the next claim of each worker on.
create or replace function job_queue_pause(
    p_task_type text, p_reason text, p_resume_at timestamptz, p_actor text, p_queue text default null
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
    elsif p_queue <> all (v_queues) then
        perform job_queue_refuse(format('No task type is in the queue %s. The queues are %s. Nothing was changed.',
            left(p_queue, 100), array_to_string(v_queues, ', ')));
    elsif p_queue is not null then
        insert into job_paused_queues as q (queue, reason, paused_by, resume_at)
        values (p_queue, p_reason, job_actor(p_actor), p_resume_at)
        on conflict (queue) do update set reason = excluded.reason, paused_by = excluded.paused_by,
            paused_at = excluded.paused_at, resume_at = excluded.resume_at;
    elsif p_task_type is null then
        insert into job_queue_settings (id, processing_enabled, paused_reason, paused_by, paused_at, resume_at)
        values (1, false, p_reason, job_actor(p_actor), clock_timestamp(), p_resume_at)
        on conflict (id) do update set processing_enabled = false, paused_reason = excluded.paused_reason,
            paused_by = excluded.paused_by, paused_at = excluded.paused_at, resume_at = excluded.resume_at,
            updated_at = now();
    else
        insert into job_types as t (task_type, paused_reason, paused_by, paused_at, resume_at)
        values (p_task_type, p_reason, job_actor(p_actor), clock_timestamp(), p_resume_at)
        on conflict (task_type) do update set paused_reason = excluded.paused_reason, paused_by = excluded.paused_by,
            paused_at = excluded.paused_at, resume_at = excluded.resume_at
        where not t.set_aside;
        if not found then
            perform job_queue_refuse(format('The task type %s is set aside for another runner, so no worker takes its '
                'jobs anyway. Nothing was changed.', p_task_type));
        end if;
    end if;
    perform job_queue_write_audit(p_actor, 'pause', null, null, case when p_queue is null
        then jsonb_build_object('task_type', p_task_type, 'resume_at', p_resume_at)
        else jsonb_build_object('queue', p_queue, 'resume_at', p_resume_at) end, p_reason);
end
$$;

-- Ends the pause of all task types, of one, or of a queue, of which types that are paused by themselves stay paused. The pause of
-- all also stops who holds the queue, so it can end meanwhile.
create or replace function job_queue_resume(p_task_type text, p_actor text, p_queue text default null) returns void
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    if p_queue is not null then
        delete from job_paused_queues q where q.queue = p_queue;
        if not found then
            perform job_queue_refuse(format('The queue %s is not paused. Nothing was changed.', left(p_queue, 100)));
        end if;
    elsif p_task_type is null then
        perform job_queue_refuse(format('Nothing is paused, and no worker takes jobs: the queue is held by %s. Nothing was '
            'changed.', held_by))
        from job_queue_settings where id = 1 and processing_enabled and held_by is not null;
        insert into job_queue_settings (id, processing_enabled) values (1, true)
        on conflict (id) do update set processing_enabled = true, paused_reason = null, paused_by = null,
            paused_at = null, resume_at = null, updated_at = now();
    else
        update job_types set paused_reason = null, paused_by = null, paused_at = null, resume_at = null
        where task_type = p_task_type and paused_at is not null and not set_aside;
        if not found then
            perform job_queue_refuse(format('The task type %s is set aside for another runner. Once that one has stopped, '
                'run "jobdeck types set %s --take-over".', t.task_type, t.task_type))
            from job_types t where t.task_type = p_task_type and t.set_aside;
            perform job_queue_refuse(format('The task type %s is paused with its queue %s. Run "jobdeck resume --queue %s", or '
                'set another queue: "jobdeck types set %s --queue NAME".', p_task_type, p.queue, p.queue, p_task_type))
            from jsonb_to_record(job_type_pause(p_task_type, clock_timestamp())) as p (queue text) where p.queue is not null;
            perform job_queue_refuse(format('The task type %s is not paused.', p_task_type));
        end if;
    end if;
    perform job_queue_write_audit(p_actor, 'resume', null, null, case when p_queue is null
        then jsonb_build_object('task_type', p_task_type) else jsonb_build_object('queue', p_queue) end, null);
    perform pg_notify(current_schema() || '.job_queue', '');
end
$$;

-- Ends pauses and holds whose time is up. Claims do not wait for this; it updates the switch and the audit.
create or replace function job_queue_resume_due() returns bigint
language plpgsql volatile
as $$
declare
    v_type text;
    v_queue text;
    v_hold bigint;
    v_resumed bigint := 0;
begin
    perform from job_queue_settings where id = 1 and not processing_enabled and resume_at <= clock_timestamp() for update;
    if found then
        perform job_queue_resume(null, 'automatic resume');
        v_resumed := v_resumed + 1;
    end if;
    for v_type in select t.task_type from job_types t where t.resume_at <= clock_timestamp() for update loop
        perform job_queue_resume(v_type, 'automatic resume');
        v_resumed := v_resumed + 1;
    end loop;
    for v_queue in select q.queue from job_paused_queues q where q.resume_at <= clock_timestamp() loop
        perform job_queue_resume(null, 'automatic resume', v_queue);
        v_resumed := v_resumed + 1;
    end loop;
    for v_hold in select h.number from job_holds h where h.until <= clock_timestamp() for update loop
        perform job_release(v_hold, 'automatic release');
        perform job_hold_step(v_hold, null);
        v_resumed := v_resumed + 1;
    end loop;
    return v_resumed;
end
$$;
