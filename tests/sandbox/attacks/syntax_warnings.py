# Warnings of the compiler, which show the program's text, come back as data and only there.
# run: stdin
# cases: 3
# expect: ok
# observe: stdout is fine
x = 1 is 1  # ]0;owned[2J
x = "" is ""  # ]0;owned[2J
assert (x, "never")  # [6n
print("fine")
