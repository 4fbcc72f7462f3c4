-------------------------------------------------------------------------------------------------------
-- Retention, and the record of the events' upkeep
-------------------------------------------------------------------------------------------------------

-- Removes up to p_limit rows of a table that are from before p_before, those that nobody has locked. Returns how many.
-- Called by job_retain.
create or replace function public.competition_retain(p_name text, p_before timestamptz, p_limit integer) returns bigint
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_rows bigint;
begin
    case p_name
        when 'provider_events' then
            -- What blocks a number or unblocks it is kept as long as the blocks are, so that a repeated report of it is
            -- still known.
            delete from provider_events where id in (
                select v.id from provider_events v where v.received_at < p_before
                    and not (v.provider = 'twilio' and v.event in ('stop', 'start', 'unusable'))
                order by v.received_at limit p_limit for update skip locked);
        when 'outbox_left_out' then
            delete from outbox_left_out where id in (
                select l.id from outbox_left_out l where l.at < p_before order by l.at limit p_limit
                for update skip locked);
        when 'provider_requests' then
            delete from provider_requests where id in (
                select r.id from provider_requests r where r.received_at < p_before order by r.received_at
                limit p_limit for update skip locked);
        when 'admin_alert_queue' then
            delete from admin_alert_queue where id in (
                select q.id from admin_alert_queue q where coalesce(q.sent_at, q.dropped_at) < p_before
                limit p_limit for update skip locked);
    end case;
    get diagnostics v_rows = row_count;
    return v_rows;
end
$$;

drop function if exists public.outbox_note_applied(double precision, boolean);

-- Records in job_upkeep that a part of the competition's upkeep has succeeded, and how often that is expected; or, with
-- p_trouble, why it has not. What is not expected has no row.
create or replace function public.outbox_note_upkeep(
    p_part text, p_seconds double precision, p_expected boolean, p_trouble text default null
) returns void
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    if p_part not in ('events', 'handing events on', 'pulling mail events', 'pulling text events') then
        perform job_queue_refuse(format('The competition has no part of upkeep that is called %s.', p_part));
    end if;
    if not p_expected then
        delete from job_upkeep where part = p_part;
        return;
    end if;
    insert into job_upkeep as u (part, every, failed_at, trouble)
    values (p_part, make_interval(secs => p_seconds), case when p_trouble is not null then clock_timestamp() end,
        left(p_trouble, 500))
    on conflict (part) do update set every = excluded.every, failed_at = excluded.failed_at, trouble = excluded.trouble,
        succeeded_at = case when p_trouble is null then clock_timestamp() else u.succeeded_at end;
end
$$;
