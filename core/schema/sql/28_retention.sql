-- Retention: what is removed after how many days, and the partitions of the history that come and go.

-- What is removed after some days, by which part of upkeep. `name` is a table, or a table and which of its values. The
-- installer writes the periods of a plugin, whose function NAME_retain removes its rows. `days` is the owner's choice.
create table if not exists job_retention (
    name text primary key,
    component text not null default 'queue',
    part text not null default 'retention',
    default_days integer not null,
    days integer,
    constraint job_retention_days_check check (days between 1 and 36500)
);
insert into job_retention (name, part, default_days) values
    ('job_runs', 'prune', 30), ('job_worker_runs', 'prune', 14), ('job_trash', 'prune', 7), ('job_audit', 'prune', 365),
    ('job_bulk', 'prune', 30), ('job_workers', 'prune', 1), ('job_stats', 'prune', 30), ('job_stats minutes', 'prune', 1),
    ('job_stat_errors', 'prune', 30), ('job_error_groups', 'prune', 30), ('job_queue', 'retention', 90),
    ('job_audit payloads', 'retention', 90), ('job_notes', 'retention', 30), ('job_error_mutes', 'retention', 7),
    ('job_backlog', 'prune', 30), ('job_flows', 'retention', 30), ('job_producer_keys', 'retention', 7)
on conflict (name) do update set part = excluded.part, default_days = excluded.default_days;

create index if not exists job_audit_payloads on job_audit (at) where before ? 'payload' or after ? 'payload';

-- When rows of this line are old: before the returned time.
create or replace function job_retention_limit(p_name text) returns timestamptz
language sql volatile
as $$
    select clock_timestamp() - make_interval(days => coalesce(days, default_days))
    from job_retention where name = p_name
$$;

-- Has the newest partition of the history, which is open at its end, end at a token that is not drawn yet, and makes the
-- next one. Does so when fewer tokens are left before it than twice those of yesterday, or 5 million. Also makes the one
-- for tokens before the oldest partition, if the next token is one of them. Answers with the reason why it could not: runs
-- are recorded all the same, in the partition that is open at its end.
create or replace function job_run_extend() returns text
language plpgsql volatile
set lock_timeout = '100ms' set jit = off
as $$
declare
    -- What is small enough to be read while finishes wait.
    v_small constant bigint := 64 * 1024 ^ 2;
    v_round constant bigint := 10000000;
    v_last constant bigint := (select s.last_value from job_run_token_seq s);
    v_yesterday constant bigint := coalesce((select sum(s.runs) from job_stats s
        where s.minutes = 120 and s.bucket > clock_timestamp() - interval '1 day'), 0);
    v_need constant bigint := greatest(2 * v_yesterday, 5000000);
    v_oldest constant bigint := (select min(coalesce(r.first_token, -9223372036854775808)) from job_run_ranges() r);
    v_newest record;
    v_next bigint;
    v_bound record;
begin
    -- The sequence was set back to tokens whose partition is gone.
    if v_oldest > v_last then
        perform job_run_make('job_runs_0');
        perform job_run_attach('job_runs_0', null, v_oldest);
    end if;
    select r.* into v_newest from job_run_ranges() r where r.next_token is null;
    if not found then
        return 'The history has no partition that is open at its end. Run `jobdeck init`.';
    end if;
    -- `jobdeck init` has read all of a large partition for this.
    select k.convalidated as valid, (regexp_match(pg_get_constraintdef(k.oid), $re$run_token < '?(\d+)$re$))[1]::bigint as token
    into v_bound from pg_constraint k
    where k.conrelid = quote_ident(v_newest.name)::regclass and k.conname = 'job_runs_bound';
    if v_bound.token is not null and v_bound.token - v_last < 5000000 then
        execute format('alter table %I drop constraint job_runs_bound', v_newest.name);
        return null;
    elsif v_bound.valid then
        v_next := v_bound.token;
    elsif v_newest.first_token - v_last >= v_need or v_bound.token is not null then
        return null;
    elsif pg_relation_size(quote_ident(v_newest.name)::regclass) > v_small then
        return format('The newest partition of the history, %s, is open at its end and already large, so it keeps all '
            'further runs. Run `jobdeck init`, which divides it while jobs run.', v_newest.name);
    else
        -- About thirty partitions for the period of the history. One that is in use already ends after what is needed.
        v_next := v_round * case when v_newest.first_token > v_last
            then ceil((v_newest.first_token + greatest(v_round, v_yesterday * greatest(date_part('day',
                clock_timestamp() - job_retention_limit('job_runs')) / 30, 1))) / v_round)
            else floor((v_last + v_need) / v_round) + 1 end;
    end if;
    perform job_run_make('job_runs_' || v_next);
    execute format('alter table job_runs detach partition %I', v_newest.name);
    perform job_run_attach(v_newest.name, v_newest.first_token, v_next);
    perform job_run_attach('job_runs_' || v_next, v_next, null);
    execute format('alter table %I drop constraint if exists job_runs_bound', v_newest.name);
    return null;
exception
    when lock_not_available then
        return 'The next partition of the history could not be made: another session holds job_runs. Runs are recorded '
            'in the newest one.';
    when insufficient_privilege then
        return format('The next partition of the history could not be made: the role %s may not create tables in the '
            'schema %s. Runs are recorded in the newest one.', current_user, current_schema());
end
$$;

-- Begins to divide a large newest partition: from then on it takes only tokens before one that is far away. Answers with
-- its name if it has to be validated, which reads it all beside the workers; job_run_extend then divides it.
create or replace function job_run_bound() returns name
language plpgsql volatile
set lock_timeout = '100ms' set jit = off
as $$
declare
    v_last constant bigint := (select s.last_value from job_run_token_seq s);
    v_newest record;
begin
    select r.* into v_newest from job_run_ranges() r where r.next_token is null;
    if not found or v_newest.first_token > v_last
        or pg_relation_size(quote_ident(v_newest.name)::regclass) <= 64 * 1024 ^ 2
    then
        return null;
    end if;
    if not exists (select from pg_constraint k where k.conrelid = quote_ident(v_newest.name)::regclass
        and k.conname = 'job_runs_bound')
    then
        execute format('alter table %I add constraint job_runs_bound check (run_token >= %s and run_token < %s) not valid',
            v_newest.name, quote_literal(coalesce(v_newest.first_token, '-9223372036854775808'::bigint)) || '::bigint',
            ((v_last + greatest(20000000, v_last / 5)) / 10000000 + 1) * 10000000);
    end if;
    return v_newest.name;
end
$$;

-- Drops the partitions of the history whose newest run is older than its period. A partition with a token that holds a
-- job is not closed, since that run will be recorded there.
create or replace function job_run_drop_old(out done bigint, out trouble text)
language plpgsql volatile
set enable_seqscan = off set jit = off set lock_timeout = '100ms'
as $$
declare
    v_last constant bigint := (select s.last_value from job_run_token_seq s);
    v_before constant timestamptz := job_retention_limit('job_runs');
    v_range record;
begin
    done := 0;
    -- The sequence was set back, so they get runs again.
    delete from job_run_partitions p using job_run_ranges() r where r.name = p.name and r.next_token > v_last;
    for v_range in select r.* from job_run_ranges() r where r.next_token <= v_last order by r.next_token loop
        if exists (select from job_queue q where q.status = 'running' and q.run_token < v_range.next_token
            and (v_range.first_token is null or q.run_token >= v_range.first_token))
        then
            delete from job_run_partitions p where p.name = v_range.name;
            continue;
        end if;
        insert into job_run_partitions (name) values (v_range.name) on conflict do nothing;
        continue when trouble is not null
            or not exists (select from job_run_partitions p where p.name = v_range.name and p.closed_at < v_before);
        -- Of blockers that left the queue with success.
        update job_dependencies d set outcome = r.outcome from job_runs r
        where d.outcome is null and r.job_id = d.blocker_id and r.removed and r.run_token < v_range.next_token;
        begin
            execute format('drop table %I', v_range.name);
            delete from job_run_partitions p where p.name = v_range.name;
            done := done + 1;
        exception when lock_not_available then
            trouble := format('The partition %s, whose runs are older than the period of the history, could not be '
                'dropped: another session holds job_runs. `jobdeck doctor` names the oldest transaction.', v_range.name);
        end;
    end loop;
end
$$;

-- Whether the oldest runs of the history are in a partition that is dropped soon: within a thirtieth of its period, at
-- least a day. Their rows are not deleted one by one, unless the drop is late by as much.
create or replace function job_run_goes_soon(p_before timestamptz) returns boolean
language plpgsql stable
as $$
declare
    v_while constant interval := greatest((clock_timestamp() - p_before) / 30, interval '1 day');
    v_oldest constant oid := (select r.tableoid from job_runs r order by r.run_token limit 1);
begin
    return exists (select from job_run_partitions p join pg_class c on c.relname = p.name
        where c.oid = v_oldest and p.closed_at between p_before - v_while and p_before + v_while);
end
$$;

-- Deletes runs from before p_before that are among the p_limit oldest and not locked. Returns how many.
create or replace function job_run_delete_old(p_before timestamptz, p_limit integer) returns bigint
language plpgsql volatile
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_rows bigint;
begin
    -- Tokens rise with time, so the oldest runs are found at the low end of the key.
    delete from job_runs r using (
        select n.run_token, n.late from (
            select o.run_token, o.late from (
                select run_token, late, finished_at from job_runs order by run_token limit p_limit) o
            where o.finished_at < p_before) low
        join job_runs n using (run_token, late) for update of n skip locked
    ) old where r.run_token = old.run_token and r.late = old.late;
    get diagnostics v_rows = row_count;
    return v_rows;
end
$$;

-- Removes up to p_limit rows of the queue that are from before p_before and not locked. Returns how many.
create or replace function job_retain_line(p_name text, p_before timestamptz, p_limit integer) returns bigint
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
declare
    v_rows bigint;
    v_ended uuid[];
    -- Of most lines: their table, when a row of it is old, and which of its rows have this period.
    v_rule text[] := (select array[r.place, r.at, r.which] from (values
        ('job_worker_runs', 'job_worker_runs', 'started_at', 'true'),
        ('job_trash', 'job_trash', 'deleted_at', 'true'),
        ('job_audit', 'job_audit', 'at', 'true'),
        ('job_notes', 'job_notes', 'at', 'true'),
        ('job_error_mutes', 'job_error_mutes', 'until', 'true'),
        ('job_error_groups', 'job_error_groups', 'last_at', 'true'),
        ('job_producer_keys', 'job_producer_keys', 'at', 'true'),
        ('job_workers', 'job_workers', 'heartbeat_at', 'true'),
        ('job_stat_errors', 'job_stat_errors', 'bucket', $q$bucket < $1 - interval '5 minutes'$q$),
        ('job_stats', 'job_stats', 'bucket',
            $q$minutes = any ('{5,15,120,480}') and bucket + minutes * interval '1 minute' < $1$q$),
        ('job_stats minutes', 'job_stats', 'bucket', $q$minutes = 1 and bucket + interval '1 minute' < $1$q$),
        ('job_backlog', 'job_backlog', 'bucket',
            $q$minutes = any ('{5,15,120,480}') and bucket + minutes * interval '1 minute' < $1$q$)
    ) as r (name, place, at, which) where r.name = p_name);
begin
    if v_rule is not null then
        execute format('delete from %1$I where ctid = any (array(select ctid from %1$I where %2$I < $1 and %3$s '
            'order by %2$I limit $2 for update skip locked))', v_rule[1], v_rule[2], v_rule[3]) using p_before, p_limit;
        get diagnostics v_rows = row_count;
        return v_rows;
    end if;
    case p_name
        when 'job_runs' then
            if job_run_goes_soon(p_before) then
                return 0;
            end if;
            -- Of blockers that left the queue with success, before the history loses the runs that say so.
            if exists (select from job_dependencies d where d.outcome is null) then
                update job_dependencies d set outcome = r.outcome from (
                    select o.job_id, o.outcome, o.finished_at from job_runs o where o.removed order by o.run_token limit p_limit) r
                where d.blocker_id = r.job_id and d.outcome is null and r.finished_at < p_before;
            end if;
            return job_run_delete_old(p_before, p_limit);
        when 'job_audit payloads' then
            update job_audit set before = before - 'payload', after = after - 'payload' where id in (
                select a.id from job_audit a where a.at < p_before and (a.before ? 'payload' or a.after ? 'payload')
                order by a.at limit p_limit for update skip locked);
        when 'job_bulk' then
            delete from job_bulk_items where (bulk_id, job_id) in (select i.bulk_id, i.job_id from job_bulk b
                join job_bulk_items i on i.bulk_id = b.id where job_bulk_is_over(b, p_before) limit p_limit
                for update of i skip locked);
            get diagnostics v_rows = row_count;
            delete from job_bulk where id in (select b.id from job_bulk b where job_bulk_is_over(b, p_before)
                and not exists (select from job_bulk_items i where i.bulk_id = b.id) for update skip locked);
            return v_rows;
        when 'job_flows' then
            return job_flow_retain(p_before, p_limit);
        when 'job_queue' then
            -- A job that waits for this one can still be told what it waits for.
            v_ended := array(select q.id from job_queue q
                where q.status in ('succeeded', 'failed', 'cancelled')
                    and coalesce(q.completed_at, q.updated_at) < p_before
                    and not exists (select from job_queue w where w.blocked_by = q.id and w.status = 'pending')
                    and not job_flow_asks(q.id)
                limit p_limit for update of q skip locked);
            perform job_flow_note_ends(v_ended);
            delete from job_queue where id = any (v_ended);
    end case;
    get diagnostics v_rows = row_count;
    return v_rows;
end
$$;

-- Keeps the periods of one part of upkeep: removes up to p_limit rows of each line. A line that fails does not keep the
-- others from their turn; `trouble` is the first error.
create or replace function job_retain(p_part text, p_limit integer, out done bigint, out trouble text)
language plpgsql volatile
as $$
declare
    v_line job_retention;
    v_rows bigint;
begin
    done := 0;
    for v_line in select * from job_retention r where r.part = p_part order by r.name loop
        begin
            if v_line.component = 'queue' then
                v_rows := job_retain_line(v_line.name, job_retention_limit(v_line.name), p_limit);
            else
                execute format('select %I($1, $2, $3)', v_line.component || '_retain')
                into v_rows using v_line.name, job_retention_limit(v_line.name), p_limit;
            end if;
            done := done + v_rows;
        exception when others then
            trouble := coalesce(trouble, v_line.name || ': ' || sqlstate || ' ' || sqlerrm);
        end;
    end loop;
end
$$;

-- Sets the period of a line, or resets it with a null. Only the owner may.
create or replace function job_retention_set(p_name text, p_days integer, p_actor text) returns void
language plpgsql volatile
as $$
declare
    v_before integer;
begin
    if p_days not between 1 and 36500 then
        perform job_queue_refuse('A period is between 1 and 36500 days. Nothing was changed.');
    end if;
    select coalesce(days, default_days) into v_before from job_retention where name = p_name for update;
    if not found then
        perform job_queue_refuse(format('There is no period %s. `jobdeck retention` lists them.', p_name));
    end if;
    update job_retention set days = p_days where name = p_name;
    perform job_queue_write_audit(p_actor, 'set retention', null, jsonb_build_object('name', p_name, 'days', v_before),
        jsonb_build_object('name', p_name, 'days', p_days), null);
end
$$;
