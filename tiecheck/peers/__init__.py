"""Other tools: `loaders` tell what each makes of a checkpoint, `views` what each takes for tied.

One file a tool; each fact with the version and the function it comes from.
"""
