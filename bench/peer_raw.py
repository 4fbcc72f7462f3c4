"""A bare psycopg loop: the least that a job queue on Postgres can do, and so the yardstick.

Keeps nothing: the finished row is deleted.
"""

from contextlib import asynccontextmanager

import psycopg

NAME = "raw"
SETTINGS = {"b100": 100, "b1": 1, "b10": 10, "b1000": 1000}
RUN = {"drain_long": ["b100", "b1000"], "pickup": ["b100"], "backlog": ["b100"], "idle": ["b100"], "waits": []}
QUICK = {"drain": ["b10", "b100", "b1000"]}

UNDONE = "SELECT FROM job WHERE id <= %(n)s LIMIT 1"
FILL = """
    INSERT INTO job (args)
    SELECT '{"seq": 0}' FROM generate_series(1, %(n)s)
"""

SCHEMA = """
CREATE TABLE job (
    id bigserial PRIMARY KEY,
    state text NOT NULL DEFAULT 'ready',
    priority int NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT now(),
    args jsonb NOT NULL
);
CREATE INDEX job_ready ON job (priority, id) WHERE state = 'ready';
CREATE FUNCTION job_added() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify('job', ''); RETURN NULL; END
$$;
CREATE TRIGGER job_added AFTER INSERT ON job EXECUTE FUNCTION job_added();
"""

TAKE = """
UPDATE job SET state = 'running' WHERE id IN (
    SELECT id FROM job WHERE state = 'ready' AND run_at <= now()
    ORDER BY priority, id FOR UPDATE SKIP LOCKED LIMIT %s
) RETURNING id, args
"""


def install(url):
    with psycopg.connect(url) as connection:
        connection.execute(SCHEMA)


@asynccontextmanager
async def producer(url):
    with psycopg.connect(url, autocommit=True) as connection:

        async def one(seq):
            connection.execute("INSERT INTO job (args) VALUES (%s)", [f'{{"seq": {seq}}}'])

        async def many(sequence):
            with connection.cursor() as cursor, cursor.copy("COPY job (args) FROM STDIN") as copy:
                for seq in sequence:
                    copy.write_row([f'{{"seq": {seq}}}'])

        yield one, many


def work(url, batch, handler, gate):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN job")
        gate()
        while True:
            jobs = connection.execute(TAKE, [batch]).fetchall()
            for _, args in jobs:
                handler(args["seq"])
            if jobs:
                connection.execute("DELETE FROM job WHERE id = ANY(%s)", [[job for job, _ in jobs]])
            else:
                for _ in connection.notifies(timeout=1, stop_after=1):
                    pass
