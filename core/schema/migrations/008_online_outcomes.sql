-- The history becomes partitioned, and its check of the outcomes has to hold for every row. Schemas before 3 lack an outcome.
do $$
begin
    -- A schema that is only half there may lack the table.
    if not exists (select from pg_class where oid = to_regclass('job_runs') and relkind = 'r') then
        return;
    end if;
    if exists (select from pg_constraint where conrelid = 'job_runs'::regclass
        and conname = 'job_runs_outcome_check' and pg_get_constraintdef(oid) like '%snoozed%')
    then
        return;
    end if;
    -- Finishes wait behind it, so it waits for a quarter of a second at most.
    for v_attempt in 1..20 loop
        begin
            set local lock_timeout = '250ms';
            alter table job_runs drop constraint if exists job_runs_outcome_check;
            alter table job_runs add constraint job_runs_outcome_check check (outcome in ('succeeded', 'partial',
                'continued', 'retried', 'failed', 'cancelled', 'released', 'snoozed', 'lost', 'abandoned')) not valid;
            return;
        exception when lock_not_available then
            if v_attempt = 20 then
                raise;
            end if;
        end;
        perform pg_sleep(0.25);
    end loop;
end
$$;
