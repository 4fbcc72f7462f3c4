-- Upkeep: what every worker does from time to time, so that nothing is stuck. Each part is done by one worker at a time.

-- Ends runs whose lease has expired; the locks of their rows are held while their tokens are checked again.
create or replace function job_queue_take_back(
    p_worker text, p_ids uuid[], p_details jsonb, p_retry_base double precision, p_retry_cap double precision
) returns setof uuid
language sql volatile
as $$
    with expired as materialized (
        select q.id, q.run_token, q.started_at, q.locked_by from job_queue q
        where q.id = any (p_ids) and q.status = 'running' and q.lease_expires_at <= clock_timestamp()
        order by q.id for update of q skip locked
    ), together as (
        select array_agg(e.id) as ids, array_agg(e.run_token) as tokens, array_agg('lost'::text) as outcomes,
            array_agg(coalesce(e.started_at, clock_timestamp())) as started,
            array_agg(clock_timestamp()) as finished,
            array_agg(jsonb_build_object('error_kind',
                case when e.started_at is null then 'begin_not_reported' else 'lease_expired' end, 'error', format(
                'The lease of %s expired%s: it crashed, lost its connection or was stopped.', e.locked_by,
                case when e.started_at is null then ' before it reported whether the run had begun' else '' end))
                || p_details) as details
        from expired e
    )
    select s.job_id from together t
    cross join lateral job_queue_settle(p_worker, t.ids, t.tokens, t.outcomes, t.started, t.finished, t.details,
        p_retry_base, p_retry_cap, null) s
    where t.ids is not null
$$;

-- Takes back up to 100 lost runs, the oldest first. Those whose row another transaction has locked are left to a later pass,
-- and keep none of the others waiting. If the batch fails, each is tried alone, and those that fail are set aside.
create or replace function job_queue_reap_lost(p_retry_base double precision, p_retry_cap double precision)
returns uuid[]
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_ids uuid[];
    v_id uuid;
    v_lost uuid[] := '{}';
begin
    delete from job_poison p where not exists (
        select from job_queue q where q.id = p.job_id
            and (q.run_token = p.run_token or q.status = 'pending' and q.version = p.version));
    v_ids := array(
        select q.id from job_queue q where q.status = 'running' and q.lease_expires_at <= v_now
            and not exists (select from job_poison p where p.job_id = q.id and p.retry_at > v_now)
        order by q.run_token limit 100 for update of q skip locked);
    begin
        return array(select job_queue_take_back('upkeep', v_ids, '{}', p_retry_base, p_retry_cap));
    exception when others then
        null;
    end;
    foreach v_id in array v_ids loop
        begin
            v_lost := v_lost || array(
                select job_queue_take_back('upkeep', array[v_id], '{}', p_retry_base, p_retry_cap));
        exception when others then
            insert into job_poison (job_id, run_token, error, retry_at)
            select q.id, q.run_token, sqlstate || ' ' || sqlerrm, v_now + interval '10 minutes'
            from job_queue q where q.id = v_id and q.run_token is not null
            on conflict (job_id) do update set run_token = excluded.run_token, error = excluded.error,
                version = null, retry_at = excluded.retry_at;
        end;
    end loop;
    return v_lost;
end
$$;

-- Ends jobs that wait past their expiry: a series as succeeded, or failed if its last cycle failed; a one-time job as
-- cancelled. The jobs that wait for one of them are cancelled: each success before has released those that waited then.
create or replace function job_queue_end_expired(p_limit integer) returns bigint
language plpgsql volatile
set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off set jit = off
as $$
declare
    -- Read once, because an index cannot be used for a condition with the volatile clock.
    v_now timestamptz := clock_timestamp();
    v_ended uuid[];
    v_keys text[];
begin
    with expired as (
        select q.id from job_queue q
        where q.status = 'pending' and q.expires_at is not null and q.expires_at <= v_now
        order by q.expires_at limit p_limit for update skip locked
    ), ended as (
        update job_queue q set
            status = case when not q.is_recurring then 'cancelled' when q.consecutive_failures > 0 then 'failed'
                else 'succeeded' end,
            last_error = case when q.is_recurring then q.last_error
                when q.last_outcome is null then 'The job expired before a worker could run it.'
                else 'The job expired before a worker could run it again.' || coalesce(' ' || q.last_error, '') end,
            completed_at = v_now, updated_at = v_now, version = q.version + 1
        from expired e where q.id = e.id
        returning q.id, q.concurrency_key
    )
    select array_agg(id), array_agg(concurrency_key) into v_ended, v_keys from ended;
    if v_ended is null then
        return 0;
    end if;
    perform job_queue_release_waiting('{}', v_ended);
    perform job_queue_advance_lines(v_keys);
    return cardinality(v_ended);
end
$$;

-- Asks to check the lines whose first job cannot run, each time the types that can run have changed.
create or replace function job_queue_note_open_types() returns void
language plpgsql volatile
set enable_bitmapscan = off set jit = off
as $$
declare
    v_open_types constant text[] := job_types_that_can_run(clock_timestamp());
begin
    update job_upkeep set open_types = v_open_types
    where part = 'recheck' and open_types is distinct from v_open_types;
    if found and cardinality(v_open_types) > 0 then
        -- The walk that has come furthest goes on to its end, so that types that change often do not keep it from it.
        delete from job_recheck r where r.walk = 'heads'
            and r.concurrency_key < (select max(w.concurrency_key) from job_recheck w where w.walk = 'heads');
        insert into job_recheck (walk, concurrency_key) values ('heads', '');
    end if;
end
$$;

-- Looks at the next p_limit keys or blockers of a walk, in their order from p_place, and asks to check those that need it:
-- lines without a job in front ('lines'), lines whose first job cannot run ('heads'), blockers that have ended or are
-- gone ('blockers'). Returns where the walk continues; null when it is over.
create or replace function job_queue_walk(p_walk text, p_place text, p_limit integer) returns text
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off
as $$
declare
    -- The values of a column, found by one probe of its index each.
    v_found text[];
    v_open_types constant text[] := (select u.open_types from job_upkeep u where u.part = 'recheck');
begin
    execute format('with recursive step (at, number) as (
            (select q.%1$I, 0 from job_queue q where q.status = ''pending'' %2$s and q.%1$I >= $1::%3$s order by q.%1$I limit 1)
            union all
            select (select q.%1$I from job_queue q where q.status = ''pending'' %2$s and q.%1$I > s.at
                order by q.%1$I limit 1), s.number + 1
            from step s where s.at is not null and s.number < $2)
        select array_agg(s.at::text order by s.number) from step s where s.at is not null',
        variadic case p_walk when 'blockers' then array['blocked_by', '', 'uuid']
            else array['concurrency_key', 'and q.blocked_by is null and q.in_line', 'text'] end)
    into v_found using p_place, p_limit;
    if p_walk = 'blockers' then
        perform job_queue_ask_recheck(null, array(
            select b::uuid from unnest(v_found[1:p_limit]) b where not exists (
                select from job_queue q where q.id = b::uuid and q.status in ('pending', 'running'))));
    else
        -- The orders make the planner read job_queue_keyed.
        perform job_queue_ask_recheck(array(
            select k from unnest(v_found[1:p_limit]) k where case p_walk
                when 'lines' then not job_key_is_busy(k) and (
                    select true from job_queue q where q.concurrency_key = k and q.status = 'pending'
                        and q.blocked_by is null and not q.in_line order by q.priority desc limit 1) is null
                else (
                    select true from job_queue q where q.concurrency_key = k and q.status = 'pending'
                        and q.blocked_by is null and not q.in_line and q.task_type <> all (v_open_types)
                    order by q.priority desc limit 1) is not null end), null);
    end if;
    return v_found[p_limit + 1];
end
$$;

-- Checks these rows of job_recheck: advances lines, and releases or cancels jobs whose blocker has ended. Returns the number
-- of rows. A line whose lock is not free is tried again after p_delay.
create or replace function job_queue_check_rows(p_places tid[], p_delay interval default '0') returns bigint
language plpgsql volatile
set enable_bitmapscan = off set jit = off
as $$
declare
    v_checked bigint;
    v_keys text[];
    v_blockers uuid[];
    v_succeeded uuid[];
    v_hopeless uuid[];
    v_free uuid[];
begin
    with taken as (
        delete from job_recheck where ctid = any (array(
            select ctid from job_recheck where ctid = any (p_places) and walk is null for update skip locked))
        returning concurrency_key, blocker
    )
    select count(*), array_agg(distinct concurrency_key), array_agg(distinct blocker) filter (where blocker is not null
        and not exists (select from job_holds h where h.id = blocker))
    into v_checked, v_keys, v_blockers from taken;
    if v_blockers is not null then
        select array_agg(j.id) filter (where j.outcome in ('succeeded', 'partial')),
            array_agg(j.id) filter (where j.outcome in ('failed', 'cancelled', 'deleted'))
        into v_succeeded, v_hopeless from (
            -- A hold that is gone was released.
            select b as id, case when job_is_hold(b) then 'succeeded' else job_blocker_outcome(b) end as outcome
            from unnest(v_blockers) b
        ) j;
        v_keys := v_keys || job_queue_release_waiting(coalesce(v_succeeded, '{}'), coalesce(v_hopeless, '{}'));
        -- A blocker whose row another transaction has locked may be ending there, and that transaction may not see the
        -- jobs that wait for it. One that has ended since it was read above is checked again, too.
        v_free := array(select q.id from job_queue q
            where q.id = any (v_blockers) and q.status in ('pending', 'running') for key share skip locked);
        perform job_queue_ask_recheck(null, array(
            select b from unnest(v_blockers) b where b <> all (v_free || v_succeeded || v_hopeless)));
    end if;
    perform job_queue_advance_lines(v_keys, p_delay);
    return v_checked;
end
$$;

-- Continues the walks and checks up to p_limit rows of job_recheck, about until p_until. Returns the number of rows.
create or replace function job_queue_check_again(p_limit integer, p_until timestamptz) returns bigint
language plpgsql volatile
as $$
declare
    v_chunk constant integer := 25;
    v_walks_until constant timestamptz := p_until - (p_until - clock_timestamp()) / 2;
    v_walk job_recheck;
    v_places tid[];
    v_checked bigint := 0;
    v_now constant timestamptz := clock_timestamp();
begin
    perform job_queue_note_open_types();
    -- What counts no more of the rates of keys and of keys that were unique for a time.
    delete from job_key_rates where ctid = any (array(select r.ctid from job_key_rates r
        where r.used_until < v_now order by r.used_until limit p_limit for update skip locked));
    delete from job_unique_keys where ctid = any (array(select k.ctid from job_unique_keys k
        where k.until < v_now order by k.until limit p_limit for update skip locked));
    perform job_limits_mark();
    loop
        -- The walk that has come furthest first.
        delete from job_recheck r where r.ctid = (
            select w.ctid from job_recheck w where w.walk is not null order by w.walk, w.concurrency_key desc limit 1)
        returning * into v_walk;
        exit when not found;
        v_walk.concurrency_key := job_queue_walk(v_walk.walk, v_walk.concurrency_key, 100);
        insert into job_recheck select v_walk.* where v_walk.concurrency_key is not null;
        exit when clock_timestamp() >= v_walks_until;
    end loop;
    v_places := array(
        select ctid from job_recheck where walk is null and coalesce(due_at <= clock_timestamp(), true) limit p_limit);
    while cardinality(v_places) > 0 loop
        v_checked := v_checked + job_queue_check_rows(v_places[1:v_chunk]);
        v_places := v_places[v_chunk + 1:];
        exit when clock_timestamp() >= p_until;
    end loop;
    return v_checked;
end
$$;

-- Whether a bulk action was chosen before p_before. A choice without an action is old after an hour.
create or replace function job_bulk_is_over(p_bulk job_bulk, p_before timestamptz) returns boolean
language sql stable
return (p_bulk).chosen_at < case (p_bulk).state when 'chosen' then now() - interval '1 hour' else p_before end
    and (p_bulk).state <> 'running';

-- Does one part of upkeep, unless another worker does it now: 'lost' (takes back runs whose lease has expired),
-- 'expired', 'recheck', 'pauses', 'stats' (every 10 s, or while there is more to add up), 'prune' (once a minute,
-- likewise), 'retention' (once an hour, likewise), 'partitions' or 'old partitions' (once a minute, also after it
-- failed). `done` is the number of rows, `trouble` the error of a part that failed; the parts do not depend on
-- each other, and each should be called in a transaction of its own. `more` says that a part ended early, because it had
-- taken its time, and should be called again soon.
create or replace function job_queue_upkeep(
    p_part text, p_retry_base double precision, p_retry_cap double precision,
    out done bigint, out lost_jobs uuid[], out trouble text, out more boolean
)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '2s'
as $$
declare
    v_part job_upkeep;
    -- Deleting a job costs more than deleting a line of the history.
    v_limit constant integer := case p_part when 'prune' then 5000 else 1000 end;
    v_pause constant interval := case p_part when 'prune' then '1 minute' when 'retention' then '1 hour'
        when 'stats' then '10 s' when 'backlog' then '1 minute' when 'partitions' then '1 minute'
        when 'old partitions' then '1 minute' end;
    -- Whether there may be more to remove, or it failed.
    v_more boolean := false;
    -- A pass holds locks, and other parts wait for it.
    v_until constant timestamptz := clock_timestamp() + interval '15 ms';
    v_one bigint;
begin
    perform job_refuse_outsiders();
    done := 0;
    more := false;
    lost_jobs := '{}';
    select * into v_part from job_upkeep u where u.part = p_part for update skip locked;
    -- A time to come is from before the clock was set back.
    if not found or v_part.succeeded_at > clock_timestamp() - v_pause and v_part.succeeded_at <= clock_timestamp()
        -- Each attempt may have finishes wait for 100 ms.
        or p_part in ('partitions', 'old partitions') and v_part.failed_at > clock_timestamp() - v_pause
            and v_part.failed_at <= clock_timestamp()
    then
        return;
    end if;
    begin
        case p_part
            when 'lost' then
                lost_jobs := job_queue_reap_lost(p_retry_base, p_retry_cap);
                done := cardinality(lost_jobs);
                more := done >= 100;
                update job_upkeep u set set_aside = (select count(*) from job_poison) where u.part = p_part;
                trouble := (select format('job %s: %s', p.job_id, p.error) from job_poison p order by p.since limit 1);
            when 'expired' then
                loop
                    v_one := job_queue_end_expired(50);
                    done := done + v_one;
                    more := v_one >= 50;
                    exit when not more or clock_timestamp() >= v_until;
                end loop;
            when 'recheck' then
                done := job_queue_check_again(1000, v_until);
                more := done >= 1000 or clock_timestamp() >= v_until
                    or exists (select from job_recheck where walk is not null);
            when 'pauses' then
                done := job_queue_resume_due();
                perform job_queue_judge_canaries();
                -- Those who wait for a job that has left the queue, or whose time is over.
                delete from job_awaited where ctid = any (array(select a.ctid from job_awaited a
                    where a.until < clock_timestamp() or not exists (select from job_queue q where q.id = a.job_id)
                    limit 5000 for update of a skip locked));
            when 'stats' then
                done := job_stats_compact(v_limit);
                v_more := done >= v_limit;
                if not v_more then
                    perform job_stats_judge(clock_timestamp());
                end if;
            when 'backlog' then done := job_backlog_sample();
            when 'partitions' then
                trouble := job_run_extend();
                v_more := trouble is not null;
            when 'old partitions' then
                select r.done, r.trouble into done, trouble from job_run_drop_old() r;
                v_more := trouble is not null;
            when 'prune', 'retention' then
                select r.done, r.trouble into done, trouble from job_retain(p_part, v_limit) r;
                v_more := trouble is not null or done >= v_limit;
                if p_part = 'retention' and not v_more then
                    delete from job_timeouts t where not exists (select from job_queue q where q.id = t.job_id)
                        and not exists (select from job_trash d where d.job_id = t.job_id);
                    -- A DELETE or an UPDATE by hand leaves lines without a job in front, and jobs whose blocker has ended or
                    -- is gone. A trigger would slow down each finish, which deletes too.
                    insert into job_recheck (walk, concurrency_key)
                    select n.walk, n.place
                    from (values ('lines', ''), ('blockers', '00000000-0000-0000-0000-000000000000')) as n (walk, place)
                    where not exists (select from job_recheck r where r.walk = n.walk);
                end if;
        end case;
        update job_upkeep u set trouble = job_queue_upkeep.trouble,
            failed_at = case when v_more and job_queue_upkeep.trouble is not null then clock_timestamp()
                else u.failed_at end,
            succeeded_at = case when v_more then u.succeeded_at else clock_timestamp() end
        where u.part = p_part;
    exception when others then
        trouble := sqlstate || ' ' || sqlerrm;
        done := 0;
        lost_jobs := '{}';
        more := false;
        update job_upkeep u set failed_at = clock_timestamp(), trouble = job_queue_upkeep.trouble where u.part = p_part;
    end;
end
$$;
