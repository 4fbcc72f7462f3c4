-- What a function answers cannot be replaced. It is dropped only where it answers something else than today, because a
-- call that runs meanwhile fails when its function is gone.
do $$
begin
    if not exists (select from pg_proc where 'job_id' = any (proargnames) and oid = to_regprocedure('job_queue_create('
        'text, jsonb, timestamptz, integer, integer, text, text, uuid, integer, timestamptz, text)'))
    then
        drop function if exists job_queue_create(
            text, jsonb, timestamptz, integer, integer, text, text, uuid, integer, timestamptz, text);
    end if;
    if not exists (select from pg_proc where 'lost_jobs' = any (proargnames)
        and oid = to_regprocedure('job_queue_reap(text, double precision, double precision)'))
    then
        drop function if exists job_queue_reap(text, double precision, double precision);
    end if;
end
$$;
