"""A hostile program: it takes memory until someone stops it."""

hoard = []
while True:
    hoard.append(bytearray(8 * 1024 * 1024))
