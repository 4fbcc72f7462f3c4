-- Enqueueing a flow: its members in one document, checked before anything is written.

-- The members in a document: a list of objects, in which a member comes after those that it waits for. A member whose name is
-- in the flow already has the id that it has there.
create or replace function job_flow_given_of(p_members jsonb, p_flow uuid) returns job_flow_given[]
language plpgsql volatile
as $$
declare
    v_time constant text := job_batch_time();
    v_given job_flow_given[];
    v_refusal text;
begin
    if jsonb_typeof(p_members) is distinct from 'array' then
        perform job_queue_refuse('The members of a flow are a list of JSON objects. Nothing was enqueued.');
    elsif jsonb_array_length(p_members) not between 1 and 10000 then
        perform job_queue_refuse(format('A flow has 1 to 10,000 members; this one has %s. Nothing was enqueued.',
            jsonb_array_length(p_members)));
    end if;
    perform job_queue_refuse(format('A member of a flow has no "%s". Nothing was enqueued.', left(k, 50)))
    from jsonb_array_elements(p_members) e (member) cross join lateral jsonb_object_keys(e.member) k
    where k not in ('name', 'task_type', 'payload', 'run_at', 'max_attempts', 'timeout', 'priority', 'dedupe_key',
        'concurrency_key', 'after', 'after_jobs', 'needs', 'final');
    perform job_queue_refuse(format('The member %s cannot make its flow final. A member can that needs a failure, with '
        '"final": true, when the flow is enqueued. Nothing was enqueued.', left(e.member ->> 'name', 200)))
    from jsonb_array_elements(p_members) e (member)
    where e.member ? 'final' and (e.member -> 'final' <> 'true' or e.member ->> 'needs' is distinct from 'failure'
        or p_flow is not null);
    v_given := array(
        select row(e.place, coalesce(o.job_id, job_batch_id(v_time, e.place)), m.name, m.task_type, coalesce(m.payload, '{}'),
            coalesce(m.run_at, now()), m.max_attempts, m.timeout, m.priority, m.dedupe_key, m.concurrency_key,
            coalesce(m.after, '{}'), coalesce(m.after_jobs, '{}'), coalesce(m.needs, 'success'))::job_flow_given
        from jsonb_array_elements(p_members) with ordinality as e (value, place)
        cross join lateral jsonb_populate_record(null::job_flow_given, e.value) m
        left join job_flow_members o on o.flow_id = p_flow and o.name = m.name
        order by e.place);
    select r.words into v_refusal from unnest(v_given) g cross join lateral (
        select case
            when coalesce(trim(g.name), '') = '' then format('The member at place %s has no name.', g.place)
            when octet_length(g.name) > 200 then format('The name of the member at place %s is longer than 200 bytes.',
                g.place)
            when g.needs not in ('success', 'end', 'failure') then format(
                'The member %s needs "%s" of those that it waits for. It can need their success, end or failure.', g.name,
                left(g.needs, 50))
            when g.needs <> 'success' and cardinality(g.after) + cardinality(g.after_jobs) = 0 then format(
                'The member %s waits for no other, so there is no %s that it could need.', g.name, g.needs)
            when job_timeout_fits(g.timeout) is false then format(
                'The timeout of the member %s is more than 0 seconds and at most 366 days.', g.name)
            else format('The member %s cannot be enqueued. ', g.name) || job_refusal(
                g.task_type, g.payload, g.priority, g.run_at, null, g.dedupe_key, g.concurrency_key)
        end as words) r
    where r.words is not null order by g.place limit 1;
    if not found then
        select format('Two members are named %s.', g.name) into v_refusal from unnest(v_given) g
        group by g.name having count(*) > 1 order by min(g.place) limit 1;
    end if;
    if not found and (
        select sum(cardinality(g.after) + cardinality(g.after_jobs)) from unnest(v_given) g) > 50000
    then
        v_refusal := 'The members of a flow wait for each other 50,000 times at most. Put one member between many that '
            'wait for the same many others.';
    end if;
    if v_refusal is not null then
        perform job_queue_refuse(v_refusal || ' Nothing was enqueued.');
    end if;
    return v_given;
exception when data_exception then
    raise exception using errcode = 'JD001', message = format(
        'A member of the flow cannot be read (%s). Nothing was enqueued.', sqlerrm);
end
$$;

-- Whom the given members wait for, with the outcomes of those that are in the queue already or were. Refuses members that wait
-- for what is not there or cannot succeed, and each circle: a member waits for earlier ones only.
create or replace function job_flow_link(p_given job_flow_given[]) returns job_dependencies[]
language plpgsql stable
set enable_nestloop = off set jit = off
as $$
declare
    v_refusal text;
begin
    select case
        when b.id is null then format('The member %s waits for %s, which is no member of this flow.', g.name, a.name)
        when b.place = g.place then format('The member %s waits for itself.', g.name)
        else format('The member %s waits for %s, which comes after it. List each member after those that it waits for; '
            'members that wait for each other in a circle can never run.', g.name, a.name) end
    into v_refusal
    from unnest(p_given) g cross join lateral unnest(g.after) a (name) left join unnest(p_given) b on b.name = a.name
    where b.id is null or b.place >= g.place
    order by g.place limit 1;
    if not found then
        select case
            when o.words is null then format('The member %s waits for job %s, which is recurring, so that it has no end.',
                o.name, o.id)
            else format('The member %s waits for job %s, which %s. Retry that job first, or leave it out.', o.name, o.id,
                o.words) end
        into v_refusal
        from (
            select g.name, a.id, g.place, case
                when q.is_recurring then null
                when q.id is null and f.outcome = 'deleted' then 'is not in the queue'
                when g.needs = 'success' and f.outcome in ('failed', 'cancelled') then 'is ' || f.outcome
                else '' end as words
            from unnest(p_given) g cross join lateral unnest(g.after_jobs) a (id)
            left join job_queue q on q.id = a.id cross join lateral (select job_blocker_outcome(a.id) as outcome) f
        ) o
        where o.words is distinct from '' order by o.place limit 1;
    end if;
    if v_refusal is not null then
        perform job_queue_refuse(v_refusal || ' Nothing was enqueued.');
    end if;
    return array(
        select distinct row(g.id, b.id, g.needs, null)::job_dependencies
        from unnest(p_given) g cross join lateral unnest(g.after) a (name) join unnest(p_given) b on b.name = a.name)
    || array(
        select distinct row(g.id, a.id, g.needs, job_blocker_outcome(a.id))::job_dependencies
        from unnest(p_given) g cross join lateral unnest(g.after_jobs) a (id));
end
$$;

-- Enqueues the members, whose links were checked.
create or replace function job_flow_insert(
    p_flow uuid, p_given job_flow_given[], p_links job_dependencies[], p_added_by uuid, p_actor text
) returns void
language plpgsql volatile
set jit = off
as $$
declare
    v_made uuid[];
    v_judged record;
begin
    v_made := array(
        select job_queue_insert(array_agg(m.id), array_agg(m.task_type), array_agg(m.payload), array_agg(m.run_at),
            array_agg(m.max_attempts), array_agg(m.priority),
            case when count(m.dedupe_key) > 0 then array_agg(m.dedupe_key) end, array_agg(m.concurrency_key),
            array_agg(m.blocker_id), p_actor)
        from (
            select g.*, l.blocker_id from unnest(p_given) g left join (
                select distinct on (l.job_id) l.job_id, l.blocker_id from unnest(p_links) l
                where l.outcome is null order by l.job_id, l.blocker_id desc) l on l.job_id = g.id
            order by g.place) m);
    perform job_queue_refuse(case when job_queue_holder(g.dedupe_key) = any (v_made)
            then 'Two members have the same dedupe key.'
            else format('A job with the dedupe key of the member %s is already pending or running.', g.name) end
            || ' Nothing was enqueued.')
    from unnest(p_given) g where g.id <> all (v_made) order by g.place;
    insert into job_flow_members (job_id, flow_id, name, task_type, needs, added_by)
    select g.id, p_flow, g.name, g.task_type, g.needs, p_added_by from unnest(p_given) g order by g.place;
    insert into job_dependencies select l.* from unnest(p_links) l;
    insert into job_timeouts select g.id, g.timeout from unnest(p_given) g where g.timeout is not null;
    perform job_queue_ask_recheck(null, array(
        select l.blocker_id from unnest(p_links) l where l.outcome is null and l.needs = 'success'
            and not exists (select from unnest(p_given) g where g.id = l.blocker_id)));
    -- Those whose blockers have all ended already.
    v_judged := job_judge_waiting(array(
        select l.job_id from unnest(p_links) l group by l.job_id having bool_and(l.outcome is not null)));
    perform job_queue_advance_lines(v_judged.keys);
    perform job_queue_release_waiting('{}', v_judged.cancelled);
end
$$;

-- Enqueues a flow, all of its members or none, and returns their ids. p_members is a list of objects with: name, task_type,
-- and optionally payload, run_at, max_attempts, timeout (its own, in seconds), priority, dedupe_key, concurrency_key,
-- after (names of earlier members that it waits for), after_jobs (ids of other jobs), needs (success, end or failure),
-- final (true: see job_flows). It waits for keys like job_queue_create.
create or replace function job_flow_create(p_name text, p_members jsonb, p_actor text)
returns table (flow_id uuid, name text, job_id uuid)
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
declare
    v_given job_flow_given[];
    v_flow constant uuid := job_batch_id(job_batch_time(), 0);
begin
    perform job_refuse_outsiders();
    v_given := job_flow_given_of(p_members, null);
    if coalesce(trim(p_name), '') = '' or octet_length(p_name) > 200 then
        perform job_queue_refuse('A flow needs a name of up to 200 bytes. Nothing was enqueued.');
    end if;
    insert into job_flows (id, name, created_by, final) values (v_flow, p_name, job_actor(p_actor),
        exists (select from jsonb_array_elements(p_members) e (member) where e.member ? 'final'));
    perform job_flow_insert(v_flow, v_given, job_flow_link(v_given), null, p_actor);
    return query select v_flow, g.name, g.id from unnest(v_given) g order by g.place;
end
$$;

-- Adds members to the flow of a running job, for its run alone: what waits for the job also waits for them. `after` names
-- members of this list. A member that an earlier attempt of the job has added under the same name is returned again. The row
-- of the job is locked until the commit, so that the run is not taken back before it.
create or replace function job_flow_add(p_job uuid, p_token bigint, p_members jsonb, p_actor text)
returns table (flow_id uuid, name text, job_id uuid)
language plpgsql volatile security definer
set lock_timeout = '1500ms' set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_given job_flow_given[];
    v_new job_flow_given[];
    v_links job_dependencies[];
    v_flow constant uuid := (select m.flow_id from job_flow_members m where m.job_id = p_job);
    v_asked timestamptz;
    v_waiting uuid[];
begin
    perform job_refuse_outsiders();
    -- The order of these locks is that of job_flow_cancel.
    perform from job_flows f where f.id = v_flow for no key update;
    if not found then
        perform job_queue_refuse(format('Job %s is in no flow, so its run cannot add members. Nothing was enqueued.', p_job));
    end if;
    select q.cancel_requested_at into v_asked from job_queue q
    where q.id = p_job and q.run_token = p_token and q.status = 'running' for key share;
    if not found then
        perform job_queue_refuse(format('The run of job %s was taken back, so its flow gets no members of it. Nothing was '
            'enqueued.', p_job));
    elsif v_asked is not null then
        perform job_queue_refuse(format('Job %s was asked to cancel, so its flow gets no more members. Nothing was '
            'enqueued.', p_job));
    end if;
    v_given := job_flow_given_of(p_members, v_flow);
    perform job_queue_refuse(format('The member %s waits for a job outside the list. A member that a run adds waits '
        'for others of the list alone. Nothing was enqueued.', g.name))
    from unnest(v_given) g where cardinality(g.after_jobs) > 0;
    v_links := job_flow_link(v_given);
    perform job_queue_refuse(format('The flow has another member named %s already. Nothing was enqueued.', m.name))
    from job_flow_members m join unnest(v_given) g on g.name = m.name
    where m.flow_id = v_flow and m.added_by is distinct from p_job;
    v_new := array(select n from unnest(v_given) n
        where not exists (select from job_flow_members m where m.job_id = n.id) order by n.place);
    if (select count(*) from job_flow_members m where m.flow_id = v_flow) + cardinality(v_new) > 10000 then
        perform job_queue_refuse('A flow has 10,000 members at most. Nothing was enqueued.');
    end if;
    if cardinality(v_new) > 0 then
        -- One that has begun does not wait again, and gets the same outcomes in each of its runs.
        v_waiting := array(
            select q.id from job_queue q where q.id in (select d.job_id from job_dependencies d where d.blocker_id = p_job)
                and (q.status = 'pending' and q.attempts = 0 or q.status in ('failed', 'cancelled'))
            order by q.id for update)
            || array(select t.job_id from job_dependencies d join job_trash t on t.job_id = d.job_id
                where d.blocker_id = p_job);
        perform job_flow_insert(v_flow, v_new, array(
            select row(l.job_id, l.blocker_id, l.needs, case when n.id is null then job_blocker_outcome(l.blocker_id) end)
                ::job_dependencies
            from unnest(v_links) l left join unnest(v_new) n on n.id = l.blocker_id
            where l.job_id in (select o.id from unnest(v_new) o)), p_job, p_actor);
        insert into job_dependencies (job_id, blocker_id, needs)
        select m.job_id, n.id, m.needs from job_flow_members m cross join unnest(v_new) n where m.job_id = any (v_waiting)
        on conflict do nothing;
    end if;
    return query select v_flow, g.name, g.id from unnest(v_given) g order by g.place;
end
$$;
