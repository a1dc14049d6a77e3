"""An `nn.Module` to records: its graph, memory, wrappers, declarations.

The only room, with `trace` and `scale`, that knows torch; private names of torch stand in `torch_adapter`.
"""
