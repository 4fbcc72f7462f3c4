-------------------------------------------------------------------------------------------------------
-- Tables of the original application, and the additions that the jobs need
--
-- On existing tables of the original, every statement only adds: rows and columns are kept.
-------------------------------------------------------------------------------------------------------

do $$
begin
    if to_regtype('public.user_role') is null then
        create type public.user_role as enum ('admin', 'coach');
    end if;
    if to_regtype('public.competitor_division') is null then
        create type public.competitor_division as enum ('middle_school', 'high_school', 'college');
    end if;
    if to_regtype('public.metactf_role') is null then
        create type public.metactf_role as enum ('coach', 'user');
    end if;
    if to_regtype('public.team_status') is null then
        create type public.team_status as enum ('forming', 'active', 'archived');
    end if;
    if to_regtype('public.metactf_sync_status') is null then
        create type public.metactf_sync_status as enum
            ('pending', 'user_created', 'pending_approval', 'approved', 'denied', 'error');
    end if;
end
$$;

-- Nothing in this file uses the new value, because Postgres allows that only after the transaction that adds it.
alter type public.metactf_sync_status add value if not exists 'pending_approval' after 'user_created';

create table if not exists public.profiles (
    id uuid primary key default gen_random_uuid(),
    email text not null unique,
    role public.user_role not null default 'coach',
    full_name text not null,
    first_name text not null,
    last_name text not null,
    school_name text not null,
    division text,
    region text,
    is_approved boolean default false,
    game_platform_user_id text,
    game_platform_last_synced_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.competitors (
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
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (coach_id, email_school, game_platform_id)
);

create table if not exists public.teams (
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
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (coach_id, name)
);

create table if not exists public.team_members (
    id uuid primary key default gen_random_uuid(),
    team_id uuid not null references public.teams (id) on delete cascade,
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    position integer check (position between 1 and 6),
    joined_at timestamptz not null default now(),
    game_platform_synced_at timestamptz,
    game_platform_sync_error text,
    unique (competitor_id),
    unique (team_id, competitor_id)
);

create table if not exists public.game_platform_profiles (
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
    check ((coach_id is null) <> (competitor_id is null))
);

create table if not exists public.game_platform_teams (
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

create table if not exists public.game_platform_challenge_solves (
    id bigint generated always as identity primary key,
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
    event_id text not null default '',
    raw_payload jsonb,
    created_at timestamptz not null default now()
);

create table if not exists public.game_platform_flash_ctf_events (
    id bigint generated always as identity primary key,
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

create table if not exists public.game_platform_sync_state (
    synced_user_id text primary key,
    last_odl_synced_at timestamptz,
    last_flash_ctf_synced_at timestamptz,
    last_remote_accessed_at timestamptz,
    last_attempt_at timestamptz,
    last_login_at timestamptz,
    last_result text check (last_result in ('success', 'failure')),
    error_message text,
    needs_totals_refresh boolean not null default false,
    updated_at timestamptz not null default now()
);

create table if not exists public.game_platform_stats (
    id uuid primary key default gen_random_uuid(),
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    challenges_completed integer default 0,
    monthly_ctf_challenges integer default 0,
    total_score integer default 0,
    last_activity timestamptz,
    synced_at timestamptz default now(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.game_platform_sync_runs (
    id uuid primary key default gen_random_uuid(),
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    status text not null default 'running',
    competitors_synced integer default 0,
    competitors_failed integer default 0,
    error_message text,
    sync_type text default 'incremental',
    created_at timestamptz not null default now()
);

create table if not exists public.activity_logs (
    id uuid primary key default gen_random_uuid(),
    user_id uuid references public.profiles (id) on delete set null,
    action text not null,
    entity_type text,
    entity_id uuid,
    metadata jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamptz not null default now()
);

-- Columns that the jobs need in addition to the original's.

alter table public.competitors
    add column if not exists game_platform_onboarding_email text;

-- A wave reads competitors in the order of (created_at, id), which would skip a row without a date. The original may
-- write none; programme_touch fills it in.
update public.competitors set created_at = coalesce(updated_at, now()) where created_at is null;
alter table public.competitors alter column created_at set default now();
alter table public.competitors alter column created_at set not null;

alter table public.game_platform_challenge_solves
    add column if not exists event_id text not null default '';

alter table public.game_platform_sync_state
    add column if not exists last_odl_watermark_unix bigint,
    add column if not exists last_odl_full_at timestamptz,
    add column if not exists last_odl_result text,
    add column if not exists last_flash_result text,
    add column if not exists last_flash_checked_at timestamptz,
    add column if not exists totals_dirty_at timestamptz;

update public.game_platform_sync_state set needs_totals_refresh = false where needs_totals_refresh is null;
alter table public.game_platform_sync_state alter column needs_totals_refresh set default false;
alter table public.game_platform_sync_state alter column needs_totals_refresh set not null;
update public.game_platform_sync_state set totals_dirty_at = now()
    where needs_totals_refresh and totals_dirty_at is null;

alter table public.game_platform_profiles
    add column if not exists refreshed_at timestamptz,
    add column if not exists refresh_attempt_at timestamptz,
    add column if not exists refresh_result text,
    add column if not exists refresh_error text;

alter table public.game_platform_sync_runs
    add column if not exists job_id uuid,
    add column if not exists coach_id uuid,
    add column if not exists dry_run boolean not null default false,
    add column if not exists heartbeat_at timestamptz;

-- The state of each person's last onboarding. `creating` is written before the request to the vendor, so that after a
-- crash it shows that the account may exist. `lap` groups the attempts of one job.
create table if not exists public.game_platform_onboarding (
    competitor_id uuid unique references public.competitors (id) on delete cascade,
    coach_id uuid unique references public.profiles (id) on delete cascade,
    person_id uuid generated always as (coalesce(competitor_id, coach_id)) stored primary key,
    synced_user_id text not null,
    lap text not null,
    job_id uuid not null,
    run_token bigint not null,
    state text not null default 'open' check (state in ('open', 'creating', 'done', 'failed')),
    outcome text,
    message text,
    sent_at timestamptz,
    sent_fields text[],
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((coach_id is null) <> (competitor_id is null))
);

-- These constraints are not valid: rows of the original may violate them, new rows must not.
do $$
begin
    if not exists (select from pg_constraint where conname = 'game_platform_sync_state_results_check'
                                  and conrelid = 'public.game_platform_sync_state'::regclass) then
        alter table public.game_platform_sync_state add constraint game_platform_sync_state_results_check
            check (last_odl_result in ('success', 'failure') and last_flash_result in ('success', 'failure')) not valid;
    end if;
    if not exists (select from pg_constraint where conname = 'game_platform_profiles_refresh_check'
                                  and conrelid = 'public.game_platform_profiles'::regclass) then
        alter table public.game_platform_profiles add constraint game_platform_profiles_refresh_check
            check (refresh_result in ('success', 'missing', 'refused', 'failure')) not valid;
    end if;
    if not exists (select from pg_constraint where conname = 'game_platform_sync_runs_status_check'
                                  and conrelid = 'public.game_platform_sync_runs'::regclass) then
        alter table public.game_platform_sync_runs add constraint game_platform_sync_runs_status_check
            check (status in ('running', 'completed', 'failed')) not valid;
    end if;
end
$$;

-- The vendor's solve ids are unique only within one event. With the original's key over (user, solve), a solve of one
-- event replaces a solve of another. The original needs its key for its upsert, so `jobdeck cutover stay` drops it.
create unique index if not exists game_platform_challenge_solves_key
    on public.game_platform_challenge_solves (synced_user_id, source, event_id, challenge_solve_id);

-- One stats row per competitor. If the original left several, the newest stays and the others are moved to a side
-- table.
create table if not exists public.game_platform_stats_duplicates
    (like public.game_platform_stats including defaults);
-- Without a key, an erasure could delete nothing from it where a publication has all tables.
alter table public.game_platform_stats_duplicates replica identity full;

do $$
begin
    if to_regclass('public.game_platform_stats_competitor_key') is null then
        with surplus as (
            select id from (
                select id, row_number() over (partition by competitor_id order by updated_at desc nulls last, id) as place
                from public.game_platform_stats) as ranked
            where place > 1),
        moved as (delete from public.game_platform_stats s using surplus where s.id = surplus.id returning s.*)
        insert into public.game_platform_stats_duplicates select * from moved;
        create unique index game_platform_stats_competitor_key on public.game_platform_stats (competitor_id);
    end if;
end
$$;

create unique index if not exists profiles_game_platform_user_key
    on public.profiles (game_platform_user_id) where game_platform_user_id is not null;
create index if not exists competitors_on_platform
    on public.competitors (created_at, id) where game_platform_id is not null;
create index if not exists competitors_coach on public.competitors (coach_id);
create unique index if not exists teams_game_platform_key
    on public.teams (game_platform_id) where game_platform_id is not null;
create index if not exists team_members_team on public.team_members (team_id);
create unique index if not exists game_platform_teams_synced_team_key
    on public.game_platform_teams (synced_team_id) where synced_team_id is not null;
create index if not exists game_platform_challenge_solves_recent
    on public.game_platform_challenge_solves (synced_user_id, solved_at desc);
create index if not exists game_platform_challenge_solves_category
    on public.game_platform_challenge_solves (challenge_category);
create index if not exists game_platform_flash_ctf_events_recent
    on public.game_platform_flash_ctf_events (synced_user_id, started_at desc);
create index if not exists game_platform_flash_ctf_events_started
    on public.game_platform_flash_ctf_events (started_at);
create index if not exists game_platform_sync_state_dirty
    on public.game_platform_sync_state (totals_dirty_at) where needs_totals_refresh;
create index if not exists game_platform_sync_runs_started
    on public.game_platform_sync_runs (started_at desc);
create index if not exists game_platform_sync_runs_running
    on public.game_platform_sync_runs (status) where status = 'running';
create index if not exists competitors_to_onboard
    on public.competitors (created_at, id) where game_platform_id is null and status in ('profile', 'compliance');
create index if not exists game_platform_onboarding_lap on public.game_platform_onboarding (lap, person_id);
create index if not exists activity_logs_entity on public.activity_logs (entity_type, entity_id);

create or replace function public.programme_touch() returns trigger
language plpgsql set search_path = pg_catalog, public as $$
begin
    if tg_op = 'UPDATE' then
        new.updated_at := now();
    end if;
    if tg_table_name = 'competitors' then
        new.created_at := coalesce(new.created_at, now());
    else
        new.needs_totals_refresh := coalesce(new.needs_totals_refresh, false);
    end if;
    return new;
end
$$;

-- The original inserts a second row of a competitor, whose totals it could not compute from then on.
create or replace function public.programme_one_stats_row() returns trigger
language plpgsql set search_path = pg_catalog, public as $$
begin
    if exists (select from public.game_platform_stats s where s.competitor_id = new.competitor_id) then
        return null;
    end if;
    return new;
end
$$;

create or replace function public.programme_limit_team() returns trigger
language plpgsql set search_path = pg_catalog, public as $$
begin
    perform from public.teams where id = new.team_id for update;
    if (select count(*) from public.team_members where team_id = new.team_id and id <> new.id) >= 6 then
        raise exception 'A team has at most 6 members.' using errcode = 'check_violation';
    end if;
    return new;
end
$$;

create or replace trigger programme_touch before insert or update on public.competitors
    for each row execute function public.programme_touch();
create or replace trigger programme_touch before insert or update on public.game_platform_sync_state
    for each row execute function public.programme_touch();
create or replace trigger programme_one_stats_row before insert on public.game_platform_stats
    for each row execute function public.programme_one_stats_row();
create or replace trigger programme_limit_team before insert or update of team_id on public.team_members
    for each row execute function public.programme_limit_team();

-------------------------------------------------------------------------------------------------------
-- Conversations, release forms, campaigns
-------------------------------------------------------------------------------------------------------

alter table public.profiles
    add column if not exists mobile_number text,
    add column if not exists email_alerts_enabled boolean default true,
    add column if not exists email_alert_address text,
    add column if not exists sms_notifications_enabled boolean default false,
    add column if not exists instant_sms_enabled boolean default false,
    add column if not exists last_unread_alert_at timestamptz,
    add column if not exists last_unread_alert_count integer;

alter table public.competitors
    add column if not exists parent_email_is_valid boolean,
    add column if not exists parent_email_validated_at timestamptz,
    add column if not exists parent_email_invalid_reason text;

create table if not exists public.conversations (
    id uuid primary key default gen_random_uuid(),
    type text not null check (type in ('dm', 'group', 'announcement')),
    title text,
    created_by uuid references public.profiles (id) on delete set null,
    created_at timestamptz not null default now()
);

create table if not exists public.conversation_members (
    conversation_id uuid not null references public.conversations (id) on delete cascade,
    user_id uuid not null references public.profiles (id) on delete cascade,
    role text not null default 'member',
    joined_at timestamptz not null default now(),
    muted_until timestamptz,
    last_read_at timestamptz not null default now(),
    primary key (conversation_id, user_id)
);

create table if not exists public.messages (
    id uuid primary key default gen_random_uuid(),
    conversation_id uuid not null references public.conversations (id) on delete cascade,
    sender_id uuid not null references public.profiles (id) on delete cascade,
    body text not null,
    metadata jsonb not null default '{}',
    high_priority boolean not null default false,
    parent_message_id uuid references public.messages (id) on delete set null,
    thread_root_id uuid references public.messages (id) on delete set null,
    created_at timestamptz not null default now()
);

create table if not exists public.message_read_receipts (
    id uuid primary key default gen_random_uuid(),
    message_id uuid not null references public.messages (id) on delete cascade,
    user_id uuid not null references public.profiles (id) on delete cascade,
    read_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    unique (message_id, user_id)
);

create table if not exists public.message_user_state (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references public.profiles (id) on delete cascade,
    message_id uuid not null references public.messages (id) on delete cascade,
    flagged boolean not null default false,
    archived_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, message_id)
);

create table if not exists public.admin_alert_queue (
    id uuid primary key default gen_random_uuid(),
    recipient_id uuid not null references public.profiles (id) on delete cascade,
    message_id uuid not null references public.messages (id) on delete cascade,
    created_at timestamptz not null default now(),
    unique (recipient_id, message_id)
);

create table if not exists public.alert_log (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid not null references public.profiles (id) on delete cascade,
    channel text check (channel in ('email', 'sms')),
    unread_count integer,
    sent_at timestamptz not null default now(),
    error_text text
);

create table if not exists public.agreements (
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
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.competitor_announcement_campaigns (
    id uuid primary key default gen_random_uuid(),
    subject text not null,
    body_markdown text not null,
    body_html text not null,
    created_by uuid references public.profiles (id),
    status text not null default 'pending',
    created_at timestamptz not null default now(),
    completed_at timestamptz
);

create table if not exists public.competitor_announcement_recipients (
    id uuid primary key default gen_random_uuid(),
    campaign_id uuid not null references public.competitor_announcement_campaigns (id),
    competitor_id uuid not null references public.competitors (id),
    email text not null,
    status text not null default 'queued',
    skip_reason text,
    error text,
    opened_at timestamptz,
    clicked_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- Columns that the jobs need in addition to the original's.

-- A claimed row refers to its alert message. Sent and dropped rows are kept, so that no admin is alerted twice.
alter table public.admin_alert_queue
    add column if not exists outbox_id uuid,
    add column if not exists claimed_by bigint,
    add column if not exists claimed_at timestamptz,
    add column if not exists sent_at timestamptz,
    add column if not exists dropped_at timestamptz,
    add column if not exists dropped_reason text;

alter table public.alert_log
    add column if not exists job_id uuid,
    add column if not exists outbox_id uuid,
    add column if not exists role text;
alter table public.alert_log alter column channel drop not null;
alter table public.alert_log alter column unread_count drop not null;

alter table public.agreements
    add column if not exists recipient_email_verification_address text,
    add column if not exists recipient_email_verification_attempts integer not null default 0,
    add column if not exists recipient_email_verification_next_at timestamptz,
    add column if not exists recipient_email_verification_skip_reason text,
    add column if not exists recipient_email_verification_event_at timestamptz,
    add column if not exists recipient_email_verification_outbox_id uuid;

-- A campaign created by a command has no logged-in user; created_by_actor has the user name.
alter table public.competitor_announcement_campaigns
    add column if not exists created_by_actor text,
    add column if not exists audience text,
    add column if not exists coach_id uuid,
    add column if not exists started_at timestamptz,
    add column if not exists failed_reason text,
    add column if not exists dispatch_job_id uuid,
    add column if not exists dispatch_token bigint,
    add column if not exists lease_until timestamptz,
    add column if not exists send_attempt integer not null default 0;
alter table public.competitor_announcement_campaigns alter column created_by drop not null;

-- Rows of the original have no email_norm until their campaign is continued. The keys apply only to rows with one.
alter table public.competitor_announcement_recipients
    add column if not exists email_norm text,
    add column if not exists send_batch_id uuid,
    add column if not exists accepted_at timestamptz;

-- The original's check constraints allow fewer statuses.
do $$
declare
    v_check record;
begin
    for v_check in
        select c.conrelid::regclass as relation, c.conname as name from pg_constraint c
        where c.contype = 'c' and (
            c.conrelid = 'public.competitor_announcement_campaigns'::regclass
            and pg_get_constraintdef(c.oid) ~ '\mstatus\M' and pg_get_constraintdef(c.oid) !~ 'partially_failed'
            or c.conrelid = 'public.competitor_announcement_recipients'::regclass
            and pg_get_constraintdef(c.oid) ~ '\mstatus\M' and pg_get_constraintdef(c.oid) !~ 'uncertain')
    loop
        execute format('alter table %s drop constraint %I', v_check.relation, v_check.name);
    end loop;
    if not exists (select from pg_constraint where conname = 'competitor_announcement_campaigns_status_check'
                                  and conrelid = 'public.competitor_announcement_campaigns'::regclass) then
        alter table public.competitor_announcement_campaigns add constraint competitor_announcement_campaigns_status_check
            check (status in ('draft', 'pending', 'sending', 'sent', 'failed', 'partially_failed'));
    end if;
    if not exists (select from pg_constraint where conname = 'competitor_announcement_recipients_status_check'
                                  and conrelid = 'public.competitor_announcement_recipients'::regclass) then
        alter table public.competitor_announcement_recipients add constraint competitor_announcement_recipients_status_check
            check (status in ('queued', 'sending', 'uncertain', 'unconfirmed', 'delivered', 'bounced', 'dropped', 'blocked',
                'skipped', 'failed'));
    end if;
end
$$;

create index if not exists conversation_members_user on public.conversation_members (user_id);
create index if not exists messages_conversation on public.messages (conversation_id, created_at desc);
create index if not exists message_read_receipts_user on public.message_read_receipts (user_id, read_at desc);
create index if not exists message_user_state_archived
    on public.message_user_state (archived_at, id) where archived_at is not null;
create index if not exists message_user_state_user_archived
    on public.message_user_state (user_id, message_id) where archived_at is not null;
create index if not exists admin_alert_queue_open
    on public.admin_alert_queue (recipient_id, created_at) where sent_at is null and dropped_at is null;
create index if not exists admin_alert_queue_outbox
    on public.admin_alert_queue (outbox_id) where outbox_id is not null;
create index if not exists alert_log_coach on public.alert_log (coach_id, channel, sent_at desc);
create index if not exists agreements_to_probe on public.agreements (created_at)
    where provider = 'zoho' and template_kind = 'minor' and status = 'sent'
        and recipient_email_verification_sent_at is null;
create index if not exists agreements_outbox on public.agreements (recipient_email_verification_outbox_id)
    where recipient_email_verification_outbox_id is not null;
create index if not exists agreements_competitor on public.agreements (competitor_id);
create index if not exists competitor_announcement_recipients_queued
    on public.competitor_announcement_recipients (campaign_id, id) where status = 'queued';
create index if not exists competitor_announcement_recipients_status
    on public.competitor_announcement_recipients (campaign_id, status);
create index if not exists competitor_announcement_recipients_batch
    on public.competitor_announcement_recipients (send_batch_id) where send_batch_id is not null;
create unique index if not exists competitor_announcement_recipients_person
    on public.competitor_announcement_recipients (campaign_id, competitor_id) where email_norm is not null;
create unique index if not exists competitor_announcement_recipients_address
    on public.competitor_announcement_recipients (campaign_id, email_norm)
    where email_norm is not null and status <> 'skipped';
