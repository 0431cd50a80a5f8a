"""What happened: observers of the journal."""
