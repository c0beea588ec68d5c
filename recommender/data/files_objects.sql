-- Reads the JSON objects of the view records into the table raw. Parameters: paths of the columns, as
-- names that are keys and then as paths of keys; the count of columns.
INSERT INTO raw BY NAME
SELECT row, rejection, text_id(v[1]) AS user, json_id(v[1]) AS user_json,
    text_id(v[2]) AS restaurant, json_id(v[2]) AS restaurant_json,
    as_text(v[3]) AS rating_text, as_text(v[4]) AS time_text
FROM (
    SELECT row, rejection, [coalesce(a[i], a[i + $2]) FOR i IN range(1, $2 + 1)] AS v
    FROM (
        SELECT row_number() OVER () AS row, json_extract(json, $1) AS a,
            CASE WHEN coalesce(json_type(json), '') <> 'OBJECT' THEN 'not a JSON object' END
            AS rejection
        FROM records
    )
);
