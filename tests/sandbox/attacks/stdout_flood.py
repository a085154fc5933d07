# Output stops at the limit and is named.
# run: stdin
# expect: output_limit
while True:
    print("x" * 10**5)
