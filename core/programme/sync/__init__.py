"""What is copied from the game platform: accounts, solves, scores, teams."""
