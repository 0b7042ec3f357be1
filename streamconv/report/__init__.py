"""What people and programs read of a plan or a result."""
