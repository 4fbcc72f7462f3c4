-- Rows that the original application left, and the indexes of the queue.

-- Rows that ran before the tables were taken over get a lease, so that they come back if their runner has died.
update job_queue
set run_token = nextval('job_run_token_seq'), locked_by = coalesce(locked_by, 'another runner'),
    lease_expires_at = updated_at + interval '20 minutes', started_at = coalesce(started_at, updated_at),
    anchor_at = case when is_recurring then coalesce(anchor_at, run_at) end
where status = 'running' and run_token is null;

do $$
begin
    -- The trigger is made last, so the rows of the original are corrected once. Their times may be some that no clock reaches
    -- and no program can read, and their attempts may be a number that no claim can raise. The function
    -- job_queue_after_write refuses what the constraints of the original refused.
    if not exists (select from pg_trigger where tgrelid = 'job_queue'::regclass and tgname = 'job_queue_inserted') then
        update job_queue set attempts = least(attempts, 1000000000), version = version + 1,
            run_at = case when job_is_a_time(run_at) then run_at else now() end,
            created_at = case when job_is_a_time(created_at) then created_at else now() end,
            updated_at = case when job_is_a_time(updated_at) then updated_at else now() end,
            expires_at = case when job_is_a_time(expires_at) then expires_at end,
            completed_at = case when job_is_a_time(completed_at) then completed_at end,
            last_run_at = case when job_is_a_time(last_run_at) then last_run_at end,
            anchor_at = case when job_is_a_time(anchor_at) then anchor_at end
        where attempts > 1000000000 or not (job_is_a_time(least(run_at, created_at, updated_at, expires_at, completed_at,
            last_run_at, anchor_at)) and job_is_a_time(greatest(run_at, created_at, updated_at, expires_at, completed_at,
            last_run_at, anchor_at)));
        alter table job_queue drop constraint if exists job_queue_status_check,
            drop constraint if exists job_queue_attempts_check;
    end if;
end
$$;

-- The rows alone, from a dump of data or on a logical replica, leave the sequence of run tokens behind. A run whose token is
-- drawn again cannot be recorded in the history, so the sequence continues after the last token, and jobs that run with one of
-- the history get another. Nobody drew tokens that high by the sequence as those that are left out.
do $$
declare
    v_most constant bigint := 1000000000000000;
    v_last constant bigint := greatest((select max(r.run_token) from job_runs r where r.run_token < v_most),
        (select max(q.run_token) from job_queue q where q.status = 'running' and q.run_token < v_most));
begin
    if v_last >= (select s.last_value + s.is_called::integer from job_run_token_seq s) then
        perform setval('job_run_token_seq', v_last);
        update job_queue q set run_token = nextval('job_run_token_seq'), version = q.version + 1
        where q.status = 'running' and exists (select from job_runs r where r.run_token = q.run_token);
    end if;
end
$$;

-- The index of claims: only jobs that can run when they are due, their type is neither paused nor at its limit, and a worker is
-- free.
create index if not exists job_queue_claimable on job_queue (task_type, priority desc, run_at, id)
    where status = 'pending' and blocked_by is null and not in_line;
create index if not exists job_queue_lines on job_queue (concurrency_key, task_type, priority desc, run_at, id)
    where status = 'pending' and blocked_by is null and in_line;
create index if not exists job_queue_blocked on job_queue (blocked_by, id)
    where status = 'pending' and blocked_by is not null;
create index if not exists job_queue_waiting on job_queue (run_at, id)
    where status = 'pending' and (blocked_by is not null or in_line);
create index if not exists job_queue_held on job_queue (run_token) where status = 'running';
create unique index if not exists job_queue_dedupe on job_queue (dedupe_key)
    where dedupe_key is not null and status in ('pending', 'running');
create index if not exists job_queue_keyed on job_queue (concurrency_key, priority desc, run_at)
    where status = 'pending' and blocked_by is null and not in_line and concurrency_key is not null;
create index if not exists job_queue_finished on job_queue (status, coalesce(completed_at, updated_at), id)
    where status in ('succeeded', 'failed', 'cancelled');
create index if not exists job_queue_series on job_queue (run_at)
    where is_recurring and status in ('pending', 'running');
-- The series among the jobs that claims read. The others, such as those that are paused one by one, cost a claim nothing.
create index if not exists job_queue_claimable_series on job_queue (task_type, priority, run_at, created_at)
    where is_recurring and status = 'pending' and blocked_by is null and not in_line;
create index if not exists job_queue_expiring on job_queue (expires_at)
    where status = 'pending' and expires_at is not null;
-- Cron series, by the time from which fewer than ten of their slots are left.
create index if not exists job_queue_slots on job_queue (coalesce(slots[cardinality(slots) - 9], '-infinity'))
    where slots is not null and status in ('pending', 'running');
-- Series that do not make up a missed slot.
create index if not exists job_queue_unmissed on job_queue (run_at)
    where status = 'pending' and blocked_by is null and slot_at is null and schedule ->> 'catch_up' = 'none';
-- The jobs of each group of errors.
create index if not exists job_queue_alike on job_queue (fingerprint, task_type, status, id)
    where fingerprint is not null;
