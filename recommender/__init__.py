"""What the scripts of the Restaurant Recommender Model Service share."""
