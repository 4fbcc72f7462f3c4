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
        when 'admin_alert_queue' then
            delete from admin_alert_queue where id in (
                select q.id from admin_alert_queue q where coalesce(q.sent_at, q.dropped_at) < p_before
                limit p_limit for update skip locked);
    end case;
    get diagnostics v_rows = row_count;
    return v_rows;
end
$$;

-- Records in job_upkeep that events were applied, and how often that is expected. Without messages nothing is expected.
create or replace function public.outbox_note_applied(p_seconds double precision, p_sending boolean) returns void
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    if not p_sending then
        delete from job_upkeep where part = 'events';
        return;
    end if;
    insert into job_upkeep (part, every) values ('events', make_interval(secs => p_seconds))
    on conflict (part) do update set every = excluded.every, succeeded_at = clock_timestamp();
end
$$;
