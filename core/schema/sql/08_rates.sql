-- The arithmetic of rates, which those of types and of keys share, and how many jobs with a key run at the same time. What
-- counts and uses up the rate of a type is in 09, that of a key in 13.

-- Each claim counts in this index, and finds the entries of runs that have ended. Alone they make room for the next ones; an entry
-- that stands for several runs goes only with the last of them. That took a fifth of a claim.
create index if not exists job_queue_limited on job_queue (task_type) with (deduplicate_items = off)
    where status = 'running' and limited;
create unique index if not exists job_queue_key_places on job_queue (concurrency_key, key_place) nulls not distinct
    where status = 'running' and concurrency_key is not null;

-- Until when the runs of each concurrency key that have started use up the rate of their type. Types with the same rate use
-- it together. Keys may name people, so they are stored as hashes. Upkeep removes what is used up no more.
create table if not exists job_key_rates (
    key_hash uuid not null,
    rate_runs integer not null,
    rate_seconds integer not null,
    used_until timestamptz not null,
    primary key (key_hash, rate_runs, rate_seconds)
);
create index if not exists job_key_rates_used on job_key_rates (used_until);

-- How many jobs with the same concurrency key may run at the same time when one of this type is added.
create or replace function job_key_limit(p_task_type text) returns integer
language plpgsql stable parallel safe
as $$
begin
    return coalesce((select max_per_key from job_types where task_type = p_task_type), 1);
end
$$;

-- How many jobs with a key run. The order makes the planner read the index of the places of keys, whatever the
-- statistics say; the index of all running jobs would do as well, and reads all of them.
create or replace function job_key_running(p_key text) returns bigint
language plpgsql stable parallel safe
set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    return (select count(*) from (
        select from job_queue where concurrency_key = p_key and status = 'running' order by key_place) running);
end
$$;

-- How many runs a rate lets start at once if that is not said: those of one second, at least one.
create or replace function job_rate_burst(p_burst integer, p_runs integer, p_seconds integer) returns integer
language sql immutable parallel safe
return coalesce(p_burst, greatest(ceil(p_runs::numeric / p_seconds), 1)::integer);

-- How many seconds of a rate are used up. Far more than the burst has can only be from before the clock was set back, or
-- from a slower rate: then none are.
create or replace function job_rate_used(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz
) returns double precision
language sql immutable parallel safe
return case
    when p_until - p_at > make_interval(secs => 60
        + job_rate_burst(p_burst, p_runs, p_seconds) * p_seconds::double precision / p_runs) then 0
    else greatest(date_part('epoch', coalesce(p_until, p_at) - p_at), 0) end;

-- How many runs may start now by a rate; null without a rate. Times have microseconds, so a time that has come could be
-- missed by a rounding.
create or replace function job_rate_places(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz
) returns integer
language sql immutable parallel safe
return floor(job_rate_burst(p_burst, p_runs, p_seconds)
    - job_rate_used(p_until, p_burst, p_runs, p_seconds, p_at) * p_runs / p_seconds + 1e-6)::integer;

-- Until when a rate is used up after so many more runs.
create or replace function job_rate_after(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz, p_more bigint
) returns timestamptz
language sql immutable parallel safe
return p_at + make_interval(secs => job_rate_used(p_until, p_burst, p_runs, p_seconds, p_at)
    + p_more * p_seconds::double precision / p_runs);

-- When a rate that lets no run start now lets one start.
create or replace function job_rate_opens(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz
) returns timestamptz
language sql immutable parallel safe
return p_at + make_interval(secs => job_rate_used(p_until, p_burst, p_runs, p_seconds, p_at)
    - (job_rate_burst(p_burst, p_runs, p_seconds) - 1) * p_seconds::double precision / p_runs);

-- When the rate of a key lets the next job of this type start, which may be now; null without such a rate.
create or replace function job_key_opens(p_key text, p_task_type text, p_at timestamptz) returns timestamptz
language plpgsql stable
set enable_seqscan = off set jit = off
as $$
begin
    return (
        select case
            when job_rate_places(r.used_until, null, t.key_rate_runs, t.key_rate_seconds, p_at) > 0 then p_at
            else job_rate_opens(r.used_until, null, t.key_rate_runs, t.key_rate_seconds, p_at) end
        from job_types t left join job_key_rates r on r.key_hash = md5(p_key)::uuid
            and r.rate_runs = t.key_rate_runs and r.rate_seconds = t.key_rate_seconds
        where t.task_type = p_task_type and t.key_rate_runs is not null);
end
$$;
