-- Content that backups of PostgreSQL are known to lose or to change.
CREATE ROLE hard_owner;
CREATE ROLE hard_reader LOGIN PASSWORD 'reader secret';
GRANT hard_owner TO hard_reader;

CREATE SCHEMA shop AUTHORIZATION hard_owner;
CREATE SCHEMA "odd "" schema";
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'It''s "fine"');
ALTER TYPE shop.mood ADD VALUE 'between' BEFORE 'ok';
CREATE DOMAIN shop.email AS text COLLATE "C" DEFAULT 'nobody@example.org' CHECK (value ~ '@') NOT NULL;
CREATE TYPE shop.address AS (street text, zip varchar(10), mood shop.mood);
CREATE TYPE shop.span AS RANGE (subtype = float8);

CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.seen := '2026-11-23 01:02:03.456789+02'; RETURN NEW; END $$;
CREATE FUNCTION shop.twice(a int, OUT b int) LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a * 2; END;
CREATE PROCEDURE shop.clean(INOUT n int) LANGUAGE plpgsql SECURITY DEFINER SET search_path = shop, pg_temp AS $$ BEGIN n := n + 1; END $$;
CREATE AGGREGATE shop.total(int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE OPERATOR shop.=== (leftarg = int, rightarg = int, function = int4eq, commutator = OPERATOR(shop.===));
CREATE FUNCTION shop.rank(shop.mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT length($1::text)';
CREATE CAST (shop.mood AS int) WITH FUNCTION shop.rank(shop.mood);

CREATE TABLE shop.customer (
    id serial PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT 7) UNIQUE,
    name text NOT NULL,
    status varchar(10) DEFAULT 'new' CHECK (status IN ('new', 'old', 'gone')),
    mail shop.email,
    mood shop.mood,
    home shop.address,
    upper_name text GENERATED ALWAYS AS (upper(name)) STORED,
    seen timestamptz DEFAULT now(),
    balance numeric(20, 5),
    wage money,
    ratio double precision,
    small real,
    wait interval,
    photo bytea,
    tags text[],
    grid int[][],
    data jsonb,
    raw json,
    doc xml,
    bits bit varying(12),
    ip inet,
    during tstzrange,
    spans shop.span,
    point point,
    words tsvector,
    uid uuid,
    t time with time zone,
    d date,
    EXCLUDE USING gist (during WITH &&)
) WITH (fillfactor = 80, autovacuum_enabled = false);
ALTER TABLE shop.customer OWNER TO hard_owner;
ALTER TABLE shop.customer ALTER name SET STATISTICS 500, ALTER data SET STORAGE EXTERNAL;
CREATE TRIGGER touch BEFORE INSERT ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE TRIGGER off BEFORE DELETE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.customer DISABLE TRIGGER off;
INSERT INTO shop.customer (name, status, mood, home, balance, wage, ratio, small, wait, photo, tags, grid, data, raw, bits, ip, during, spans, point,
        words, uid, t, d)
    SELECT 'Kunde ' || n || E' \t\n\r\\ "quoted" ''single'' ☃', (ARRAY['new', 'old', 'gone'])[n % 3 + 1],
        (ARRAY['sad', 'between', 'It''s "fine"'])[n % 3 + 1]::shop.mood, ROW('Strasse ' || n, 'Z"1,2', 'ok')::shop.address,
        n / 7.0, (n * 1.25)::numeric::money, n / 3.0::float8, n / 3.0::real, make_interval(months => n, days => -n, secs => n / 9.0),
        decode(md5(n::text), 'hex'), ARRAY['a,b', NULL, '{"}', E'\\.'], ARRAY[[n, 1], [2, NULL]], jsonb_build_object('k', n, 'n', NULL, 'x', E'\u00e9'),
        '{"b" : 1,   "a":[ ]}', '101'::varbit, '10.0.0.1/8', tstzrange('2000-01-01'::timestamptz + n * interval '2 days', '2000-01-02'::timestamptz
        + n * interval '2 days'), '[1.5,2.5)', point(n, -n), to_tsvector('simple', 'the quick fox ' || n), md5(n::text)::uuid, '12:34:56.789+05:30',
        date '0044-03-15 BC' + n FROM generate_series(1, 300) n;
INSERT INTO shop.customer (name, balance, ratio, seen, wait) VALUES ('\.', 'NaN', 'Infinity', DEFAULT, NULL), (E'\\N', NULL, '-0', DEFAULT, '1 mon -2 days');
CREATE INDEX customer_lower ON shop.customer (lower(name) text_pattern_ops DESC) INCLUDE (id) WHERE status <> 'gone';
CREATE INDEX customer_data ON shop.customer USING gin (data jsonb_path_ops);
CREATE STATISTICS shop.customer_stats (dependencies) ON status, mood FROM shop.customer;
CLUSTER shop.customer USING customer_pkey;
ALTER TABLE shop.customer REPLICA IDENTITY USING INDEX customer_number_key;
CREATE SEQUENCE shop.untouched AS smallint START 5 MINVALUE -9 CYCLE CACHE 3;
CREATE SEQUENCE public."odd 'seq"" name" ;
SELECT nextval('public."odd ''seq"" name"'), nextval('public."odd ''seq"" name"');

ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.customer FOR SELECT TO hard_reader USING (status = ANY (ARRAY['new', 'old']));
CREATE VIEW shop.news WITH (security_barrier) AS SELECT id, name FROM shop.customer WHERE status IN ('new', 'old') WITH LOCAL CHECK OPTION;
CREATE VIEW shop.newer AS SELECT id FROM shop.news WHERE id > (SELECT avg(id) FROM shop.news);
CREATE VIEW shop.unnamed AS SELECT (SELECT 'y'), (SELECT NULL) AS n, ARRAY(SELECT 1.5 UNION SELECT 1) AS some FROM shop.customer c
    WHERE EXISTS (SELECT 'x', NULL, -1, 'c' COLLATE "C" FROM shop.news) AND NOT EXISTS (SELECT NULL WHERE false)
    AND c.name IN (SELECT 'a' UNION SELECT 'b') AND c.status IN ('new', CASE WHEN c.id > 1 THEN 'old' END) OR c.seen IN (SELECT NULL UNION SELECT now());
CREATE FUNCTION shop.unnamed(a text DEFAULT 'z') RETURNS SETOF text LANGUAGE sql
    BEGIN ATOMIC SELECT 'it''s' WHERE EXISTS (SELECT 'x') AND a IN (SELECT 'b' UNION SELECT NULL); SELECT (SELECT 'y'); END;
CREATE TABLE shop.sums (a int, b int, c int, CONSTRAINT weighed CHECK ((a + b) * c > 0));
CREATE VIEW shop.summed AS SELECT (a + b) * c AS n FROM shop.sums;
CREATE INDEX sums_both ON shop.sums (((a + b) * c));
CREATE FUNCTION shop.weigh(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT (a + b) * 2';
CREATE FUNCTION shop.weighed(a int, b int) RETURNS int LANGUAGE sql RETURN (a + b) * 2;
CREATE TABLE shop.felt (mood shop.mood, n int) PARTITION BY HASH (mood);
CREATE TABLE shop.felt_0 PARTITION OF shop.felt FOR VALUES WITH (MODULUS 3, REMAINDER 0) PARTITION BY LIST (n);
CREATE TABLE shop.felt_0_all PARTITION OF shop.felt_0 DEFAULT;
CREATE TABLE shop.felt_1 PARTITION OF shop.felt FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE shop.felt_2 PARTITION OF shop.felt FOR VALUES WITH (MODULUS 3, REMAINDER 2);
INSERT INTO shop.felt SELECT mood, n FROM unnest(enum_range(NULL::shop.mood)) mood, generate_series(1, 5) n;
CREATE TABLE shop.shrunk (a int) PARTITION BY LIST (a);
CREATE TABLE shop.shrunk_1 PARTITION OF shop.shrunk FOR VALUES IN (1);
CREATE INDEX shrunk_a ON ONLY shop.shrunk (a);
DROP TABLE shop.shrunk_1;
CREATE RULE nothing AS ON DELETE TO shop.newer DO INSTEAD NOTHING;
CREATE MATERIALIZED VIEW shop.counts AS SELECT status, count(*) AS n FROM shop.customer GROUP BY status;
CREATE UNIQUE INDEX ON shop.counts (status);
CREATE MATERIALIZED VIEW shop.later AS SELECT 1 AS one WITH NO DATA;

CREATE TABLE shop.event (at timestamptz NOT NULL, what text, customer int REFERENCES shop.customer ON DELETE CASCADE, PRIMARY KEY (at, what))
    PARTITION BY RANGE (at);
CREATE TABLE shop.event_2025 PARTITION OF shop.event FOR VALUES FROM ('2025-01-01+02') TO ('2026-01-01+02');
CREATE TABLE shop.event_2026 (what text NOT NULL, extra_dropped int, customer int, at timestamptz NOT NULL);
ALTER TABLE shop.event_2026 DROP extra_dropped;
ALTER TABLE shop.event ATTACH PARTITION shop.event_2026 FOR VALUES FROM ('2026-01-01+02') TO ('2027-01-01+02');
CREATE TABLE shop.event_rest PARTITION OF shop.event DEFAULT PARTITION BY LIST (what);
CREATE TABLE shop.event_rest_x PARTITION OF shop.event_rest DEFAULT;
CREATE INDEX event_customer ON shop.event (customer);
CREATE TRIGGER stamped AFTER INSERT ON shop.event FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.event DISABLE TRIGGER stamped;
ALTER TABLE shop.event_2025 ENABLE REPLICA TRIGGER stamped;
ALTER TABLE shop.event_2026 ENABLE REPLICA TRIGGER stamped;
INSERT INTO shop.event SELECT '2025-06-01'::timestamptz + n * interval '1 day', 'visit ' || n, n % 300 + 1 FROM generate_series(1, 900) n;

CREATE TABLE shop.animal (name text, born date);
CREATE TABLE shop.dog (breed text) INHERITS (shop.animal);
ALTER TABLE shop.animal ADD COLUMN legs int DEFAULT 4;
ALTER TABLE shop.dog ALTER legs SET DEFAULT 3;
INSERT INTO shop.animal VALUES ('cat', '2020-02-29', 4);
INSERT INTO shop.dog (name, born, breed, legs) SELECT 'dog ' || n, date '2021-01-01' + n, 'b' || n, n FROM generate_series(1, 50) n;

CREATE TABLE shop.puppy (CHECK (legs < 1000)) INHERITS (shop.dog);
ALTER TABLE shop.animal ADD CHECK (legs >= 0), ADD CONSTRAINT own CHECK (born > '1900-01-01') NO INHERIT, ALTER name SET NOT NULL;
INSERT INTO shop.puppy (name, born, breed) VALUES ('rex', '2026-01-01', 'b');
CREATE INDEX animal_recent ON shop.animal (born) WHERE name IN ('cat', 'dog') AND born <> ALL (ARRAY['2000-01-01', '2001-01-01']::date[]);
CREATE TABLE shop.typed OF shop.address (zip WITH OPTIONS NOT NULL);
INSERT INTO shop.typed VALUES ('s', 'z', 'sad');
CREATE TABLE shop.oddities (
    code varchar(5) UNIQUE NULLS NOT DISTINCT,
    kind text GENERATED ALWAYS AS (CASE WHEN code IN ('a', 'b') THEN 'x'::varchar ELSE 'y' END) STORED,
    n bigint GENERATED BY DEFAULT AS IDENTITY (CYCLE MINVALUE -5 START 3),
    at date DEFAULT '2020-02-29',
    long text COMPRESSION pglz
) WITH (toast.autovacuum_enabled = false);
INSERT INTO shop.oddities (code, long) VALUES ('a', repeat('long ', 100000)), (NULL, NULL);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shop.oddities DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.code = 'z')
    EXECUTE FUNCTION shop.touch();
CREATE VIEW shop.writable AS SELECT code, at FROM shop.oddities;
ALTER VIEW shop.writable ALTER at SET DEFAULT '2021-03-01';
ALTER TABLE shop.oddities RENAME code TO "Code";
CREATE FUNCTION shop.instead() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER instead INSTEAD OF INSERT ON shop.writable FOR EACH ROW EXECUTE FUNCTION shop.instead();
CREATE FUNCTION shop.listing(VARIADIC a int[] DEFAULT '{1,2}') RETURNS TABLE (x int, y text) LANGUAGE sql STABLE ROWS 7 AS $$SELECT 1, 'y'$$;
ALTER TABLE shop.event ADD CONSTRAINT short CHECK (length(what) < 100), ADD tag varchar(5), ADD FOREIGN KEY (tag) REFERENCES shop.oddities ("Code");
UPDATE shop.event SET tag = 'a' WHERE customer = 1;

CREATE TABLE shop.a (id int PRIMARY KEY, b int);
CREATE TABLE shop.b (id int PRIMARY KEY, a int REFERENCES shop.a DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE shop.a ADD FOREIGN KEY (b) REFERENCES shop.b;
INSERT INTO shop.a VALUES (1, NULL); INSERT INTO shop.b VALUES (1, 1); UPDATE shop.a SET b = 1;

CREATE TABLE shop.empty (a int);
CREATE TABLE shop.no_columns ();
INSERT INTO shop.no_columns DEFAULT VALUES; INSERT INTO shop.no_columns DEFAULT VALUES;
CREATE TABLE shop.only_generated (a int GENERATED ALWAYS AS (1 + 1) STORED);
INSERT INTO shop.only_generated DEFAULT VALUES;
CREATE UNLOGGED TABLE shop.cache (k text PRIMARY KEY, v text);
INSERT INTO shop.cache VALUES ('k', E'v\tv');
CREATE TABLE "odd "" schema"."TABLE DATA ' "" \ ☃
second line" ("a "" b" int, "ü" text, "select" text, dropped int);
ALTER TABLE "odd "" schema"."TABLE DATA ' "" \ ☃
second line" DROP dropped;
INSERT INTO "odd "" schema"."TABLE DATA ' "" \ ☃
second line" SELECT n, 'ü' || n, 'x' FROM generate_series(1, 20) n;
CREATE TABLE shop.names AS SELECT 'public."odd ''seq"" name"'::regclass AS a, 'shop.twice(int)'::regprocedure AS b, 'shop.mood'::regtype AS c;
CREATE SCHEMA "DATA"; CREATE TABLE "DATA".t (x int); INSERT INTO "DATA".t VALUES (1);
CREATE SCHEMA "SET"; CREATE SEQUENCE "SET".s; SELECT setval('"SET".s', 42, false);

SELECT lo_from_bytea(0, 'large object'::bytea), lo_from_bytea(0, ''), lo_from_bytea(0, decode(repeat('00ff5c0a', 800000), 'hex'));
SELECT lo_put(lo_from_bytea(0, ''), 100000, 'after a hole');
DO $$ BEGIN EXECUTE format('COMMENT ON LARGE OBJECT %s IS %L; ALTER LARGE OBJECT %1$s OWNER TO hard_owner; GRANT SELECT ON LARGE OBJECT %1$s TO hard_reader',
    (SELECT min(oid) FROM pg_largeobject_metadata), 'first'); END $$;

COMMENT ON TABLE shop.customer IS 'It''s "theirs" \ ☃';
COMMENT ON COLUMN shop.customer.name IS 'the name';
COMMENT ON FUNCTION shop.twice(int) IS E'two\nlines';
COMMENT ON CONSTRAINT customer_pkey ON shop.customer IS 'key';
COMMENT ON SCHEMA public IS 'ours';
GRANT USAGE ON SCHEMA shop TO hard_reader;
GRANT SELECT (id, name) ON shop.customer TO hard_reader;
GRANT SELECT, INSERT ON shop.empty TO hard_reader WITH GRANT OPTION;
GRANT SELECT ON shop.a TO public;
REVOKE EXECUTE ON FUNCTION shop.twice(int) FROM public;
REVOKE ALL ON shop.b FROM CURRENT_USER;
GRANT ALL ON shop.b TO CURRENT_USER;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO hard_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE hard_owner REVOKE EXECUTE ON FUNCTIONS FROM public;
CREATE PUBLICATION shouted FOR TABLE shop.a, shop.b, shop.sums (a, b) WHERE ((a + b) > 1) WITH (publish = 'insert');
CREATE TEXT SEARCH CONFIGURATION shop.plain (COPY = simple);
GRANT EXECUTE ON FUNCTION pg_ls_dir(text) TO hard_reader WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION pg_sleep(float8) FROM PUBLIC;
GRANT SELECT (rolname) ON pg_authid TO hard_reader;
CREATE COLLATION shop.bytes FROM "C";
CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere OPTIONS (port '1', host 'far"away');
GRANT USAGE ON FOREIGN SERVER far TO hard_reader;
GRANT USAGE ON LANGUAGE plpgsql TO hard_reader;
CREATE USER MAPPING FOR hard_reader SERVER far OPTIONS ("user" 'u', password 'mapping secret');
CREATE FOREIGN TABLE shop.distant (a int OPTIONS (x 'y', b 'c')) SERVER far OPTIONS (z '1', y '2');
CREATE FUNCTION shop.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER watching ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION shop.watch();
