# A file without contents may not be larger than one with them.
# run: stdin
# expect: runtime_error
# observe: stderr has File too large
open("openqwq_mark", "wb").truncate(2**50)
