-- The rest of the original application's database, after original.sql: its other tables, their rules, policies and rights,
-- its functions with the names and signatures that its pages call, and a few invented rows.

create schema auth;
grant usage on schema auth to anon, authenticated, service_role;
create table auth.users (id uuid primary key, email text);

create function auth.uid() returns uuid language sql stable
as $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;

create type public.user_role as enum ('admin', 'coach');
create type public.competitor_division as enum ('middle_school', 'high_school', 'college');
create type public.metactf_role as enum ('coach', 'user');
create type public.metactf_sync_status as enum ('pending', 'user_created', 'approved', 'denied', 'error');
create type public.team_status as enum ('forming', 'active', 'archived');

create table public.profiles (
    id uuid primary key references auth.users (id) on delete cascade,
    email text not null unique,
    role public.user_role not null default 'coach',
    full_name text not null,
    first_name text not null,
    last_name text not null,
    school_name text not null,
    school_geo jsonb,
    division text,
    region text,
    mobile_number text,
    is_approved boolean default false,
    email_alerts_enabled boolean default true,
    email_alert_address text,
    sms_notifications_enabled boolean default false,
    instant_sms_enabled boolean default false,
    last_unread_alert_at timestamptz,
    last_unread_alert_count integer,
    game_platform_user_id text,
    game_platform_last_synced_at timestamptz,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
create unique index profiles_game_platform_user_id_key on public.profiles (game_platform_user_id)
    where game_platform_user_id is not null;

create table public.competitors (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid not null references public.profiles (id) on delete cascade,
    first_name text not null,
    last_name text not null,
    email_personal text,
    email_school text,
    is_18_or_over boolean default false,
    grade text,
    gender text,
    race text,
    ethnicity text,
    level_of_technology text,
    years_competing integer,
    parent_name text,
    parent_email text,
    parent_email_is_valid boolean,
    parent_email_validated_at timestamptz,
    parent_email_invalid_reason text,
    media_release_date timestamptz,
    participation_agreement_date timestamptz,
    division public.competitor_division,
    program_track text check (program_track in ('traditional', 'adult_ed')),
    is_active boolean default true,
    status text default 'pending',
    game_platform_id text unique,
    game_platform_synced_at timestamptz,
    game_platform_sync_error text,
    game_platform_onboarding_email text,
    syned_school_id text,
    syned_region_id text,
    syned_coach_user_id text,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    unique (coach_id, email_school, game_platform_id)
);

create table public.teams (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid not null references public.profiles (id) on delete cascade,
    name text not null,
    division text,
    affiliation text,
    status public.team_status default 'forming',
    game_platform_id text,
    game_platform_synced_at timestamptz,
    game_platform_sync_error text,
    syned_coach_user_id text,
    coach_game_platform_id text,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    unique (coach_id, name)
);
create unique index teams_game_platform_id_key on public.teams (game_platform_id) where game_platform_id is not null;

create table public.team_members (
    id uuid primary key default gen_random_uuid(),
    team_id uuid not null references public.teams (id) on delete cascade,
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    position integer check (position >= 1 and position <= 6),
    joined_at timestamptz default now(),
    game_platform_synced_at timestamptz,
    game_platform_sync_error text,
    unique (competitor_id),
    unique (team_id, competitor_id)
);

create table public.game_platform_profiles (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid unique references public.profiles (id) on delete cascade,
    competitor_id uuid unique references public.competitors (id) on delete cascade,
    metactf_role public.metactf_role not null,
    synced_user_id text unique,
    metactf_user_id integer,
    metactf_username text,
    status public.metactf_sync_status default 'pending',
    last_synced_at timestamptz,
    sync_error text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((coach_id is not null and competitor_id is null) or (coach_id is null and competitor_id is not null))
);

create table public.game_platform_teams (
    id uuid primary key default gen_random_uuid(),
    team_id uuid unique references public.teams (id) on delete cascade,
    synced_team_id text,
    metactf_team_id integer,
    metactf_team_name text,
    status public.metactf_sync_status default 'pending',
    last_synced_at timestamptz,
    sync_error text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index game_platform_teams_synced_team_id_key on public.game_platform_teams (synced_team_id)
    where synced_team_id is not null;

create table public.game_platform_challenge_solves (
    id bigint generated by default as identity primary key,
    synced_user_id text not null,
    metactf_user_id bigint,
    synced_team_id text,
    challenge_solve_id bigint not null,
    challenge_id bigint,
    challenge_title text,
    challenge_category text,
    challenge_points integer,
    solved_at timestamptz,
    source text not null default 'odl' check (source in ('odl', 'flash_ctf')),
    raw_payload jsonb,
    created_at timestamptz not null default now(),
    unique (synced_user_id, challenge_solve_id)
);
create index game_platform_challenge_solves_user_idx
    on public.game_platform_challenge_solves (synced_user_id, solved_at desc);
create index game_platform_challenge_solves_category_idx
    on public.game_platform_challenge_solves (challenge_category);

create table public.game_platform_flash_ctf_events (
    id bigint generated by default as identity primary key,
    synced_user_id text not null,
    metactf_user_id bigint,
    event_id text not null,
    flash_ctf_name text,
    challenges_solved integer default 0,
    points_earned integer default 0,
    rank integer,
    max_points_possible integer,
    started_at timestamptz,
    ended_at timestamptz,
    raw_payload jsonb,
    created_at timestamptz not null default now(),
    unique (synced_user_id, event_id)
);
create index game_platform_flash_ctf_events_user_idx
    on public.game_platform_flash_ctf_events (synced_user_id, started_at desc);

create table public.game_platform_sync_state (
    synced_user_id text primary key,
    last_odl_synced_at timestamptz,
    last_flash_ctf_synced_at timestamptz,
    last_remote_accessed_at timestamptz,
    last_attempt_at timestamptz,
    last_login_at timestamptz,
    last_result text check (last_result in ('success', 'failure')),
    error_message text,
    needs_totals_refresh boolean default false,
    updated_at timestamptz not null default now()
);
create index game_platform_sync_state_needs_totals_idx on public.game_platform_sync_state (needs_totals_refresh)
    where needs_totals_refresh = true;

create table public.game_platform_stats (
    id uuid primary key default gen_random_uuid(),
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    challenges_completed integer default 0,
    monthly_ctf_challenges integer default 0,
    total_score integer default 0,
    last_activity timestamptz,
    synced_at timestamptz default now(),
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
create index idx_game_platform_stats_competitor_id on public.game_platform_stats (competitor_id);

create table public.game_platform_sync_runs (
    id uuid primary key default gen_random_uuid(),
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    status text not null default 'running',
    competitors_synced integer default 0,
    competitors_failed integer default 0,
    error_message text,
    sync_type text default 'incremental',
    created_at timestamptz default now()
);

create table public.game_platform_sync_events (
    id uuid primary key default gen_random_uuid(),
    profile_id uuid references public.profiles (id) on delete cascade,
    team_id uuid references public.teams (id) on delete cascade,
    event_type text not null,
    request jsonb,
    response jsonb,
    status text,
    created_at timestamptz default now()
);

create table public.activity_logs (
    id uuid primary key default gen_random_uuid(),
    user_id uuid references public.profiles (id) on delete set null,
    action text not null,
    entity_type text,
    entity_id uuid,
    metadata jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamptz default now()
);

create table public.conversations (
    id uuid primary key default gen_random_uuid(),
    type text not null check (type in ('dm', 'group', 'announcement')),
    title text,
    created_by uuid references auth.users (id) on delete set null,
    created_at timestamptz not null default now()
);

create table public.conversation_members (
    conversation_id uuid not null references public.conversations (id) on delete cascade,
    user_id uuid not null references auth.users (id) on delete cascade,
    role text not null default 'member',
    joined_at timestamptz not null default now(),
    muted_until timestamptz,
    last_read_at timestamptz not null default now(),
    primary key (conversation_id, user_id)
);
create index conversation_members_user_id_idx on public.conversation_members (user_id);

create table public.messages (
    id uuid primary key default gen_random_uuid(),
    conversation_id uuid not null references public.conversations (id) on delete cascade,
    sender_id uuid not null references auth.users (id) on delete cascade,
    body text not null,
    metadata jsonb not null default '{}'::jsonb,
    high_priority boolean not null default false,
    parent_message_id uuid references public.messages (id) on delete set null,
    thread_root_id uuid references public.messages (id) on delete set null,
    created_at timestamptz not null default now()
);
create index messages_conversation_id_created_at_idx on public.messages (conversation_id, created_at desc);

create table public.message_read_receipts (
    id uuid primary key default gen_random_uuid(),
    message_id uuid not null references public.messages (id) on delete cascade,
    user_id uuid not null references auth.users (id) on delete cascade,
    read_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    unique (message_id, user_id)
);
create index message_read_receipts_user_id_idx on public.message_read_receipts (user_id, read_at desc);

create table public.message_user_state (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references auth.users (id) on delete cascade,
    message_id uuid not null references public.messages (id) on delete cascade,
    flagged boolean not null default false,
    archived_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, message_id)
);
create index message_user_state_archived_idx on public.message_user_state (user_id) where archived_at is not null;

create table public.admin_alert_queue (
    id uuid primary key default gen_random_uuid(),
    recipient_id uuid not null references auth.users (id) on delete cascade,
    message_id uuid not null references public.messages (id) on delete cascade,
    created_at timestamptz not null default now(),
    unique (recipient_id, message_id)
);

create table public.alert_log (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid not null references auth.users (id) on delete cascade,
    channel text not null check (channel in ('email', 'sms')),
    unread_count integer not null,
    sent_at timestamptz not null default now(),
    error_text text
);
create index alert_log_coach_id_idx on public.alert_log (coach_id, channel, sent_at desc);

create table public.agreements (
    id uuid primary key default gen_random_uuid(),
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    provider text default 'zoho',
    template_kind text check (template_kind in ('adult', 'minor')),
    request_id text not null,
    status text default 'sent',
    metadata jsonb,
    signers jsonb,
    recipient_email_verification_sent_at timestamptz,
    recipient_email_verification_status text,
    recipient_email_verification_error text,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);
create index idx_agreements_email_verification_pending on public.agreements (created_at)
    where provider = 'zoho' and template_kind = 'minor' and status = 'sent'
        and recipient_email_verification_sent_at is null;

create table public.competitor_announcement_campaigns (
    id uuid primary key default gen_random_uuid(),
    subject text not null,
    body_markdown text not null,
    body_html text not null,
    created_by uuid not null references public.profiles (id),
    status text not null default 'pending' check (status in ('draft', 'pending', 'sending', 'sent', 'failed')),
    created_at timestamptz not null default now(),
    completed_at timestamptz
);

create table public.competitor_announcement_recipients (
    id uuid primary key default gen_random_uuid(),
    campaign_id uuid not null references public.competitor_announcement_campaigns (id),
    competitor_id uuid not null references public.competitors (id),
    email text not null,
    status text not null default 'queued' check (status in ('queued', 'unconfirmed', 'delivered', 'bounced', 'dropped',
        'blocked', 'skipped', 'failed')),
    skip_reason text,
    error text,
    opened_at timestamptz,
    clicked_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index competitor_announcement_recipients_campaign_idx
    on public.competitor_announcement_recipients (campaign_id);
create index competitor_announcement_recipients_campaign_status_idx
    on public.competitor_announcement_recipients (campaign_id, status);

create view public.comp_team_view as
select t.id as team_id, t.name as team_name, t.coach_id, c.id as competitor_id, c.first_name, c.last_name, c.status
from public.teams t join public.team_members m on m.team_id = t.id join public.competitors c on c.id = m.competitor_id;

create view public.release_eligible_competitors as
select id, coach_id, first_name, last_name, parent_email, is_18_or_over from public.competitors
where status in ('profile', 'in_the_game_not_compliant');

create view public.coach_competitor_counts as
select coach_id, count(*) as competitors from public.competitors group by coach_id;

-------------------------------------------------------------------------------------------------------
-- Triggers
-------------------------------------------------------------------------------------------------------

create function public.update_updated_at_column() returns trigger language plpgsql
as $$ begin new.updated_at = now(); return new; end $$;
create trigger update_profiles_updated_at before update on public.profiles
    for each row execute function public.update_updated_at_column();
create trigger update_competitors_updated_at before update on public.competitors
    for each row execute function public.update_updated_at_column();
create trigger game_platform_sync_state_set_updated_at before update on public.game_platform_sync_state
    for each row execute function public.update_updated_at_column();
create trigger message_user_state_set_updated_at before update on public.message_user_state
    for each row execute function public.update_updated_at_column();

create function public.check_team_size() returns trigger language plpgsql
as $$
begin
    if (select count(*) from public.team_members where team_id = new.team_id) >= 6 then
        raise exception 'Team cannot have more than 6 members';
    end if;
    return new;
end
$$;
create trigger enforce_team_size before insert on public.team_members
    for each row execute function public.check_team_size();

-------------------------------------------------------------------------------------------------------
-- Functions
-------------------------------------------------------------------------------------------------------

create function public.count_unread_by_receipts(p_user_id uuid) returns integer language sql stable security definer
as $$
    select coalesce(sum(1), 0)::integer from public.messages m
    join public.conversation_members b on b.conversation_id = m.conversation_id and b.user_id = p_user_id
    where m.sender_id <> p_user_id
        and not exists (select from public.message_read_receipts r where r.message_id = m.id and r.user_id = p_user_id)
        and coalesce(m.metadata ->> 'private_to', '') in ('', p_user_id::text)
$$;

create function public.count_unread_messages(p_user_id uuid) returns integer language sql stable security definer
as $$
    select count(*)::integer from public.messages m
    join public.conversation_members b on b.conversation_id = m.conversation_id and b.user_id = p_user_id
    where m.sender_id <> p_user_id and m.created_at > b.last_read_at
$$;

create function public.fetch_unread_alert_candidates(
    p_window_minutes integer default 1440, p_coach_id uuid default null, p_force boolean default false,
    p_roles text[] default null
) returns table (coach_id uuid, email text, full_name text, first_name text, mobile_number text, unread_count integer,
    email_alerts_enabled boolean, email_alert_address text, sms_notifications_enabled boolean,
    last_unread_alert_at timestamptz, last_unread_alert_count integer)
language sql stable security definer
as $$
    select p.id, p.email, p.full_name, p.first_name, p.mobile_number, u.unread, p.email_alerts_enabled,
        p.email_alert_address, p.sms_notifications_enabled, p.last_unread_alert_at, p.last_unread_alert_count
    from public.profiles p cross join lateral (
        select coalesce(public.count_unread_by_receipts(p.id), public.count_unread_messages(p.id)) as unread) u
    where (p_roles is null or cardinality(p_roles) = 0 or p.role::text = any (p_roles))
        and (p_coach_id is null or p.id = p_coach_id) and u.unread > 0
        and (p_force or p.last_unread_alert_at is null or p.last_unread_alert_count is null
            or u.unread > p.last_unread_alert_count
            or p.last_unread_alert_at < now() - make_interval(mins => p_window_minutes))
    order by u.unread desc
$$;

create function public.fetch_unread_alert_candidates(
    p_window_minutes integer default 1440, p_coach_id uuid default null, p_force boolean default false
) returns table (coach_id uuid, email text, full_name text, first_name text, mobile_number text, unread_count integer)
language sql stable security definer
as $$
    select coach_id, email, full_name, first_name, mobile_number, unread_count
    from public.fetch_unread_alert_candidates(p_window_minutes, p_coach_id, p_force, array['coach'])
$$;

create function public.mark_unread_alert_sent(p_coach_id uuid, p_unread_count integer) returns void
language sql security definer
as $$
    update public.profiles set last_unread_alert_at = now(), last_unread_alert_count = p_unread_count
    where id = p_coach_id
$$;

create function public.mark_messages_read(p_conversation_id uuid, p_user_id uuid) returns integer
language plpgsql security definer
as $$
declare
    v_marked integer;
begin
    insert into public.message_read_receipts (message_id, user_id)
    select m.id, p_user_id from public.messages m
    where m.conversation_id = p_conversation_id and m.sender_id <> p_user_id
    on conflict (message_id, user_id) do nothing;
    get diagnostics v_marked = row_count;
    update public.conversation_members set last_read_at = now()
    where conversation_id = p_conversation_id and user_id = p_user_id;
    return v_marked;
end
$$;

create function public.archive_all_messages_in_conversation(p_conversation_id uuid, p_user_id uuid) returns integer
language plpgsql security definer
as $$
declare
    v_archived integer;
begin
    insert into public.message_user_state (user_id, message_id, archived_at)
    select p_user_id, m.id, now() from public.messages m where m.conversation_id = p_conversation_id
    on conflict (user_id, message_id) do update set archived_at = excluded.archived_at;
    get diagnostics v_archived = row_count;
    return v_archived;
end
$$;

create function public.post_private_reply(p_conversation_id uuid, p_body text, p_recipient_id uuid) returns uuid
language sql security definer
as $$
    insert into public.messages (conversation_id, sender_id, body, metadata)
    values (p_conversation_id, auth.uid(), p_body, jsonb_build_object('private_to', p_recipient_id))
    returning id
$$;

create function public.get_campaign_stats(p_campaign_id uuid) returns table (total_recipients bigint,
    total_unconfirmed bigint, total_delivered bigint, total_bounced bigint, total_dropped bigint, total_blocked bigint,
    total_skipped bigint, total_opened bigint, total_clicked bigint)
language sql stable security definer
as $$
    select count(*), count(*) filter (where status = 'unconfirmed'), count(*) filter (where status = 'delivered'),
        count(*) filter (where status = 'bounced'), count(*) filter (where status = 'dropped'),
        count(*) filter (where status = 'blocked'), count(*) filter (where status = 'skipped'),
        count(opened_at), count(clicked_at)
    from public.competitor_announcement_recipients where campaign_id = p_campaign_id
$$;

create function public.get_dashboard_category_totals(p_synced_user_ids text[])
returns table (challenge_category text, solves bigint, points bigint) language sql stable security definer
as $$
    select s.challenge_category, count(*), sum(s.challenge_points) from public.game_platform_challenge_solves s
    where s.synced_user_id = any (p_synced_user_ids) group by 1
$$;

create function public.get_analytics_challenge_activity_monthly() returns table (month timestamptz, solves bigint)
language sql stable security definer
as $$
    select date_trunc('month', s.solved_at), count(*) from public.game_platform_challenge_solves s group by 1
$$;

-- These functions were left behind: they read a table that no longer exists, or an extension that is not installed.
create function public.get_recurring_jobs_to_enqueue() returns setof jsonb language plpgsql security definer
as $$ begin return query select to_jsonb(r) from public.recurring_jobs r where r.enabled; end $$;
create function public.mark_recurring_job_enqueued(p_job_id uuid) returns void language plpgsql security definer
as $$ begin update public.recurring_jobs set last_enqueued_at = now() where id = p_job_id; end $$;
create function public.get_cron_jobs() returns setof jsonb
language plpgsql security definer set search_path = public
as $$ begin return query select to_jsonb(j) from cron.job j; end $$;
create function public.get_cron_job_runs(p_limit integer default 50) returns setof jsonb
language plpgsql security definer set search_path = public
as $$ begin return query select to_jsonb(d) from cron.job_run_details d order by d.runid desc limit p_limit; end $$;
create function public.create_cron_job(p_job_name text, p_schedule text, p_task_type text,
    p_payload jsonb default '{}'::jsonb, p_max_attempts integer default 3) returns bigint
language plpgsql security definer set search_path = public
as $$ begin return cron.schedule(p_job_name, p_schedule, format('select job_queue_enqueue(%L)', p_task_type)); end $$;
create function public.toggle_cron_job(p_job_name text, p_active boolean) returns void
language plpgsql security definer set search_path = public
as $$ begin update cron.job set active = p_active where jobname = p_job_name; end $$;
create function public.update_cron_schedule(p_job_name text, p_schedule text) returns void
language plpgsql security definer set search_path = public
as $$ begin update cron.job set schedule = p_schedule where jobname = p_job_name; end $$;

-------------------------------------------------------------------------------------------------------
-- Row security. The pages read and write as the signed-in user; jobs and webhooks as service_role.
-------------------------------------------------------------------------------------------------------

do $$
declare
    v_table text;
begin
    foreach v_table in array array['profiles', 'competitors', 'teams', 'team_members', 'game_platform_profiles',
        'game_platform_teams', 'game_platform_challenge_solves', 'game_platform_flash_ctf_events',
        'game_platform_sync_state', 'game_platform_stats', 'game_platform_sync_runs', 'game_platform_sync_events',
        'activity_logs', 'conversations', 'conversation_members', 'messages', 'message_read_receipts',
        'message_user_state', 'admin_alert_queue', 'alert_log', 'agreements', 'competitor_announcement_campaigns',
        'competitor_announcement_recipients']
    loop
        execute format('alter table public.%I enable row level security', v_table);
        execute format('create policy %I on public.%I to service_role using (true) with check (true)',
            v_table || '_service_role_full', v_table);
    end loop;
    foreach v_table in array array['profiles', 'competitors', 'teams', 'team_members', 'game_platform_profiles',
        'game_platform_teams', 'game_platform_stats', 'game_platform_sync_runs', 'activity_logs', 'agreements',
        'competitor_announcement_campaigns', 'competitor_announcement_recipients']
    loop
        execute format('create policy %I on public.%I to authenticated using (public.is_admin_user())',
            v_table || '_admin', v_table);
    end loop;
end
$$;

-- A policy of a table that reads the same table would never end, so this function reads it.
create function public.is_conversation_member(p_conversation_id uuid) returns boolean
language sql stable security definer
as $$
    select exists (select from public.conversation_members
        where conversation_id = p_conversation_id and user_id = auth.uid())
$$;

create policy profiles_own on public.profiles to authenticated using (id = auth.uid());
create policy competitors_coach on public.competitors to authenticated using (coach_id = auth.uid());
create policy teams_coach on public.teams to authenticated using (coach_id = auth.uid());
create policy team_members_coach on public.team_members to authenticated
    using (exists (select from public.teams t where t.id = team_id and t.coach_id = auth.uid()));
create policy activity_logs_insert on public.activity_logs for insert to authenticated
    with check (user_id = auth.uid());
create policy conversations_member on public.conversations for select to authenticated
    using (public.is_conversation_member(id));
create policy conversations_create on public.conversations for insert to authenticated
    with check (created_by = auth.uid());
create policy conversation_members_read on public.conversation_members for select to authenticated
    using (public.is_conversation_member(conversation_id));
create policy messages_read on public.messages for select to authenticated
    using (public.is_conversation_member(conversation_id));
create policy messages_send on public.messages for insert to authenticated
    with check (sender_id = auth.uid() and public.is_conversation_member(conversation_id));
create policy message_read_receipts_own on public.message_read_receipts to authenticated
    using (user_id = auth.uid());
create policy message_user_state_own on public.message_user_state to authenticated using (user_id = auth.uid());

-------------------------------------------------------------------------------------------------------
-- Invented rows
-------------------------------------------------------------------------------------------------------

insert into auth.users (id, email)
values
    ('ad000000-0000-4000-8000-000000000001', 'ada@example.org'),
    ('ad000000-0000-4000-8000-000000000002', 'grace@example.org'),
    ('c0000000-0000-4000-8000-000000000001', 'alan@example.org'),
    ('c0000000-0000-4000-8000-000000000002', 'edsger@example.org');
insert into public.profiles (id, email, role, full_name, first_name, last_name, school_name, division, region,
    mobile_number, is_approved, game_platform_user_id)
values
    ('ad000000-0000-4000-8000-000000000001', 'ada@example.org', 'admin', 'Ada Example', 'Ada', 'Example',
        'Example Office', null, null, null, true, null),
    ('ad000000-0000-4000-8000-000000000002', 'grace@example.org', 'admin', 'Grace Example', 'Grace', 'Example',
        'Example Office', null, null, null, true, null),
    ('c0000000-0000-4000-8000-000000000001', 'alan@example.org', 'coach', 'Alan Example', 'Alan', 'Example',
        'Example High School', 'high_school', 'IE', '(555) 555-0100', true, 'c0000000-0000-4000-8000-000000000001'),
    ('c0000000-0000-4000-8000-000000000002', 'edsger@example.org', 'coach', 'Edsger Example', 'Edsger', 'Example',
        'Example Middle School', 'middle_school', null, null, false, null);

insert into public.competitors (id, coach_id, first_name, last_name, email_personal, email_school, is_18_or_over, grade,
    gender, race, ethnicity, level_of_technology, years_competing, parent_name, parent_email, division, program_track,
    status, game_platform_id, created_at)
values
    ('5a000000-0000-4000-8000-000000000001', 'c0000000-0000-4000-8000-000000000001', 'Kim', 'Example',
        'kim@example.com', 'kim@school.example.org', false, '10', 'x', 'x', 'x', 'some', 1, 'Parent Example',
        'parent@example.com', 'high_school', 'traditional', 'in_the_game_not_compliant',
        '5a000000-0000-4000-8000-000000000001', now() - interval '90 days'),
    ('5a000000-0000-4000-8000-000000000002', 'c0000000-0000-4000-8000-000000000001', 'Lee', 'Example', null,
        'lee@school.example.org', true, '12', 'x', 'x', 'x', 'much', 0, null, null, 'high_school', null, 'profile',
        null, null),
    ('5a000000-0000-4000-8000-000000000003', 'c0000000-0000-4000-8000-000000000002', 'Max', 'Example', null, null,
        null, null, null, null, null, null, null, null, null, null, null, 'compliance', 'older-text-id',
        now() - interval '400 days');

insert into public.teams (id, coach_id, name, division, status, game_platform_id)
values ('7e000000-0000-4000-8000-000000000001', 'c0000000-0000-4000-8000-000000000001', 'Example Team', 'high-school',
    'active', '7e000000-0000-4000-8000-000000000001');
insert into public.team_members (team_id, competitor_id, position)
values ('7e000000-0000-4000-8000-000000000001', '5a000000-0000-4000-8000-000000000001', 1);

insert into public.game_platform_profiles (coach_id, competitor_id, metactf_role, synced_user_id, metactf_user_id,
    metactf_username, status)
values
    ('c0000000-0000-4000-8000-000000000001', null, 'coach', 'c0000000-0000-4000-8000-000000000001', 11, 'alan.example',
        'approved'),
    (null, '5a000000-0000-4000-8000-000000000001', 'user', '5a000000-0000-4000-8000-000000000001', 12, 'kim.example',
        'user_created');
insert into public.game_platform_teams (team_id, synced_team_id, metactf_team_id, metactf_team_name, status)
values ('7e000000-0000-4000-8000-000000000001', '7e000000-0000-4000-8000-000000000001', 21, 'Example Team', 'approved');
insert into public.game_platform_challenge_solves (synced_user_id, metactf_user_id, challenge_solve_id, challenge_id,
    challenge_title, challenge_category, challenge_points, solved_at, source, raw_payload)
values
    ('5a000000-0000-4000-8000-000000000001', 12, 1819, 4, 'Example Cipher', 'Cryptography', 100,
        now() - interval '20 days', 'odl', '{"retired": false}'),
    ('5a000000-0000-4000-8000-000000000001', 12, 1820, 5, 'Example Packet', 'Forensics', 150,
        now() - interval '19 days', 'flash_ctf', '{"retired": false}');
insert into public.game_platform_flash_ctf_events (synced_user_id, metactf_user_id, event_id, flash_ctf_name,
    challenges_solved, points_earned, rank, max_points_possible, started_at, raw_payload)
values ('5a000000-0000-4000-8000-000000000001', 12, 'Example Flash:1750000000', 'Example Flash', 1, 150, 7, 900,
    now() - interval '19 days', '{}');
insert into public.game_platform_sync_state (synced_user_id, last_odl_synced_at, last_attempt_at, last_result,
    error_message, needs_totals_refresh)
values
    ('5a000000-0000-4000-8000-000000000001', now() - interval '15 minutes', now() - interval '15 minutes', 'success',
        null, true),
    ('older-text-id', null, now() - interval '15 minutes', 'failure', 'User is not approved', null);
-- Nothing in the original keeps a second row of a competitor away.
insert into public.game_platform_stats (competitor_id, challenges_completed, total_score, updated_at)
values
    ('5a000000-0000-4000-8000-000000000001', 0, 0, now() - interval '90 days'),
    ('5a000000-0000-4000-8000-000000000001', 2, 250, now() - interval '1 day');
insert into public.game_platform_sync_runs (started_at, completed_at, status, competitors_synced, sync_type)
values
    (now() - interval '30 minutes', now() - interval '29 minutes', 'completed', 2, 'incremental'),
    (now() - interval '40 days', null, 'running', 0, 'wave');
insert into public.game_platform_sync_events (profile_id, event_type, status)
values ('c0000000-0000-4000-8000-000000000001', 'example', 'ok');
insert into public.activity_logs (user_id, action, entity_type, entity_id, metadata, ip_address, user_agent)
values ('c0000000-0000-4000-8000-000000000001', 'data_disclosed_game_platform', 'competitor',
    '5a000000-0000-4000-8000-000000000001', '{"purpose": "example"}', '192.0.2.7', 'Example Browser');

insert into public.conversations (id, type, title, created_by)
values ('ca000000-0000-4000-8000-000000000001', 'group', 'Example Talk', 'c0000000-0000-4000-8000-000000000001');
insert into public.conversation_members (conversation_id, user_id, joined_at)
select 'ca000000-0000-4000-8000-000000000001', id, now() - interval '30 days' from auth.users;
insert into public.messages (id, conversation_id, sender_id, body, metadata, high_priority, created_at)
values
    ('3e000000-0000-4000-8000-000000000001', 'ca000000-0000-4000-8000-000000000001',
        'c0000000-0000-4000-8000-000000000001', 'An example.', '{}', false, now() - interval '2 days'),
    ('3e000000-0000-4000-8000-000000000002', 'ca000000-0000-4000-8000-000000000001',
        'ad000000-0000-4000-8000-000000000001', 'An answer.',
        '{"private_to": "c0000000-0000-4000-8000-000000000001"}', false, now() - interval '1 day');
insert into public.message_read_receipts (message_id, user_id)
values ('3e000000-0000-4000-8000-000000000001', 'ad000000-0000-4000-8000-000000000001');
insert into public.message_user_state (user_id, message_id, archived_at)
values ('c0000000-0000-4000-8000-000000000001', '3e000000-0000-4000-8000-000000000001', now() - interval '1 day');
insert into public.admin_alert_queue (recipient_id, message_id)
values ('ad000000-0000-4000-8000-000000000002', '3e000000-0000-4000-8000-000000000001');
insert into public.alert_log (coach_id, channel, unread_count, error_text)
values
    ('c0000000-0000-4000-8000-000000000001', 'email', 1, null),
    ('c0000000-0000-4000-8000-000000000001', 'sms', 1, '{"error": "no answer"}');

insert into public.agreements (id, competitor_id, template_kind, request_id, metadata, signers, created_at)
values ('a9000000-0000-4000-8000-000000000001', '5a000000-0000-4000-8000-000000000001', 'minor', 'example-1',
    '{"mode": "email"}', '[{"role": "parent", "email": "parent@example.com"}]', now() - interval '1 day');
insert into public.competitor_announcement_campaigns (id, subject, body_markdown, body_html, created_by, status)
values
    ('cc000000-0000-4000-8000-000000000001', 'Example', 'Hello', '<p>Hello</p>',
        'ad000000-0000-4000-8000-000000000001', 'sent'),
    ('cc000000-0000-4000-8000-000000000002', 'Example draft', 'Hello', '<p>Hello</p>',
        'ad000000-0000-4000-8000-000000000001', 'draft');
-- The same competitor twice, which the original allows.
insert into public.competitor_announcement_recipients (campaign_id, competitor_id, email, status)
values
    ('cc000000-0000-4000-8000-000000000001', '5a000000-0000-4000-8000-000000000001', 'kim@example.com', 'delivered'),
    ('cc000000-0000-4000-8000-000000000001', '5a000000-0000-4000-8000-000000000001', 'kim@example.com', 'unconfirmed');
