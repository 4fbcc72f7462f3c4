-- The index held pending series alone, and an index of the same name is not made again. It must find those that run.
do $$
begin
    if pg_get_indexdef(to_regclass('job_queue_series')) not like '%running%' then
        drop index job_queue_series;
    end if;
end
$$;
