-- DuckDB's part of files.py: the table of a file's rows as texts, and what the texts mean.

SET TimeZone = 'UTC';

CREATE TABLE raw (
    row BIGINT, rejection VARCHAR, user VARCHAR, user_json VARCHAR,
    restaurant VARCHAR, restaurant_json VARCHAR, rating_text VARCHAR, time_text VARCHAR
);

-- A text, NULL in the spellings of a missing one in exports of databases and of Python.
CREATE MACRO present(t) AS
    CASE WHEN trim(t) NOT IN ('NULL', 'null', '\N', 'None') THEN trim(t) END;

CREATE MACRO objects_in(json) AS
    CASE WHEN json_type(json) = 'ARRAY' THEN json->'$[*]' ELSE [json] END;

-- The text of a JSON value, which may be a number or a date of MongoDB's extended JSON.
CREATE MACRO as_text(v) AS CASE WHEN v LIKE '{%'
    THEN coalesce(
        v->>'$."$numberInt"', v->>'$."$numberLong"', v->>'$."$numberDouble"',
        v->>'$."$numberDecimal"', v->>'$."$date"."$numberLong"', v->>'$."$date"', v::VARCHAR
    )
    ELSE v->>'$' END;

-- Ids: texts, and all else as JSON. That is a number or, in extended JSON, a number, an ObjectId or
-- binary data such as a UUID. A missing one is nan in what pandas has turned into text.
CREATE MACRO text_id(v) AS CASE WHEN json_type(v) = 'VARCHAR' THEN v->>'$' END;
CREATE MACRO json_id(v) AS CASE WHEN json_type(v) NOT IN ('VARCHAR', 'NULL') THEN v::VARCHAR END;
CREATE MACRO id_rejection(t, j, what) AS CASE
    WHEN trim(coalesce(t, j, '')) IN ('', 'nan', 'NaN', '<NA>') THEN what || ' missing'
    WHEN NOT regexp_full_match(j, '-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?'
        '|\{"\$number(Int|Long)":"-?[0-9]{1,19}"\}'
        '|\{"\$number(Double|Decimal)":"-?[0-9]{1,15}(\.[0-9]{1,15})?"\}'
        '|\{"\$oid":"[0-9a-fA-F]{24}"\}'
        '|\{"\$uuid":"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"\}'
        '|\{"\$binary":\{"base64":"([\w+/]{4})*([\w+/]{2}==|[\w+/]{3}=)?",'
        '"subType":"[0-9a-fA-F]{2}"\}\}')
    THEN what || ' is no id' END;

-- Ratings are 4.5, 4,5 or 4.5/5.
CREATE MACRO rating_of(t) AS TRY_CAST(replace(regexp_extract(
    t, '^\s*([+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?)'
    '\s*(/\s*[0-9]+([.,][0-9]+)?\s*)?$', 1), ',', '.') AS DOUBLE);

-- Times: numbers in some unit, numbers that are years or days, and texts.
CREATE MACRO number_of(t) AS
    CASE WHEN abs(TRY_CAST(t AS DOUBLE)) < 9.2e18 THEN TRY_CAST(t AS DOUBLE) END;
CREATE MACRO ms_per(unit) AS
    CASE unit WHEN 'in s' THEN 1e3 WHEN 'in us' THEN 1e-3 WHEN 'in ns' THEN 1e-6 ELSE 1 END;
CREATE MACRO fits(n, unit) AS n * ms_per(unit) >= getvariable('earliest_ms')
    AND n * ms_per(unit) < getvariable('end_ms');
CREATE MACRO unit_of(n) AS CASE
    WHEN fits(n, 'in s') THEN 'in s'
    WHEN fits(n, 'in ms') THEN 'in ms'
    WHEN fits(n, 'in us') THEN 'in us'
    WHEN fits(n, 'in ns') THEN 'in ns' END;
CREATE MACRO day_of(n) AS CASE
    WHEN n <> floor(n) THEN NULL
    WHEN n BETWEEN 1000 AND 9999 THEN make_date(n::INTEGER, 1, 1)
    WHEN n BETWEEN 10000101 AND 99991231
    THEN try_strptime(n::INTEGER::VARCHAR, '%Y%m%d')::DATE END;
CREATE MACRO is_day(n) AS coalesce(year(day_of(n)) BETWEEN 1990 AND 2099, false);
-- In UTC unless it has an offset. A named zone is not read: DuckDB would use it for later texts, too.
CREATE MACRO iso_ms(t) AS CASE WHEN regexp_full_match(
    upper(t), ' *\d{4}-\d\d?-\d\d?([T ] *\d\d?:\d\d(:\d\d(\.\d*)?)?'
    ' ?(Z|UTC|GMT|[+-](0\d|1[0-4])(:?[0-5]\d)?)?)? *')
    THEN (1000 * epoch(TRY_CAST(regexp_replace(regexp_replace(regexp_replace(
        regexp_replace(upper(trim(t)), 'UTC|GMT', 'Z'), ' (Z|[+-])', '\1'), '([T ]\d\d?:\d\d)(Z|[+-])', '\1:00\2'),
        '(:.*[+-]\d\d)(\d\d)$', '\1:\2') AS TIMESTAMPTZ)))::BIGINT END;
CREATE MACRO is_date(t, formats) AS year(try_strptime(t, formats)) >= 1000;
CREATE MACRO reads(t, format) AS count(*) FILTER (is_date(t, format));
CREATE MACRO date_of(t, formats) AS CASE WHEN is_date(t, formats)
    THEN (epoch(try_strptime(t, formats)) * 1000)::BIGINT END;

CREATE VIEW unread_times AS
SELECT time_text FROM raw WHERE number_of(time_text) IS NULL AND iso_ms(time_text) IS NULL;

-- Formats of dates. Of two that read as many texts of a column, the earlier one is preferred.
SET VARIABLE date_formats = [
    '%m/%d/%Y %H:%M', '%m/%d/%Y %H:%M:%S', '%m/%d/%Y %I:%M %p', '%m/%d/%y', '%m/%d/%Y',
    '%d/%m/%Y %H:%M', '%d/%m/%Y %H:%M:%S', '%d/%m/%y', '%d/%m/%Y', '%d-%m-%Y %H:%M', '%d-%m-%Y',
    '%d.%m.%Y %H:%M', '%d.%m.%Y %H:%M:%S', '%d.%m.%Y', '%Y/%m/%d %H:%M:%S', '%Y/%m/%d',
    '%B %d, %Y', '%b %d, %Y', '%d %B %Y', '%d %b %Y', '%m %d, %Y', '%a %b %d %H:%M:%S %z %Y',
    '%m/%d/%Y %I:%M:%S %p', '%d/%m/%Y %I:%M:%S %p', '%d/%m/%Y %I:%M %p', '%d-%b-%Y', '%d-%b-%y',
    '%a, %d %b %Y %H:%M:%S %z', '%a, %d %b %Y %H:%M:%S GMT', '%Y%m%dT%H%M%SZ', '%Y%m%dT%H%M%S',
    '%d %b %Y %H:%M', '%d %B %Y %H:%M', '%a %b %d %H:%M:%S %Y',
    '%m/%d/%y %H:%M', '%d/%m/%y %H:%M', '%d.%m.%y', '%Y/%m/%d %H:%M', '%m/%d/%Y, %I:%M:%S %p',
    '%b %d, %Y %I:%M %p', '%b %d, %Y, %I:%M %p', '%B %d, %Y %I:%M %p', '%A, %B %d, %Y'
];
