"""Are tensors equal, and how far apart: byte by byte, in bounded memory."""
