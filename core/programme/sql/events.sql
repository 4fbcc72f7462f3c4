-------------------------------------------------------------------------------------------------------
-- Events of the providers
-------------------------------------------------------------------------------------------------------

create or replace function public.outbox_rank(p_state text) returns integer
language sql immutable
return case p_state when 'queued' then 0 when 'sending' then 1 when 'uncertain' then 2 when 'suppressed' then 2
    when 'failed' then 2 when 'skipped' then 2 when 'accepted' then 3 when 'unconfirmed' then 3 when 'delivered' then 4
    when 'blocked' then 5 when 'dropped' then 6 when 'bounced' then 7 else 0 end;

-- Stores events, each once by its provider's key, and returns the new ones. An entry: provider, event_key, event,
-- occurred_at (unix seconds), message_key, outbox_id, campaign_id, competitor_id, agreement_id, address, reason, payload.
create or replace function public.outbox_keep_events(p_events jsonb) returns setof public.provider_events
language sql volatile
set search_path = public, pg_temp
as $$
    insert into provider_events (provider, event_key, event, occurred_at, message_key, outbox_id, campaign_id,
        competitor_id, agreement_id, address_norm, reason, payload)
    select e.provider, e.event_key, e.event, to_timestamp(e.occurred_at), e.message_key, e.outbox_id, e.campaign_id,
        e.competitor_id, e.agreement_id,
        outbox_normal(case e.provider when 'twilio' then 'sms' else 'email' end, e.address), left(e.reason, 500),
        coalesce(e.payload, '{}') || case when e.address is null then '{}'::jsonb
            else jsonb_build_object('address_sha256', encode(sha256(convert_to(lower(e.address), 'UTF8')), 'hex')) end
    from jsonb_to_recordset(p_events) as e (provider text, event_key text, event text, occurred_at double precision,
        message_key text, outbox_id uuid, campaign_id uuid, competitor_id uuid, agreement_id uuid, address text,
        reason text, payload jsonb)
    on conflict (provider, event_key) do nothing
    returning *
$$;

-- Stores events and returns the number of new ones.
create or replace function public.outbox_record_events(p_events jsonb) returns bigint
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select count(*) from outbox_keep_events(p_events)
$$;

drop function if exists public.outbox_apply_event(public.provider_events);
drop function if exists public.outbox_apply_to_message(public.provider_events, uuid);
drop function if exists public.outbox_apply_to_forms(public.provider_events, uuid);
drop function if exists public.outbox_find_message(public.provider_events);

-- Stores events that were pulled, and the position reached in each source (`p_cursors`, by name). Returns the number of
-- new events. Writes an audit row with each new event, its address masked, because events can block an address or unblock
-- it. Only the worker may call it, because an event changes messages: a role that reports one about a guessed address
-- would learn whose address that is.
create or replace function public.outbox_record_pulled(p_events jsonb, p_cursors jsonb, p_actor text) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_new constant jsonb := (
        select coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'provider', e.provider, 'event', e.event,
            'at', e.occurred_at, 'outbox_id', e.outbox_id,
            'address', outbox_mask(case e.provider when 'twilio' then 'sms' else 'email' end, e.address_norm))
            order by e.id), '[]')
        from outbox_keep_events(p_events) e);
begin
    perform job_refuse_outsiders();
    insert into provider_cursors (name, position) select c.key, c.value from jsonb_each_text(p_cursors) c
    on conflict (name) do update set position = excluded.position, updated_at = now();
    -- Upkeep pulls every half hour, and its pulls without a new event are no news.
    if v_new <> '[]' or p_cursors <> '{}' and p_actor <> 'upkeep' then
        perform job_queue_write_audit(p_actor, 'pull events', null, null, jsonb_build_object(
            'new', jsonb_array_length(v_new), 'cursors', p_cursors, 'events', v_new), null);
    end if;
    return jsonb_array_length(v_new);
end
$$;

-- Why an event blocks an address; null when it does not. Of the reasons of a drop only these four are about the address;
-- all others, such as "Spam Content", "Invalid SMTPAPI header" and "Recipient List over Package Quota", are about the
-- message or the account.
create or replace function public.outbox_event_suppression(p_event public.provider_events) returns text
language sql immutable
return case
    when (p_event).provider <> 'sendgrid' then null
    when (p_event).event = 'bounced' then 'hard_bounce'
    when (p_event).event = 'invalid' then 'invalid'
    when (p_event).event = 'spamreport' then 'spam'
    when (p_event).event = 'unsubscribe' then 'global_unsub'
    when (p_event).event = 'group_unsubscribe' then 'group_unsub'
    when (p_event).event <> 'dropped' then null
    else case lower(trim((p_event).reason))
        when 'unsubscribed address' then 'global_unsub'
        when 'spam reporting address' then 'spam'
        when 'bounced address' then 'hard_bounce'
        when 'invalid' then 'invalid' end
    end;

-- Whether a reported outcome replaces the present one, independent of the order of the reports: the higher rank wins,
-- and between a delivery and a block the later one. `p_present_at` is when the present one happened; null counts as
-- before all others. The same outcome with a later time replaces the time.
create or replace function public.outbox_outranks(
    p_told text, p_told_at timestamptz, p_present text, p_present_at timestamptz
) returns boolean
language sql immutable
return case
    when p_told in ('delivered', 'blocked') and p_present in ('delivered', 'blocked')
        then p_told_at > coalesce(p_present_at, '-infinity')
            or p_told_at = p_present_at and p_told = 'blocked' and p_present = 'delivered'
    else outbox_rank(p_told) > outbox_rank(p_present) end;

-- The sort key by which, of several outcomes reported together, the highest is the one that outbox_outranks would keep.
create or replace function public.outbox_outcome_order(p_outcome text, p_at timestamptz) returns double precision[]
language sql stable
return case when p_outcome in ('delivered', 'blocked')
    then array[4, extract(epoch from p_at), case p_outcome when 'blocked' then 1 else 0 end]::double precision[]
    else array[outbox_rank(p_outcome), -extract(epoch from p_at)]::double precision[] end;

-- An event with the objects it refers to. `address` is its message's if it has none of its own, `outcome` the outcome
-- of the message, `bar` the reason for blocking the address, `closes` the campaign whose status may change.
do $$
begin
    if to_regtype('public.outbox_told') is null then
        create type public.outbox_told as (
            id bigint, provider text, event text, occurred_at timestamptz, reason text, code text, address text,
            address_sha256 text, outcome text, bar text, message uuid, kind text, recipient uuid, closes uuid,
            campaign_id uuid, competitor_id uuid, agreement_id uuid
        );
    end if;
end
$$;

-- Finds the message of each event: by the id in the event, else by the provider's id and the address, else, for lists
-- without ids, by the address (the last message accepted before it). Works row by row, so that no plan scans a table.
create or replace function public.outbox_match_events(p_events bigint[]) returns setof public.outbox_told
language sql stable
set search_path = public, pg_temp
as $$
    select e.id, e.provider, e.event, e.occurred_at, e.reason, e.payload ->> 'code',
        coalesce(e.address_norm, m.address_norm), e.payload ->> 'address_sha256',
        case when e.event in ('delivered', 'blocked', 'dropped', 'bounced') then e.event
            when e.event = 'invalid' then 'bounced' end,
        outbox_event_suppression(e), m.id, m.kind, m.campaign_recipient_id, coalesce(m.campaign_id, e.campaign_id),
        e.campaign_id, e.competitor_id, e.agreement_id
    from provider_events e
    left join lateral (select m.id from outbox_messages m where m.id = e.outbox_id limit 1) a on true
    cross join lateral (
        select case e.provider when 'sendgrid' then split_part(e.message_key, '.', 1) else e.message_key end as sent) k
    left join lateral (
        select m.id from outbox_messages m
        where a.id is null and m.provider_message_id = k.sent and m.address_norm = e.address_norm
        order by m.created_at limit 1) b on true
    left join lateral (
        select m.id from outbox_messages m
        where a.id is null and e.address_norm is null and m.provider_message_id = k.sent
        order by m.created_at limit 1) c on true
    left join lateral (
        select m.id from outbox_messages m
        where a.id is null and b.id is null and e.message_key is null and m.address_norm = e.address_norm
            and m.created_at <= e.occurred_at + interval '5 seconds'
            and m.accepted_at <= e.occurred_at + interval '3 minutes'
        -- A worker that was slow to note the acceptance notes it after the event; its request ends within two minutes.
        order by m.accepted_at <= e.occurred_at + interval '5 seconds' desc, m.accepted_at desc limit 1) d on true
    left join lateral (
        select m.id, m.kind, m.campaign_recipient_id, m.campaign_id, m.address_norm from outbox_messages m
        where m.id = coalesce(a.id, b.id, c.id, d.id) limit 1) m on true
    where e.id = any (p_events)
$$;

-- Applies events to messages and to recipients' opens and clicks. Returns the events whose outcome is now the
-- message's.
create or replace function public.outbox_apply_to_messages(p_told public.outbox_told[]) returns setof bigint
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    -- Lock in one order, as everywhere, to avoid deadlocks.
    perform from outbox_messages m where m.id in (
        select t.message from unnest(p_told) t where t.event not in ('open', 'click')) order by m.id for update;
    return query
    with told as (select * from unnest(p_told) t where t.message is not null and t.event not in ('open', 'click')),
    latest as (
        select distinct on (message) message, event, occurred_at from told order by message, occurred_at desc, id desc),
    best as (
        select distinct on (message) told.*, min(occurred_at) over (partition by message) as first_at
        from told where outcome is not null
        order by message, outbox_outcome_order(outcome, occurred_at) desc, id),
    weighed as (
        select m.id, l.event, l.occurred_at, b.id as told, b.outcome, b.occurred_at as outcome_at, b.first_at, b.code,
            b.reason, coalesce(outbox_outranks(b.outcome, b.occurred_at, m.state, m.outcome_at), false) as counts,
            l.occurred_at >= coalesce(m.last_event_at, '-infinity') as newest
        from latest l join outbox_messages m on m.id = l.message left join best b on b.message = l.message),
    changed as (
        update outbox_messages m
        set state = case when w.counts then w.outcome else m.state end,
            outcome_at = case when w.counts then w.outcome_at else m.outcome_at end,
            lease_until = case when w.counts then null else m.lease_until end,
            accepted_at = case when w.counts then coalesce(m.accepted_at, w.first_at) else m.accepted_at end,
            error_class = case when not w.counts then m.error_class when w.outcome <> 'delivered' then w.outcome end,
            error_code = case when w.counts then w.code else m.error_code end,
            error_text = case when not w.counts then m.error_text when w.outcome <> 'delivered' then w.reason end,
            updated_at = case when w.counts then now() else m.updated_at end,
            last_event = case when w.newest then w.event else m.last_event end,
            last_event_at = case when w.newest then w.occurred_at else m.last_event_at end
        from weighed w where m.id = w.id and (w.counts or w.newest)
        returning case when w.counts then w.told end as told)
    select c.told from changed c where c.told is not null;
    update competitor_announcement_recipients r
    set opened_at = least(r.opened_at, s.opened), clicked_at = least(r.clicked_at, s.clicked)
    from (
        select t.recipient, min(t.occurred_at) filter (where t.event = 'open') as opened,
            min(t.occurred_at) filter (where t.event = 'click') as clicked
        from unnest(p_told) t where t.event in ('open', 'click') and t.recipient is not null group by 1) s
    where r.id = s.recipient and (least(r.opened_at, s.opened) is distinct from r.opened_at
        or least(r.clicked_at, s.clicked) is distinct from r.clicked_at);
end
$$;

-- Applies events to mail that the original sent, which has no message in the outbox. Returns these events, and whether
-- each changed a row.
create or replace function public.outbox_apply_to_original(p_told public.outbox_told[])
returns table (event bigint, counted boolean)
language sql volatile
set search_path = public, pg_temp
as $$
    with told as materialized (
        select r.id as recipient, t.id, t.event, t.occurred_at, t.reason
        from unnest(p_told) t
        join competitor_announcement_recipients r
            on r.campaign_id = t.campaign_id and r.competitor_id = t.competitor_id
        where t.message is null and not exists (select from outbox_messages m where m.campaign_recipient_id = r.id)),
    best as (
        select distinct on (recipient) * from told where told.event in ('delivered', 'blocked', 'dropped', 'bounced')
        order by recipient, outbox_rank(told.event) desc, occurred_at, id),
    changed as (
        update competitor_announcement_recipients r
        set status = b.event, error = case when b.event <> 'delivered' then b.reason end, updated_at = now()
        from best b where r.id = b.recipient and outbox_rank(b.event) > outbox_rank(r.status)
        returning b.id)
    select told.id, bool_or(changed.id is not null) from told left join changed on changed.id = told.id group by told.id
$$;

-- Applies the outcomes of probes to their forms. Returns the same as outbox_apply_to_original. A parent's address is
-- invalid only after a hard bounce, or a drop because of one, and only if the profile still has that address.
create or replace function public.outbox_apply_to_forms(p_told public.outbox_told[])
returns table (event bigint, counted boolean)
language sql volatile
set search_path = public, pg_temp
as $$
    with told as (
        select t.*, replace(t.outcome, 'bounced', 'bounce') as status
        from unnest(p_told) t where t.outcome is not null),
    pairs as materialized (
        select a.id as agreement, a.competitor_id as child, told.*
        from told join agreements a on a.recipient_email_verification_outbox_id = told.message
        union
        select a.id, a.competitor_id, told.* from told join agreements a on a.id = told.agreement_id),
    best as (
        select distinct on (agreement) * from pairs
        order by agreement, outbox_outcome_order(outcome, occurred_at) desc, id),
    changed as (
        update agreements a
        set recipient_email_verification_status = b.status,
            recipient_email_verification_error = case when b.status <> 'delivered'
                then left(coalesce(b.reason, b.status), 1000) end,
            recipient_email_verification_event_at = b.occurred_at, updated_at = now(),
            recipient_email_verification_next_at = case when b.status = 'blocked' then now() + interval '24 hours'
                else a.recipient_email_verification_next_at end
        from best b
        where a.id = b.agreement and outbox_outranks(b.outcome, b.occurred_at,
            replace(a.recipient_email_verification_status, 'bounce', 'bounced'),
            a.recipient_email_verification_event_at)
        returning b.id),
    condemned as (
        update competitors c
        set parent_email_is_valid = false, parent_email_validated_at = now(),
            parent_email_invalid_reason = left(coalesce(p.reason, p.status), 500)
        from (
            select distinct on (p.child) p.child, p.reason, p.status
            from pairs p join competitors k on k.id = p.child
            where p.bar in ('hard_bounce', 'invalid') and outbox_normal('email', k.parent_email) = p.address
            order by p.child, p.occurred_at desc, p.id desc) p
        where c.id = p.child)
    select pairs.id, bool_or(changed.id is not null) from pairs left join changed on changed.id = pairs.id
    group by pairs.id
$$;

-- Whether a person who unsubscribed from a group, or stopped texts, has subscribed again, according to the events.
create or replace function public.outbox_taken_back(p_told public.outbox_told) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select exists (
        select from provider_events r
        where r.event in ('group_resubscribe', 'start')
            and r.event = case (p_told).event when 'group_unsubscribe' then 'group_resubscribe'
                when 'stop' then 'start' end
            and r.payload ->> 'address_sha256' = (p_told).address_sha256 and r.occurred_at > (p_told).occurred_at)
$$;

-- Blocks addresses, and unblocks those that subscribed to a group again.
create or replace function public.outbox_apply_to_suppressions(p_told public.outbox_told[]) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    delete from email_suppressions s using unnest(p_told) t
    where t.event = 'group_resubscribe' and s.address_norm = t.address and s.reason = 'group_unsub'
        and s.created_at < t.occurred_at;
    insert into email_suppressions as s (address_norm, reason, scope, source, created_at)
    select t.address, t.bar, case t.bar when 'group_unsub' then 'announcements' else 'all' end, 'sendgrid event',
        case t.bar when 'group_unsub' then max(t.occurred_at) else min(t.occurred_at) end
    from unnest(p_told) t
    where t.address is not null and t.bar is not null
        and not (t.bar = 'group_unsub' and (outbox_taken_back(t) or exists (
            select from unnest(p_told) b where b.event = 'group_resubscribe' and b.address = t.address
                and b.occurred_at > t.occurred_at)))
    group by t.address, t.bar order by t.address, t.bar
    on conflict (address_norm, reason, scope) do update set created_at = excluded.created_at
    where s.reason = 'group_unsub' and s.created_at < excluded.created_at;
end
$$;

-- Blocks numbers for texts, and unblocks those of people who subscribed again, except numbers that cannot receive
-- texts.
create or replace function public.outbox_apply_to_opt_outs(p_told public.outbox_told[]) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    update profiles p set sms_notifications_enabled = false
    where outbox_e164(p.mobile_number) in (
        select t.address from unnest(p_told) t where t.provider = 'twilio' and t.event = 'stop');
    insert into sms_opt_outs as o (phone_e164, source, created_at)
    select distinct on (t.address) t.address, t.event, t.occurred_at from unnest(p_told) t
    where t.provider = 'twilio' and t.event in ('stop', 'unusable') and t.address is not null
        and not outbox_taken_back(t)
    order by t.address, t.event = 'unusable' desc, t.occurred_at desc, t.id desc
    on conflict (phone_e164) do update set source = excluded.source, created_at = excluded.created_at, cleared_at = null
    where case when excluded.source = 'unusable' then o.source <> 'unusable' or o.cleared_at < excluded.created_at
        else (o.source <> 'unusable' or o.cleared_at is not null)
            and excluded.created_at >= greatest(o.created_at, o.cleared_at) end;
    update sms_opt_outs o set cleared_at = b.at
    from (
        select t.address, max(t.occurred_at) as at from unnest(p_told) t
        where t.provider = 'twilio' and t.event = 'start' group by 1) b
    where o.phone_e164 = b.address and o.source <> 'unusable' and o.created_at < b.at;
end
$$;

-- Applies events together, or none if one cannot be applied. Several events about one message have the same effect as
-- one by one in the order in which they happened.
create or replace function public.outbox_apply_together(p_events bigint[], out applied bigint, out unmatched bigint)
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_told outbox_told[] := array(select f from outbox_match_events(p_events) f);
    v_counted bigint[] := array(select outbox_apply_to_messages(v_told));
    v_known bigint[] := array(select t.id from unnest(v_told) t where t.message is not null);
    v_barred bigint[] := array(select t.id from unnest(v_told) t where t.bar is not null and t.address is not null);
    v_campaign uuid;
begin
    if exists (select from unnest(v_told) t where t.message is null and t.campaign_id is not null) then
        select v_known || array_agg(o.event), v_counted || array_agg(o.event) filter (where o.counted)
        into v_known, v_counted from outbox_apply_to_original(v_told) o;
    end if;
    if exists (select from unnest(v_told) t where t.agreement_id is not null or t.kind = 'parent_probe') then
        select v_known || array_agg(o.event), v_counted || array_agg(o.event) filter (where o.counted)
        into v_known, v_counted from outbox_apply_to_forms(v_told) o;
    end if;
    if cardinality(v_barred) > 0 or exists (select from unnest(v_told) t where t.event = 'group_resubscribe') then
        perform outbox_apply_to_suppressions(v_told);
    end if;
    if exists (select from unnest(v_told) t where t.event in ('stop', 'unusable', 'start')) then
        perform outbox_apply_to_opt_outs(v_told);
    end if;
    for v_campaign in select distinct t.closes from unnest(v_told) t where t.closes is not null order by 1 loop
        perform outbox_campaign_close(v_campaign);
    end loop;
    with done as (
        update provider_events e
        set applied_at = now(), address_norm = null,
            result = case when e.id = any (v_counted) then 'applied' when e.id = any (v_known) then 'noted'
                when e.id = any (v_barred) then 'suppressed' else 'unmatched' end
        where e.id = any (p_events)
        returning e.result)
    select count(*) filter (where result in ('applied', 'suppressed')), count(*) filter (where result = 'unmatched')
    into applied, unmatched from done;
end
$$;

-- Applies events. After an error it applies the two halves separately, and so on, so that only the faulty event fails.
create or replace function public.outbox_apply_batch(
    p_events bigint[], out applied bigint, out unmatched bigint, out failed bigint
)
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_half integer := cardinality(p_events) / 2;
begin
    select t.applied, t.unmatched, 0 into applied, unmatched, failed from outbox_apply_together(p_events) t;
exception when others then
    if v_half > 0 then
        select sum(h.applied), sum(h.unmatched), sum(h.failed) into applied, unmatched, failed
        from (values (p_events[1:v_half]), (p_events[v_half + 1:])) as halves (part), outbox_apply_batch(halves.part) h;
        return;
    end if;
    applied := 0;
    unmatched := 0;
    failed := cardinality(p_events);
    update provider_events e set failures = e.failures + 1, result = 'error ' || sqlstate where e.id = any (p_events);
end
$$;

-- Applies waiting events, oldest first. An event that cannot be applied is tried 5 times, after the first time
-- separately, and does not delay the others.
create or replace function public.outbox_apply_events(p_limit integer)
returns table (seen bigint, applied bigint, unmatched bigint, failed bigint)
language plpgsql volatile security definer
-- Comparisons with long lists are fast only if the lists are constants of the plan. A bitmap scan would read all
-- waiting events, however few are needed.
set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set enable_bitmapscan = off set jit = off
as $$
declare
    v_fresh bigint[];
    v_again bigint[];
begin
    perform job_refuse_outsiders();
    perform job_queue_lock_name('outbox_apply_events');
    select array_agg(w.id order by w.occurred_at, w.id) filter (where w.failures = 0),
        array_agg(w.id) filter (where w.failures > 0)
    into v_fresh, v_again
    from (
        select e.id, e.occurred_at, e.failures from provider_events e where e.applied_at is null and e.failures < 5
        order by e.occurred_at, e.id limit p_limit) w;
    select coalesce(sum(cardinality(b.part)), 0), coalesce(sum(d.applied), 0), coalesce(sum(d.unmatched), 0),
        coalesce(sum(d.failed), 0)
    into seen, applied, unmatched, failed
    from (
        select v_fresh as part where v_fresh is not null
        union all
        select array[one] from unnest(v_again) one) b, outbox_apply_batch(b.part) d;
    return next;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Requests for the second receiver
-------------------------------------------------------------------------------------------------------

-- Stores a signed request until it is handed on. A repeated one is stored once, with the newest signature.
create or replace function public.outbox_request_keep(
    p_body bytea, p_signature text, p_signed_at text, p_about text[]
) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    insert into provider_requests (digest, body, signature, signed_at, about)
    values (encode(sha256(p_body), 'hex'), p_body, p_signature, p_signed_at, p_about)
    on conflict (digest) do update set signature = excluded.signature, signed_at = excluded.signed_at
$$;

-- The request that has waited longest, for one caller during p_seconds.
create or replace function public.outbox_request_take(p_seconds double precision)
returns table (id bigint, body bytea, signature text, signed_at text, attempts integer)
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    update provider_requests r
    set attempts = r.attempts + 1, next_at = clock_timestamp() + make_interval(secs => p_seconds)
    where r.id = (
        select w.id from provider_requests w where w.next_at <= clock_timestamp() order by w.next_at, w.id limit 1
        for update skip locked)
    returning r.id, r.body, r.signature, r.signed_at, r.attempts
$$;

-- Removes a request that was handed on, or lets it wait for p_wait seconds.
create or replace function public.outbox_request_settle(p_id bigint, p_wait double precision) returns void
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    if p_wait is null then
        delete from provider_requests where id = p_id;
    else
        update provider_requests set next_at = clock_timestamp() + make_interval(secs => p_wait) where id = p_id;
    end if;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Receipts: recipients, times and outcomes of messages, and the people left out
-------------------------------------------------------------------------------------------------------

create or replace view public.outbox_receipts as
    select m.job_id, m.run_token, m.id as outbox_id, m.campaign_id, m.kind, m.channel, m.recipient_ref,
        public.outbox_mask(m.channel, m.address) as address, m.state, m.attempts, m.provider_message_id, m.segments,
        m.created_at, m.accepted_at, m.last_event, m.last_event_at, m.error_class, m.error_code, null::text as left_out
    from public.outbox_messages m
    where (select public.job_may_read_views())
    union all
    select l.job_id, l.run_token, null, null, l.kind, l.channel, l.recipient_ref, '', 'left out', 0, null, null, l.at,
        null, null, null, null, null, l.reason
    from public.outbox_left_out l
    where (select public.job_may_read_views())
    union all
    select c.dispatch_job_id, c.dispatch_token, null, r.campaign_id, 'announcement', 'email', r.competitor_id,
        public.outbox_mask('email', r.email), 'left out', 0, null, null, r.updated_at, null, null, null, null, null,
        r.skip_reason
    from public.competitor_announcement_recipients r
    join public.competitor_announcement_campaigns c on c.id = r.campaign_id
    where r.status = 'skipped' and (select public.job_may_read_views())
        and not exists (select from public.outbox_messages m where m.campaign_recipient_id = r.id);

-- The full addresses of a job's or campaign's messages. Needs a reason, and records the access in the audit log.
create or replace function public.outbox_reveal(p_job uuid, p_campaign uuid, p_actor text, p_reason text)
returns table (outbox_id uuid, recipient_ref uuid, channel text, address text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    if coalesce(trim(p_reason), '') = '' then
        perform job_queue_refuse('Whole addresses are shown only to one who says why. Give a reason.');
    end if;
    perform job_queue_write_audit(p_actor, 'reveal', p_job, null,
        jsonb_build_object('campaign_id', p_campaign, 'what', 'addresses of messages'), p_reason);
    return query
        select m.id, m.recipient_ref, m.channel, m.address from outbox_messages m
        where m.job_id = p_job or m.campaign_id = p_campaign order by m.created_at, m.id;
end
$$;
