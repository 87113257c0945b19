"""What is stored: which of it holds for a case, what changes it, and how two recordings differ."""
