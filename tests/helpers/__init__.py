"""Small models, their configs, and comparisons that several tests share."""
