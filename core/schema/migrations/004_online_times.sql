-- Times that no clock reaches, and that programs cannot read: the constraint job_queue_times_check refuses them.
do $$
begin
    -- A schema that is only half there may lack the table.
    if to_regclass('job_queue') is not null then
        update job_queue
        set run_at = case when run_at >= '0001-01-02 00:00+00' and run_at < '9999-12-31 00:00+00' then run_at else now() end,
            expires_at = case when expires_at >= '0001-01-02 00:00+00' and expires_at < '9999-12-31 00:00+00' then expires_at end,
            anchor_at = case when anchor_at >= '0001-01-02 00:00+00' and anchor_at < '9999-12-31 00:00+00' then anchor_at end,
            version = version + 1
        where not (run_at >= '0001-01-02 00:00+00' and run_at < '9999-12-31 00:00+00')
            or not (expires_at >= '0001-01-02 00:00+00' and expires_at < '9999-12-31 00:00+00')
            or not (anchor_at >= '0001-01-02 00:00+00' and anchor_at < '9999-12-31 00:00+00');
    end if;
end
$$;
