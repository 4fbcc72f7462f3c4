-- Holds: jobs of one type that do not start while a key of their payload has a value.
--
-- A claim looks at the holds of its types after it has picked jobs (13), so nothing that makes a job pending has to know them. A
-- job that it finds waits for its hold, as other jobs wait for a job (`blocked_by` is the hold's id), and is in no index that
-- claims or lines read. The end of a hold releases its jobs as the success of a job does (16).

-- The holds that keep a job with this payload from starting, one for each key at most. The planner puts this in place of its
-- calls: one value is looked up for each key of a small payload, and for each key that is held of a large one, which may have
-- thousands. The limit makes it a look-up whatever the planner knows of the table.
create or replace function job_hold_of(p_task_type text, p_payload jsonb) returns setof uuid
language sql stable rows 1
begin atomic
    select v.id from (
        select jsonb_object_keys(p_payload) as key
        where jsonb_typeof(p_payload) = 'object' and pg_column_size(p_payload) < 1000
        union all
        select l.key from job_holds l where l.leads and l.task_type = p_task_type and pg_column_size(p_payload) >= 1000
    ) k cross join lateral (
        select h.id from job_holds h
        where h.value = p_payload -> k.key and h.task_type = p_task_type and h.key = k.key
            and (h.until is null or h.until > clock_timestamp())
        limit 1) v;
end;

-- Has these jobs wait for these holds, those that wait for no other job, and lets the next job of each key go ahead. The caller
-- has locked the jobs. A release waits for the lock of its hold, and so finds the jobs that wait for it by then.
create or replace function job_hold_mark(p_jobs uuid[], p_holds uuid[]) returns integer
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
declare
    v_there constant uuid[] := array(
        select h.id from job_holds h where h.id = any (p_holds) order by h.id for key share);
    v_keys text[];
    v_marked integer;
begin
    with marked as (
        update job_queue q set blocked_by = n.hold from unnest(p_jobs, p_holds) as n (id, hold)
        where q.id = n.id and n.hold = any (v_there) and q.status = 'pending' and q.blocked_by is null
        returning q.concurrency_key
    )
    select count(*), array_agg(m.concurrency_key) filter (where m.concurrency_key is not null) into v_marked, v_keys
    from marked m;
    if v_keys is not null then
        perform job_queue_advance_lines(v_keys);
    end if;
    return v_marked;
end
$$;

-- Looks at the next 1,000 waiting jobs of the hold's type after a job (null: the first ones), and has those that match wait for
-- it. Or, once it is released, releases the next 1,000 that wait for it. Returns the last job, null when there is no more, and
-- how many jobs changed. A claim that has such a job is waited for, so none starts after the last step.
create or replace function job_hold_step(p_hold bigint, p_after uuid, out reached uuid, out jobs integer)
language plpgsql volatile security definer
set enable_seqscan = off set enable_sort = off set jit = off set lock_timeout = '900ms'
as $$
declare
    v_most constant integer := 1000;
    v_hold job_holds;
    v_id constant uuid := ('00000000-0000-8000-8000-' || lpad(to_hex(p_hold), 12, '0'))::uuid;
    v_ids uuid[];
begin
    perform job_refuse_outsiders();
    select * into v_hold from job_holds h where h.number = p_hold;
    if found then
        v_ids := array(
            select q.id from job_queue q where q.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
                and q.status = 'pending' and q.task_type = v_hold.task_type and q.blocked_by is null
            order by q.id limit v_most);
        reached := v_ids[v_most];
        v_ids := job_queue_lock_jobs(array(
            select q.id from job_queue q where q.id = any (v_ids) and q.payload -> v_hold.key = v_hold.value order by q.id));
        jobs := job_hold_mark(v_ids, array(select v_hold.id from unnest(v_ids)));
        return;
    end if;
    v_ids := array(
        select q.id from job_queue q where q.status = 'pending' and q.blocked_by = v_id order by q.blocked_by, q.id limit v_most);
    perform job_queue_advance_lines(job_queue_release_waiting(array[v_id], '{}'));
    jobs := (select count(*) from job_queue q where q.id = any (v_ids) and q.blocked_by is distinct from v_id);
    reached := case when jobs > 0 then v_ids[v_most] end;
end
$$;

-- Holds the jobs of a type whose payload has this value under this key, also those to come, and returns the hold's number. No
-- such job starts from then on; job_hold_step makes those that wait out of the way of claims. Running ones go on.
create or replace function job_hold(
    p_task_type text, p_key text, p_value jsonb, p_until timestamptz, p_actor text, p_reason text
) returns bigint
language plpgsql volatile security definer
set lock_timeout = '900ms'
as $$
declare
    v_most constant integer := 100;
    v_number bigint;
begin
    perform job_refuse_outsiders();
    -- Two at the same time would both see 99 holds, or no other of this value.
    perform job_queue_lock_name('holds');
    perform job_queue_refuse(r.words || ' Nothing was held.') from (select case
        when coalesce(trim(p_task_type), '') = '' or octet_length(p_task_type) > 200
            then 'A hold needs a task type of at most 200 bytes.'
        when coalesce(p_key, '') = '' or octet_length(p_key) > 200 then 'A hold needs a payload key of at most 200 bytes.'
        when p_value is null or octet_length(p_value::text) > 1000 then 'A hold needs a value of at most 1,000 bytes of JSON.'
        when p_until <= clock_timestamp() then 'The end of the hold is in the past. Choose a later one.'
        when not job_is_a_time(p_until) then 'A time must be between the years 1 and 9999.'
        when length(p_reason) > 1000 then 'A reason has at most 1,000 characters.'
        when (select count(*) from job_holds) >= v_most
            then format('There are %s holds already, which is the most. Release one first.', v_most)
        end as words) r
    where r.words is not null;
    perform job_queue_refuse(format('Hold %s keeps these jobs already, since %s by %s. To change its reason or end, release it '
        'first. Nothing was changed.', h.number, to_char(h.held_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'), h.held_by))
    from job_holds h where h.task_type = p_task_type and h.key = p_key and h.value = p_value
        and (h.until is null or h.until > clock_timestamp());
    insert into job_holds (task_type, key, value, reason, held_by, until, leads)
    values (p_task_type, p_key, p_value, p_reason, job_actor(p_actor), p_until,
        not exists (select from job_holds h where h.task_type = p_task_type and h.key = p_key and h.leads))
    returning number into v_number;
    -- Without the value, which may name a person.
    perform job_queue_write_audit(p_actor, 'hold', null, null, jsonb_build_object('hold', v_number, 'task_type', p_task_type,
        'key', p_key, 'until', p_until), p_reason);
    return v_number;
end
$$;

-- Ends a hold; its jobs may start again. job_hold_step releases those that wait for it, as upkeep does with what is left.
create or replace function job_release(p_hold bigint, p_actor text) returns void
language plpgsql volatile security definer
as $$
declare
    v_hold job_holds;
begin
    perform job_refuse_outsiders();
    -- One that begins now would count on this one to lead.
    perform job_queue_lock_name('holds');
    delete from job_holds h where h.number = p_hold returning * into v_hold;
    if not found then
        perform job_queue_refuse(format('There is no hold %s. "jobdeck hold" lists them. Nothing was changed.', p_hold));
    end if;
    if v_hold.leads then
        update job_holds set leads = true where number = (
            select min(h.number) from job_holds h where h.task_type = v_hold.task_type and h.key = v_hold.key);
    end if;
    perform job_queue_ask_recheck(null, array[v_hold.id]);
    perform job_queue_write_audit(p_actor, 'release', null, jsonb_build_object('hold', v_hold.number, 'task_type',
        v_hold.task_type, 'key', v_hold.key, 'held_at', v_hold.held_at), null, null);
    perform pg_notify(current_schema() || '.job_queue', '');
end
$$;

-- For operators, who see payloads: how many jobs of a type that wait have this value under this key, or with p_any, have the key
-- at all; counted up to p_most.
create or replace function job_hold_reach(p_task_type text, p_key text, p_value jsonb, p_any boolean, p_most integer)
returns bigint
language plpgsql stable security definer
set jit = off
as $$
begin
    perform job_refuse_outsiders();
    return (select count(*) from (
        select from job_queue q where q.status = 'pending' and q.task_type = p_task_type
            and (q.payload -> p_key = p_value or p_any and q.payload ? p_key) limit p_most) found);
end
$$;

-- Whether a hold keeps a job, also one that no claim has looked at so far. For lists of viewers, who do not see the value.
create or replace function job_is_held(p_id uuid) returns boolean
language plpgsql stable security definer
set enable_seqscan = off set jit = off
as $$
begin
    perform job_refuse_outsiders();
    return exists (select from job_queue q cross join lateral job_hold_of(q.task_type, q.payload) where q.id = p_id);
end
$$;

-- How many jobs wait for a hold, counted up to p_most.
create or replace function job_hold_jobs(p_hold uuid, p_most integer) returns bigint
language plpgsql stable security definer
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    perform job_refuse_outsiders();
    return (select count(*) from (
        select from job_queue q where q.status = 'pending' and q.blocked_by = p_hold limit p_most) found);
end
$$;

-- The holds. Who sees no payloads does not see their values either.
create or replace view job_hold_list as
select h.number, h.id, h.task_type, h.key, case when job_sees_payloads() then h.value end as value, h.reason, h.held_by,
    h.held_at, h.until
from job_holds h where (select job_may_read_views())
with check option;
