# Arithmetic that never ends meets the clock.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout memory
print(10 ** 10**10)
