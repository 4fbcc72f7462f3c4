-- The pauses of task types become a part of the settings of types, and the rows stay.
do $$
begin
    -- A schema of which only a part was installed has no pauses.
    if not exists (select from pg_class where oid = to_regclass('job_paused_types') and relkind = 'r') then
        return;
    end if;
    if to_regclass('job_types') is not null then
        raise exception using errcode = 'JD001', message = format(
            'The schema %s has a table job_types, which is not Jobdeck''s. Rename it, then run "jobdeck init" again.',
            current_schema());
    end if;
    alter table job_paused_types rename to job_types;
    alter table job_types rename column reason to paused_reason;
    alter table job_types alter column paused_at drop not null, alter column paused_at drop default;
    alter index job_paused_types_pkey rename to job_types_pkey;
    -- From Postgres 18 on, this constraint has a name.
    if exists (select from pg_constraint where conrelid = 'job_types'::regclass
        and conname = 'job_paused_types_task_type_not_null')
    then
        alter table job_types rename constraint job_paused_types_task_type_not_null to job_types_task_type_not_null;
    end if;
end
$$;
