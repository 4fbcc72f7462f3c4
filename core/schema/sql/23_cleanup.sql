-- Cleaning up on request: old jobs that have ended, and runs whose worker has died.

-- Moves up to p_limit jobs that succeeded or were cancelled longer ago than p_older_than to the trash, and records their
-- ids in the audit. Returns how many. Callers repeat it, each time in a transaction of its own, until there are none.
create or replace function job_queue_purge(p_older_than interval, p_limit integer, p_actor text, p_reason text)
returns integer
language plpgsql volatile security definer
set jit = off
as $$
declare
    v_ended_before constant timestamptz := now() - p_older_than;
    v_ids uuid[];
begin
    perform job_refuse_outsiders();
    v_ids := array(
        select q.id from job_queue q
        where q.status in ('succeeded', 'cancelled') and coalesce(q.completed_at, q.updated_at) < v_ended_before
            -- Upkeep has to tell the jobs that wait for this one first.
            and not exists (select from job_queue w where w.blocked_by = q.id and w.status = 'pending')
            and not job_flow_asks(q.id)
        limit p_limit for update skip locked);
    perform job_flow_note_ends(v_ids);
    with gone as (
        delete from job_queue q where q.id = any (v_ids) returning q.*
    ), kept as (
        insert into job_trash (job_id, job, deleted_by, reason)
        select g.id, to_jsonb(g), job_actor(p_actor), p_reason from gone g
        on conflict (job_id) do update set job = excluded.job, deleted_at = now(), deleted_by = excluded.deleted_by,
            reason = excluded.reason
    )
    select array_agg(g.id order by g.id) into v_ids from gone g;
    if v_ids is null then
        return 0;
    end if;
    perform job_queue_write_audit(p_actor, 'purge', null, null, jsonb_build_object('jobs', cardinality(v_ids),
        'ended_before', v_ended_before, 'ids', v_ids), p_reason);
    return cardinality(v_ids);
end
$$;

-- The same in one transaction, for SQL.
create or replace function job_queue_cleanup(p_max_age interval default interval '14 days') returns integer
language plpgsql volatile security definer
as $$
declare
    v_batch integer;
    v_total integer := 0;
begin
    perform job_refuse_outsiders();
    loop
        v_batch := job_queue_purge(p_max_age, 1000, null, null);
        exit when v_batch = 0;
        v_total := v_total + v_batch;
    end loop;
    return v_total;
end
$$;

-- The playbook's jobs:cleanup: lists running jobs that started longer ago than p_older_than and whose lease has
-- expired, all or those of p_ids, and marks them failed unless p_dry_run (a series continues at its next slot).
create or replace function job_queue_clean_stuck(
    p_older_than interval, p_actor text, p_dry_run boolean, p_ids uuid[]
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_stuck job_queue;
    v_after job_queue;
begin
    perform job_refuse_outsiders();
    for v_stuck in
        select * from job_queue q where q.status = 'running' and q.lease_expires_at <= clock_timestamp()
            and coalesce(q.started_at, q.updated_at) <= clock_timestamp() - p_older_than
            and (p_ids is null or q.id = any (p_ids))
        order by q.id
    loop
        if p_dry_run then
            return query select v_stuck.id, true, 'is-stuck', jsonb_build_object('expired_at', v_stuck.lease_expires_at,
                'worker', v_stuck.locked_by), v_stuck.status, v_stuck.version;
            continue;
        end if;
        if not exists (select from job_queue_take_back('cleanup', array[v_stuck.id], jsonb_build_object(
            'permanent', true, 'error_kind', 'stuck', 'error', format(
                'Stuck in running state: the lease of %s expired, and an operator marked the job failed.',
                v_stuck.locked_by)), 0, 0))
        then
            return query select v_stuck.id, false, 'stuck-no-more', null::jsonb, null::text, null::bigint;
            continue;
        end if;
        select * into v_after from job_queue q where q.id = v_stuck.id;
        perform job_queue_write_audit(p_actor, 'cleanup', v_stuck.id, job_audit_facts(v_stuck),
            job_audit_facts(v_after), null);
        return query select v_stuck.id, true, case when v_after.status = 'pending' then 'cycle-marked-failed'
            when v_after.status = 'cancelled' then 'cancelled-as-requested' else 'marked-failed' end, null::jsonb,
            v_after.status, v_after.version;
    end loop;
end
$$;
