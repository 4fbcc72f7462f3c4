-- Producers that enqueue over HTTP, and jobs whose result somebody waits for.

-- The producers. Of the token, only the SHA-256 is stored. `level` is how many jobs the producer may enqueue at `level_at`;
-- it rises by `jobs` in `per_seconds`, up to `jobs`.
create table if not exists job_producers (
    name text primary key,
    token_hash bytea not null unique,
    task_types text[] not null,
    jobs integer not null,
    per_seconds integer not null,
    level double precision not null,
    level_at timestamptz not null default clock_timestamp(),
    used_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    created_by text not null
) with (fillfactor = 50);

-- The idempotency keys of producers' requests. Keys and bodies may name people, so that only their SHA-256 are stored.
create table if not exists job_producer_keys (
    producer text not null,
    key_hash bytea not null,
    body_hash bytea not null,
    job_ids uuid[] not null,
    at timestamptz not null default clock_timestamp(),
    primary key (producer, key_hash)
);
create index if not exists job_producer_keys_at on job_producer_keys (at);

-- Creates a producer, or with p_replace gives an existing one another token, list of types and rate. Only the owner may.
create or replace function job_producer_add(
    p_name text, p_token_hash bytea, p_task_types text[], p_jobs integer, p_per_seconds integer, p_replace boolean,
    p_actor text
) returns void
language plpgsql volatile
as $$
declare
    v_before jsonb;
begin
    if p_name !~ '^[a-z0-9][a-z0-9._-]{0,62}$' then
        perform job_queue_refuse('The name of a producer has 1 to 63 characters: small letters, digits, ".", "_" and "-", '
            'and begins with a letter or digit. Nothing was changed.');
    elsif coalesce(cardinality(p_task_types), 0) not between 1 and 200
        or exists (select from unnest(p_task_types) t where t is null or trim(t) = '' or length(t) > 200)
    then
        perform job_queue_refuse('A producer needs 1 to 200 task types. Nothing was changed.');
    elsif p_jobs not between 1 and 1000000 or p_per_seconds not between 1 and 86400 then
        perform job_queue_refuse('A rate is 1 to 1,000,000 jobs in a second, minute, hour or day. Nothing was changed.');
    end if;
    select jsonb_build_object('name', p.name, 'types', p.task_types, 'jobs', p.jobs, 'perSeconds', p.per_seconds)
    into v_before from job_producers p where p.name = p_name for update;
    if found and not p_replace then
        perform job_queue_refuse(format('There is a producer %s already. Choose another name, or replace its token, types '
            'and rate with --replace. Nothing was changed.', p_name));
    elsif not found and p_replace then
        perform job_queue_refuse(format('There is no producer %s. `jobdeck producers list` shows them.', p_name));
    end if;
    insert into job_producers as p (name, token_hash, task_types, jobs, per_seconds, level, created_by)
    values (p_name, p_token_hash, p_task_types, p_jobs, p_per_seconds, p_jobs, job_actor(p_actor))
    on conflict (name) do update set token_hash = excluded.token_hash, task_types = excluded.task_types,
        jobs = excluded.jobs, per_seconds = excluded.per_seconds, level = least(p.level, excluded.jobs);
    perform job_queue_write_audit(p_actor, case when p_replace then 'replace producer' else 'add producer' end, null,
        v_before, jsonb_build_object('name', p_name, 'types', p_task_types, 'jobs', p_jobs, 'perSeconds', p_per_seconds),
        null);
end
$$;

-- Removes a producer: its token is refused from the next request on. Only the owner may.
create or replace function job_producer_revoke(p_name text, p_actor text) returns void
language plpgsql volatile
as $$
declare
    v_before jsonb;
begin
    delete from job_producers p where p.name = p_name
    returning jsonb_build_object('name', p.name, 'types', p.task_types, 'jobs', p.jobs, 'perSeconds', p.per_seconds)
    into v_before;
    if not found then
        perform job_queue_refuse(format('There is no producer %s. `jobdeck producers list` shows them.', p_name));
    end if;
    -- Another producer of this name has keys of its own.
    delete from job_producer_keys k where k.producer = p_name;
    perform job_queue_write_audit(p_actor, 'revoke producer', null, v_before, null, null);
end
$$;

create or replace view job_producer_list as
select p.name, p.task_types, p.jobs, p.per_seconds, p.used_at, p.created_at, p.created_by
from job_producers p where (select job_may_read_views())
with check option;

-- The hashes of all tokens, with which the HTTP server recognises a request before it reads its body.
create or replace function job_producer_hashes() returns setof bytea
language sql stable security definer
as $$
    select job_refuse_outsiders();
    select p.token_hash from job_producers p
$$;

-- Whether a producer may enqueue these jobs now, in the transaction that enqueues them; if it may, they count against its
-- rate. `code` is null then, and otherwise: 'gone', 'type' (which `task_type` names), 'reused' (the key was used for another
-- request), 'known' (`job_ids` are those of the same request), 'never' (more jobs than the rate ever allows at once) or 'rate'
-- (for `seconds`). Requests of one producer come one after the other; it waits for 1.5 seconds at most (SQLSTATE 55P03).
create or replace function job_producer_begin(
    p_token_hash bytea, p_task_types text[], p_key_hash bytea, p_body_hash bytea,
    out code text, out producer text, out task_type text, out job_ids uuid[], out jobs integer, out seconds double precision
)
language plpgsql volatile security definer
set lock_timeout = '1500ms'
as $$
declare
    v_producer job_producers;
    v_asked constant integer := cardinality(p_task_types);
    v_now constant timestamptz := clock_timestamp();
    v_body bytea;
    v_level double precision;
begin
    perform job_refuse_outsiders();
    select * into v_producer from job_producers p where p.token_hash = p_token_hash for update;
    if not found then
        code := 'gone';
        return;
    end if;
    producer := v_producer.name;
    jobs := v_producer.jobs;
    select t into task_type from unnest(p_task_types) t where t <> all (v_producer.task_types) limit 1;
    if found then
        code := 'type';
        return;
    end if;
    if p_key_hash is not null then
        select k.body_hash, k.job_ids into v_body, job_ids from job_producer_keys k
        where k.producer = v_producer.name and k.key_hash = p_key_hash;
        if found then
            code := case when v_body = p_body_hash then 'known' else 'reused' end;
            return;
        end if;
    end if;
    -- A time to come is from before the clock was set back.
    v_level := least(v_producer.jobs, v_producer.level + greatest(0, date_part('epoch', v_now - v_producer.level_at))
        * v_producer.jobs / v_producer.per_seconds);
    if v_asked > v_producer.jobs then
        code := 'never';
    elsif v_asked > v_level then
        code := 'rate';
        seconds := (v_asked - v_level) * v_producer.per_seconds / v_producer.jobs;
    else
        update job_producers p set level = v_level - v_asked, level_at = v_now, used_at = v_now
        where p.name = v_producer.name;
    end if;
end
$$;

-- Stores which jobs a request with an idempotency key has enqueued, in its transaction, after job_producer_begin.
create or replace function job_producer_keep(
    p_token_hash bytea, p_key_hash bytea, p_body_hash bytea, p_job_ids uuid[]
) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    insert into job_producer_keys (producer, key_hash, body_hash, job_ids)
    select p.name, p_key_hash, p_body_hash, p_job_ids from job_producers p where p.token_hash = p_token_hash
$$;

-- Which sessions wait for the result of which jobs, and until when. Reports of workers notify them (job_queue_finish), and
-- only them; they also poll. The process id keeps two that wait for one job from waiting for each other's rows.
create table if not exists job_awaited (
    job_id uuid not null,
    waiter integer not null,
    until timestamptz not null,
    primary key (job_id, waiter)
);

-- Notes that this session waits for a job that has not ended, for an hour at most.
create or replace function job_queue_await(p_id uuid, p_seconds double precision) returns void
language plpgsql volatile security definer
as $$
begin
    perform job_refuse_outsiders();
    insert into job_awaited (job_id, waiter, until)
    select q.id, pg_backend_pid(), clock_timestamp() + make_interval(secs => least(p_seconds, 3600))
    from job_queue q where q.id = p_id and q.status in ('pending', 'running') and not q.is_recurring
    on conflict (job_id, waiter) do update set until = excluded.until;
end
$$;
