-- Reads the whole history once, while jobs run. A table that is a partition already needs nothing.
do $$
begin
    if exists (select from pg_class where oid = to_regclass('job_runs') and relkind = 'r') then
        alter table job_runs validate constraint job_runs_outcome_check;
    end if;
end
$$;
