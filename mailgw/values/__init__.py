"""What is said: frozen values that refuse nonsense when they are made. Nothing here does I/O."""
