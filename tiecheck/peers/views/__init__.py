"""What each tool takes for tied in a live module: one file a tool."""
