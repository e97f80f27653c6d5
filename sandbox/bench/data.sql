-- The benchmark's PostgreSQL database. Run in an empty database, after
--   SELECT set_config('bench.scale', '1.0', false);   -- 8 million rows: 0.96 GB as COPY text, 1.3 GB on disk
-- Every value is made of its row's number, so the same scale gives the same rows.

SET synchronous_commit = off;
SET maintenance_work_mem = '256MB';

CREATE FUNCTION pg_temp.rows(at_scale_one integer) RETURNS integer LANGUAGE sql IMMUTABLE
AS $$ SELECT greatest(10, (at_scale_one * current_setting('bench.scale')::float8)::integer) $$;

CREATE FUNCTION pg_temp.upto(n integer, salt integer, highest integer) RETURNS integer LANGUAGE sql IMMUTABLE
AS $$ SELECT 1 + ((hashint4extended(n, salt) & 2147483647) % highest)::integer $$;

CREATE FUNCTION pg_temp.pick(n integer, salt integer, choices text[]) RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT choices[pg_temp.upto(n, salt, cardinality(choices))] $$;

CREATE FUNCTION pg_temp.moment(n integer, salt integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE
AS $$ SELECT timestamptz '2024-01-01 00:00+00' + pg_temp.upto(n, salt, 60000000) * interval '1 second' $$;

CREATE TABLE customers (id integer, name text, email text, phone text, city text, created_at timestamptz);
CREATE TABLE requests (id integer, customer integer, status text, description text, notes text, run char(24), created_at timestamptz);
CREATE TABLE invoices (id integer, request integer, number text, net numeric(10, 2), tax numeric(10, 2), issued_on date, document uuid);
CREATE TABLE payments (id integer, invoice integer, amount numeric(10, 2), method text, reference text, received_at timestamptz);
CREATE TABLE events (id integer, request integer, kind text, actor text, at timestamptz);

INSERT INTO customers SELECT
    n,
    pg_temp.pick(n, 1, '{Anna,Ben,David,Emma,Fatima,Georg,Ivan,Lena,Nora,Zoë}') || ' '
        || pg_temp.pick(n, 2, '{Bauer,Çelik,Dupont,Engel,Fischer,Haas,Jansen,Krüger,Novák,Peters,Roth,Weiß}'),
    'c' || substr(md5(n::text), 1, 10) || '@mail.example',
    '+49 30 ' || pg_temp.upto(n, 3, 9999999),
    pg_temp.pick(n, 4, '{Berlin,Hamburg,Köln,München,Leipzig,Lyon,Utrecht,Graz}'),
    pg_temp.moment(n, 5)
FROM generate_series(1, pg_temp.rows(800000)) AS n;

INSERT INTO requests SELECT
    n,
    pg_temp.upto(n, 1, pg_temp.rows(800000)),
    pg_temp.pick(n, 2, '{new,scheduled,waiting,done,cancelled}'),
    pg_temp.pick(n, 3, '{Does not heat any more,Leaks from below,Makes a grinding noise,Display shows E18,Does not lock,Trips the fuse}')
        || pg_temp.pick(n, 4, '{" since yesterday"," now and then"," after the move"," when it spins"," at every start"}'),
    pg_temp.pick(n, 5, '{"Customer called twice. ","Neighbour has the key. ","Third floor, no lift. ","Dog in the garden. "}')
        || pg_temp.pick(n, 6, '{"Pump replaced, hoses checked; two cycles without a drop. ","Bearing worn, part ordered. ","Board reset, firmware updated. "}')
        || pg_temp.pick(n, 7, '{"Advised to descale every three months. ","Quoted a new device. ","Photos are in the uploads of this request. "}')
        || pg_temp.pick(n, 10, '{"The tenant asks for a visit after five. ","Bring a 13 mm socket and a tray for the water. ","Second attempt at this fault within a month. "}')
        || pg_temp.pick(n, 11, '{"Paid in cash. ","Invoice by mail. ","To be paid by the landlord. "}')
        || 'Meter ' || pg_temp.upto(n, 8, 999999) || ', ref ' || substr(md5(n::text), 1, 12),
    substr(md5((-n)::text), 1, 24),
    pg_temp.moment(n, 9)
FROM generate_series(1, pg_temp.rows(1600000)) AS n;

INSERT INTO invoices SELECT
    n,
    pg_temp.upto(n, 1, pg_temp.rows(1600000)),
    'INV-' || lpad(n::text, 9, '0'),
    pg_temp.upto(n, 2, 64000) / 100.0,
    pg_temp.upto(n, 2, 64000) / 526.3,
    date '2024-01-01' + pg_temp.upto(n, 3, 700),
    md5(n::text)::uuid
FROM generate_series(1, pg_temp.rows(1600000)) AS n;

INSERT INTO payments SELECT
    n,
    pg_temp.upto(n, 1, pg_temp.rows(1600000)),
    pg_temp.upto(n, 2, 64000) / 100.0,
    pg_temp.pick(n, 3, '{card,transfer,cash,direct debit}'),
    'RF' || upper(substr(md5(n::text), 1, 18)),
    pg_temp.moment(n, 4)
FROM generate_series(1, pg_temp.rows(1600000)) AS n;

INSERT INTO events SELECT
    n,
    pg_temp.upto(n, 1, pg_temp.rows(1600000)),
    pg_temp.pick(n, 2, '{opened,assigned,visited,part ordered,part arrived,closed}'),
    'technician-' || pg_temp.upto(n, 3, 400),
    pg_temp.moment(n, 4)
FROM generate_series(1, pg_temp.rows(2400000)) AS n;

ALTER TABLE customers ADD PRIMARY KEY (id);
ALTER TABLE requests ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer) REFERENCES customers;
ALTER TABLE invoices ADD PRIMARY KEY (id), ADD FOREIGN KEY (request) REFERENCES requests;
ALTER TABLE payments ADD PRIMARY KEY (id), ADD FOREIGN KEY (invoice) REFERENCES invoices;
ALTER TABLE events ADD PRIMARY KEY (id);
CREATE INDEX ON requests (customer, created_at);
