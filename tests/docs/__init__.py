"""What documents are made from, and what they are checked against."""
