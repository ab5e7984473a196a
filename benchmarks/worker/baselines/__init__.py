"""What people write instead, and use instead; each a program of its own."""
