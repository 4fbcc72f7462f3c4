-------------------------------------------------------------------------------------------------------
-- People: blocked addresses of mail and texts in one list, and what was sent to a person
--
-- No function here returns a whole address, except to programme_reveal_sent, which writes an audit row.
-------------------------------------------------------------------------------------------------------

-- The id of a block, by which it is lifted by somebody who sees only the masked address.
alter table public.email_suppressions add column if not exists id uuid not null default gen_random_uuid();
alter table public.sms_opt_outs add column if not exists id uuid not null default gen_random_uuid();

-- The blocks in force, of both channels.
create or replace function public.outbox_blocks()
returns table (id uuid, channel text, address text, kind text, scope text, source text, since timestamptz,
    ends timestamptz)
language sql stable
set search_path = public, pg_temp
as $$
    select s.id, 'email', s.address_norm, s.reason, s.scope, s.source, s.created_at, s.expires_at
    from email_suppressions s where s.expires_at is null or s.expires_at > now()
    union all
    select o.id, 'sms', o.phone_e164, o.source, 'all', case o.source when 'manual' then 'operator' else 'twilio' end,
        o.created_at, null
    from sms_opt_outs o where o.cleared_at is null
$$;

-- An address as it is shown: masked, or `erased` for the keyed hash of one that was erased.
create or replace function public.outbox_shown(p_channel text, p_address text) returns text
language sql immutable
set search_path = public, pg_temp
as $$ select case when p_address ~ '^erased-[0-9a-f]{64}$' then 'erased' else outbox_mask(p_channel, p_address) end $$;

-- A text as the channel and the address that it is; both are null when it is no address.
create or replace function public.outbox_read_address(p_text text, out channel text, out address text)
language sql immutable
set search_path = public, pg_temp
as $$
    select case when outbox_email_ok(outbox_normal('email', p_text)) then 'email'
            when outbox_e164(p_text) is not null then 'sms' end,
        case when outbox_email_ok(outbox_normal('email', p_text)) then outbox_normal('email', p_text)
            else outbox_e164(p_text) end
$$;

-- The blocks in force, newest first, with masked addresses: all, or those of p_ids. p_after_at and p_after_id are the
-- last block of the page before.
create or replace function public.outbox_block_list(
    p_channel text, p_kind text, p_ids uuid[], p_after_at timestamptz, p_after_id uuid, p_limit integer
) returns table (id uuid, channel text, address text, kind text, scope text, source text, since timestamptz,
    ends timestamptz)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select b.id, b.channel, outbox_shown(b.channel, b.address), b.kind, b.scope, b.source, b.since, b.ends
    from outbox_blocks() b
    where (p_channel is null or b.channel = p_channel) and (p_kind is null or b.kind = p_kind)
        and (p_ids is null or b.id = any (p_ids))
        and (p_after_at is null or (b.since, b.id) < (p_after_at, p_after_id))
    order by b.since desc, b.id desc limit p_limit
$$;

-- The blocks of a person's addresses now and before, a parent's too, or those of one address. The addresses are read once,
-- not for each block.
create or replace function public.outbox_blocks_of(p_id uuid, p_address text) returns setof uuid
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    with wanted as materialized (
        select unnest(case when p_id is null then array[(select r.address from outbox_read_address(p_address) r)]
            else competition_addresses_of(null, p_id, null) end) as address)
    select b.id from outbox_blocks() b where b.address in (select w.address from wanted w)
$$;

-- A reason without the address that it is about.
create or replace function public.outbox_reason(p_reason text, p_channel text, p_address text) returns text
language plpgsql stable
set search_path = public, pg_temp
as $$
begin
    if coalesce(trim(p_reason), '') = '' then
        perform job_queue_refuse('A reason is needed, for the audit log. Nothing was changed.');
    end if;
    return job_scrub_replaced(p_reason, job_scrub_rules(jsonb_build_object(p_address, outbox_mask(p_channel, p_address))));
end
$$;

-- Blocks an address, for all messages or for announcements. Writes an audit row with the masked address.
create or replace function public.outbox_suppress(
    p_address text, p_scope text, p_actor text, p_reason text, out id uuid, out channel text, out address text
)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_address text;
    v_present record;
begin
    perform job_refuse_outsiders();
    select r.channel, r.address into channel, v_address from outbox_read_address(p_address) r;
    if channel is null then
        perform job_queue_refuse('This is neither an e-mail address nor a phone number. Nothing was changed.');
    elsif channel = 'sms' and p_scope <> 'all' then
        perform job_queue_refuse('Texts are never announcements. Block the number for all messages.');
    end if;
    p_reason := outbox_reason(p_reason, channel, v_address);
    -- One at a time, so that the second of two sees the block of the first.
    perform job_queue_lock_name('outbox_suppress');
    select b.kind, b.since into v_present from outbox_blocks() b
    where b.channel = outbox_suppress.channel and b.address = v_address and b.scope in ('all', p_scope)
    order by b.since limit 1;
    if found then
        perform job_queue_refuse(format('%s is blocked already (%s, since %s). Nothing was changed.',
            outbox_mask(channel, v_address), v_present.kind, to_char(v_present.since at time zone 'UTC', 'YYYY-MM-DD')));
    end if;
    if channel = 'email' then
        insert into email_suppressions as s (address_norm, reason, scope, source)
        values (v_address, 'manual', p_scope, 'operator')
        on conflict (address_norm, reason, scope) do update set created_at = now(), expires_at = null
        returning s.id into id;
    else
        insert into sms_opt_outs as o (phone_e164, source) values (v_address, 'manual')
        on conflict (phone_e164) do update set source = 'manual', created_at = now(), cleared_at = null
        returning o.id into id;
    end if;
    address := outbox_mask(channel, v_address);
    perform job_queue_write_audit(p_actor, 'block address', null, null, jsonb_build_object('block', id, 'channel', channel,
        'address', address, 'scope', p_scope), p_reason);
end
$$;

-- Lifts one block, or all blocks of an address, of one kind if p_kind is given. Writes an audit row for each, with the
-- masked address.
create or replace function public.outbox_lift(p_id uuid, p_address text, p_kind text, p_actor text, p_reason text)
returns table (id uuid, channel text, address text, kind text, scope text, source text, since timestamptz,
    ends timestamptz)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
#variable_conflict use_column
declare
    v_channel text;
    v_address text;
    v_found record;
    v_any boolean := false;
begin
    perform job_refuse_outsiders();
    if p_id is null then
        select r.channel, r.address into v_channel, v_address from outbox_read_address(p_address) r;
        if v_channel is null then
            perform job_queue_refuse('This is neither an e-mail address nor a phone number, nor the id of a block. '
                'Nothing was changed.');
        end if;
    end if;
    perform job_queue_lock_name('outbox_suppress');
    for v_found in
        select b.* from outbox_blocks() b
        where case when p_id is null then (b.channel, b.address) = (v_channel, v_address)
            else b.id = p_id end and (p_kind is null or b.kind = p_kind)
        order by b.since, b.id
    loop
        v_any := true;
        if v_found.address ~ '^erased-[0-9a-f]{64}$' then
            perform job_queue_refuse('The person of this block was erased, and only the block is left. It stays, so that '
                'nobody writes to them again. Nothing was changed.');
        end if;
        if v_found.channel = 'email' then
            delete from email_suppressions s where s.id = v_found.id;
        else
            update sms_opt_outs o set cleared_at = now() where o.id = v_found.id;
        end if;
        perform job_queue_write_audit(p_actor, 'lift block', null, jsonb_build_object('block', v_found.id,
            'channel', v_found.channel, 'address', outbox_mask(v_found.channel, v_found.address),
            'kind', v_found.kind, 'scope', v_found.scope, 'source', v_found.source), null,
            outbox_reason(p_reason, v_found.channel, v_found.address));
        return query select v_found.id, v_found.channel, outbox_mask(v_found.channel, v_found.address), v_found.kind,
            v_found.scope, v_found.source, v_found.since, v_found.ends;
    end loop;
    if not v_any then
        perform job_queue_refuse(case when p_id is not null then format('There is no block %s%s.', p_id,
                coalesce(' of the kind ' || p_kind, ''))
            else format('%s is not blocked%s. Nothing was changed.', outbox_mask(v_channel, v_address),
                coalesce(' as ' || p_kind, '')) end);
    end if;
end
$$;

-- What an id stands for: coach, admin, competitor, or `former` for somebody who is known only from messages.
create or replace function public.programme_person_kind(p_id uuid) returns text
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select coalesce((select p.role::text from profiles p where p.id = p_id),
        (select 'competitor' from competitors c where c.id = p_id),
        (select 'former' from outbox_messages m where m.recipient_ref = p_id limit 1))
$$;

-- The people whom a text can mean, without their addresses. An address means the one person who has it; if none or
-- several have it, the kind is `address` and the id null. Coaches and admins are also found by a part of the name;
-- competitors and parents only by the whole name, so that nobody can list the names of minors.
create or replace function public.programme_find_people(p_text text, p_limit integer)
returns table (kind text, id uuid, label text, detail text)
language plpgsql stable security definer
set search_path = public, pg_temp
as $$
#variable_conflict use_column
declare
    v_text constant text := lower(regexp_replace(trim(p_text), '\s+', ' ', 'g'));
    v_address constant text := (select r.address from outbox_read_address(p_text) r);
    v_owners uuid[];
begin
    perform job_refuse_outsiders();
    if v_address is not null then
        v_owners := array(select distinct a.id from competition_addresses() a where a.address = v_address
            and a.whose = 'own');
        if cardinality(v_owners) = 1 then
            return query select d.* from unnest(v_owners) o (id), programme_describe(o.id) d;
        elsif cardinality(v_owners) > 1
            or exists (select from competition_addresses() a where a.address = v_address)
            or exists (select from outbox_messages m where m.address_norm = v_address)
            or exists (select from outbox_blocks() b where b.address = v_address)
            or exists (select from competitor_announcement_recipients r
                where outbox_normal('email', r.email) = v_address)
        then
            return query select 'address', null::uuid, outbox_mask(case when v_address like '%@%' then 'email'
                else 'sms' end, v_address), case when cardinality(v_owners) > 1
                then cardinality(v_owners) || ' people have it' end;
        end if;
        return;
    end if;
    if v_text = '' then
        return;
    end if;
    return query
        select d.* from (
            select p.id, p.full_name as name,
                v_text in (lower(p.full_name), lower(p.first_name || ' ' || p.last_name)) as whole
            from profiles p where position(v_text in lower(concat_ws(' ', p.full_name, p.first_name, p.last_name))) > 0
            union
            select n.id, '', true from competition_names() n
            where lower(regexp_replace(n.name, '\s+', ' ', 'g')) = v_text and n.id not in (select id from profiles)
            ) f, programme_describe(f.id) d
        order by f.whole desc, f.name, f.id limit least(p_limit, 100);
end
$$;

-- One person, in words that tell apart namesakes. A competitor's name is not among them.
create or replace function public.programme_describe(p_id uuid)
returns table (kind text, id uuid, label text, detail text)
language sql stable
set search_path = public, pg_temp
as $$
    select p.role::text, p.id, coalesce(nullif(p.full_name, ''), concat_ws(' ', p.first_name, p.last_name)),
        p.school_name
    from profiles p where p.id = p_id
    union all
    select 'competitor', c.id, 'competitor of ' || coalesce(nullif(p.full_name, ''), p.id::text), p.school_name
    from competitors c join profiles p on p.id = c.coach_id where c.id = p_id
$$;

-- The messages to a person, or to these addresses: those of the outbox, and those that the original sent, which have no
-- message there. `state` is the last that the provider confirmed, in the words of the outbox. What the original wrote
-- about an error is left out, because it can have the address in it.
create or replace function public.programme_messages_to(p_id uuid, p_addresses text[])
returns table (at timestamptz, id uuid, channel text, kind text, address text, state text, detail text, last_event text,
    last_event_at timestamptz, job_id uuid, campaign_id uuid, provider_message_id text, sender text)
language sql stable
set search_path = public, pg_temp
as $$
    select coalesce(m.accepted_at, m.created_at), m.id, m.channel, m.kind, m.address, m.state, m.error_class,
        m.last_event, m.last_event_at, m.job_id, m.campaign_id, m.provider_message_id, 'jobdeck'
    from outbox_messages m
    -- One index for each branch: with "or" the whole outbox would be read.
    where m.id in (
        select o.id from outbox_messages o where o.recipient_ref = p_id
        union select o.id from outbox_messages o where o.address_norm = any (p_addresses)
        union select a.recipient_email_verification_outbox_id from agreements a where a.competitor_id = p_id)
    union all
    select coalesce(r.accepted_at, c.completed_at, r.created_at), r.id, 'email', 'announcement', r.email,
        case r.status when 'unconfirmed' then 'accepted' else r.status end, null,
        case when r.clicked_at is not null then 'click' when r.opened_at is not null then 'open' end,
        coalesce(r.clicked_at, r.opened_at), c.dispatch_job_id, r.campaign_id, null, 'original'
    from competitor_announcement_recipients r join competitor_announcement_campaigns c on c.id = r.campaign_id
    where (r.competitor_id = p_id or outbox_normal('email', r.email) = any (p_addresses))
        and r.status not in ('queued', 'skipped')
        and not exists (select from outbox_messages m where m.campaign_recipient_id = r.id)
    union all
    select l.sent_at, l.id, l.channel, 'unread_alert', '', case when l.error_text is null then 'accepted' else 'failed' end,
        null, null, null, l.job_id, null, null, 'original'
    from alert_log l where l.coach_id = p_id and l.outbox_id is null and l.channel is not null
    union all
    select a.recipient_email_verification_sent_at, a.id, 'email', 'parent_probe',
        coalesce(a.recipient_email_verification_address, ''),
        case a.recipient_email_verification_status when 'bounce' then 'bounced' when 'dropped' then 'dropped'
            when 'blocked' then 'blocked' when 'delivered' then 'delivered' else 'accepted' end,
        null, null, a.recipient_email_verification_event_at, null, null, null, 'original'
    from agreements a
    where a.recipient_email_verification_sent_at is not null and a.recipient_email_verification_outbox_id is null
        and (a.competitor_id = p_id
            or outbox_normal('email', a.recipient_email_verification_address) = any (p_addresses))
$$;

-- The addresses of a person alone, now and before. Mail to a parent about another child is not theirs.
create or replace function public.programme_own_addresses(p_id uuid) returns text[]
language sql stable
set search_path = public, pg_temp
as $$
    select array(select a.address from competition_addresses() a where a.id = p_id and a.whose = 'own'
        union select outbox_normal('email', r.email) from competitor_announcement_recipients r
        where r.competitor_id = p_id and r.email <> '')
$$;

-- The messages to a person, newest first, with masked addresses. p_after_at and p_after_id are the last message of the
-- page before.
create or replace function public.programme_sent_to(
    p_id uuid, p_channel text, p_after_at timestamptz, p_after_id uuid, p_limit integer
) returns table (at timestamptz, id uuid, channel text, kind text, address text, state text, detail text, last_event text,
    last_event_at timestamptz, job_id uuid, campaign_id uuid, provider_message_id text, sender text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select m.at, m.id, m.channel, m.kind, outbox_shown(m.channel, m.address), m.state, m.detail, m.last_event,
        m.last_event_at, m.job_id, m.campaign_id, m.provider_message_id, m.sender
    from programme_messages_to(p_id, programme_own_addresses(p_id)) m
    where (p_channel is null or m.channel = p_channel)
        and (p_after_at is null or (m.at, m.id) < (p_after_at, p_after_id))
    order by m.at desc, m.id desc limit p_limit
$$;

-- The same for one address.
create or replace function public.programme_sent_to_address(
    p_address text, p_channel text, p_after_at timestamptz, p_after_id uuid, p_limit integer
) returns table (at timestamptz, id uuid, channel text, kind text, address text, state text, detail text, last_event text,
    last_event_at timestamptz, job_id uuid, campaign_id uuid, provider_message_id text, sender text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select m.at, m.id, m.channel, m.kind, outbox_shown(m.channel, m.address), m.state, m.detail, m.last_event,
        m.last_event_at, m.job_id, m.campaign_id, m.provider_message_id, m.sender
    from outbox_read_address(p_address) r, programme_messages_to(null, array[r.address]) m
    where (p_channel is null or m.channel = p_channel)
        and (p_after_at is null or (m.at, m.id) < (p_after_at, p_after_id))
    order by m.at desc, m.id desc limit p_limit
$$;

-- The whole addresses of the messages to a person or an address. Needs a reason, and writes an audit row that has no
-- address.
create or replace function public.programme_reveal_sent(p_id uuid, p_address text, p_actor text, p_reason text)
returns table (id uuid, address text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
#variable_conflict use_column
declare
    v_address constant text := (select r.address from outbox_read_address(p_address) r);
begin
    perform job_refuse_outsiders();
    if coalesce(trim(p_reason), '') = '' then
        perform job_queue_refuse('Whole addresses are shown only to one who says why. Give a reason.');
    end if;
    perform job_queue_write_audit(p_actor, 'reveal', null, null, jsonb_build_object('what', 'addresses of messages',
        'person', p_id, 'address', case when p_id is null then outbox_mask(case when v_address like '%@%' then 'email'
            else 'sms' end, v_address) end), case when v_address is null then p_reason
            else outbox_reason(p_reason, case when v_address like '%@%' then 'email' else 'sms' end, v_address) end);
    return query
        select m.id, m.address from programme_messages_to(p_id, case when p_id is null then array[v_address]
            else programme_own_addresses(p_id) end) m
        where m.address <> '' and m.address !~ '^erased-[0-9a-f]{64}$';
end
$$;
