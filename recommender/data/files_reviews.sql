-- Makes the table reviews of raw, with why a row is rejected. Variables: rating_max; formats of
-- dates, the preferred one first; unit, NULL unless it was asked for.

-- The unit of the numbers whose size fits no unit: days, if more numbers are days than are neither
-- a day nor of a unit.
SET VARIABLE usual_unit = (
    SELECT CASE WHEN count(*) FILTER (is_day(n))
            > count(*) FILTER (n > 0 AND unit_of(n) IS NULL AND NOT is_day(n))
        THEN 'dates as numbers' ELSE mode(unit_of(n)) END
    FROM (SELECT number_of(time_text) AS n FROM raw)
);

CREATE TABLE reviews AS SELECT
    row, user, user_json, restaurant, restaurant_json, rating_of(rating_text) AS rating,
    CASE
        WHEN n IS NULL THEN date
        WHEN notation IN ('dates as numbers', 'in yyyymmdd', 'in years')
        THEN epoch_ms(day_of(n)::TIMESTAMP)
        ELSE TRY_CAST(n * ms_per(notation) AS BIGINT) END AS time,
    notation,
    coalesce(
        rejection,
        id_rejection(user, user_json, 'user_id'),
        id_rejection(restaurant, restaurant_json, 'gmap_id'),
        CASE
            WHEN coalesce(rating_text, '') = '' THEN 'rating missing'
            WHEN NOT coalesce(isfinite(rating_of(rating_text)), false)
            THEN 'rating is no finite number'
            WHEN TRY_CAST(replace(split_part(rating_text, '/', 2), ',', '.') AS DOUBLE)
                <> getvariable('rating_max')
            THEN 'rating is of another maximum: set RATING_MAX' END
    ) AS rejection
FROM (
    SELECT *, CASE
        WHEN n IS NOT NULL
        THEN coalesce(getvariable('unit')::VARCHAR, unit_of(n), getvariable('usual_unit'))
        WHEN date IS NOT NULL THEN 'dates' END AS notation
    FROM (
        SELECT *, number_of(time_text) AS n, CASE WHEN n IS NULL THEN
            coalesce(iso_ms(time_text), date_of(time_text, getvariable('formats'))) END AS date
        FROM raw
    )
);

CREATE VIEW rejections AS SELECT rejection, count(*), list(row ORDER BY row)[:3]
FROM reviews WHERE rejection IS NOT NULL GROUP BY rejection ORDER BY rejection;

-- How many times were read in each notation, of them unknown and implausible ones.
CREATE VIEW notations AS SELECT notation, count(*), count(*) FILTER (time IS NULL),
    count(*) FILTER (time NOT BETWEEN getvariable('earliest_ms') AND getvariable('latest_ms'))
FROM reviews WHERE rejection IS NULL GROUP BY notation ORDER BY notation;

CREATE VIEW valid AS
SELECT * EXCLUDE (row, rejection, notation) FROM reviews WHERE rejection IS NULL;
