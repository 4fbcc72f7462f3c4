-------------------------------------------------------------------------------------------------------
-- The outbox: tables
-------------------------------------------------------------------------------------------------------

-- One row per message, written before it is sent. `attempts` is the fencing token: the report of a sender counts only
-- for the attempt it got. A `queued` message may be sent. An `uncertain` one may have been sent, and is sent again only
-- after a person's decision.
create table if not exists public.outbox_messages (
    id uuid primary key default gen_random_uuid(),
    kind text not null check (kind in ('unread_alert', 'admin_alert', 'parent_probe', 'announcement')),
    channel text not null check (channel in ('email', 'sms')),
    recipient_ref uuid,
    address text not null,
    address_norm text not null,
    dedupe_key text not null unique,
    data jsonb not null default '{}',
    campaign_id uuid,
    campaign_recipient_id uuid,
    batch_id uuid,
    state text not null default 'queued' check (state in ('queued', 'sending', 'uncertain', 'accepted', 'delivered',
        'blocked', 'dropped', 'bounced', 'failed', 'suppressed')),
    attempts integer not null default 0,
    lease_until timestamptz,
    next_attempt_at timestamptz not null default now(),
    provider_message_id text,
    segments integer,
    error_class text,
    error_code text,
    error_text text,
    last_event text,
    last_event_at timestamptz,
    job_id uuid,
    run_token bigint,
    created_at timestamptz not null default now(),
    accepted_at timestamptz,
    updated_at timestamptz not null default now(),
    check ((state = 'sending') = (lease_until is not null))
);
alter table public.outbox_messages add column if not exists outcome_at timestamptz;
alter table public.outbox_messages set (fillfactor = 85);

create index if not exists outbox_messages_sending on public.outbox_messages (lease_until) where state = 'sending';
create index if not exists outbox_messages_queued on public.outbox_messages (kind, created_at) where state = 'queued';
create index if not exists outbox_messages_recipient
    on public.outbox_messages (recipient_ref, channel, kind, created_at desc);
create index if not exists outbox_messages_campaign
    on public.outbox_messages (campaign_id, state) where campaign_id is not null;
create index if not exists outbox_messages_campaign_recipient
    on public.outbox_messages (campaign_recipient_id) where campaign_recipient_id is not null;
create index if not exists outbox_messages_batch on public.outbox_messages (batch_id) where batch_id is not null;
create index if not exists outbox_messages_provider
    on public.outbox_messages (provider_message_id) where provider_message_id is not null;
create index if not exists outbox_messages_address on public.outbox_messages (address_norm, accepted_at desc);
create index if not exists outbox_messages_job on public.outbox_messages (job_id, id) where job_id is not null;
create index if not exists outbox_messages_open on public.outbox_messages (channel, accepted_at)
    where state in ('accepted', 'uncertain');

-- One request for many messages.
create table if not exists public.send_batches (
    id uuid primary key default gen_random_uuid(),
    campaign_id uuid not null,
    size integer not null,
    state text not null default 'sending' check (state in ('sending', 'accepted', 'returned', 'failed', 'uncertain')),
    provider_message_id text,
    http_status integer,
    error_class text,
    job_id uuid,
    run_token bigint,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index if not exists send_batches_campaign on public.send_batches (campaign_id, created_at);

-- The people whom a run left out, with the reason.
create table if not exists public.outbox_left_out (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    job_id uuid,
    run_token bigint,
    kind text not null,
    channel text,
    recipient_ref uuid,
    reason text not null
);
create index if not exists outbox_left_out_job on public.outbox_left_out (job_id, id);
create index if not exists outbox_left_out_at on public.outbox_left_out (at);

create table if not exists public.email_suppressions (
    address_norm text not null,
    reason text not null check (reason in ('hard_bounce', 'spam', 'global_unsub', 'group_unsub', 'invalid', 'manual')),
    scope text not null default 'all' check (scope in ('all', 'announcements')),
    source text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    primary key (address_norm, reason, scope)
);

create table if not exists public.sms_opt_outs (
    phone_e164 text primary key,
    source text not null check (source in ('stop', 'error_21610', 'manual', 'unusable')),
    created_at timestamptz not null default now(),
    cleared_at timestamptz
);

-- The address of an event is kept until the event is applied, then removed.
create table if not exists public.provider_events (
    id bigint generated always as identity primary key,
    provider text not null check (provider in ('sendgrid', 'twilio')),
    event_key text not null,
    event text not null,
    occurred_at timestamptz not null,
    message_key text,
    outbox_id uuid,
    campaign_id uuid,
    competitor_id uuid,
    agreement_id uuid,
    address_norm text,
    reason text,
    payload jsonb not null default '{}',
    received_at timestamptz not null default now(),
    applied_at timestamptz,
    result text,
    failures integer not null default 0,
    unique (provider, event_key)
);
create index if not exists provider_events_waiting on public.provider_events (occurred_at, id) where applied_at is null;
create index if not exists provider_events_received on public.provider_events (received_at);
create index if not exists provider_events_taken_back on public.provider_events ((payload ->> 'address_sha256'))
    where event in ('group_resubscribe', 'start');

-- Signed requests with events, some not ours, that wait to be handed on to the second receiver, byte by byte. `about` has
-- the SHA-256 of each address and the ids in them, so that an erasure finds them.
create table if not exists public.provider_requests (
    id bigint generated always as identity primary key,
    digest text not null unique,
    body bytea not null,
    signature text not null,
    signed_at text not null,
    about text[] not null,
    received_at timestamptz not null default now(),
    next_at timestamptz not null default now(),
    attempts integer not null default 0
);
create index if not exists provider_requests_next on public.provider_requests (next_at, id);

create table if not exists public.provider_cursors (
    name text primary key,
    position text not null,
    updated_at timestamptz not null default now()
);

-- The time of the next allowed request to a provider, for all workers together.
create table if not exists public.provider_rates (
    provider text primary key,
    due_at timestamptz not null default '-infinity',
    closed_until timestamptz not null default '-infinity'
);
-- When the last request was reserved, by the same clock as due_at.
alter table public.provider_rates add column if not exists reserved_at timestamptz;

-------------------------------------------------------------------------------------------------------
-- Addresses, preferences, quiet hours
-------------------------------------------------------------------------------------------------------

create or replace function public.outbox_normal(p_channel text, p_address text) returns text
language sql immutable
return case p_channel when 'email' then lower(regexp_replace(p_address, '^\s+|\s+$', '', 'g'))
    else regexp_replace(p_address, '^\s+|\s+$', '', 'g') end;

-- Strict, because one bad address makes SendGrid refuse a whole request.
create or replace function public.outbox_email_ok(p_address text) returns boolean
language sql immutable
return coalesce(length(p_address) <= 254
    and p_address ~ '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$'
    and length(split_part(p_address, '@', 1)) <= 64, false);

-- A phone number in E.164, with the code of the United States if it has no country code; null when it is not a number.
create or replace function public.outbox_e164(p_number text) returns text
language sql immutable
return case
    when p_number is null or p_number !~ '^\s*\+?[0-9 ().\-]+\s*$' then null
    when regexp_replace(p_number, '[^0-9+]', '', 'g') ~ '^\+[1-9][0-9]{7,14}$'
        then regexp_replace(p_number, '[^0-9+]', '', 'g')
    when regexp_replace(p_number, '[^0-9+]', '', 'g') ~ '^[2-9][0-9]{9}$'
        then '+1' || regexp_replace(p_number, '[^0-9+]', '', 'g')
    when regexp_replace(p_number, '[^0-9+]', '', 'g') ~ '^1[2-9][0-9]{9}$'
        then '+' || regexp_replace(p_number, '[^0-9+]', '', 'g')
end;

create or replace function public.outbox_mask(p_channel text, p_address text) returns text
language sql immutable
return case when coalesce(p_address, '') = '' then ''
    when p_channel = 'sms' then '…' || right(p_address, 2)
    else left(p_address, 1) || '…@' || split_part(p_address, '@', 2) end;

-- Whether a time of day is in a period, which may cross midnight. A period without length contains no time.
create or replace function public.outbox_is_quiet(p_at time, p_from time, p_to time) returns boolean
language sql immutable
return coalesce(case when p_from <= p_to then p_at >= p_from and p_at < p_to else p_at >= p_from or p_at < p_to end, false);

-- Why an address is blocked; null when it is not.
create or replace function public.outbox_suppression(p_kind text, p_channel text, p_address_norm text) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select case when p_channel = 'sms' then (
            select case source when 'unusable' then 'number_unusable' else 'opted_out' end
            from sms_opt_outs where phone_e164 = p_address_norm and cleared_at is null)
        else (
            select case when reason in ('global_unsub', 'group_unsub') then 'unsubscribed' else 'suppressed' end
            from email_suppressions
            where address_norm = p_address_norm and (scope = 'all' or p_kind = 'announcement')
                and (expires_at is null or expires_at > now())
            order by reason in ('global_unsub', 'group_unsub') limit 1)
        end
$$;

-- Whether a person has switched off this kind of alert.
create or replace function public.outbox_preference_off(p_kind text, p_channel text, p_recipient uuid) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select p_kind in ('unread_alert', 'admin_alert') and exists (
        select from profiles where id = p_recipient and case
            when p_channel = 'email' then email_alerts_enabled is false
            when p_kind = 'unread_alert' then sms_notifications_enabled is not true
            else instant_sms_enabled is not true end)
$$;

-- Whether the person of a queued message has changed the address since. A probe belongs to its forms, an alert to a
-- profile. Mail of a campaign is checked elsewhere, because it has its own list.
create or replace function public.outbox_address_changed(p_message public.outbox_messages) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select case
        when (p_message).kind = 'parent_probe' then (
            select bool_and(outbox_normal('email', c.parent_email) is distinct from (p_message).address_norm)
            from agreements a join competitors c on c.id = a.competitor_id
            where a.recipient_email_verification_outbox_id = (p_message).id) is true
        when (p_message).kind in ('unread_alert', 'admin_alert') then not exists (
            select from profiles p where p.id = (p_message).recipient_ref and (p_message).address_norm = case
                (p_message).channel when 'sms' then outbox_e164(p.mobile_number)
                else coalesce(nullif(outbox_normal('email', p.email_alert_address), ''), outbox_normal('email', p.email))
                end)
        else false end
$$;

-- Why a queued message must no longer be sent; null when it may.
create or replace function public.outbox_overtaken(p_message public.outbox_messages) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select coalesce(
        outbox_suppression((p_message).kind, (p_message).channel, (p_message).address_norm),
        case when outbox_preference_off((p_message).kind, (p_message).channel, (p_message).recipient_ref)
            then 'preference_off' end,
        case when outbox_address_changed(p_message) then 'address_changed' end)
$$;

-- Why a message cannot be sent now: suppression, then preference, window, daily cap, quiet hours; null when it can. An
-- uncertain message counts as sent.
create or replace function public.outbox_obstacle(
    p_kind text, p_channel text, p_recipient uuid, p_address_norm text, p_window_minutes integer, p_policy jsonb,
    p_except uuid
) returns text
language plpgsql stable
set search_path = public, pg_temp
as $$
declare
    v_reason text := outbox_suppression(p_kind, p_channel, p_address_norm);
    v_zone text := coalesce(p_policy ->> 'zone', 'UTC');
    v_cap integer := (p_policy ->> ('cap_' || p_channel))::integer;
begin
    if v_reason is not null then
        return v_reason;
    end if;
    if outbox_preference_off(p_kind, p_channel, p_recipient) then
        return 'preference_off';
    end if;
    if p_window_minutes is not null and exists (
        select from outbox_messages
        where recipient_ref = p_recipient and channel = p_channel and kind = p_kind and id is distinct from p_except
            and state not in ('queued', 'failed', 'suppressed')
            and coalesce(accepted_at, updated_at) > now() - make_interval(mins => p_window_minutes))
    then
        return 'window';
    end if;
    if p_kind = 'unread_alert' and v_cap is not null and (
        select count(*) from outbox_messages
        where recipient_ref = p_recipient and channel = p_channel and kind = p_kind and id is distinct from p_except
            and state not in ('queued', 'failed', 'suppressed')
            and coalesce(accepted_at, updated_at) >= date_trunc('day', now() at time zone v_zone) at time zone v_zone
        ) >= v_cap
    then
        return 'daily_cap';
    end if;
    if p_channel = 'sms'
        and outbox_is_quiet((now() at time zone v_zone)::time, (p_policy ->> 'quiet_from')::time,
            (p_policy ->> 'quiet_to')::time)
    then
        return 'quiet_hours';
    end if;
    return null;
end
$$;

-------------------------------------------------------------------------------------------------------
-- The outbox: state machine
--
--   (nothing) -> queued -> sending -> accepted -> delivered, blocked, dropped, bounced
--                   ^         |-> queued (definitely not sent, try again), failed, uncertain
--                   |         '-> uncertain (lease ended: the sender died)
--                   '-- a person's decision -- uncertain -> the outcome in an event or a late report
--   queued -> suppressed (address or preference changed), failed (too old, or replaced by a newer message)
-------------------------------------------------------------------------------------------------------

-- Queues messages, each once per dedupe key, and returns a state for each entry, in order: `queued` (may be sent now),
-- `waiting` (may be sent later), `in_flight`, `sent`, `uncertain`, `failed`, or the reason why it must not be sent,
-- which is recorded. With p_dry nothing is written. An entry: kind, channel, recipient, address, dedupe_key, data,
-- window_minutes.
create or replace function public.outbox_put(
    p_entries jsonb, p_policy jsonb, p_job uuid, p_token bigint, p_dry boolean default false
) returns table (place integer, id uuid, decision text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    e record;
    v_found outbox_messages;
    v_norm text;
    v_reason text;
begin
    perform job_refuse_outsiders();
    if not p_dry then
        -- Windows and caps count messages of other runs, so runs queue one at a time. No lock spans a provider call.
        perform job_queue_lock_name('outbox_put');
    end if;
    for e in
        select t.* from rows from (jsonb_to_recordset(p_entries) as (kind text, channel text, recipient uuid,
            address text, dedupe_key text, data jsonb, window_minutes integer)) with ordinality
            as t (kind, channel, recipient, address, dedupe_key, data, window_minutes, nth)
    loop
        place := e.nth;
        v_norm := outbox_normal(e.channel, e.address);
        select m.* into v_found from outbox_messages m where m.dedupe_key = e.dedupe_key;
        id := v_found.id;
        if v_found.id is not null and v_found.state not in ('queued', 'suppressed') then
            decision := case when v_found.state = 'sending' then 'in_flight'
                when v_found.state in ('uncertain', 'failed') then v_found.state else 'sent' end;
            return next;
            continue;
        end if;
        v_reason := outbox_obstacle(e.kind, e.channel, e.recipient, v_norm, e.window_minutes, p_policy, v_found.id);
        decision := coalesce(v_reason,
            case when v_found.state = 'queued' and v_found.next_attempt_at > now() then 'waiting' else 'queued' end);
        if not p_dry then
            id := outbox_put_one(v_found, e.kind, e.channel, e.recipient, e.address, v_norm, e.dedupe_key,
                coalesce(e.data, '{}'), v_reason, p_job, p_token);
        end if;
        return next;
    end loop;
end
$$;

-- Replaces a masked address by the profile's real one; returns any other address unchanged.
create or replace function public.outbox_unmask(p_channel text, p_recipient uuid, p_address text) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select coalesce((
        select a.address from profiles p cross join lateral (
            select case p_channel when 'sms' then outbox_e164(p.mobile_number)
                else coalesce(nullif(outbox_normal('email', p.email_alert_address), ''), outbox_normal('email', p.email))
                end as address) a
        where p.id = p_recipient and outbox_mask(p_channel, a.address) = p_address), p_address)
$$;

-- The result that outbox_put would have, for users who may preview but not send.
create or replace function public.outbox_preview(p_entries jsonb, p_policy jsonb)
returns table (place integer, id uuid, decision text)
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select p.place, p.id, p.decision from outbox_put((
        select coalesce(jsonb_agg(e.entry || jsonb_build_object('address', outbox_unmask(e.entry ->> 'channel',
            (e.entry ->> 'recipient')::uuid, e.entry ->> 'address')) order by e.nth), '[]')
        from jsonb_array_elements(p_entries) with ordinality as e (entry, nth)), p_policy, null, null, true) p
$$;

create or replace function public.outbox_put_one(
    p_found public.outbox_messages, p_kind text, p_channel text, p_recipient uuid, p_address text, p_norm text,
    p_key text, p_data jsonb, p_reason text, p_job uuid, p_token bigint
) returns uuid
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_id uuid := (p_found).id;
begin
    if p_reason is not null then
        insert into outbox_left_out (job_id, run_token, kind, channel, recipient_ref, reason)
        values (p_job, p_token, p_kind, p_channel, p_recipient, p_reason);
        update outbox_messages m set state = 'suppressed', error_class = p_reason, updated_at = now()
        where m.id = v_id and m.state = 'queued' and p_reason in ('suppressed', 'unsubscribed', 'opted_out',
            'number_unusable', 'preference_off');
        return v_id;
    end if;
    if v_id is not null then
        update outbox_messages m
        set state = 'queued', recipient_ref = p_recipient, address = p_address, address_norm = p_norm, data = p_data,
            job_id = p_job, run_token = p_token, error_class = case when m.state = 'suppressed' then null else m.error_class end,
            updated_at = now()
        where m.id = v_id and m.state in ('queued', 'suppressed');
        return v_id;
    end if;
    -- A newer alert contains all of an older one.
    update outbox_messages m set state = 'failed', error_class = 'superseded', updated_at = now()
    where p_kind in ('unread_alert', 'admin_alert') and m.recipient_ref = p_recipient and m.channel = p_channel
        and m.kind = p_kind and m.state = 'queued';
    insert into outbox_messages (kind, channel, recipient_ref, address, address_norm, dedupe_key, data, job_id, run_token)
    values (p_kind, p_channel, p_recipient, p_address, p_norm, p_key, p_data, p_job, p_token)
    on conflict (dedupe_key) do nothing
    returning outbox_messages.id into v_id;
    return v_id;
end
$$;

-- Records people who are left out, with the reason. An entry: kind, channel, recipient, reason.
create or replace function public.outbox_leave_out(p_entries jsonb, p_job uuid, p_token bigint) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    insert into outbox_left_out (job_id, run_token, kind, channel, recipient_ref, reason)
    select p_job, p_token, e.kind, e.channel, e.recipient, e.reason
    from jsonb_to_recordset(p_entries) as e (kind text, channel text, recipient uuid, reason text)
$$;

-- Takes messages that may be sent now, each for one attempt. Messages that it does not return must not be sent. Leaves
-- out people who have opted out or changed the address since the message was queued; queueing again finds the new
-- address.
create or replace function public.outbox_claim(p_ids uuid[], p_lease_seconds double precision, p_job uuid, p_token bigint)
returns table (id uuid, attempt integer, kind text, channel text, recipient_ref uuid, address text, data jsonb)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    with judged as (
        select o.id, outbox_overtaken(o) as reason from outbox_messages o
        where o.id = any (p_ids) and o.state = 'queued' order by o.id for update skip locked),
    stopped as (
        update outbox_messages m set state = 'suppressed', error_class = j.reason, updated_at = now()
        from judged j where m.id = j.id and j.reason is not null
        returning m.kind, m.channel, m.recipient_ref, m.error_class)
    insert into outbox_left_out (job_id, run_token, kind, channel, recipient_ref, reason)
    select p_job, p_token, s.kind, s.channel, s.recipient_ref, s.error_class from stopped s;
    return query
        update outbox_messages m
        set state = 'sending', attempts = m.attempts + 1, job_id = p_job, run_token = p_token, updated_at = now(),
            lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        where m.id in (
            select o.id from outbox_messages o
            where o.id = any (p_ids) and o.state = 'queued' and o.next_attempt_at <= clock_timestamp()
            order by o.id for update skip locked)
        returning m.id, m.attempts, m.kind, m.channel, m.recipient_ref, m.address, m.data;
end
$$;

-- Records the reports of senders. A report counts only for the attempt it names, also when that attempt has become
-- uncertain. An entry: id, attempt, outcome
-- (accepted, retry, failed, uncertain), provider_message_id, segments, error_class, error_code, error_text, wait
-- (seconds), most_attempts.
create or replace function public.outbox_settle(p_results jsonb) returns table (id uuid, state text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    return query
        with reports as (
            select r.* from jsonb_to_recordset(p_results) as r (id uuid, attempt integer, outcome text,
                provider_message_id text, segments integer, error_class text, error_code text, error_text text,
                wait double precision, most_attempts integer)),
        locked as (
            select m.id from outbox_messages m where m.id in (select reports.id from reports) order by m.id for update),
        settled as (
            update outbox_messages m
            set state = case when m.state not in ('sending', 'uncertain') then m.state
                    when r.outcome = 'retry' and m.attempts >= coalesce(r.most_attempts, 2147483647) then 'failed'
                    when r.outcome = 'retry' then 'queued' else r.outcome end,
                lease_until = null,
                next_attempt_at = case when r.outcome = 'retry'
                    then now() + make_interval(secs => coalesce(r.wait, 0)) else m.next_attempt_at end,
                accepted_at = case when r.outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
                provider_message_id = coalesce(r.provider_message_id, m.provider_message_id),
                segments = coalesce(r.segments, m.segments),
                error_class = r.error_class, error_code = r.error_code, error_text = left(r.error_text, 500),
                updated_at = now()
            from reports r join locked l on l.id = r.id
            where m.id = r.id and m.attempts = r.attempt and (m.state in ('sending', 'uncertain')
                or r.outcome = 'accepted' and m.state in ('accepted', 'delivered', 'blocked', 'dropped', 'bounced')
                    and m.provider_message_id is null)
            returning m.*),
        opted as (
            insert into sms_opt_outs (phone_e164, source)
            select distinct on (s.address_norm) s.address_norm,
                case s.error_class when 'opted_out' then 'error_21610' else 'unusable' end
            from settled s where s.channel = 'sms' and s.error_class in ('opted_out', 'number_unusable')
            on conflict (phone_e164) do update set source = excluded.source, created_at = now(), cleared_at = null),
        unwished as (
            update profiles p set sms_notifications_enabled = false
            from settled s where s.error_class = 'opted_out' and p.id = s.recipient_ref
                and s.kind in ('unread_alert', 'admin_alert')),
        barred as (
            insert into email_suppressions (address_norm, reason, scope, source)
            select distinct s.address_norm, 'invalid', 'all', 'sendgrid refused it'
            from settled s where s.channel = 'email' and s.error_class = 'address_refused'
            on conflict do nothing)
        select s.id, s.state from settled s;
end
$$;

-- Cancels probes whose forms no longer exist, or now have a probe of another address. Returns their number.
create or replace function public.outbox_retire_probes() returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_retired bigint;
begin
    perform job_refuse_outsiders();
    update outbox_messages m set state = 'suppressed', updated_at = now(), error_class = 'no_form'
    where m.kind = 'parent_probe' and m.state = 'queued'
        and not exists (select from agreements a where a.recipient_email_verification_outbox_id = m.id);
    get diagnostics v_retired = row_count;
    return v_retired;
end
$$;

-- Marks attempts of dead senders as uncertain, and fails alerts that were not sent within a day.
create or replace function public.outbox_sweep() returns table (uncertain bigint, expired bigint)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    with lost as (
        update outbox_messages m set state = 'uncertain', lease_until = null, error_class = 'sender_died',
            updated_at = now()
        where m.id in (select o.id from outbox_messages o where o.state = 'sending' and o.lease_until < clock_timestamp()
            order by o.id for update skip locked)
        returning m.batch_id),
    batches as (
        update send_batches b set state = 'uncertain', updated_at = now()
        where b.id in (select l.batch_id from lost l) and b.state = 'sending')
    select count(*) into uncertain from lost;
    with old as (
        update outbox_messages m set state = 'failed', error_class = 'expired', updated_at = now()
        where m.id in (select o.id from outbox_messages o where o.state = 'queued'
            and o.kind in ('unread_alert', 'admin_alert') and o.created_at < now() - interval '1 day'
            order by o.id for update skip locked)
        returning 1)
    select count(*) into expired from old;
    return next;
end
$$;

-- Applies a person's decision on uncertain messages: send them again, or not.
create or replace function public.outbox_decide(p_ids uuid[], p_send_again boolean, p_actor text) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_decided uuid[];
begin
    perform job_refuse_outsiders();
    with decided as (
        update outbox_messages m set state = case when p_send_again then 'queued' else 'failed' end,
            next_attempt_at = now(), updated_at = now(),
            error_class = case when p_send_again then null else 'given_up' end
        where m.id in (select o.id from outbox_messages o where o.id = any (p_ids) and o.state = 'uncertain'
            order by o.id for update)
        returning m.id)
    select array_agg(decided.id) into v_decided from decided;
    if v_decided is not null then
        perform job_queue_write_audit(p_actor, case when p_send_again then 'send again' else 'give up' end, null, null,
            jsonb_build_object('outbox_messages', cardinality(v_decided)), null);
    end if;
    return coalesce(cardinality(v_decided), 0);
end
$$;

-- Reserves the next request to a provider and returns the seconds until it may be sent. Returns null and reserves
-- nothing when that is more than p_longest. All workers share the rate.
create or replace function public.outbox_reserve(
    p_provider text, p_rate double precision, p_burst integer, p_longest double precision
) returns double precision
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_now timestamptz;
    v_start timestamptz;
    v_row provider_rates;
begin
    perform job_refuse_outsiders();
    insert into provider_rates (provider) values (p_provider) on conflict do nothing;
    select * into v_row from provider_rates where provider = p_provider for update;
    v_now := clock_timestamp();
    -- After a clock that was ahead is right again, nobody waits for the time that it told.
    if v_row.reserved_at > v_now + interval '1 second' then
        v_row.due_at := v_row.due_at - (v_row.reserved_at - v_now);
    end if;
    v_start := greatest(v_now, v_row.closed_until,
        case when v_row.due_at = '-infinity' then v_now
            else v_row.due_at - make_interval(secs => (p_burst - 1) / p_rate) end);
    if extract(epoch from v_start - v_now) > p_longest then
        return null;
    end if;
    update provider_rates set due_at = greatest(v_row.due_at, v_start) + make_interval(secs => 1 / p_rate),
        reserved_at = v_now
    where provider = p_provider;
    return extract(epoch from v_start - v_now);
end
$$;

-- Blocks requests to a provider for a while, for all workers, because the provider asked for it.
create or replace function public.outbox_close_provider(p_provider text, p_seconds double precision) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    insert into provider_rates (provider, closed_until)
    values (p_provider, clock_timestamp() + make_interval(secs => p_seconds))
    on conflict (provider) do update set closed_until = greatest(provider_rates.closed_until, excluded.closed_until)
$$;

-- Seconds until requests to a provider are allowed again; 0 when they are allowed.
create or replace function public.outbox_closed_for(p_provider text) returns double precision
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select coalesce((
        select greatest(extract(epoch from closed_until - clock_timestamp()), 0)::double precision
        from provider_rates where provider = p_provider and closed_until > clock_timestamp()), 0)
$$;

-- Copies the state of a campaign's message to its recipient row in the same statement.
create or replace function public.outbox_mirror() returns trigger
language plpgsql security definer
set search_path = public, pg_temp
as $$
begin
    update competitor_announcement_recipients r
    set status = m.status, skip_reason = m.skip_reason, error = m.error, send_batch_id = m.batch_id,
        accepted_at = m.accepted_at, updated_at = now()
    from changed c
    join competitor_announcement_recipients seen on seen.id = c.campaign_recipient_id
    cross join lateral (
        select case c.state when 'accepted' then 'unconfirmed' when 'suppressed' then 'skipped' else c.state end,
            case when c.state = 'suppressed' then c.error_class else seen.skip_reason end,
            case when c.state in ('failed', 'uncertain', 'blocked', 'dropped', 'bounced')
                then coalesce(c.error_text, c.error_class) end,
            c.batch_id, c.accepted_at) m (status, skip_reason, error, batch_id, accepted_at)
    where r.id = seen.id and (r.status, r.skip_reason, r.error, r.send_batch_id, r.accepted_at)
        is distinct from (m.status, m.skip_reason, m.error, m.batch_id, m.accepted_at);
    return null;
end
$$;
create or replace trigger outbox_mirror after update on public.outbox_messages
    referencing new table as changed for each statement execute function public.outbox_mirror();
