# Memory stops at the limit and is named.
# run: stdin
# expect: memory
kept = []
while True:
    kept.append(bytearray(2**24))
