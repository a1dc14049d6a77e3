"""What other tools see and do, one file a tool."""
