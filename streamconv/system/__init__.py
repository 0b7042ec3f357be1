"""What the machine offers: files, memory, threads, signals of the end."""
