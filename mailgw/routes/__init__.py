"""Where to? Each route answers for the recipients it knows."""
