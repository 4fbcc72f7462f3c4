-- Bulk edits of payloads, which only a program carries out that knows the task types of the jobs, and their undo.

-- Edits jobs of a bulk edit, or gives jobs the payloads back that they had before a bulk edit made their versions. For that, the
-- audit has the payloads for as long as they are kept there; the concurrency key followed from the payload, so it comes back too.
--
-- The caller of a bulk edit has validated each payload. An element of p_edits is {"id", "version", "changes", "refusal"}: the
-- changes of job_queue_edit, or null if there is nothing to change, and then the sentence by which the task type refuses them.
create or replace function job_bulk_edit(
    p_bulk job_bulk, p_ids uuid[], p_versions bigint[], p_edits jsonb[], p_actor text
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    v_free constant uuid[] := job_queue_lock_jobs(p_ids);
begin
    return query
    select a.id, c.code in ('was-edited', 'was-reverted', 'nothing-to-change'), c.code,
        case when not e.ok then e.facts when a.refusal is not null then jsonb_build_object('sentence', a.refusal) end,
        e.status, e.version
    from (
        select (d ->> 'id')::uuid as id, (d ->> 'version')::bigint as version, nullif(d -> 'changes', 'null') as changes,
            d ->> 'refusal' as refusal
        from unnest(p_edits) d
        union all
        select a.id, a.version, (
            select (select jsonb_object_agg(b.key, b.value) from jsonb_each(e.before) b
                where b.key in ('payload', 'concurrency_key'))
            -- Only the index by job: the one of the rows with payloads would be read whole, as would the key for the order.
            from (select u.id, u.before from job_audit u
                where u.job_id = a.id and u.action = 'edit' and (u.after ->> 'version')::bigint = a.version offset 0) e
            where e.before ? 'payload' order by e.id desc limit 1), null
        from unnest(p_ids, p_versions) as a (id, version) where p_bulk.action = 'revert'
        -- Each former payload is looked up once, though it is named several times below.
        offset 0) a
    -- Without changes the edit is only tried, so that a job that has changed says that.
    cross join job_queue_edit(a.id, a.version, coalesce(a.changes, '{"payload": {}}'), p_actor, p_bulk.reason,
        a.changes is null) e
    cross join lateral (
        select case
            when not e.ok then e.code
            when p_bulk.action = 'revert' and a.changes is null then 'former-not-kept'
            when p_bulk.action = 'revert' then 'was-reverted'
            when a.refusal is not null then 'not-admitted'
            when a.changes is null then 'nothing-to-change'
            else e.code end as code) c
    where a.id = any (v_free)
    union all
    select a.id, false, 'is-locked', null::jsonb, q.status, q.version
    from unnest(p_ids) as a (id) left join job_queue q on q.id = a.id where a.id <> all (v_free);
end
$$;

-- Edits the next jobs of a bulk edit; for p_edits see job_bulk_edit. Jobs that have their answer by now are left as they are.
create or replace function job_bulk_edit_step(p_bulk uuid, p_edits jsonb[], p_driver text) returns setof job_bulk
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    select * from job_bulk_carry_out(p_bulk, cardinality(p_edits), coalesce(p_edits, '{}'), p_driver)
$$;
