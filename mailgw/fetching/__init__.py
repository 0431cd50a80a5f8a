"""FETCHED AGAIN: mail that a Maildir gateway has delivered, for old clients that fetch it before they send."""
