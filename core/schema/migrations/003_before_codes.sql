-- What these functions answer was a sentence and is a code with facts. A function that answers so already is left.
do $$
declare
    v_function regprocedure;
begin
    for v_function in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = quote_ident(current_schema())::regnamespace
            and p.proname in ('job_queue_act', 'job_queue_restore', 'job_queue_edit', 'job_queue_clean_stuck',
                'job_bulk_result', 'job_queue_why')
            and 'facts' <> all (coalesce(p.proargnames, '{}'))
    loop
        execute format('drop function %s', v_function);
    end loop;
end
$$;
