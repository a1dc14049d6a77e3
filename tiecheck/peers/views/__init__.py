"""Tie groups that each tool sees in a live module: one file a tool."""
