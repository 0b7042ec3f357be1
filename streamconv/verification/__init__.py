"""Is a checkpoint right? Checked independently of the code that converts."""
