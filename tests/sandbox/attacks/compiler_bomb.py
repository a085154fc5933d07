# Nested source ends the program alone.
# run: stdin
# expect: runtime_error memory crashed
exec("(" * 10**6)
