"""What the machine offers: files, memory, threads, the launcher, cancellation and retries."""
