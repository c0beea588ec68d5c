"""Reviews, Users, Restaurants and files in; clean, numbered ratings out.

``ids`` turns an id of any BSON type into a string, ``cleaning`` decides which rows are valid, and
``one_user`` reads a single user. Open ``cleaning`` first.
"""
